package backup

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/secret"
	"chom.dev/servers/mariadb"
	"chom.dev/servers/s3"
)

// faulted is a site with a backup that is good, and another state than that.
type faulted struct {
	*proven
	c    chaos
	one  Backup
	good state
	ends map[string]int // how what was disturbed ended
}

func newFaulted(t *testing.T, p *proven, seed uint64) *faulted {
	t.Helper()
	f := &faulted{proven: p, c: newChaos(seed), ends: map[string]int{}}
	p.fill(f.c)
	f.good = p.observe()
	f.one = p.goodBackup()
	p.fill(f.c)
	return f
}

// restored restores in the middle of what disturb brings about: the site is as in the backup, or as it was.
func (f *faulted) restored(what string, disturb func()) {
	f.t.Helper()
	was := f.observe()
	disturb()
	r := f.putBack(f.one.ID, Parts{})
	now := f.observe()
	switch {
	case r.State == Restored && now == f.good:
		f.fill(f.c)
	case r.State == RestoreFailed && now == was:
	default:
		f.t.Errorf("%s: the restore is %s (%s); of the site as it was, it %s\nof the backup, it %s", what, r.State, r.Problem, now.other(was), now.other(f.good))
	}
	f.ends["restore "+string(r.State)]++
}

// backedUp backs up in the middle of what disturb brings about: what is READY then can be restored.
func (f *faulted) backedUp(what string, disturb func()) {
	f.t.Helper()
	want := f.observe()
	disturb()
	b := f.makeBackup()
	f.ends["backup "+string(b.State)]++
	if now := f.observe(); now != want {
		f.t.Fatalf("%s: the site %s", what, now.other(want))
	}
	if b.State == Ready {
		f.fill(f.c)
		if r := f.putBack(b.ID, Parts{}); r.State != Restored {
			f.t.Errorf("%s: the backup was called good, and its restore is %s: %s", what, r.State, r.Problem)
		}
		if now := f.observe(); now != want {
			f.t.Errorf("%s: the backup was called good, and the site %s", what, now.other(want))
		}
		f.fill(f.c)
	} else if b.State != Failed {
		f.t.Errorf("%s: the backup is %s", what, b.State)
	}
}

// TestProofFaults kills and takes away at moments of chance. A backup that is called good is, and a site is as before or as in
// the backup.
func TestProofFaults(t *testing.T) {
	seed, times := seedOf(t), many(t, "CHOM_PROOF_FAULTS", 40, 1)
	on := func(t *testing.T, server *mariadb.Server) *faulted {
		at, root := diskStore(t)
		p := newProven(t, server.Socket, at, root)
		p.prepare()
		return newFaulted(t, p, seed)
	}
	t.Run("the host's process is killed", func(t *testing.T) {
		f := on(t, startDatabase(t))
		for n := range times {
			at := time.Duration(50+f.c.IntN(3000)) * time.Millisecond
			f.restored(fmt.Sprint("killed after ", at), func() { f.after = at })
			at = time.Duration(50+f.c.IntN(3000)) * time.Millisecond
			f.backedUp(fmt.Sprint("killed after ", at, ", ", n), func() { f.after = at })
		}
		t.Log(f.ends)
	})
	t.Run("the database is down for a moment", func(t *testing.T) {
		server := startDatabase(t)
		f := on(t, server)
		var back sync.WaitGroup
		down := func(at time.Duration) func() {
			return func() {
				back.Go(func() {
					time.Sleep(at)
					server.Kill()
					time.Sleep(200 * time.Millisecond)
					if err := server.Again(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		for range times {
			at := time.Duration(f.c.IntN(3000)) * time.Millisecond
			f.settledAfter(&back, func() { f.restored(fmt.Sprint("down after ", at), down(at)) })
			at = time.Duration(f.c.IntN(3000)) * time.Millisecond
			f.settledAfter(&back, func() { f.backedUp(fmt.Sprint("down after ", at), down(at)) })
		}
		t.Log(f.ends)
	})
	t.Run("the store fails for some requests", func(t *testing.T) {
		f := on(t, startDatabase(t))
		for n := range times {
			from, so := int64(f.c.IntN(25)), n%3
			failing := func() {
				var asked atomic.Int64
				fail := func(w http.ResponseWriter, _ *http.Request) bool {
					if k := asked.Add(1); k < from || k >= from+2 {
						return false
					}
					switch so {
					case 0:
						http.Error(w, "gone", http.StatusServiceUnavailable)
					case 1:
						panic(http.ErrAbortHandler) // the connection is cut
					default:
						http.Error(w, "full", http.StatusInsufficientStorage)
					}
					return true
				}
				f.fault.Store(&fail)
			}
			what := fmt.Sprintf("request %d on, in way %d", from, so)
			f.restored(what, failing)
			f.backedUp(what, failing)
		}
		t.Log(f.ends)
	})
	t.Run("S3 goes and comes back", func(t *testing.T) {
		dir := t.TempDir()
		start := func(port int) *s3.Server {
			s, err := s3.Start(t.Context(), s3.Options{Dir: dir, Port: port, Buckets: []string{"backups"}})
			must(t, err)
			return s
		}
		server := start(0)
		defer func() { server.Stop() }()
		at, err := store.OpenS3(store.S3Config{Endpoint: server.Endpoint, Bucket: "backups", AccessKey: "access", SecretKey: secret.New([]byte(server.SecretKey))})
		must(t, err)
		p := newProven(t, startDatabase(t).Socket, at, dir+"/objects/backups")
		f := newFaulted(t, p, seed)
		var port int
		_, err = fmt.Sscanf(server.Endpoint[strings.LastIndex(server.Endpoint, ":")+1:], "%d", &port)
		must(t, err)
		var back sync.WaitGroup
		for range times {
			at := time.Duration(f.c.IntN(3000)) * time.Millisecond
			gone := func() {
				back.Go(func() {
					time.Sleep(at)
					server.Stop()
					time.Sleep(500 * time.Millisecond)
					server = start(port)
				})
			}
			f.settledAfter(&back, func() { f.restored(fmt.Sprint("gone after ", at), gone) })
			f.settledAfter(&back, func() { f.backedUp(fmt.Sprint("gone after ", at), gone) })
		}
		t.Log(f.ends)
	})
}

// settledAfter waits for what was disturbed to be there again before it looks at anything else.
func (f *faulted) settledAfter(back *sync.WaitGroup, do func()) {
	f.t.Helper()
	f.calm = back.Wait
	do()
	f.calm = nil
}
