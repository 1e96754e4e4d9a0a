package backup

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
)

// objects are the names of what a repository has.
func (p *proven) objects() []string {
	p.t.Helper()
	var all []string
	must(p.t, filepath.WalkDir(p.where, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			all = append(all, strings.TrimPrefix(path, p.where+"/"))
		}
		return err
	}))
	return all
}

// mutilated is a site with two backups, and all that a mutation needs.
type mutilated struct {
	*proven
	c                      chaos
	first, second          Backup
	now, good              state    // of the site as it is, and of the second backup
	read, rest             []string // what a restore of the second one reads of the repository, and what it does not
	prepared, older        string   // directories: the repository as it is, and as it was after the first backup
	foreign                *foreigner
	found, early, harmless map[string]int
	missed                 int
}

// foreigner is another site's repository, and a manifest of it.
type foreigner struct {
	where    string
	manifest []byte
}

// kindOf is the directory of an object's name.
func kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	return kind
}

// target is what is damaged: nine times of ten what the restore reads. To damage anything else has no effect, as it has to.
func (m *mutilated) target() string {
	from := m.read
	if m.c.IntN(10) == 0 && len(m.rest) > 0 {
		from = m.rest
	}
	kinds := map[string][]string{}
	for _, name := range from {
		kinds[kindOf(name)] = append(kinds[kindOf(name)], name)
	}
	return m.c.pick(kinds[m.c.pick(slices.Sorted(maps.Keys(kinds))...)]...)
}

// mutate does one thing to the repository, or to what is written down of it, and says what. Back takes it back.
func (m *mutilated) mutate() (what string, back func()) {
	m.t.Helper()
	one := m.target()
	kind, at := kindOf(one), filepath.Join(m.where, one)
	text, err := os.ReadFile(at)
	must(m.t, err)
	put := func(at string, text []byte) { must(m.t, os.WriteFile(at, text, 0o600)) }
	restore := func() { put(at, text) }
	replace := func(from string) {
		must(m.t, errors.Join(os.RemoveAll(m.where), os.CopyFS(m.where, os.DirFS(from))))
	}
	switch n := m.c.IntN(100); {
	case n < 55:
		other, bit := slices.Clone(text), m.c.IntN(8*len(text))
		other[bit/8] ^= 1 << (bit % 8)
		put(at, other)
		return "a bit flipped in " + kind, restore
	case n < 72:
		put(at, text[:m.c.IntN(len(text))])
		return "a cut in " + kind, restore
	case n < 82:
		second := one
		for second == one {
			second = m.c.pick(m.read...)
		}
		theirs, err := os.ReadFile(filepath.Join(m.where, second))
		must(m.t, err)
		put(at, theirs)
		put(filepath.Join(m.where, second), text)
		return "two swapped, one of " + kind, func() {
			restore()
			put(filepath.Join(m.where, second), theirs)
		}
	case n < 90:
		must(m.t, os.Remove(at))
		return "one removed from " + kind, restore
	case n < 92:
		replace(m.older)
		return "an older repository", func() { replace(m.prepared) }
	case n < 94:
		replace(m.foreign.where)
		return "another site's repository", func() { replace(m.prepared) }
	}
	manifests := map[string][]byte{
		"another backup's manifest": m.first.manifest, "another site's manifest": m.foreign.manifest, "no manifest": nil,
	}
	what = m.c.pick(slices.Sorted(maps.Keys(manifests))...)
	say := func(manifest []byte) {
		m.exec(m.t, `UPDATE backups SET manifest = $1 WHERE id = $2`, manifest, m.second.ID)
	}
	say(manifests[what])
	return what, func() { say(m.second.manifest) }
}

// checked says whether the control plane finds a mutation, where it came between the host's report and the check.
func (m *mutilated) checked() bool {
	c := m.second
	c.Report = proto.CloneOf(m.second.Report)
	want := proto.CloneOf(c.Report.GetContents())
	if err := m.compare(m.t.Context(), m.repo, c); err != nil {
		return true
	}
	if !proto.Equal(c.Report.GetContents(), want) { // it would be signed as something else
		m.t.Errorf("the check took what is not what was backed up")
	}
	return false
}

// try mutates once, and restores.
func (m *mutilated) try(n int) {
	m.t.Helper()
	what, back := m.mutate()
	defer back()
	if m.checked() {
		m.early[what]++
	}
	was := m.now
	_, err := m.Restore(m.t.Context(), m.ours, m.site, m.second.ID, Parts{WithoutBackup: true})
	forged := errors.Is(err, ErrForged)
	if !forged {
		must(m.t, err)
		m.orders(m.t, m.obey)
	}
	m.now = m.observe()
	if forged {
		if m.now != was {
			m.missed++
			m.t.Errorf("mutation %d, %s: nothing was ordered, and the site %s", n, what, m.now.other(was))
		}
		m.found[what]++
		return
	}
	switch r := m.restores(m.t)[0]; {
	case r.State == RestoreFailed && m.now == was:
		m.found[what]++
	case r.State == Restored && m.now == m.good:
		m.harmless[what]++
		m.ruin()
	default:
		m.missed++
		m.t.Errorf("mutation %d, %s: the restore is %s (%s); of the site as it was, it %s\nof the backup, it %s", n, what, r.State, r.Problem, m.now.other(was), m.now.other(m.good))
	}
}

