package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// agentFailpoint is chom.dev/agent/fail.File.
const agentFailpoint = "/run/chom-agent/failpoint"

// deeper are points inside of the packages that steps use, in the order in
// which they are passed.
var deeper = map[verb]map[string][]string{
	createSite: {
		"static": {
			"unixuser.user-added", "tree.shell-made", "tree.public-made", "tree.private-made",
			"nginx.tested", "nginx.before-change", "nginx.after-change", "nginx.signaled", "nginx.loaded", "nginx.probed",
		},
		"wordpress": {
			"unixuser.user-added", "tree.shell-made", "tree.public-made", "tree.private-made",
			"mariadb.schema-made", "mariadb.account-made", "mariadb.account-set", "mariadb.granted",
			"php.pool-written", "php.unit-installed", "php.started",
			"nginx.tested", "nginx.before-change", "nginx.after-change", "nginx.signaled", "nginx.loaded", "nginx.probed",
		},
	},
	absentSite: {
		"static":    {"tree.processes-killed", "tree.emptied", "tree.public-removed", "tree.private-removed", "unixuser.user-removed"},
		"wordpress": {"tree.processes-killed", "tree.emptied", "tree.public-removed", "tree.private-removed", "mariadb.account-dropped", "mariadb.schema-dropped", "unixuser.user-removed"},
	},
}

// undisturbed is a life without faults: what each verb does, and what is there
// after it.
type undisturbed struct {
	points map[verb][]string
	facts  map[verb]string
}

// model lives a life without faults.
func model(t *testing.T, w *shared, h *host, typ string, waste *rubbish) undisturbed {
	t.Helper()
	m := undisturbed{points: map[verb][]string{}, facts: map[verb]string{}}
	forgetArchives(t, h)
	s, task := w.create(t, h, typ)
	for i, v := range walk {
		if i > 0 {
			s, task = w.change(t, v, s)
		}
		m.points[v] = points(task)
		m.facts[v] = facts(t, h, w.settled(t, h, s, converges))
	}
	// Removal takes what stopping takes, and more: its steps are known from any
	// site's removal. The order is that of agent/site.
	waste.bin(t, s)
	waste.empty(t)
	removal := newest(w.tasks(t, s))
	m.points[absentSite] = points(removal)
	return m
}

// newest is the task that was made last.
func newest(tasks []*taskv1.Task) *taskv1.Task {
	return slices.MaxFunc(tasks, func(a, b *taskv1.Task) int {
		return a.GetCreateTime().AsTime().Compare(b.GetCreateTime().AsTime())
	})
}

// points are where the agent can be killed while it does what a task did,
// taken from the steps that the task itself tells. Steps that found their work
// done already pass none.
func points(task *taskv1.Task) []string {
	at := func(name, when string) string { return "task/converge-site/" + name + "/" + when }
	all := []string{at("accept", "before"), at("accept", "after")}
	for _, s := range task.GetSteps() {
		if s.GetState() == taskv1.StepState_STEP_STATE_DONE {
			all = append(all, at(s.GetName(), "before"), at(s.GetName(), "after"))
		}
	}
	return append(all, at("result", "before"), at("result", "after"))
}

// arm has the agent die at a point, once.
func arm(t *testing.T, h *host, point string) {
	t.Helper()
	if err := h.WriteFile(agentFailpoint, []byte(point), 0o600); err != nil {
		t.Fatal(err)
	}
}

