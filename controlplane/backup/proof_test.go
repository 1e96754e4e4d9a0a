package backup

import (
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db/dbtest"
)

// now is when what rests after a failure is due.
func (p *proven) now() time.Time { return time.Now().Add(longestRest) }

// proving is the long form.
var proving = os.Getenv("CHOM_PROVE") != ""

// many is how often something is done: in the long form, otherwise, or as the environment says.
func many(t *testing.T, variable string, long, short int) int {
	t.Helper()
	if text := os.Getenv(variable); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		return n
	}
	if proving {
		return long
	}
	return short
}

// seedOf is what chance begins with. A failure is had again with it.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CHOM_PROOF_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again: CHOM_PROOF_SEED=%d", seed)
		}
	})
	return seed
}

// scratch is a directory of a test, in memory where there is room: what dies here are processes, not machines.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(dbtest.Scratch(), "chom-proof-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func diskStore(t *testing.T) (at store.Store, root string) {
	t.Helper()
	root = scratch(t) + "/store"
	d, err := store.OpenDisk(root)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d, root
}

// perSite is how many restores a site of chance has, of so many: a new site takes longer than a restore.
func perSite(restores int) int {
	if proving {
		return min(restores, 10)
	}
	return min(restores, 50)
}

// TestProofRestores backs sites of chance up, ruins them and puts them back: files, their modes and times, and all that is in their
// databases are what they were, and an undo gives back what was replaced.
func TestProofRestores(t *testing.T) {
	seed, all := seedOf(t), many(t, "CHOM_PROOF_RESTORES", 250, 200)
	each := perSite(all)
	sites := (all + each - 1) / each
	socket := startDatabase(t).Socket
	var restores, undone atomic.Int64
	t.Run("all", func(t *testing.T) {
		gate := make(chan struct{}, runtime.GOMAXPROCS(0))
		for i := range sites {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				gate <- struct{}{}
				defer func() { <-gate }()
				at, root := diskStore(t)
				p := newProven(t, socket, at, root)
				p.prepare()
				c := newChaos(seed + uint64(i))
				if proving {
					c.size = 4
				}
				var backups []Backup
				var states []state
				for range 3 {
					p.fill(c)
					states = append(states, p.observe())
					backups = append(backups, p.goodBackup())
				}
				p.fill(c)
				before := p.observe()
				for n := range each {
					from := c.IntN(len(backups))
					parts, want := Parts{}, states[from]
					switch c.IntN(4) {
					case 0:
						parts.FilesOnly, want.database = true, before.database
					case 1:
						parts.DatabaseOnly, want.files = true, before.files
					}
					r := p.putBack(backups[from].ID, parts)
					if r.State != Restored {
						t.Fatalf("seed %d, restore %d of backup %d, %+v: %s %s", seed+uint64(i), n, from, parts, r.State, r.Problem)
					}
					restores.Add(1)
					now := p.observe()
					if now != want {
						t.Fatalf("seed %d, restore %d of backup %d, %+v: %s", seed+uint64(i), n, from, parts, now.other(want))
					}
					switch c.IntN(3) {
					case 0:
						r := p.undo(r.ID)
						if now := p.observe(); !r.Undone || now != before {
							t.Fatalf("seed %d, undo of %d: %+v\nthe site %s", seed+uint64(i), n, r, now.other(before))
						}
						undone.Add(1)
						now = before
					case 1:
						p.fill(c)
						now = p.observe()
					}
					before = now
				}
			})
		}
	})
	t.Logf("seed %d: %d restores of %d sites were bit-identical, %d of them undone", seed, restores.Load(), sites, undone.Load())
}
