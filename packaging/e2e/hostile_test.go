package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
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

// prove runs the long forms of `make prove`.
var prove = os.Getenv("CHOM_PROVE") != ""

// hostile are the attacks, in the order in which they share the sites of a
// host. Where one is run on one release only, what it attacks is the kernel's
// or ours and the same on both.
var hostile = []struct {
	name    string
	claim   func(t *testing.T, r *attackRange)
	release lab.Release // empty: both
}{
	{"F05 hostile strings are refused by the API and never reach nginx", hostileStrings, ""},
	{"F15 values that look like options are refused", hostileOptions, ""},
	{"injected settings change no configuration", injectedSettings, ""},
	{"H05 an unknown name gets no tenant's page", unknownNames, ""},
	{"F08 what is not for visitors is not served", servedFiles, ""},
	{"F09 PHP of one site reads nothing of another", crossSiteRead, ""},
	{"F10 PHP of one site can't speak to another's socket", crossPool, ""},
	{"F16 a database name is no pattern", grantPatterns, ""},
	{"F17 a database account has no right beyond its schema", databaseRights, ""},
	{"F22 setuid files, devices and open modes give nothing", setuidAndModes, ""},
	{"a tenant writes to his own places only", writablePlaces, ""},
	{"F18 logs are out of a tenant's reach, and rotate", logsAndRotation, ""},
	{"F07 a broken neighbour is set aside alone", brokenNeighbour, ""},
	{"F07 nginx is never reloaded with a broken base", brokenBase, lab.Trixie},
	{"F13 no tool runs a tenant's code as root", rootCanary, ""},
	{"F12 no php-fpm master is root's", noRootMaster, ""},
	{"F23 the agent offers no surface", agentSurface, ""},
	// From here on every attack has a site of its own, which it spoils; the
	// trash empties itself meanwhile.
	{"F20 deletion ends processes first and takes every tree", busyDeletion, lab.Bookworm},
	{"F01 links in a static site lead nowhere", linksInStatic, lab.Trixie},
	{"F01 links in a WordPress site lead nowhere", linksInWordPress, lab.Bookworm},
	{"odd files stop no task", oddFiles, lab.Bookworm},
	{"F02 a race of links and directories is never lost", linkRace, lab.Trixie},
}

// TestHostile gives tenants of both hosts everything that a tenant has, lets
// them attack, and then removes them: what is left must be nothing, and nobody
// else's bytes may have changed.
func TestHostile(t *testing.T) {
	for _, release := range lab.Releases {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			r := &attackRange{host: world.hosts[release], shared: map[string]*sitev1.Site{}}
			r.layCanaries(t)
			for _, c := range hostile {
				if c.release == "" || c.release == release || prove {
					t.Run(c.name, func(t *testing.T) { c.claim(t, r) })
				}
			}
			t.Run("afterwards everything can be removed", r.removeAll)
		})
	}
}

// attackRange is a host, and the sites on it that attacks share.
type attackRange struct {
	*host
	secret string // content of a file that only root may read

	shared map[string]*sitev1.Site
	sites  []*sitev1.Site       // every site of the range, for removeAll
	late   []func(t *testing.T) // attacks on a removal, when the trash gives the site up
	intact func(t *testing.T)   // that the canaries are what they were laid as
}

// attacker is a WordPress site whose owner is hostile. Attacks leave it alive.
func (r *attackRange) attacker(t *testing.T) *sitev1.Site { return r.share(t, "attacker", "wordpress") }

// victim is a WordPress site of somebody else.
func (r *attackRange) victim(t *testing.T) *sitev1.Site { return r.share(t, "victim", "wordpress") }

// neighbour is a static site of somebody else; nothing of it changes by
// itself. What it keeps in theirs.html is for its own visitors.
func (r *attackRange) neighbour(t *testing.T) *sitev1.Site {
	t.Helper()
	fresh := r.shared["neighbour"] == nil
	s := r.share(t, "neighbour", "static")
	if fresh {
		plant(t, r.host, s, public(s)+"/theirs.html", r.secret)
	}
	return s
}

func (r *attackRange) share(t *testing.T, role, typ string) *sitev1.Site {
	t.Helper()
	if r.shared[role] == nil {
		r.shared[role] = r.site(t, typ)
	}
	return r.shared[role]
}

