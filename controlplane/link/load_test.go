package link_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// TestDispatch measures what an order's way down and its acceptance's way up
// take, at 100 tasks a second. The bounds are far above what it takes on a
// machine of its own, since tests share theirs; under the race detector only the
// way is tested.
func TestDispatch(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		for _, agents := range []int{1, 20} {
			t.Run(fmt.Sprintf("%d agents", agents), func(t *testing.T) {
				p50, p99 := w.dispatch(t, agents, 300)
				t.Logf("from before the commit until accepted: p50 %s, p99 %s", p50, p99)
				if (p50 > 250*time.Millisecond || p99 > 2*time.Second) && !raceDetector {
					t.Errorf("p50 %s, p99 %s", p50, p99)
				}
			})
		}
	})
}

// dispatch has agents do tasks at 100 a second, and says how long they took from
// before their commit until the agent knew that its acceptance was taken.
func (w *world) dispatch(t *testing.T, agents, tasks int) (p50, p99 time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var answered sync.WaitGroup
	answered.Add(tasks)
	born := map[string]time.Time{}
	var took []time.Duration
	var hosts []*host
	for i := range agents {
		h := w.enroll(fmt.Sprintf("web%dof%d", i, agents))
		hosts = append(hosts, h)
		h.hello()
		s := h.watch().opened(t)
		go h.work(t, s, func(o *orderv1.Order, now time.Time) {
			mu.Lock()
			took = append(took, now.Sub(born[o.GetTaskId()]))
			mu.Unlock()
		}, answered.Done)
	}
	tick := time.NewTicker(time.Second / 100)
	defer tick.Stop()
	for i := range tasks {
		<-tick.C
		mu.Lock() // nobody looks before the birth is noted
		began := time.Now()
		born[w.noop(hosts[i%agents].id).ID] = began
		mu.Unlock()
	}
	answered.Wait()
	slices.Sort(took)
	return took[tasks/2], took[tasks*99/100]
}

// work accepts orders and does them at once. As agents do, it makes one call at
// a time, and what happens during a call goes with the next.
func (h *host) work(t *testing.T, s *stream, onAccepted func(*orderv1.Order, time.Time), onEnded func()) {
	var ended []*orderv1.Order // whose results are to be told
	for {
		var orders []*orderv1.Order
		take := func(m *linkv1.LinkMessage) {
			if m.GetOffer() != nil {
				orders = append(orders, h.order(m))
			}
		}
		if len(ended) == 0 {
			m, ok := <-s.messages
			if !ok {
				return
			}
			take(m)
		}
		for more := true; more; {
			select {
			case m, ok := <-s.messages:
				if more = ok; ok {
					take(m)
				}
			default:
				more = false
			}
		}
		var events []*linkv1.TaskEvent
		for _, o := range orders {
			events = append(events, accepted(o))
		}
		for _, o := range ended {
			events = append(events, result(o, 2, succeeded))
		}
		if len(events) == 0 {
			continue
		}
		if _, err := h.report(events...); err != nil {
			t.Errorf("report: %v", err)
		}
		for _, o := range orders {
			onAccepted(o, time.Now())
		}
		for range ended {
			onEnded()
		}
		ended = orders
	}
}

// agentMax is the budget of memory for one connected agent.
const agentMax = 128 << 10

// TestMemory measures what a connected agent costs the process. The door runs
// in a process of its own, so that its memory is not mixed with the agents'.
// CHOM_LINK_AGENTS sets their number.
func TestMemory(t *testing.T) {
	n := 300
	if text := os.Getenv("CHOM_LINK_AGENTS"); text != "" {
		n = must(strconv.Atoi(text))
	}
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{serveIn + "=" + dir, serveAgents + "=" + strconv.Itoa(n)}
	cmd.Stderr = t.Output()
	in, out := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the door: %v", err)
		}
	}()
	lines := bufio.NewReader(out)
	addr, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.TrimSpace(addr)
	var agents []savedAgent
	f := must(os.Open(filepath.Join(dir, "agents")))
	defer f.Close()
	if err := gob.NewDecoder(f).Decode(&agents); err != nil {
		t.Fatal(err)
	}
	before := rss(t, cmd.Process.Pid)
	began := time.Now()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	clients := make([]linkv1connect.LinkServiceClient, n)
	epochs := make([]uint64, n)
	for i, a := range agents {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, end := dial(trust(a.Roots, a.Certificate, must(x509.ParseECPrivateKey(a.Key))))
			t.Cleanup(end)
			clients[i] = linkv1connect.NewLinkServiceClient(c, "https://"+addr)
			res, err := clients[i].Hello(t.Context(), &linkv1.HelloRequest{ProtocolVersion: 1, InstanceId: uuid.NewString()})
			if err != nil {
				t.Errorf("agent %d: %v", i, err)
				return
			}
			epochs[i] = res.GetEpoch()
			s, err := clients[i].Watch(t.Context(), &linkv1.WatchRequest{Epoch: res.GetEpoch()})
			if err != nil || !s.Receive() {
				t.Errorf("agent %d: %v", i, err)
				return
			}
			if _, err := clients[i].Report(t.Context(), &linkv1.ReportRequest{Epoch: res.GetEpoch()}); err != nil {
				t.Errorf("agent %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	connected := time.Since(began)
	after := rss(t, cmd.Process.Pid)
	each := (after - before) / n
	cpu := cpuOf(t, cmd.Process.Pid)
	time.Sleep(3 * time.Second)
	idle := cpuOf(t, cmd.Process.Pid) - cpu
	t.Logf("%d agents in %s: %d KiB before, %d KiB after, %d bytes each; idle they take %s of processor in 3 s",
		n, connected.Round(time.Millisecond), before>>10, after>>10, each, idle)
	if each > agentMax && !raceDetector {
		t.Errorf("an agent costs %d bytes", each)
	}
}

func rss(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))))) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return must(strconv.Atoi(strings.Fields(rest)[0])) << 10
		}
	}
	t.Fatal("the process has no memory")
	return 0
}

