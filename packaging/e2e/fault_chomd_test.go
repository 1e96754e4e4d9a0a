package e2e

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	// readyWithin and stopsWithin are what chomd promises of its start and its end.
	readyWithin = 10 * time.Second
	stopsWithin = 5 * time.Second
)

// chomdPoints are where chomd can be killed on a task's way, in the order in
// which a change passes them: chom.dev/controlplane/task names them.
var chomdPoints = []string{
	"task.queued.save", "task.queued.committed",
	"task.offer", "task.offered.save", "task.offered.committed",
	"task.running.save", "task.running.committed",
	"task.succeeded.save", "task.succeeded.committed",
}

// killChomd kills chomd at each point while a site is walked through its life,
// and at random moments. No change that was accepted may be lost or happen twice.
func killChomd(t *testing.T, w *shared, h *host) {
	waste := w.heap(h)
	untouched, _ := w.create(t, h, "static")
	visits := visitors(t, h, untouched)
	var s *sitev1.Site
	changes, longest := 0, time.Duration(0)
	step := func(i int, die func(begun <-chan struct{}) <-chan struct{}) {
		v := walk[i%len(walk)]
		if v == createSite {
			if s != nil {
				w.allEndedWell(t, s, changes)
				waste.bin(t, s)
			}
			s, changes = nil, 0
		}
		begun := make(chan struct{})
		dead := die(begun)
		req := w.request(h, "static")
		var order func(ctx context.Context) error
		before := s.GetGeneration()
		if v == createSite {
			order = func(ctx context.Context) error {
				res, err := w.rig.Sites.CreateSite(ctx, req)
				s = res.GetSite()
				return err
			}
		} else {
			order = func(ctx context.Context) error {
				_, _, err := w.order(ctx, v, s)
				return err
			}
		}
		err := order(timeout(t, time.Minute))
		close(begun)
		select {
		case <-dead:
		case <-time.After(converges):
			t.Fatalf("chomd was not killed during %s", v)
		}
		w.rig.Kill() // takes note of its end
		began := time.Now()
		if err := w.rig.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready := time.Since(began)
		if ready > readyWithin {
			t.Errorf("chomd took %s to get ready", ready)
		}
		longest = max(longest, ready)
		if c := connect.CodeOf(err); err != nil && c != connect.CodeUnavailable && c != connect.CodeUnknown { // a broken connection has no code of its own
			t.Errorf("%s while chomd died: %v", v, err)
		}
		if v == createSite && err != nil {
			s = w.find(t, req.GetName()) // nobody told us whether it was made
		}
		if err != nil && (s == nil || w.get(t, s).GetGeneration() == before) {
			if err := order(timeout(t, time.Minute)); err != nil { // it was not: nothing of it may stand in the way
				t.Fatal(err)
			}
		}
		changes++
		s = w.settled(t, h, s, converges)
		if got := s.GetGeneration(); got != before+1 && v != createSite {
			t.Errorf("one %s brought the site from generation %d to %d", v, before, got)
		}
		w.ping(t, h, backWithin)
	}
	for i, point := range chomdPoints {
		step(i, func(<-chan struct{}) <-chan struct{} {
			if err := os.WriteFile(filepath.Join(w.rig.Dir, "failpoint"), []byte(point), 0o600); err != nil {
				t.Fatal(err)
			}
			return w.rig.Exited()
		})
	}
	moments := 2
	if proving {
		moments = 40
	}
	random := rand.New(rand.NewPCG(1, uint64(moments)))
	for i := range moments {
		after := time.Duration(random.IntN(1200)) * time.Millisecond
		step(len(chomdPoints)+i, func(begun <-chan struct{}) <-chan struct{} {
			exited := w.rig.Exited()
			go func() {
				<-begun
				time.Sleep(after)
				w.rig.Kill()
			}()
			return exited
		})
	}
	w.allEndedWell(t, s, changes)
	visits.unharmed(t)
	waste.bin(t, s)
	waste.bin(t, untouched)
	t.Logf("chomd was killed %d times and was ready again within %s", len(chomdPoints)+moments, longest.Round(10*time.Millisecond))
}

