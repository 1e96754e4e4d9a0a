package link_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/link"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

func TestBigRequests(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	h.hello()
	c, end := dial(trust(h.roots, h.cert, h.key))
	defer end()
	for path, limit := range map[string]int{
		linkv1connect.LinkServiceReportProcedure:        4 << 20,
		linkv1connect.LinkServiceHelloProcedure:         4 << 20,
		linkv1connect.LinkServiceRenewProcedure:         16 << 10,
		linkv1connect.LinkServicePollProcedure:          16 << 10,
		linkv1connect.EnrollmentServiceEnrollProcedure:  16 << 10,
		linkv1connect.EnrollmentServiceRecoverProcedure: 16 << 10,
	} {
		var read atomic.Int64
		body := io.TeeReader(io.LimitReader(zeros{}, 1<<30), counter{&read})
		req := must(http.NewRequest(http.MethodPost, "https://"+w.addr+path, body))
		req.Header.Set("Content-Type", "application/proto")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusTooManyRequests || !bytes.Contains(text, []byte("resource_exhausted")) {
			t.Errorf("%s: %s %s", path, res.Status, text)
		}
		if got := read.Load(); got > int64(limit)+2<<20 {
			t.Errorf("%s: %d bytes were taken", path, got)
		}
	}
	if _, err := h.report(); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

// flood reports as fast as it can from many connections, until stop is called,
// and says how many calls were answered well and how many refused.
func (h *host) flood(t *testing.T) (stop func() (answered, refused int)) {
	ctx, cancel := context.WithCancel(context.Background())
	var ok, no atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		twin := *h
		twin.dial()
		for range 6 { // fewer than make the client open another connection
			wg.Go(func() {
				for ctx.Err() == nil {
					_, err := twin.client.Report(ctx, &linkv1.ReportRequest{Epoch: h.epoch})
					switch {
					case err == nil:
						ok.Add(1)
					case connect.CodeOf(err) == connect.CodeResourceExhausted:
						no.Add(1)
						time.Sleep(time.Millisecond) // the test's own processor must do for both
					case ctx.Err() == nil:
						t.Errorf("flood: %v", err)
						return
					}
				}
			})
		}
	}
	return func() (int, int) {
		cancel()
		wg.Wait()
		return int(ok.Load()), int(no.Load())
	}
}

// p99 measures how long an agent's own reports take.
func (h *host) p99(t *testing.T, n int) time.Duration {
	t.Helper()
	all := make([]time.Duration, n)
	for i := range all {
		began := time.Now()
		if _, err := h.report(); err != nil {
			t.Fatal(err)
		}
		all[i] = time.Since(began)
		time.Sleep(5 * time.Millisecond)
	}
	slices.Sort(all)
	return all[n*99/100]
}

func TestFlood(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	a, b := w.enroll("a"), w.enroll("b")
	a.hello()
	b.hello()
	quiet := b.p99(t, 200)
	stop := a.flood(t)
	began := time.Now()
	time.Sleep(time.Second) // its burst is over
	loud := b.p99(t, 200)
	answered, refused := stop()
	took := time.Since(began)
	t.Logf("p99 of another agent: %s before, %s during; %d calls answered in %s, %d refused", quiet, loud, answered, took, refused)
	if limit := 500 + int(took.Seconds()*300); answered > limit {
		t.Errorf("%d calls of the flood were answered in %s", answered, took)
	}
	if refused == 0 {
		t.Error("none was refused")
	}
	// The flood's client and other tests share our two processors, so a bound, not a ratio.
	if loud > max(2*quiet, 250*time.Millisecond) {
		t.Errorf("the others' p99 went from %s to %s", quiet, loud)
	}
}

func TestManyStreams(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	h.hello()
	var streams []*stream
	for range 20 {
		twin := *h
		twin.dial()
		streams = append(streams, twin.watch())
	}
	open := func() int {
		n := 0
		for _, s := range streams {
			for more := true; more; {
				select {
				case _, ok := <-s.messages:
					if !ok {
						more = false
					}
					continue
				default:
				}
				n++
				break
			}
		}
		return n
	}
	deadline := time.Now().Add(5 * time.Second)
	for open() > 1 || w.metric("chom_link_connections") > 4 {
		if time.Now().After(deadline) {
			t.Fatalf("%d streams and %v connections are open", open(), w.metric("chom_link_connections"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := w.metric("chom_link_agents"); got != 1 {
		t.Errorf("%v agents hold something", got)
	}
}

func TestAdmission(t *testing.T) {
	from := func(ip string) *net.Dialer {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	}
	// connect makes n connections that say nothing.
	connect := func(t *testing.T, w *world, ip string, n int) {
		for range n {
			if c, err := from(ip).Dial("tcp", w.addr); err == nil { // else it was reset already
				t.Cleanup(func() { c.Close() })
			}
		}
	}
	turnedAway := func(t *testing.T, w *world, least int) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for w.metric("chom_link_turned_away_total") < float64(least) {
			if time.Now().After(deadline) {
				t.Fatalf("%v were turned away", w.metric("chom_link_turned_away_total"))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	// greets says Hello from another address.
	greets := func(t *testing.T, w *world, h *host) {
		t.Helper()
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		tr := &http.Transport{TLSClientConfig: trust(h.roots, h.cert, h.key), Protocols: protocols, DialContext: from("127.0.0.2").DialContext}
		defer tr.CloseIdleConnections()
		other := *h
		other.client = linkv1connect.NewLinkServiceClient(&http.Client{Transport: tr}, "https://"+w.addr)
		other.hello()
	}
	t.Run("more connections than the rate are turned away, half of it is for one address", func(t *testing.T) {
		w := newWorld(t, dbtest.SQLite(t), func(c *link.Config) { c.ConnectionsPerSecond = 20 })
		h := w.enroll("web1")
		connect(t, w, "127.0.0.1", 100)
		turnedAway(t, w, 80)
		greets(t, w, h)
	})
	t.Run("connections without a certificate of one address don't keep others from enrolling", func(t *testing.T) {
		w := newWorld(t, dbtest.SQLite(t))
		var open []net.Conn
		for range 140 {
			c, err := tls.Dial("tcp", w.addr, withH2(trust(w.authority.Roots(), nil, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		turnedAway(t, w, len(open)-128)
		_, token := w.server("web1")
		protocols := new(http.Protocols)
		protocols.SetHTTP2(true)
		tr := &http.Transport{TLSClientConfig: trust(w.authority.Roots(), nil, nil), Protocols: protocols, DialContext: from("127.0.0.2").DialContext}
		defer tr.CloseIdleConnections()
		_, err := linkv1connect.NewEnrollmentServiceClient(&http.Client{Transport: tr}, "https://"+w.addr).
			Enroll(t.Context(), &linkv1.EnrollRequest{Token: token, EnrollmentId: uuid.NewString(), Csr: newCSR(t, newKey(t))})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("half-open connections of one address don't lock out another", func(t *testing.T) {
		w := newWorld(t, dbtest.SQLite(t))
		h := w.enroll("web1")
		connect(t, w, "127.0.0.1", 700)
		turnedAway(t, w, 700-512)
		greets(t, w, h)
	})
}

func withH2(c *tls.Config) *tls.Config {
	c.NextProtos = []string{"h2"}
	return c
}
