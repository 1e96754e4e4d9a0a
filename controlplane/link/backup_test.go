package link_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// vault is a world with backups, two hosts, and a site at one of them.
type vault struct {
	*world
	kept        *store.Disk
	mine, other *host
	site        *site.Site
	repository  store.Repository
}

func newVault(t *testing.T) *vault {
	t.Helper()
	kept, err := store.OpenDisk(filepath.Join(t.TempDir(), "backups"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kept.Close() })
	server := store.NewServer(kept, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	v := &vault{kept: kept, world: newWorld(t, dbtest.SQLite(t), func(c *link.Config) { c.Backups = server })}
	v.mine, v.other = v.enroll("mine"), v.enroll("other")
	v.mine.hello()
	v.other.hello()
	owner := must(organization.New(v.d, organization.Config{}).Create(t.Context(), "acme", "acme@example.com"))
	v.site, _, err = v.sites.Create(t.Context(), site.Request{
		Organization: owner.ID, Name: "shop", Type: "static", Domains: []string{"shop.example.com"}, Server: must(contract.ParseServerID(v.mine.id)),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.repository = store.Repository{Organization: owner.ID, Site: v.site.ID}
	return v
}

func (v *vault) url(path string) string {
	return "https://" + v.addr + "/backup/v1/" + v.site.ID.String() + "/" + path
}

// ask makes a request as the host's gateway does.
func (h *host) ask(ctx context.Context, c *http.Client, method, url string, body io.Reader, size int64) (int, string, error) {
	req := must(http.NewRequestWithContext(ctx, method, url, body))
	if body != nil {
		req.ContentLength = size
	}
	req.Header.Set("Chom-Epoch", strconv.FormatUint(h.epoch, 10))
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// wire is a connection of its own.
func (h *host) wire(t *testing.T) *http.Client {
	t.Helper()
	c, end := dial(trust(h.roots, h.cert, h.key))
	t.Cleanup(end)
	return c
}

func object(size int) ([]byte, string) {
	b := bytes.Repeat([]byte("backup"), size/6+1)[:size]
	sum := sha256.Sum256(b)
	return b, "data/" + hex.EncodeToString(sum[:])
}

func TestBackups(t *testing.T) {
	v := newVault(t)
	body, path := object(3 << 20)
	wire := v.mine.wire(t)
	status := func(t *testing.T, h *host, c *http.Client, method, url string, body io.Reader, size int64) (int, string) {
		t.Helper()
		got, text, err := h.ask(t.Context(), c, method, url, body, size)
		if err != nil {
			t.Errorf("%s %s: %v", method, url, err)
		}
		return got, text
	}
	t.Run("a host keeps and reads objects of its site", func(t *testing.T) {
		if got, text := status(t, v.mine, wire, http.MethodPost, v.url(path), bytes.NewReader(body), 3<<20); got != http.StatusOK {
			t.Fatalf("%d %s", got, text)
		}
		if got, text := status(t, v.mine, wire, http.MethodGet, v.url(path), nil, 0); got != http.StatusOK || text != string(body) {
			t.Errorf("%d, %d bytes", got, len(text))
		}
		if usage := must(v.kept.Usage(t.Context(), v.repository)); usage != 3<<20 {
			t.Errorf("%d bytes are kept for the organization's site", usage)
		}
		if got, _ := status(t, v.mine, wire, http.MethodDelete, v.url(path), nil, 0); got != http.StatusForbidden {
			t.Errorf("G13: DELETE: %d", got)
		}
	})
	t.Run("G05: nobody reaches the repository of a site that is not theirs", func(t *testing.T) {
		theirs := v.other.wire(t)
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
			for _, path := range []string{path, "config", "data/", "?create=true"} {
				if got, _ := status(t, v.other, theirs, method, v.url(path), nil, 0); got != http.StatusNotFound {
					t.Errorf("%s %s: %d", method, path, got)
				}
			}
		}
		top := "https://" + v.addr + "/backup/v1/"
		id, o := v.site.ID.String(), v.repository.Organization.String()
		for _, hostile := range []string{
			"", id, "/" + id + "/" + path, o + "/" + id + "/" + path, "../v1/" + id + "/" + path, "x/../" + id + "/" + path, "%2e%2e/" + id + "/" + path, id + "%2f" + path,
			id + "/../" + id + "/" + path, id + "//" + path, id + "/data%2f" + path[5:], strings.ToUpper(id) + "/" + path, contract.NewSiteID().String() + "/" + path,
			id + "/manifests/0000000001", id + "/%25", id + "/..%2f" + id + "/" + path,
		} {
			if got, text := status(t, v.mine, wire, http.MethodGet, top+hostile, nil, 0); got != http.StatusNotFound {
				t.Errorf("%s: %d %.50s", hostile, got, text)
			}
		}
	})
	t.Run("an old epoch, and none, are refused", func(t *testing.T) {
		old := *v.mine
		old.epoch--
		if got, _ := status(t, &old, wire, http.MethodGet, v.url(path), nil, 0); got != http.StatusPreconditionFailed {
			t.Errorf("an old one: %d", got)
		}
		for _, epochs := range [][]string{nil, {""}, {"-1"}, {"x"}, {strconv.FormatUint(v.mine.epoch, 10), "1"}} {
			req := must(http.NewRequest(http.MethodGet, v.url(path), nil))
			req.Header["Chom-Epoch"] = epochs
			res := must(wire.Do(req))
			if res.Body.Close(); res.StatusCode != http.StatusBadRequest {
				t.Errorf("%q: %s", epochs, res.Status)
			}
		}
	})
	t.Run("a stranger is refused", func(t *testing.T) {
		c, end := dial(trust(v.authority.Roots(), nil, nil))
		defer end()
		if got, _ := status(t, v.mine, c, http.MethodGet, v.url(path), nil, 0); got != http.StatusUnauthorized {
			t.Errorf("got %d", got)
		}
	})
	t.Run("an agent has eight requests at once, and its calls are not among them", func(t *testing.T) {
		var started sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := v.mine.watch().opened(t)
		var ended atomic.Int64
		for i := range 8 {
			started.Add(1)
			_, path := object(2<<20 + i)
			reader, writer := io.Pipe()
			go func() {
				_, _, _ = v.mine.ask(ctx, wire, http.MethodPost, v.url(path), reader, int64(2<<20+i))
				ended.Add(1)
			}()
			go func() {
				_, _ = writer.Write(make([]byte, 100_000)) // taken once it is let in
				started.Done()
			}()
		}
		started.Wait()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		if got, text := status(t, v.mine, v.mine.wire(t), http.MethodGet, v.url(path), nil, 0); got != http.StatusTooManyRequests {
			t.Errorf("the ninth: %d %.50s", got, text)
		}
		if took := time.Since(began); took < time.Second {
			t.Errorf("the ninth waited for %s", took)
		}
		if p99 := v.mine.p99(t, 100); p99 > time.Second {
			t.Errorf("a report takes %s", p99)
		} else {
			t.Logf("a report takes at most %s beside eight stalled uploads", p99)
		}
		v.noop(v.mine.id)
		if m := watch.next(t, 5*time.Second); m.GetOffer() == nil {
			t.Errorf("Watch says %v", m)
		}
		if n := ended.Load(); n > 0 {
			t.Errorf("%d uploads ended by themselves", n)
		}
		cancel()
		deadline := time.Now().Add(5 * time.Second)
		for {
			got, _ := status(t, v.mine, wire, http.MethodHead, v.url(path), nil, 0)
			if got == http.StatusOK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the places are not free again: %d", got)
			}
		}
		if usage := must(v.kept.Usage(t.Context(), v.repository)); usage != 3<<20 {
			t.Errorf("%d bytes are kept", usage)
		}
	})
	t.Run("calls keep their own limit, and are counted", func(t *testing.T) {
		if n := v.metric("chom_link_calls_total"); n == 0 {
			t.Error("nothing is counted")
		}
	})
	t.Run("restic works through the door", func(t *testing.T) {
		proxy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			req := must(http.NewRequestWithContext(r.Context(), r.Method, v.url(strings.TrimPrefix(r.URL.RequestURI(), "/")), r.Body))
			req.ContentLength, req.Header = r.ContentLength, r.Header.Clone()
			req.Header.Set("Chom-Epoch", strconv.FormatUint(v.mine.epoch, 10))
			res, err := wire.Do(req)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			for k, values := range res.Header {
				w.Header()[k] = values
			}
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
		})
		url := serveLocal(t, proxy)
		if err := v.kept.Remove(t.Context(), v.repository); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"init"}, {"backup", "."}, {"check", "--read-data"}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			cmd := exec.CommandContext(ctx, "/usr/bin/restic", append([]string{"--no-cache", "--repo", "rest:" + url}, args...)...)
			cmd.Env = []string{"RESTIC_PASSWORD=of a test"}
			out, err := cmd.CombinedOutput()
			cancel()
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
		}
	})
	t.Run("E10: a revoked host is refused, in the middle of an upload too", func(t *testing.T) {
		reader, writer := io.Pipe()
		_, path := object(2 << 20)
		done := make(chan string)
		go func() {
			got, text, err := v.mine.ask(t.Context(), wire, http.MethodPost, v.url(path), reader, 2<<20)
			done <- fmt.Sprint(got, text, err)
		}()
		_, _ = writer.Write(make([]byte, 100_000))
		v.mine.watch().opened(t)
		if err := v.fleet.Quarantine(t.Context(), must(contract.ParseServerID(v.mine.id)), "seen twice"); err != nil {
			t.Fatal(err)
		}
		select {
		case how := <-done:
			t.Log(how)
		case <-time.After(10 * time.Second):
			t.Error("the upload goes on")
		}
		got, _, err := v.mine.ask(t.Context(), v.mine.wire(t), http.MethodGet, v.url(path), nil, 0)
		if err == nil && got != http.StatusForbidden {
			t.Errorf("it is answered with %d", got)
		}
	})
}

func TestNoBackups(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	h := w.enroll("web1")
	h.hello()
	if got, _, err := h.ask(t.Context(), h.wire(t), http.MethodGet, "https://"+w.addr+"/backup/v1/"+contract.NewSiteID().String()+"/config", nil, 0); err != nil || got != http.StatusNotFound {
		t.Errorf("%d, %v", got, err)
	}
}

// serveLocal is a gateway of a host.
func serveLocal(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL + "/"
}