// allEndedWell wants as many tasks as there were changes, each done once.
func (w *shared) allEndedWell(t *testing.T, s *sitev1.Site, changes int) {
	t.Helper()
	tasks := w.tasks(t, s)
	if len(tasks) != changes {
		t.Errorf("%d changes made %d tasks", changes, len(tasks))
	}
	for _, task := range tasks {
		if task.GetState() != taskv1.State_STATE_SUCCEEDED {
			t.Errorf("a task ended %s: %s", task.GetState(), task.GetError())
		}
		once(t, task)
	}
}

// find looks a site up by its name; nil when there is none.
func (w *shared) find(t *testing.T, name string) *sitev1.Site {
	t.Helper()
	res, err := w.rig.Sites.ListSites(timeout(t, backWithin), &sitev1.ListSitesRequest{OrganizationId: w.org, PageSize: 500})
	if err != nil {
		t.Fatal(err)
	}
	var found *sitev1.Site
	for _, s := range res.GetSites() {
		if s.GetName() != name {
			continue
		}
		if found != nil {
			t.Errorf("site %s is there twice", name)
		}
		found = s
	}
	return found
}

// TestChomdKilled is I02 on the embedded database.
func TestChomdKilled(t *testing.T) {
	killChomd(t, &world, world.hosts[lab.Trixie])
}