// site makes a site for one attack alone.
func (r *attackRange) site(t *testing.T, typ string) *sitev1.Site {
	t.Helper()
	s := create(t, r.host, typ)
	r.sites = append(r.sites, s)
	return s
}

// found asks the API for a site.
func (r *attackRange) found(ctx context.Context, s *sitev1.Site) (*sitev1.Site, error) {
	res, err := world.rig.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	return res.GetSite(), err
}

// retire deletes a site; the trash gives it up later.
func (r *attackRange) retire(t *testing.T, s *sitev1.Site) {
	t.Helper()
	if o := r.order(t, s, "delete"); o.state != taskv1.State_STATE_SUCCEEDED && !strings.Contains(o.err, ":") {
		t.Errorf("delete %s: %s %s", s.GetHandle(), o.state, o.err)
	}
}

// removeAll deletes every site of the range, waits until the trash gave them
// up, and looks for what is left.
func (r *attackRange) removeAll(t *testing.T) {
	ctx := timeout(t, 3*time.Minute)
	for _, s := range r.sites {
		r.retire(t, s)
	}
	for _, attack := range r.late {
		attack(t)
	}
	var all sync.WaitGroup
	for _, s := range r.sites {
		all.Go(func() {
			for {
				left, err := r.found(ctx, s)
				if connect.CodeOf(err) == connect.CodeNotFound {
					return
				}
				select {
				case <-ctx.Done():
					t.Errorf("site %s is not purged: %s %s", s.GetHandle(), left.GetState(), left.GetProblem())
					return
				case <-time.After(250 * time.Millisecond):
				}
			}
		})
	}
	all.Wait()
	for _, s := range r.sites {
		if left := traces(t, r.host, s.GetHandle()); left != "" {
			t.Errorf("left of site %s:\n%s", s.GetHandle(), left)
		}
	}
	if left := sh(t, r.host, "pgrep --full [o]"+stays[1:]+" --list-full || true"); left != "" {
		t.Errorf("removed tenants still run:\n%s", left)
	}
	r.intact(t)
}

// outcome is what became of an order.
type outcome struct {
	what  string
	state taskv1.State // 0 when the API refused it
	err   string
	lines []string
	took  time.Duration
}

func (o outcome) String() string {
	if o.state == 0 {
		return o.what + " refused"
	}
	return fmt.Sprintf("%s %s in %.1f s", o.what, strings.ToLower(strings.TrimPrefix(o.state.String(), "STATE_")), o.took.Seconds())
}

// everything is every kind of order that a site can get and live on.
var everything = []string{"update", "suspend", "resume", "login", "prepare", "delete", "restore"}

// walk gives a site orders one after the other. An order over a hostile site
// may fail, but it ends, it says why, and it never shows what only root reads.
func (r *attackRange) walk(t *testing.T, s *sitev1.Site, orders ...string) []outcome {
	t.Helper()
	var all []outcome
	for _, what := range orders {
		if what == "login" && s.GetType() != "wordpress" {
			continue
		}
		begin := time.Now()
		o := r.order(t, s, what)
		o.took = time.Since(begin)
		if o.state == taskv1.State_STATE_FAILED && o.err == "" {
			t.Errorf("%s failed without a word", what)
		}
		if o.state != 0 && !rig.Ended(o.state) || o.state == taskv1.State_STATE_TIMED_OUT {
			t.Errorf("%s is %s: %s", what, o.state, o.err)
		}
		if said := o.err + strings.Join(o.lines, "\n"); strings.Contains(said, r.secret) {
			t.Errorf("%s shows root's file:\n%s", what, said)
		}
		all = append(all, o)
	}
	t.Log(all)
	return all
}