// ruin makes the site another one than the backup.
func (m *mutilated) ruin() {
	m.fill(m.c)
	m.now = m.observe()
}

// TestProofMutations damages and swaps what is stored, in one place at a time: each is found before the site is touched, or it has no
// effect. It goes on until so many were found.
func TestProofMutations(t *testing.T) {
	seed, all := seedOf(t), many(t, "CHOM_PROOF_MUTATIONS", 2000, 40)
	socket := startDatabase(t).Socket
	other := newForeigner(t, socket, seed)
	var mu sync.Mutex
	total, missed := map[string]map[string]int{"found": {}, "found by the check": {}, "harmless": {}}, 0
	workers := min(2*runtime.GOMAXPROCS(0), 8) // each waits half of its time: restic looks twice at what is damaged
	t.Run("all", func(t *testing.T) {
		for worker := range workers {
			t.Run(strconv.Itoa(worker), func(t *testing.T) {
				t.Parallel()
				m := newMutilated(t, socket, seed+uint64(worker)+1, other)
				for n := 0; sum(m.found) < (all+workers-1)/workers && !t.Failed(); n++ {
					m.try(n)
					if proving && n%50 == 49 {
						t.Logf("of %d so far: %d found, %d harmless, %d MISSED", n+1, sum(m.found), sum(m.harmless), m.missed)
					}
				}
				// That all were found must not come of something that fails every restore.
				if r := m.putBack(m.second.ID, Parts{}); r.State != Restored || m.observe() != m.good {
					t.Errorf("after all was taken back, the restore is %s: %s", r.State, r.Problem)
				}
				mu.Lock()
				defer mu.Unlock()
				missed += m.missed
				for how, counts := range map[string]map[string]int{"found": m.found, "found by the check": m.early, "harmless": m.harmless} {
					for what, n := range counts {
						total[how][what] += n
					}
				}
			})
		}
	})
	for _, how := range []string{"found", "harmless"} {
		t.Logf("%s: %v", how, total[how])
	}
	t.Logf("seed %d: %d mutations: %d found, %d harmless, %d MISSED; before the check they would have been found by it: %d", seed,
		sum(total["found"])+sum(total["harmless"])+missed, sum(total["found"]), sum(total["harmless"]), missed, sum(total["found by the check"]))
	if sum(total["found"]) < all || missed > 0 {
		t.Fail()
	}
}

func sum(counts map[string]int) (n int) {
	for _, count := range counts {
		n += count
	}
	return n
}

func newForeigner(t *testing.T, socket string, seed uint64) *foreigner {
	t.Helper()
	at, root := diskStore(t)
	p := newProven(t, socket, at, root)
	p.prepare()
	p.fill(newChaos(seed))
	return &foreigner{p.where, p.goodBackup().manifest}
}

func newMutilated(t *testing.T, socket string, seed uint64, other *foreigner) *mutilated {
	t.Helper()
	at, root := diskStore(t)
	p := newProven(t, socket, at, root)
	p.prepare()
	m := &mutilated{proven: p, c: newChaos(seed), foreign: other, found: map[string]int{}, early: map[string]int{}, harmless: map[string]int{}}
	p.fill(m.c)
	m.first = p.goodBackup()
	m.older, m.prepared = root+"-older", root+"-prepared"
	must(t, os.CopyFS(m.older, os.DirFS(p.where)))
	p.fill(m.c)
	must(t, os.WriteFile(p.shell()+"/private/some", m.c.bytes(50_000), 0o600))
	must(t, os.Chown(p.shell()+"/private/some", int(p.scene.UID), int(p.scene.UID)))
	m.good = p.observe()
	m.second = p.goodBackup()
	must(t, os.CopyFS(m.prepared, os.DirFS(p.where)))
	m.ruin()
	m.watchRestore()
	return m
}

// watchRestore finds out what a restore of the second backup reads.
func (m *mutilated) watchRestore() {
	m.t.Helper()
	var mu sync.Mutex
	read := map[string]bool{}
	note := func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet {
			read[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]] = true
		}
		return false
	}
	m.fault.Store(&note)
	if r := m.putBack(m.second.ID, Parts{}); r.State != Restored {
		m.t.Fatalf("the restore is %s: %s", r.State, r.Problem)
	}
	for _, name := range m.objects() {
		if read[filepath.Base(name)] {
			m.read = append(m.read, name)
		} else {
			m.rest = append(m.rest, name)
		}
	}
	if len(m.read) < 5 || slices.ContainsFunc(m.read, func(name string) bool { return kindOf(name) == "manifests" }) {
		m.t.Fatalf("a restore reads %v, and not %v", m.read, m.rest)
	}
	m.ruin()
}