// TestChomdAway is N9: without the control plane sites serve, their own schedules
// run, agents start, and a host comes back from a power loss; with it, agents
// are back at once, and take orders that another key has signed.
func TestChomdAway(t *testing.T) {
	away := 12 * time.Second
	if proving {
		away = 10 * time.Minute
	}
	type guest struct {
		h *host
		s *sitev1.Site
	}
	var guests []guest
	var visits []*prober
	for _, release := range lab.Releases {
		h := world.hosts[release]
		s, _ := world.create(t, h, "wordpress")
		guests = append(guests, guest{h, s})
		visits = append(visits, visitors(t, h, s))
	}
	if took := world.rig.Terminate(); took > stopsWithin {
		t.Errorf("chomd took %s to end with agents connected", took)
	} else {
		t.Logf("chomd ended after %s", took.Round(10*time.Millisecond))
	}
	left := time.Now()
	dark := guests[0]
	visits[0].unharmed(t)
	if err := dark.h.PowerLoss(timeout(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := dark.h.Start(timeout(t, 2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	shows(t, dark.h, dark.s, 200, dark.s.GetSettings()["title"])
	t.Logf("%s serves %s after its plug was pulled", dark.h.Name(), time.Since(left).Round(10*time.Millisecond))
	for _, g := range guests {
		before := lastCron(t, g.h, g.s)
		began := time.Now()
		sh(t, g.h, "systemctl restart chom-agent")
		if took := time.Since(began); took > stopsWithin {
			t.Errorf("the agent of %s took %s to restart", g.h.Name(), took)
		}
		if !proving { // its minute may not come within the short form
			sh(t, g.h, "systemctl start chom-cron-"+g.s.GetHandle()+".service")
			if state := sh(t, g.h, "systemctl is-active chom-cron-"+g.s.GetHandle()+".timer"); state != "active" {
				t.Errorf("the timer of WordPress is %s", state)
			}
			continue
		}
		deadline := time.Now().Add(150 * time.Second)
		for lastCron(t, g.h, g.s) == before {
			if time.Now().After(deadline) {
				t.Fatal("the timer of WordPress does not fire")
			}
			time.Sleep(time.Second)
		}
	}
	time.Sleep(away - time.Since(left)) // not at all, where all that took as long
	for _, g := range guests {
		if state := sh(t, g.h, "systemctl is-active chom-agent"); state != "active" {
			t.Errorf("without a control plane the agent of %s is %s", g.h.Name(), state)
		}
	}
	rotateSigner(t, &world)
	if err := world.rig.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	for _, g := range guests {
		world.ping(t, g.h, backWithin-time.Since(back))
	}
	visits[1].unharmed(t)
	for _, g := range guests {
		world.takesSites(t, g.h, backWithin)
		world.heap(g.h).bin(t, g.s)
	}
}

// rotateSigner replaces the key that signs orders, as one does who fears for it.
// Whatever agents do for the next chomd proves that they have heard of it.
func rotateSigner(t *testing.T, w *shared) {
	t.Helper()
	cmd := exec.CommandContext(timeout(t, time.Minute), filepath.Join(w.rig.Bin, "chomd"), "pki", "rotate-signer", "--data-dir", filepath.Join(w.rig.Dir, "chomd"))
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func lastCron(t *testing.T, h *host, s *sitev1.Site) string {
	t.Helper()
	return sh(t, h, "systemctl show --property=LastTriggerUSec --value chom-cron-"+s.GetHandle()+".timer")
}

// TestChomdRestoredFromBackup is I20: a control plane that forgot what agents
// know shows the difference, and does nothing about it by itself.
func TestChomdRestoredFromBackup(t *testing.T) {
	w, h := &world, world.hosts[lab.Bookworm]
	for _, other := range world.hosts {
		w.heap(other).empty(t) // else the backup brings back what is purged
	}
	s, _ := w.create(t, h, "static")
	data, backups, key := filepath.Join(w.rig.Dir, "chomd"), t.TempDir(), filepath.Join(t.TempDir(), "backup.key")
	recipient := regexp.MustCompile(`age1\w+`).FindString(chomd(t, w, "backup-key", key))
	chomd(t, w, "backup", "--data-dir", data, "--own-backup-to", backups, "--own-backup-recipient", recipient) // while it serves
	made, err := filepath.Glob(filepath.Join(backups, "*"))
	if err != nil || len(made) != 1 {
		t.Fatalf("backups: %v, %v", made, err)
	}
	newer, _ := w.change(t, updateSite, s)
	unknown, _ := w.create(t, h, "static")
	w.settled(t, h, newer, converges)
	w.settled(t, h, unknown, converges)
	before := facts(t, h, newer)
	known := len(w.tasks(t, s)) - 1 // without the update

	w.rig.Terminate()
	if err := os.RemoveAll(data); err != nil { // the machine is lost
		t.Fatal(err)
	}
	chomd(t, w, "restore", "--data-dir", data, made[0], key)
	if err := w.rig.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.ping(t, h, backWithin)
	got := w.get(t, s)
	if got.GetState() != sitev1.State_STATE_FAILED || !strings.Contains(got.GetProblem(), "newer than") {
		t.Errorf("the difference is shown as %s %q", got.GetState(), got.GetProblem())
	}
	t.Logf("shown: %q", got.GetProblem())
	time.Sleep(5 * time.Second) // whatever would happen by itself would have begun
	if n := len(w.tasks(t, s)); n != known {
		t.Errorf("the site had %d tasks and has %d", known, n)
	}
	sameFacts(t, "a site that is newer than the control plane knows", before, facts(t, h, newer))
	shows(t, h, newer, 200, newer.GetSettings()["title"])
	shows(t, h, unknown, 200, unknown.GetSettings()["title"])

	again, _ := w.change(t, updateSite, got)
	if again.GetGeneration() <= newer.GetGeneration() {
		t.Errorf("the next change has generation %d; the host holds %d", again.GetGeneration(), newer.GetGeneration())
	}
	w.heap(h).bin(t, w.settled(t, h, again, converges))
	shows(t, h, unknown, 200, unknown.GetSettings()["title"]) // nobody removes what nobody knows
}

// chomd runs one of its commands, and gives what it prints.
func chomd(t *testing.T, w *shared, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(w.rig.Bin, "chomd"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("chomd %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

// postgres is a second world on PostgreSQL, with a bad network between its
// agent and its control plane.
func postgres(t *testing.T) {
	ctx := timeout(t, 20*time.Minute)
	pg, err := rig.StartPostgres(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	}()
	l, err := lab.New(ctx, lab.Options{Ephemeral: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	between, err := newCutter(l)
	if err != nil {
		t.Fatal(err)
	}
	defer between.Close()
	dir := t.TempDir()
	w := &shared{}
	w.rig, err = rig.Start(ctx, rig.Options{
		Lab: l, Dir: dir, Database: pg.URL, AgentsPort: cutterPort,
		Bin: world.rig.Bin, Packages: world.rig.Packages,
		Args: []string{"--trash-period", trashPeriod()},
		Env:  []string{"CHOM_FAILPOINT_FILE=" + filepath.Join(dir, "failpoint")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.rig.Stop(ctx)
	defer func() {
		if t.Failed() {
			t.Logf("chomd's last words:\n%s", w.rig.Tail(40))
		}
	}()
	if w.org, err = w.rig.Organization(ctx, "tests", "owner@tests.example", "tests.example"); err != nil {
		t.Fatal(err)
	}
	h, err := w.join(ctx, l, lab.Bookworm, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("chomd is killed", func(t *testing.T) { killChomd(t, w, h) })
	t.Run("connections break at random", func(t *testing.T) { breakConnections(t, w, h, between) })
}

// breakConnections resets the agent's connection at random moments while many
// tasks are under way: each takes effect once.
func breakConnections(t *testing.T, w *shared, h *host, between *cutter) {
	n := 24
	if proving {
		n = 200
	}
	waste := w.heap(h)
	untouched, _ := w.create(t, h, "static")
	visits := visitors(t, h, untouched)
	ctx, stop := context.WithCancel(t.Context())
	cuts := make(chan int, 1)
	go func() {
		random := rand.New(rand.NewPCG(7, uint64(n)))
		cut := 0
		for ctx.Err() == nil {
			time.Sleep(time.Duration(20+random.IntN(700)) * time.Millisecond)
			cut += between.cut()
		}
		cuts <- cut
	}()
	var pings []*taskv1.Task
	var sites []*sitev1.Site
	for i := range n {
		if i%4 != 0 {
			task, err := pingSlowly(timeout(t, time.Minute), w, h, uint32(1+i%3), 50*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			pings = append(pings, task)
			continue
		}
		res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "static"))
		if err != nil {
			t.Fatal(err)
		}
		sites = append(sites, res.GetSite())
	}
	attempts := 0
	for _, task := range pings {
		ended := w.done(t, task, 2*converges)
		once(t, ended)
		attempts += int(ended.GetAttempt())
	}
	for _, s := range sites {
		task := w.done(t, newest(w.tasks(t, s)), 2*converges)
		once(t, task)
		attempts += int(task.GetAttempt())
	}
	stop()
	t.Logf("%d tasks took %d attempts over a connection that was cut %d times", n, attempts, <-cuts)
	w.ping(t, h, backWithin)
	var all []string
	for _, s := range sites {
		s = w.settled(t, h, s, converges)
		all = append(all, facts(t, h, s))
		if tasks := w.tasks(t, s); len(tasks) != 1 {
			t.Errorf("a site that was made once has %d tasks", len(tasks))
		}
		waste.bin(t, s)
	}
	for i := range all[1:] {
		sameFacts(t, fmt.Sprintf("site %d of the same kind", i+1), all[0], all[i+1])
	}
	visits.unharmed(t)
	waste.bin(t, untouched)
	waste.empty(t)
}

// cutterPort is where agents reach chomd through the cutter.
const cutterPort = 18443

// cutter is a piece of network that can be cut: it carries bytes both ways and
// resets every connection when told so.
type cutter struct {
	net.Listener
	target string

	mu    sync.Mutex
	conns []*net.TCPConn
}

func newCutter(l *lab.Lab) (*cutter, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(l.Gateway().String(), fmt.Sprint(cutterPort)))
	if err != nil {
		return nil, err
	}
	c := &cutter{Listener: listener, target: net.JoinHostPort(l.Gateway().String(), fmt.Sprint(rig.AgentsPort))}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			go c.carry(conn.(*net.TCPConn))
		}
	}()
	return c, nil
}

func (c *cutter) carry(near *net.TCPConn) {
	defer near.Close()
	conn, err := net.Dial("tcp", c.target)
	if err != nil {
		return // chomd is down: the agent sees the connection end
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	c.mu.Lock()
	c.conns = append(c.conns, near, far)
	c.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[1], way[0]) // how it ended does not matter
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = slices.DeleteFunc(c.conns, func(o *net.TCPConn) bool { return o == near || o == far })
}

// cut resets what is connected, and tells how many connections that were.
func (c *cutter) cut() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.conns) / 2
	for _, conn := range c.conns {
		_ = conn.SetLinger(0) // a reset, not an orderly end
		_ = conn.Close()
	}
	c.conns = nil
	return n
}