// order gives one order and waits for its end.
func (r *attackRange) order(t *testing.T, s *sitev1.Site, what string) outcome {
	t.Helper()
	ctx := timeout(t, 4*time.Minute)
	sites, org, id := world.rig.Sites, s.GetOrganizationId(), s.GetId()
	var task *taskv1.Task
	var err error
	switch what {
	case "update":
		var res *sitev1.UpdateSiteResponse
		res, err = sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
			OrganizationId: org, SiteId: id,
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains", "settings"}},
			Domains:    []string{s.GetDomains()[0], strings.ToLower(rand.Text()[:8]) + "." + s.GetDomains()[0]},
			Settings:   map[string]string{"title": "Site " + rand.Text()[:8]},
		})
		task = res.GetTask()
	case "suspend":
		var res *sitev1.SuspendSiteResponse
		res, err = sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: org, SiteId: id})
		task = res.GetTask()
	case "resume":
		var res *sitev1.ResumeSiteResponse
		res, err = sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: org, SiteId: id})
		task = res.GetTask()
	case "login":
		_, err = sites.CreateSiteLogin(ctx, &sitev1.CreateSiteLoginRequest{OrganizationId: org, SiteId: id})
		if err == nil {
			return outcome{what: what, state: taskv1.State_STATE_SUCCEEDED}
		}
	case "delete":
		var res *sitev1.DeleteSiteResponse
		res, err = sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: org, SiteId: id})
		task = res.GetTask()
	case "restore":
		var res *sitev1.RestoreSiteResponse
		res, err = sites.RestoreSite(ctx, &sitev1.RestoreSiteRequest{OrganizationId: org, SiteId: id})
		task = res.GetTask()
	case "prepare":
		var res *fleetv1.PrepareServerResponse
		res, err = world.rig.Servers.PrepareServer(ctx, &fleetv1.PrepareServerRequest{ServerId: r.server.GetId()})
		task = res.GetTask()
	default:
		t.Fatalf("no order is called %q", what)
	}
	if err != nil {
		return outcome{what: what, err: err.Error()}
	}
	o := outcome{what: what}
	task, err = world.rig.Wait(ctx, task, func(m *taskv1.WatchTaskResponse) {
		for _, l := range m.GetLogLines() {
			o.lines = append(o.lines, l.GetText())
		}
	})
	if err != nil {
		t.Fatalf("%s does not end: %v", what, err)
	}
	o.state, o.err = task.GetState(), task.GetError()
	for _, step := range task.GetSteps() {
		o.lines = append(o.lines, step.GetName()+": "+step.GetMessage())
	}
	return o
}

// wentWell fails the test for every order that did not succeed.
func wentWell(t *testing.T, all []outcome) {
	t.Helper()
	for _, o := range all {
		if o.state != taskv1.State_STATE_SUCCEEDED {
			t.Errorf("%s: %s %s\n%s", o.what, o.state, o.err, strings.Join(o.lines, "\n"))
		}
	}
}

// stays is in the command line of every process that is to outlive its site.
const stays = "outlives-its-site"

// What no tenant may read, change or list; links lead there.
const (
	canaries    = "/etc/hostile"
	secretFile  = canaries + "/secret" // root's, 0600, and its reader is found out by its atime
	openFile    = canaries + "/open"   // everybody may write: only the sandbox is in the way
	openDir     = canaries + "/dir"    // likewise
	cronDir     = "/etc/cron.d"
	shadowFile  = "/etc/shadow"
	longAgo     = "2001-01-01 00:00:00 UTC" // older than any change, so that relatime keeps the next read
	longAgoUnix = "978307200"
)

func (r *attackRange) layCanaries(t *testing.T) {
	t.Helper()
	r.secret = "HOSTILE-" + rand.Text()
	sh(t, r.host, fmt.Sprintf(`mkdir -p %[1]s %[2]s %[3]s && echo %[4]s > %[5]s && chmod 600 %[5]s && echo OPEN-TO-ALL > %[6]s && chmod 666 %[6]s &&
		echo kept > %[2]s/kept && chmod 777 %[2]s && chmod 666 %[2]s/kept && echo '# kept' > %[3]s/hostile-kept`,
		canaries, openDir, cronDir, r.secret, secretFile, openFile))
	// The atime is a witness only if a read changes it.
	sh(t, r.host, "touch -a -d '"+longAgo+"' "+secretFile)
	if seen := sh(t, r.host, "cat "+secretFile+" >/dev/null; stat -c %X "+secretFile); seen == longAgoUnix {
		t.Fatal("a read leaves no trace on this host: the test would prove nothing")
	}
	sh(t, r.host, "touch -a -d '"+longAgo+"' "+secretFile)
	r.intact = r.watch(t)
}