// cpuOf is the processor time that a process took, in ticks of 10 ms.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	text := string(must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))))
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	return time.Duration(must(strconv.Atoi(fields[11]))+must(strconv.Atoi(fields[12]))) * 10 * time.Millisecond
}

const (
	serveIn     = "CHOM_LINK_SERVE_IN"
	serveAgents = "CHOM_LINK_SERVE_AGENTS"
)

type savedAgent struct {
	Certificate, Key []byte
	Roots            [][]byte
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveIn); dir != "" {
		if err := serve(dir, must(strconv.Atoi(os.Getenv(serveAgents)))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serve is the other process: a door with agents that have enrolled. It ends
// with its standard input.
func serve(dir string, agents int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d, err := db.Open(ctx, "sqlite:"+filepath.Join(dir, "chom.db"))
	if err != nil {
		return err
	}
	if err := db.Migrate(ctx, d); err != nil {
		return err
	}
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		return err
	}
	d.SetSealKey(authority.SealKey())
	registry := prometheus.NewRegistry()
	servers := fleet.New(d, log)
	tasks, err := task.NewTasks(d, authority.Signer(), log, registry)
	if err != nil {
		return err
	}
	door, err := link.New(link.Config{
		DB: d, Log: log, Metrics: registry, Authority: authority, Fleet: servers, Tasks: tasks,
		Sites: site.New(d, tasks, log, site.Config{}), ConnectionsPerSecond: 10_000,
	})
	if err != nil {
		return err
	}
	if err := enrollMany(ctx, dir, servers, authority, agents); err != nil {
		return err
	}
	// They only listen: what would prepare them is left out.
	if err := db.InTx(ctx, d, func(tx *db.Tx) error { _, err := tx.Exec(ctx, `DELETE FROM tasks`); return err }); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{servers.Run, tasks.Run, door.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				log.Error("a loop ended", "err", err)
			}
		})
	}
	served := make(chan error, 1)
	go func() { served <- door.Serve(l) }()
	fmt.Println(l.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin) // the end of the parent is the end
	if err := door.Shutdown(ctx); err != nil {
		return err
	}
	cancel()
	wg.Wait()
	return errors.Join(<-served, d.Close())
}

func enrollMany(ctx context.Context, dir string, servers *fleet.Fleet, authority *pki.Authority, n int) error {
	var saved []savedAgent
	for i := range n {
		_, token, err := servers.Create(ctx, fmt.Sprintf("web%d", i), fleet.Shared, contract.OrganizationID{}, authority.Pin())
		if err != nil {
			return err
		}
		key, csr, hash, err := newRequest()
		if err != nil {
			return err
		}
		done, err := servers.Enroll(ctx, fleet.Enrollment{Token: token.Text, ID: uuid.NewString(), KeyHash: hash}, time.Now(),
			func(server contract.ServerID) (pki.Certificate, error) {
				return authority.IssueAgent(server, csr, time.Now())
			},
			func(context.Context, *db.Tx, contract.ServerID) error { return nil })
		if err != nil {
			return err
		}
		saved = append(saved, savedAgent{Certificate: done.Certificate, Key: key, Roots: authority.Roots()})
	}
	f, err := os.Create(filepath.Join(dir, "agents"))
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(saved), f.Close())
}

func newRequest() (key []byte, csr *x509.CertificateRequest, hash []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	if err != nil {
		return nil, nil, nil, err
	}
	if csr, hash, err = pki.ParseRequest(der); err != nil {
		return nil, nil, nil, err
	}
	key, err = x509.MarshalECPrivateKey(private)
	return key, csr, hash, err
}
