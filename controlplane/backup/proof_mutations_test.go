package backup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
)

// objects are the names of what a repository has, by its kind.
func (p *proven) objects() map[string][]string {
	p.t.Helper()
	all := map[string][]string{}
	must(p.t, filepath.WalkDir(p.where, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			name := strings.TrimPrefix(path, p.where+"/")
			kind, _, _ := strings.Cut(name, "/")
			all[kind] = append(all[kind], name)
		}
		return err
	}))
	return all
}

// mutilated is a site with two backups, and all that a mutation needs.
type mutilated struct {
	*proven
	c                          chaos
	first, second              Backup
	good                       state  // of the second
	prepared, older, foreign   string // directories: the repository as it is, as it was after the first backup, and another site's
	foreignManifest            []byte
	found, early, harmless, no map[string]int
}

// mutate does one thing to the repository, or to what is written down of it, and says what.
func (m *mutilated) mutate() string {
	m.t.Helper()
	objects := m.objects()
	kind := m.c.pick(slices.Sorted(maps.Keys(objects))...)
	one := m.c.pick(objects[kind]...)
	at := filepath.Join(m.where, one)
	text, err := os.ReadFile(at)
	must(m.t, err)
	put := func(at string, text []byte) { must(m.t, os.WriteFile(at, text, 0o600)) }
	replace := func(from string) { must(m.t, errors.Join(os.RemoveAll(m.where), copyTree(from, m.where))) }
	switch n := m.c.IntN(100); {
	case n < 55:
		bit := m.c.IntN(8 * len(text))
		text[bit/8] ^= 1 << (bit % 8)
		put(at, text)
		return "a bit flipped in " + kind
	case n < 70:
		put(at, text[:m.c.IntN(len(text))])
		return "a cut in " + kind
	case n < 80:
		other := filepath.Join(m.where, m.c.pick(objects[kind]...))
		theirs, err := os.ReadFile(other)
		must(m.t, err)
		put(at, theirs)
		put(other, text)
		return "two swapped in " + kind
	case n < 88:
		must(m.t, os.Remove(at))
		return "one removed from " + kind
	case n < 91:
		replace(m.older)
		return "an older repository"
	case n < 94:
		replace(m.foreign)
		return "another site's repository"
	}
	manifests := map[string][]byte{
		"another backup's manifest": m.first.manifest, "another site's manifest": m.foreignManifest, "no manifest": nil,
	}
	what := m.c.pick(slices.Sorted(maps.Keys(manifests))...)
	m.exec(m.t, `UPDATE backups SET manifest = $1 WHERE id = $2`, manifests[what], m.second.ID)
	return what
}

func copyTree(from, to string) error {
	out, err := exec.Command("/bin/cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// mend makes all as it was before a mutation.
func (m *mutilated) mend() {
	m.t.Helper()
	must(m.t, errors.Join(os.RemoveAll(m.where), copyTree(m.prepared, m.where)))
	m.exec(m.t, `UPDATE backups SET manifest = $1 WHERE id = $2`, m.second.manifest, m.second.ID)
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
	defer m.mend()
	was := m.observe()
	what := m.mutate()
	if m.checked() {
		m.early[what]++
	}
	_, err := m.Restore(m.t.Context(), m.ours, m.site, m.second.ID, Parts{WithoutBackup: true})
	if errors.Is(err, ErrForged) {
		m.untouched(what, was)
		m.found[what]++
		return
	}
	must(m.t, err)
	m.orders(m.t, m.obey)
	switch r := m.restores(m.t)[0]; {
	case r.State == RestoreFailed && m.observe() == was:
		m.found[what]++
	case r.State == Restored && m.observe() == m.good:
		m.harmless[what]++
		m.fill(m.c) // it is to differ again
	default:
		m.no[what]++
		now := m.observe()
		m.t.Errorf("mutation %d, %s: the restore is %s (%s); of the site as it was, it %s\nof the backup, it %s", n, what, r.State, r.Problem, now.other(was), now.other(m.good))
	}
}

// TestProofMutations damages and swaps what is stored, in one place at a time: each is found before the site is touched, or it has no
// effect.
func TestProofMutations(t *testing.T) {
	seed, all := seedOf(t), many(t, "CHOM_PROOF_MUTATIONS", 2000, 24)
	socket := startDatabase(t).Socket
	var mu sync.Mutex
	total := map[string]map[string]int{}
	workers := runtime.GOMAXPROCS(0)
	t.Run("all", func(t *testing.T) {
		for worker := range workers {
			t.Run(strconv.Itoa(worker), func(t *testing.T) {
				t.Parallel()
				m := newMutilated(t, socket, seed+uint64(worker))
				for n := worker; n < all && !t.Failed(); n += workers {
					m.try(n)
				}
				mu.Lock()
				defer mu.Unlock()
				for how, counts := range map[string]map[string]int{"found": m.found, "found by the check": m.early, "harmless": m.harmless, "MISSED": m.no} {
					for what, n := range counts {
						if total[how] == nil {
							total[how] = map[string]int{}
						}
						total[how][what] += n
					}
				}
			})
		}
	})
	sum := func(how string) (n int) {
		for _, count := range total[how] {
			n += count
		}
		return n
	}
	for _, how := range []string{"found", "harmless", "MISSED"} {
		t.Logf("%s: %v", how, total[how])
	}
	t.Logf("%d mutations: %d found, %d harmless, %d MISSED; of those before the check %d were found by it",
		sum("found")+sum("harmless")+sum("MISSED"), sum("found"), sum("harmless"), sum("MISSED"), sum("found by the check"))
	if sum("found") == 0 || sum("MISSED") > 0 {
		t.Fail()
	}
}

func newMutilated(t *testing.T, socket string, seed uint64) *mutilated {
	t.Helper()
	at, root := diskStore(t)
	c := newChaos(seed)
	other := newProven(t, socket, at, root)
	other.prepare()
	other.fill(c)
	theirs := other.goodBackup()
	p := newProven(t, socket, at, root)
	p.prepare()
	m := &mutilated{proven: p, c: c, foreign: other.where, foreignManifest: theirs.manifest, found: map[string]int{}, early: map[string]int{}, harmless: map[string]int{}, no: map[string]int{}}
	p.fill(c)
	m.first = p.goodBackup()
	m.older, m.prepared = root+"/../older", root+"/../prepared"
	must(t, copyTree(p.where, m.older))
	p.fill(c)
	must(t, os.WriteFile(p.shell()+"/private/some", c.bytes(50_000), 0o600))
	must(t, os.Chown(p.shell()+"/private/some", int(p.scene.UID), int(p.scene.UID)))
	m.good = p.observe()
	m.second = p.goodBackup()
	must(t, copyTree(p.where, m.prepared))
	p.fill(c)
	return m
}