// guard remembers everything that is not the attackers'. The check that it
// returns fails the test if anything of it was read, written, given away, made
// open or removed.
func (r *attackRange) guard(t *testing.T) (unharmed func(t *testing.T)) {
	t.Helper()
	return r.watch(t, "/srv/chom/sites/"+r.neighbour(t).GetHandle())
}

// watch is guard for the canaries and some trees.
func (r *attackRange) watch(t *testing.T, trees ...string) (unharmed func(t *testing.T)) {
	t.Helper()
	look := func(t *testing.T) string {
		t.Helper()
		// The inode's change time (%C) can't be set back by anyone.
		return sh(t, r.host, fmt.Sprintf(`find %s %s %s /etc/sudoers.d /etc/systemd/system.conf -printf '%%p %%y %%m %%U:%%G %%s %%T@ %%C@ %%l\n' 2>/dev/null | sort
			stat -c '%%n %%a %%u:%%g' %s /etc/passwd /etc /etc/nginx /srv/chom /srv/chom/sites
			stat -c 'read %%X' %s`, canaries, cronDir, strings.Join(trees, " "), shadowFile, secretFile))
	}
	before := look(t)
	return func(t *testing.T) {
		t.Helper()
		for _, h := range harm(before, look(t)) {
			t.Errorf("harmed: %s", h)
		}
	}
}

// harm lists the lines that only one of two texts has.
func harm(before, after string) []string {
	var out []string
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "+ "+l)
		}
	}
	return out
}

// public is a site's document root.
func public(s *sitev1.Site) string { return "/srv/chom/sites/" + s.GetHandle() + "/public" }

// private is the directory beside it.
func private(s *sitev1.Site) string { return "/srv/chom/sites/" + s.GetHandle() + "/private" }

// plant writes a file as the tenant.
func plant(t *testing.T, h *host, s *sitev1.Site, path, content string) {
	t.Helper()
	res, err := h.Run(timeout(t, time.Minute), lab.Command{
		User: "s-" + s.GetHandle(), Stdin: strings.NewReader(content),
		Argv: []string{"/bin/bash", "-c", `umask 027; mkdir -p -- "${0%/*}" && cat > "$0"`, path},
	})
	if err != nil || res.Code != 0 {
		t.Fatalf("plant %s: %v %s", path, err, res.Stderr)
	}
}

// must runs a line as the tenant that has to work: it sets an attack up.
func must(t *testing.T, h *host, s *sitev1.Site, line string) string {
	t.Helper()
	res := as(t, h, s, line)
	if res.Code != 0 {
		t.Fatalf("as the tenant: %s: exit status %d: %s", line, res.Code, res.Stderr)
	}
	return strings.TrimSpace(res.Stdout)
}

// visit asks for a page and bears what a broken site answers.
func visit(t *testing.T, h *host, domain, path string) (rig.Page, error) {
	t.Helper()
	return rig.Visit(timeout(t, 30*time.Second), h.Host, domain, path)
}

// php plants a script in the document root and returns what a visitor gets.
func php(t *testing.T, h *host, s *sitev1.Site, code string) string {
	t.Helper()
	name := "probe-" + strings.ToLower(rand.Text()) + ".php"
	plant(t, h, s, public(s)+"/"+name, "<?php\n"+code)
	p, err := visit(t, h, s.GetDomains()[0], "/"+name)
	if err != nil {
		t.Fatal(err)
	}
	if p.Status != http.StatusOK {
		t.Fatalf("the script answers %d: %s", p.Status, p.Body)
	}
	return p.Body
}

// background runs a line as the tenant until stop, which returns its output.
func background(t *testing.T, h *host, s *sitev1.Site, argv ...string) (stop func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	done := make(chan string, 1)
	go func() {
		res, err := h.Run(ctx, lab.Command{User: "s-" + s.GetHandle(), Argv: argv})
		if err != nil && !errors.Is(err, context.Canceled) {
			res.Stderr += err.Error()
		}
		done <- res.Stdout + res.Stderr
	}()
	return sync.OnceValue(func() string {
		defer cancel()
		select {
		case out := <-done:
			return out
		case <-time.After(10 * time.Second):
			cancel()
			return <-done
		}
	})
}