func armed(h *host) (string, error) {
	point, err := h.ReadFile(agentFailpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(point), err
}

// disarm takes back what was not reached.
func disarm(t *testing.T, h *host) {
	t.Helper()
	if _, err := h.Exec(context.WithoutCancel(t.Context()), "rm", "-f", agentFailpoint); err != nil {
		t.Fatal(err)
	}
}

// restarts is how often systemd has started the agent again.
func restarts(t *testing.T, h *host) int {
	t.Helper()
	var n int
	out := sh(t, h, "systemctl show --property=NRestarts --value chom-agent")
	if _, err := fmt.Sscan(out, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// forgetArchives has the next installation fetch its archive.
func forgetArchives(t *testing.T, h *host) {
	t.Helper()
	sh(t, h, "rm -f /var/cache/chom-agent/archives/*.gz")
}

// restartFast has systemd start a dead agent again after 200 ms instead of a
// second: what is proved is the same, and many deaths cost less time.
func restartFast(t *testing.T, h *host) {
	t.Helper()
	const dropIn = "/etc/systemd/system/chom-agent.service.d/90-fast.conf"
	if err := h.WriteFile(dropIn, []byte("[Service]\nRestartSec=200ms\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh(t, h, "systemctl daemon-reload")
	t.Cleanup(func() {
		disarm(t, h)
		if _, err := h.Output(context.WithoutCancel(t.Context()), "/bin/bash", "-c", "rm "+dropIn+" && systemctl daemon-reload"); err != nil {
			t.Error(err)
		}
	})
}

// killThrough arms one point after the other: the agent dies at the first, is
// started by systemd, goes on, dies at the next, and so on. It returns when the
// last was passed; the work then still has to come to its end. Begin starts the
// work, once the first point is armed.
func killThrough(t *testing.T, w *shared, h *host, points []string, begin func() *taskv1.Task) *taskv1.Task {
	t.Helper()
	before := restarts(t, h)
	arm(t, h, points[0])
	task := begin()
	for i, point := range points {
		died(t, w, h, point, task)
		if i+1 < len(points) {
			arm(t, h, points[i+1])
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for restarts(t, h)-before < len(points) {
		if time.Now().After(deadline) {
			t.Fatalf("%d points were passed, and the agent was started again %d times", len(points), restarts(t, h)-before)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return task
}

// died waits until the agent has died at the armed point.
func died(t *testing.T, w *shared, h *host, point string, task *taskv1.Task) {
	t.Helper()
	deadline := time.Now().Add(converges)
	if task == nil { // what the end of a site's time in the trash brings
		deadline = deadline.Add(2 * time.Minute)
	}
	for {
		left, err := armed(h)
		switch {
		case err != nil:
			t.Fatal(err)
		case left == "":
			return
		case time.Now().After(deadline):
			state := "no task"
			if task != nil {
				res, err := w.rig.Tasks.GetTask(t.Context(), &taskv1.GetTaskRequest{OrganizationId: task.GetOrganizationId(), TaskId: task.GetId()})
				state = fmt.Sprint(res.GetTask(), err)
			}
			disarm(t, h)
			t.Fatalf("point %s was not reached: %s", point, state)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// killAgent kills the agent at points of every change of a site's life, and
// wants each change to end as if nothing had happened.
func killAgent(t *testing.T, w *shared, h *host, typ string, choose func(v verb, points []string) [][]string, m undisturbed, waste *rubbish) {
	t.Helper()
	restartFast(t, h)
	kills, longest := 0, time.Duration(0)
	measure := func(began time.Time, n int) {
		kills += n
		longest = max(longest, time.Since(began))
	}
	// Every way through create needs a site of its own; the other verbs walk
	// one site round and round.
	var sites []*sitev1.Site
	for _, chain := range choose(createSite, m.points[createSite]) {
		forgetArchives(t, h)
		var s *sitev1.Site
		task := killThrough(t, w, h, chain, func() *taskv1.Task {
			res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, typ))
			if err != nil {
				t.Fatal(err)
			}
			s = res.GetSite()
			return res.GetTask()
		})
		began := time.Now()
		once(t, w.done(t, task, converges))
		s = w.settled(t, h, s, converges)
		measure(began, len(chain))
		sameFacts(t, fmt.Sprintf("create killed at %s", brief(chain)), m.facts[createSite], facts(t, h, s))
		sites = append(sites, s)
	}
	ways := map[verb][][]string{}
	rounds := 0
	for _, v := range walk[1:] {
		ways[v] = choose(v, m.points[v])
		rounds = max(rounds, len(ways[v]))
	}
	if rounds > 0 && len(sites) == 0 {
		s, _ := w.create(t, h, typ)
		sites = append(sites, s)
	}
	for round := range rounds {
		s := sites[0]
		for _, v := range walk[1:] {
			if round >= len(ways[v]) {
				s, _ = w.change(t, v, s)
				continue
			}
			chain := ways[v][round]
			task := killThrough(t, w, h, chain, func() *taskv1.Task {
				next, task, err := w.order(timeout(t, time.Minute), v, s)
				if err != nil {
					t.Fatal(err)
				}
				s = next
				return task
			})
			began := time.Now()
			once(t, w.done(t, task, converges))
			s = w.settled(t, h, s, converges)
			measure(began, len(chain))
			if round == 0 { // later rounds have more aliases than the model
				sameFacts(t, fmt.Sprintf("%s killed at %s", v, brief(chain)), m.facts[v], facts(t, h, s))
			}
		}
		sites[0] = s
	}
	// The ways through removal, on the sites that are there.
	ways[absentSite] = choose(absentSite, m.points[absentSite])
	for _, chain := range ways[absentSite] {
		if len(sites) == 0 {
			s, _ := w.create(t, h, typ)
			sites = append(sites, s)
		}
		s, _ := w.change(t, trashSite, sites[0])
		sites = sites[1:]
		killThrough(t, w, h, chain, func() *taskv1.Task { return nil })
		began := time.Now()
		w.vanished(t, h, s, converges)
		measure(began, len(chain))
	}
	for _, s := range sites {
		waste.bin(t, s)
	}
	t.Logf("%s: the agent was killed %d times; after a kill the host was as desired within %s", typ, kills, longest.Round(10*time.Millisecond))
}

// once checks that a task shows no step twice.
func once(t *testing.T, task *taskv1.Task) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range task.GetSteps() {
		if seen[s.GetName()] {
			t.Errorf("step %s is there twice", s.GetName())
		}
		seen[s.GetName()] = true
	}
	if got := uint32(len(seen)); got != task.GetStepCount() {
		t.Errorf("the task shows %d steps of %d", got, task.GetStepCount())
	}
}

func brief(points []string) string {
	var out []string
	for _, p := range points {
		out = append(out, strings.TrimPrefix(p, "task/converge-site/"))
	}
	return strings.Join(out, ", ")
}

// chained is one way through all points with a suffix; an attempt survives 20
// deaths of its agent, and no more.
func chained(points []string, suffix string) [][]string {
	var chain []string
	for _, p := range points {
		if strings.HasSuffix(p, suffix) {
			chain = append(chain, p)
		}
	}
	return [][]string{chain}
}

// single is a way of its own for each point.
func single(points []string) [][]string {
	var ways [][]string
	for _, p := range points {
		ways = append(ways, []string{p})
	}
	return ways
}

// killAgentBriefly is I01 in its short form: on one release the agent dies
// before every step of a static site's life, on the other one after every step,
// each time in the middle of the same attempt.
func killAgentBriefly(when string) func(t *testing.T, w *shared, h *host, waste *rubbish) {
	return func(t *testing.T, w *shared, h *host, waste *rubbish) {
		m := model(t, w, h, "static", waste)
		killAgent(t, w, h, "static", func(_ verb, points []string) [][]string { return chained(points, "/"+when) }, m, waste)
		waste.empty(t)
	}
}

// killWordPressBriefly kills the agent after every step of an installation and
// of a removal, and inside of the steps.
func killWordPressBriefly(t *testing.T, w *shared, h *host, waste *rubbish) {
	forgetArchives(t, h)
	s, task := w.create(t, h, "wordpress")
	m := undisturbed{
		points: map[verb][]string{createSite: points(task)},
		facts:  map[verb]string{createSite: facts(t, h, w.settled(t, h, s, converges))},
	}
	waste.bin(t, s)
	waste.empty(t)
	m.points[absentSite] = points(newest(w.tasks(t, s)))
	killAgent(t, w, h, "wordpress", func(v verb, points []string) [][]string {
		switch v {
		case createSite:
			return append(chained(points, "/after"), []string{
				"unixuser.user-added", "tree.shell-made", "mariadb.schema-made", "mariadb.account-made",
				"php.pool-written", "php.unit-installed", "nginx.tested", "nginx.after-change", "nginx.signaled",
			})
		case absentSite:
			return append(chained(points, "/after"), deeper[absentSite]["wordpress"])
		}
		return nil
	}, m, waste)
}

// killAgentEverywhere is I01 in full: each point of each change, alone.
func killAgentEverywhere(t *testing.T, w *shared, h *host, waste *rubbish) {
	for _, typ := range []string{"static", "wordpress"} {
		t.Run(typ, func(t *testing.T) {
			m := model(t, w, h, typ, waste)
			killAgent(t, w, h, typ, func(v verb, points []string) [][]string {
				if v == absentSite { // each way waits for the end of a time in the trash
					return append(append(chained(points, "/before"), chained(points, "/after")...), deeper[v][typ])
				}
				return append(single(points), single(deeper[v][typ])...)
			}, m, waste)
			waste.empty(t)
		})
	}
}

// killAgentWhileInstalling kills the agent in the middle of the application's
// installation, where no point of the agent is: a plugin works as the site's
// user in a unit of its own meanwhile.
func killAgentWhileInstalling(t *testing.T, w *shared, h *host, waste *rubbish) {
	s, _ := w.create(t, h, "wordpress")
	want := facts(t, h, w.settled(t, h, s, converges))
	waste.bin(t, s)
	for _, after := range delays(2, 12) {
		res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, "wordpress"))
		if err != nil {
			t.Fatal(err)
		}
		begun := false
		ended, err := w.rig.Wait(timeout(t, converges), res.GetTask(), func(m *taskv1.WatchTaskResponse) {
			if begun || !slices.ContainsFunc(m.GetTask().GetSteps(), func(s *taskv1.Step) bool { return s.GetName() == "application" }) {
				return
			}
			begun = true
			time.Sleep(after)
			if _, err := h.Output(t.Context(), "systemctl", "kill", "--signal=KILL", "--kill-whom=main", "chom-agent"); err != nil {
				t.Error(err)
			}
		})
		if err != nil || ended.GetState() != taskv1.State_STATE_SUCCEEDED || !begun {
			t.Fatalf("killed %s into the installation: %v, %v", after, ended, err)
		}
		once(t, ended)
		s := w.settled(t, h, res.GetSite(), converges)
		sameFacts(t, fmt.Sprintf("a site whose agent died %s into its installation", after), want, facts(t, h, s))
		waste.bin(t, s)
	}
}

// delays are moments within a second: few in the short form, many in the long.
func delays(brief, long int) []time.Duration {
	n := brief
	if proving {
		n = long
	}
	var all []time.Duration
	for i := range n {
		all = append(all, time.Duration(i)*time.Second/time.Duration(n))
	}
	return all
}

// losePower pulls the plug at points of a site's life; the host boots, serves
// without the control plane, and the change goes on.
func losePower(t *testing.T, w *shared, h *host, waste *rubbish) {
	other, _ := w.create(t, h, "wordpress")
	typ := "static"
	m := undisturbed{facts: map[verb]string{}}
	var sites []*sitev1.Site
	verbs := []verb{updateSite, trashSite}
	ways := map[verb][]string{
		createSite: {"tree/after"},
		updateSite: {"nginx/before"},
		trashSite:  {"processes/before"},
	}
	if !proving {
		s, _ := w.create(t, h, typ)
		m.facts[createSite] = facts(t, h, w.settled(t, h, s, converges))
		sites = append(sites, s)
	} else {
		m = model(t, w, h, typ, waste)
		verbs, ways = walk[1:], map[verb][]string{}
		for _, v := range walk {
			for _, p := range m.points[v] {
				ways[v] = append(ways[v], strings.TrimPrefix(p, "task/converge-site/"))
			}
		}
	}
	for _, p := range ways[createSite] {
		res, err := powerLossAt(t, w, h, p, func() (*sitev1.Site, *taskv1.Task, error) {
			res, err := w.rig.Sites.CreateSite(timeout(t, time.Minute), w.request(h, typ))
			return res.GetSite(), res.GetTask(), err
		}, other)
		if err != nil {
			t.Fatal(err)
		}
		sameFacts(t, "create with power loss at "+p, m.facts[createSite], facts(t, h, res))
		sites = append(sites, res)
	}
	s := sites[0]
	for _, v := range verbs {
		for i, p := range ways[v] {
			if i > 0 { // round again to where this verb can be asked for
				s = round(t, w, v, s)
			}
			var err error
			s, err = powerLossAt(t, w, h, p, func() (*sitev1.Site, *taskv1.Task, error) {
				return w.order(timeout(t, time.Minute), v, s)
			}, other)
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(ways[v]) == 0 {
			s, _ = w.change(t, v, s)
		}
	}
	sites[0] = s
	for _, s := range append(sites, other) {
		if s != nil {
			waste.bin(t, s)
		}
	}
}

// round brings a site back to the state from which a verb was asked.
func round(t *testing.T, w *shared, v verb, s *sitev1.Site) *sitev1.Site {
	t.Helper()
	before := map[verb]verb{suspendSite: resumeSite, resumeSite: suspendSite, trashSite: restoreSite, restoreSite: trashSite}
	if back, ok := before[v]; ok {
		s, _ = w.change(t, back, s)
	}
	return s
}

// powerLossAt starts a change, lets the agent die at a point, and pulls the
// host's plug in that moment. After the boot the untouched site must be served
// before the change is even asked about. It gives nil for a site whose time in
// the trash was over before a slow machine had booted.
func powerLossAt(t *testing.T, w *shared, h *host, point string, begin func() (*sitev1.Site, *taskv1.Task, error), other *sitev1.Site) (*sitev1.Site, error) {
	t.Helper()
	arm(t, h, "task/converge-site/"+point)
	s, task, err := begin()
	if err != nil {
		return nil, err
	}
	died(t, w, h, point, task)
	if err := h.PowerLoss(timeout(t, 30*time.Second)); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := h.Start(timeout(t, 2*time.Minute)); err != nil {
		return nil, err
	}
	booted := time.Since(began)
	shows(t, h, other, 200, other.GetSettings()["title"])
	served := time.Since(began)
	w.done(t, task, converges)
	_, err = w.rig.Sites.GetSite(t.Context(), &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if !proving && connect.CodeOf(err) == connect.CodeNotFound {
		s = nil
	} else {
		s = w.settled(t, h, s, converges)
	}
	w.takesSites(t, h, backWithin)
	t.Logf("power loss at %s: up after %s, serves after %s, as desired after %s", point,
		booted.Round(10*time.Millisecond), served.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond))
	return s, nil
}
