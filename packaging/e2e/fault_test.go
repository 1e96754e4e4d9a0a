package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// proving asks for the long forms: every fault at every point, on both
// releases, and outages as long as promised. The short ones keep a test run
// within minutes.
var proving = os.Getenv("CHOM_PROVE") == "1"

const (
	// converges is how long a host may take after a fault to be as desired.
	converges = 60 * time.Second
	// backWithin is how long an agent may take once its control plane can be reached.
	backWithin = 30 * time.Second
)

// A verb is a change that a person asks for; absent is what the control plane
// asks for when the time in the trash is over.
type verb string

const (
	createSite  verb = "create"
	updateSite  verb = "update"
	suspendSite verb = "suspend"
	resumeSite  verb = "resume"
	trashSite   verb = "trash"
	restoreSite verb = "restore"
	absentSite  verb = "absent"
)

// walk is a life that knows every way. Each verb can follow the one before.
var walk = []verb{createSite, updateSite, suspendSite, resumeSite, trashSite, restoreSite}

// order asks for a change and returns as soon as it is accepted.
func (w *shared) order(ctx context.Context, v verb, s *sitev1.Site) (*sitev1.Site, *taskv1.Task, error) {
	org, id := s.GetOrganizationId(), s.GetId()
	type answer interface {
		GetSite() *sitev1.Site
		GetTask() *taskv1.Task
	}
	var res answer
	var err error
	switch v {
	case updateSite:
		domains := s.GetDomains()
		res, err = w.rig.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: org, SiteId: id,
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains", "settings"}},
			Domains:    append(slices.Clone(domains), fmt.Sprintf("alias%d.%s", len(domains), domains[0])),
			Settings:   map[string]string{"title": s.GetSettings()["title"] + " more"},
		})
	case suspendSite:
		res, err = w.rig.Sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: org, SiteId: id})
	case resumeSite:
		res, err = w.rig.Sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: org, SiteId: id})
	case trashSite:
		res, err = w.rig.Sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: org, SiteId: id})
	case restoreSite:
		res, err = w.rig.Sites.RestoreSite(ctx, &sitev1.RestoreSiteRequest{OrganizationId: org, SiteId: id})
	default:
		return nil, nil, fmt.Errorf("nobody orders %s", v)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", v, err)
	}
	return res.GetSite(), res.GetTask(), nil
}

// change asks for a change and waits until it is done.
func (w *shared) change(t *testing.T, v verb, s *sitev1.Site) (*sitev1.Site, *taskv1.Task) {
	t.Helper()
	ctx := timeout(t, 2*time.Minute)
	s, task, err := w.order(ctx, v, s)
	if err != nil {
		t.Fatal(err)
	}
	task = w.done(t, task, 2*time.Minute)
	return w.get(t, s), task
}

// create is the first change.
func (w *shared) create(t *testing.T, h *host, typ string) (*sitev1.Site, *taskv1.Task) {
	t.Helper()
	res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, typ))
	if err != nil {
		t.Fatal(err)
	}
	task := w.done(t, res.GetTask(), 2*time.Minute)
	return w.get(t, res.GetSite()), task
}

// request is newSite in the world of w.
func (w *shared) request(h *host, typ string) *sitev1.CreateSiteRequest {
	r := newSite(h, typ)
	r.OrganizationId = w.org
	return r
}

