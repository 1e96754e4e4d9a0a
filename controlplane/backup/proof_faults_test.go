package backup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
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
		f, server := newBucket(t, seed)
		var back sync.WaitGroup
		for range times {
			at := time.Duration(f.c.IntN(3000)) * time.Millisecond
			gone := func() {
				back.Go(func() {
					time.Sleep(at)
					server.stop()
					time.Sleep(500 * time.Millisecond)
					server.start(t)
				})
			}
			f.settledAfter(&back, func() { f.restored(fmt.Sprint("gone after ", at), gone) })
			f.settledAfter(&back, func() { f.backedUp(fmt.Sprint("gone after ", at), gone) })
		}
		t.Log(f.ends)
	})
}

// small is a file system of so many bytes.
func small(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = scratch(t)
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fillDisk leaves no room where a directory is, until free is called.
func fillDisk(dir string) (free func(), err error) {
	f, err := os.Create(dir + "/filler")
	if err != nil {
		return nil, err
	}
	for n := 1 << 20; n > 0; {
		if _, err = f.Write(make([]byte, n)); err != nil {
			n /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, err
	}
	return func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }, nil
}

// TestProofFull fills the disk at moments of chance: that of the site's files, of the store of backups, and of the database.
func TestProofFull(t *testing.T) {
	seed, times := seedOf(t), many(t, "CHOM_PROOF_FAULTS", 40, 1)
	for what, full := range map[string]func(t *testing.T) (*faulted, string, *mariadb.Server){
		"the disk of the site's files": func(t *testing.T) (*faulted, string, *mariadb.Server) {
			server, dir := startDatabase(t), small(t, "420m") // a restore leaves 256 MiB
			at, root := diskStore(t)
			p := newProvenIn(t, dir, server.Socket, at, root)
			p.prepare()
			return newFaulted(t, p, seed), dir, server
		},
		"the disk of the store of backups": func(t *testing.T) (*faulted, string, *mariadb.Server) {
			server, dir := startDatabase(t), small(t, "64m")
			at, err := store.OpenDisk(dir + "/store")
			must(t, err)
			t.Cleanup(func() { _ = at.Close() })
			p := newProven(t, server.Socket, at, dir+"/store")
			p.prepare()
			return newFaulted(t, p, seed), dir, server
		},
		"the disk of the database": func(t *testing.T) (*faulted, string, *mariadb.Server) {
			dir := small(t, "700m")
			server, err := mariadb.StartIn(dir, hasty...)
			must(t, err)
			t.Cleanup(server.Stop)
			at, root := diskStore(t)
			p := newProven(t, server.Socket, at, root)
			p.prepare()
			return newFaulted(t, p, seed), dir, server
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, dir, server := full(t)
			var back sync.WaitGroup
			filled := func(at time.Duration) func() {
				return func() {
					back.Go(func() {
						time.Sleep(at)
						free, err := fillDisk(dir)
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(1500 * time.Millisecond)
						free()
						if server.Ended() { // of a full disk
							if err := server.Again(); err != nil {
								t.Error(err)
							}
						}
					})
				}
			}
			for range times {
				at := time.Duration(f.c.IntN(3000)) * time.Millisecond
				f.settledAfter(&back, func() { f.restored(fmt.Sprint("full after ", at), filled(at)) })
				at = time.Duration(f.c.IntN(3000)) * time.Millisecond
				f.settledAfter(&back, func() { f.backedUp(fmt.Sprint("full after ", at), filled(at)) })
			}
			t.Log(f.ends)
		})
	}
}

// TestProofGone takes the store away at a moment of chance, for good: nothing is called a backup then, and a site is as it was or as
// in the backup.
func TestProofGone(t *testing.T) {
	seed, times := seedOf(t), many(t, "CHOM_PROOF_FAULTS", 40, 1)
	f, server := newBucket(t, seed)
	f.scene.Away = time.Second
	for range times {
		at := time.Duration(f.c.IntN(3000)) * time.Millisecond
		what := fmt.Sprint("gone after ", at)
		var gone sync.WaitGroup
		goes := func() { gone.Go(func() { time.Sleep(at); server.stop() }) }
		f.calm = func() { gone.Wait(); server.start(t) } // the order has ended by then
		f.restored(what, goes)
		f.calm = nil
		want := f.observe()
		goes()
		made := f.create(t)
		f.orders(t, f.obey)
		gone.Wait()
		f.settled(t, f.now())
		if b := f.get(t, made.ID); b.State == Checking {
			f.exec(t, `UPDATE backups SET checking_at = $1, check_at = 0 WHERE id = $2`, db.Micros(time.Now().Add(-giveUpAfter-time.Hour)), made.ID)
			f.settled(t, time.Now())
		}
		if b := f.get(t, made.ID); b.State != Failed || b.Problem == "" {
			t.Errorf("%s: the backup is %s", what, b.State)
		}
		if now := f.observe(); now != want {
			t.Fatalf("%s: the site %s", what, now.other(want))
		}
		f.ends["backup failed"]++
		server.start(t)
		f.fill(f.c)
	}
	t.Log(f.ends)
}

// bucket is an S3 that comes again with what it had.
type bucket struct {
	dir    string
	port   int
	server *s3.Server
}

func (b *bucket) start(t *testing.T) {
	t.Helper()
	var err error
	b.server, err = s3.Start(context.WithoutCancel(t.Context()), s3.Options{Dir: b.dir, Port: b.port, Buckets: []string{"backups"}})
	must(t, err)
}

func (b *bucket) stop() { b.server.Stop() }

// newBucket is a site whose repository lies in one.
func newBucket(t *testing.T, seed uint64) (*faulted, *bucket) {
	t.Helper()
	b := &bucket{dir: scratch(t)}
	b.start(t)
	t.Cleanup(func() { b.stop() })
	at, err := store.OpenS3(store.S3Config{Endpoint: b.server.Endpoint, Bucket: "backups", AccessKey: "access", SecretKey: secret.New([]byte(b.server.SecretKey))})
	must(t, err)
	f := newFaulted(t, newProven(t, startDatabase(t).Socket, at, b.dir+"/objects/backups"), seed)
	_, err = fmt.Sscanf(b.server.Endpoint[strings.LastIndex(b.server.Endpoint, ":")+1:], "%d", &b.port)
	must(t, err)
	return f, b
}

// settledAfter waits for what was disturbed to be there again before it looks at anything else.
func (f *faulted) settledAfter(back *sync.WaitGroup, do func()) {
	f.t.Helper()
	f.calm = back.Wait
	do()
	f.calm = nil
}