func (w *shared) get(t *testing.T, s *sitev1.Site) *sitev1.Site {
	t.Helper()
	res, err := w.rig.Sites.GetSite(timeout(t, backWithin), &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetSite()
}

// done waits for a task that must succeed in time.
func (w *shared) done(t *testing.T, task *taskv1.Task, within time.Duration) *taskv1.Task {
	t.Helper()
	ended, err := w.rig.WaitDone(timeout(t, within), task)
	if err != nil {
		for _, s := range ended.GetSteps() {
			t.Logf("step %s: %s %s", s.GetName(), s.GetState(), s.GetMessage())
		}
		t.Fatal(err)
	}
	return ended
}

// ended waits for a task's end, whatever it is.
func (w *shared) ended(t *testing.T, task *taskv1.Task, within time.Duration) *taskv1.Task {
	t.Helper()
	ended, err := w.rig.Wait(timeout(t, within), task, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

// tasks gives all tasks of a site, with their steps.
func (w *shared) tasks(t *testing.T, s *sitev1.Site) []*taskv1.Task {
	t.Helper()
	res, err := w.rig.Tasks.ListTasks(timeout(t, backWithin), &taskv1.ListTasksRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(), PageSize: 500,
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []*taskv1.Task
	for _, task := range res.GetTasks() { // a list tells no steps
		got, err := w.rig.Tasks.GetTask(timeout(t, backWithin), &taskv1.GetTaskRequest{OrganizationId: task.GetOrganizationId(), TaskId: task.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got.GetTask())
	}
	return all
}

// ping is a task through everything between a person and the host's journal.
func (w *shared) ping(t *testing.T, h *host, within time.Duration) {
	t.Helper()
	began := time.Now()
	ctx := timeout(t, within)
	res, err := w.rig.Servers.PingServer(ctx, &fleetv1.PingServerRequest{ServerId: h.server.GetId(), Steps: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.rig.WaitDone(ctx, res.GetTask()); err != nil {
		t.Errorf("the agent of %s does not answer within %s: %v", h.Name(), within, err)
		return
	}
	t.Logf("%s answers after %s", h.Name(), time.Since(began).Round(10*time.Millisecond))
}

// takesSites waits until the control plane would place a site on the host.
func (w *shared) takesSites(t *testing.T, h *host, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		res, err := w.rig.Servers.GetServer(timeout(t, backWithin), &fleetv1.GetServerRequest{ServerId: h.server.GetId()})
		if err == nil && res.GetServer().GetOnline() && res.GetServer().GetFacts().GetPrepared() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("server %s takes no sites after %s: %v, %v", h.Name(), within, res.GetServer(), err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// settled waits until a host is as the site is wanted, for visitors and in what
// the API tells, and fails when that takes too long.
func (w *shared) settled(t *testing.T, h *host, s *sitev1.Site, within time.Duration) *sitev1.Site {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		got := w.get(t, s)
		why := w.unsettled(t.Context(), h, got)
		if why == "" {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("site %s of generation %d is not as desired after %s: %s", got.GetName(), got.GetGeneration(), within, why)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *shared) unsettled(ctx context.Context, h *host, s *sitev1.Site) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	page, err := rig.Visit(ctx, h.Host, s.GetDomains()[0], "/")
	switch s.GetState() {
	case sitev1.State_STATE_ACTIVE:
		if err != nil || page.Status != 200 || !strings.Contains(page.Title, s.GetSettings()["title"]) {
			return fmt.Sprintf("visitors get %d %q, %v", page.Status, page.Title, err)
		}
	case sitev1.State_STATE_SUSPENDED:
		if err != nil || page.Status != 503 {
			return fmt.Sprintf("visitors get %d, %v", page.Status, err)
		}
	case sitev1.State_STATE_TRASHED:
		if err == nil {
			return fmt.Sprintf("visitors get %d", page.Status)
		}
	default:
		return fmt.Sprintf("it is %s: %s", s.GetState(), s.GetProblem())
	}
	if g := s.GetObserved().GetGeneration(); g != s.GetGeneration() {
		return fmt.Sprintf("the host is said to hold generation %d", g)
	}
	return ""
}

// facts is everything on a host that belongs to a site, with what differs
// between any two sites taken out, and what WordPress makes by its own schedule.
// Two sites that went the same way have equal facts, however often their agent
// died meanwhile: nothing is missing, and nothing is there twice.
func facts(t *testing.T, h *host, s *sitev1.Site) string {
	t.Helper()
	// What kept the control plane away kept it from certifying a preview name too; the host asks again by itself.
	conf := "/etc/nginx/chom/sites/" + s.GetHandle() + ".conf"
	for ctx := timeout(t, 3*time.Minute); sh(t, h, "[ ! -f "+conf+" ] || grep -q ssl_certificate "+conf+" || echo no") == "no" && ctx.Err() == nil; {
		time.Sleep(500 * time.Millisecond)
	}
	out := sh(t, h, strings.NewReplacer("HANDLE", s.GetHandle(), "NAME", s.GetDomains()[0]).Replace(`
echo "user: $(getent passwd | grep ^s-HANDLE: | cut -d: -f1,5-)"
echo "group: $(getent group | grep ^s-HANDLE: | cut -d: -f1,4)"
uid=$(id -u s-HANDLE)
echo "same gid: $([ "$uid" = "$(id -g s-HANDLE)" ] && echo yes), accounts with its uid: $(getent passwd | cut -d: -f3 | grep -c "^$uid$")"
find /srv/chom/sites/HANDLE /var/log/chom/sites/HANDLE -printf '%y %m %u:%g %p\n' | grep -v -e /wp-content/upgrade -e /wp-content/uploads | sort
for f in /etc/nginx/chom/sites/HANDLE.conf /etc/chom-agent/php/HANDLE.conf /etc/systemd/system/*HANDLE*; do [ -f "$f" ] && { echo "== $f"; sed 's/= chom-[0-9a-f]*$/= chom-RANDOM/' "$f"; }; done
ls /etc/nginx/chom/sites /etc/nginx/chom/good /etc/nginx/chom/broken /etc/nginx/chom/snippets | grep HANDLE
nginx -T 2>/dev/null | grep server_name | grep -c 'NAME[ ;]' | sed 's/^/server blocks: /'
systemctl list-unit-files --plain --no-legend '*HANDLE*' | sort
systemctl list-units --all --plain --no-legend '*HANDLE*' | grep -v -e chom-cron-HANDLE.service -e not-found | awk '{print $1, $3, $4}' | sed 's/timer active running/timer active waiting/' | sort # it may be firing
mariadb --batch --skip-column-names -e "
SELECT 'schema', schema_name FROM information_schema.schemata WHERE schema_name = 'sHANDLE';
SELECT 'account', user, host, plugin FROM mysql.user WHERE user = 's-HANDLE';
SELECT 'table', table_name FROM information_schema.tables WHERE table_schema = 'sHANDLE' ORDER BY 2"
if mariadb -e 'SELECT 1 FROM sHANDLE.wp_users LIMIT 1' >/dev/null 2>&1; then mariadb --batch --skip-column-names sHANDLE -e "
SHOW GRANTS FOR 's-HANDLE'@'localhost';
SELECT 'person', COUNT(*), MIN(user_login) FROM wp_users;
SELECT 'post', post_type, post_title, COUNT(*) FROM wp_posts GROUP BY 2, 3 ORDER BY 2, 3;
SELECT 'option', option_name, COUNT(*) FROM wp_options WHERE option_name IN ('siteurl', 'home', 'blogname', 'admin_email') GROUP BY 2 ORDER BY 2"; fi
true`))
	return strings.NewReplacer(s.GetHandle(), "HANDLE", s.GetDomains()[0], "DOMAIN", s.GetName(), "SITE").Replace(out)
}

// sameFacts shows how two hosts' facts differ, if they do.
func sameFacts(t *testing.T, what, want, got string) {
	t.Helper()
	missing, more := difference(want, got), difference(got, want) // in no order: file names begin with handles
	if missing == "" && more == "" {
		return
	}
	t.Errorf("%s differs from a site that nobody disturbed:\nmissing:\n%s\nmore:\n%s", what, missing, more)
}

func difference(a, b string) string {
	count := map[string]int{}
	for line := range strings.Lines(b + "\n") {
		count[line]++
	}
	var only []string
	for line := range strings.Lines(a + "\n") {
		if count[line]--; count[line] < 0 {
			only = append(only, line)
		}
	}
	return strings.TrimSpace(strings.Join(only[:min(len(only), 40)], ""))
}

// heaps holds what tests threw away on each host, for a later test to look
// after: time in the trash costs nothing while something else runs.
var heaps = struct {
	sync.Mutex
	of map[*host]*rubbish
}{of: map[*host]*rubbish{}}

// heap is where sites of a host are thrown away.
func (w *shared) heap(h *host) *rubbish {
	heaps.Lock()
	defer heaps.Unlock()
	if heaps.of[h] == nil {
		heaps.of[h] = &rubbish{w: w, h: h}
	}
	return heaps.of[h]
}

// rubbish collects sites that a test is done with, so that they spend their
// time in the trash together.
type rubbish struct {
	w    *shared
	h    *host
	gone []*sitev1.Site
}

// bin throws a site away.
func (r *rubbish) bin(t *testing.T, s *sitev1.Site) {
	t.Helper()
	if s.GetState() != sitev1.State_STATE_TRASHED {
		s, _ = r.w.change(t, trashSite, s)
	}
	r.gone = append(r.gone, s)
}

// empty waits until nothing of them is left anywhere.
func (r *rubbish) empty(t *testing.T) {
	t.Helper()
	for _, s := range r.gone {
		r.w.vanished(t, r.h, s, 3*time.Minute)
	}
	r.gone = nil
}

// vanished waits until a site in the trash is purged, and looks for what is left.
func (w *shared) vanished(t *testing.T, h *host, s *sitev1.Site, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		res, err := w.rig.Sites.GetSite(timeout(t, backWithin), &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if connect.CodeOf(err) == connect.CodeNotFound {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("site %s is not purged: %v, %v", s.GetName(), res.GetSite(), err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if left := traces(t, h, s.GetHandle()); left != "" {
		t.Errorf("left of purged site %s:\n%s", s.GetName(), left)
	}
}

// prober asks for home pages ten times a second, as visitors who must not notice
// what happens to others (N4).
type prober struct {
	stop  context.CancelFunc
	work  sync.WaitGroup
	sites int
	began time.Time

	mu    sync.Mutex
	asked int
	wrong []string
}

// visitors begin to ask for sites that are served by h and stay untouched.
func visitors(t *testing.T, h *host, sites ...*sitev1.Site) *prober {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &prober{stop: stop, sites: len(sites), began: time.Now()}
	for _, s := range sites {
		p.work.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				p.ask(h.Host, s.GetDomains()[0], s.GetSettings()["title"])
			}
		})
	}
	t.Cleanup(func() { p.stop(); p.work.Wait() })
	return p
}

func (p *prober) ask(h *lab.Host, domain, title string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	page, err := rig.Visit(ctx, h, domain, "/")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if err != nil || page.Status != 200 || !strings.Contains(page.Title, title) {
		p.wrong = append(p.wrong, fmt.Sprintf("%s %s after %s: %d %q %v", began.Format("15:04:05.000"), domain,
			time.Since(began).Round(time.Millisecond), page.Status, page.Title, err))
	}
}

// unharmed ends the visits: all must have been answered well. Even on the
// busiest of machines a site is visited every two seconds, or the visits prove
// nothing.
func (p *prober) unharmed(t *testing.T) {
	t.Helper()
	lasted := time.Since(p.began)
	p.stop()
	p.work.Wait()
	if len(p.wrong) > 0 {
		t.Errorf("%d of %d visits went wrong:\n%s", len(p.wrong), p.asked, strings.Join(p.wrong[:min(len(p.wrong), 10)], "\n"))
	}
	if p.asked < p.sites*int(lasted/(2*time.Second)) {
		t.Errorf("only %d visits to %d sites in %s, which proves nothing", p.asked, p.sites, lasted)
	}
	t.Logf("%d visits in %s, %d wrong", p.asked, lasted.Round(time.Second), len(p.wrong))
}
