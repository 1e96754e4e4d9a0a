package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

const server = "01890a5d-ac96-774b-bcce-b302099a8057"

var quiet = slog.New(slog.DiscardHandler)

// fastDir is in memory where that can be had: what is tested is what the file
// holds, not when the disk has it.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "chom-journal-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func openAt(t testing.TB, path string) *Journal {
	t.Helper()
	j, err := Open(path, server, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func write(t testing.TB, j *Journal, e Entry) {
	t.Helper()
	if err := j.Write(e); err != nil {
		t.Fatal(err)
	}
}

// accept is an entry as the engine makes it.
func accept(fence uint64) Entry {
	a := Attempt{Task: contract.NewTaskID(), Number: 1, Kind: "noop", Fence: fence, Accepted: time.Now().UTC()}
	return Entry{
		Attempt: &a,
		Order:   &orderv1.SignedOrder{Order: []byte(strings.Repeat("o", int(fence%2000)+1)), Signature: make([]byte, 64)},
		Events:  []*linkv1.TaskEvent{event(a.Key(), fence, 1, nil)},
	}
}

func event(key Key, fence, sequence uint64, result *orderv1.Result) *linkv1.TaskEvent {
	ev := &linkv1.TaskEvent{TaskId: key.Task.String(), Attempt: key.Number, Fence: fence, Sequence: sequence}
	ev.Event = &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{}}
	if result != nil {
		ev.Event = &linkv1.TaskEvent_Result{Result: result}
	}
	return ev
}

// end is the entry that ends what accept began.
func end(a Attempt, at time.Time) Entry {
	a.Ended = at
	return Entry{Attempt: &a, Events: []*linkv1.TaskEvent{event(a.Key(), a.Fence, 2, &orderv1.Result{Outcome: 1})}}
}

func TestJournal(t *testing.T) {
	t.Run("holds after it is opened again what was written before", func(t *testing.T) {
		path := filepath.Join(fastDir(t), "j.db")
		j := openAt(t, path)
		e := accept(7)
		e.Step = &Step{Attempt: e.Attempt.Key(), Name: "user", State: 2, Message: "made"}
		e.Site = &Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: contract.NewHandle(), UID: 200005, Fence: 7}
		write(t, j, e)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = openAt(t, path)
		defer j.Close()
		key := e.Attempt.Key()
		a, found, err := j.Attempt(key)
		if err != nil || !found || a.Fence != 7 || !a.Accepted.Equal(e.Attempt.Accepted) {
			t.Errorf("attempt %+v, %v, %v", a, found, err)
		}
		if o, err := j.Order(key); err != nil || !bytes.Equal(o.Order, e.Order.Order) {
			t.Errorf("order %v, %v", o, err)
		}
		if s, err := j.Steps(key); err != nil || len(s) != 1 || s["user"].Message != "made" {
			t.Errorf("steps %v, %v", s, err)
		}
		if n, err := j.Sequence(key); err != nil || n != 1 {
			t.Errorf("sequence %d, %v", n, err)
		}
		if s, found, err := j.Site(e.Site.ID); err != nil || !found || s.Handle != e.Site.Handle {
			t.Errorf("site %+v, %v, %v", s, found, err)
		}
		if c, err := j.Counters(); err != nil || c.NextUID != 200006 || c.HighestFence != 7 || c.ServerFence != 7 || c.Starts != 2 {
			t.Errorf("counters %+v, %v", c, err)
		}
		if ev, all, err := j.Events(10, 1000); err != nil || !all || len(ev) != 1 {
			t.Errorf("events %v, %v, %v", ev, all, err)
		}
	})
	t.Run("never lowers fences and unix ids", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		defer j.Close()
		for _, fence := range []uint64{9, 3} {
			e := accept(fence)
			e.Site = &Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: contract.NewHandle(), UID: 200000 + uint32(fence)}
			write(t, j, e)
		}
		if c, err := j.Counters(); err != nil || c.HighestFence != 9 || c.NextUID != 200010 {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
	t.Run("writes what many ask for at once, all of it", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		defer j.Close()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { write(t, j, accept(uint64(i+1))) })
		}
		wg.Wait()
		if all, err := j.Attempts(); err != nil || len(all) != 200 || all[0].Fence != 200 || all[199].Fence != 1 {
			t.Errorf("%d attempts, %v", len(all), err)
		}
	})
	t.Run("refuses an entry that can't be written, and nobody else's", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		defer j.Close()
		bad := accept(1)
		bad.Events[0].TaskId = "no task"
		good := j.Submit(accept(2))
		if err := j.Write(bad); err == nil {
			t.Error("an event of no task was written")
		}
		if err := good.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("shows a decision all that came before, and tells what came of it in that order", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		defer j.Close()
		const count = 100
		var fences, told []uint64 // each grows in the one goroutine that writes
		var last *Ticket
		for i := range count {
			last = j.Submit(Entry{
				Decide: func(v View, e *Entry) error {
					c, err := v.Counters()
					if err != nil {
						return err
					}
					next := accept(c.HighestFence + 1)
					fences = append(fences, next.Attempt.Fence)
					e.Attempt, e.Order, e.Events = next.Attempt, next.Order, next.Events
					return nil
				},
				Then: func(err error) {
					if err == nil {
						told = append(told, uint64(i+1))
					}
				},
			})
		}
		if err := last.Wait(); err != nil {
			t.Fatal(err)
		}
		for i := range count {
			if want := uint64(i + 1); fences[i] != want || told[i] != want {
				t.Fatalf("decision %d saw the fence before %d, and was told as the %d. one", want, fences[i], told[i])
			}
		}
		if c, err := j.Counters(); err != nil || c.HighestFence != count {
			t.Errorf("counters %+v, %v", c, err)
		}
	})
	t.Run("writes nothing of what was decided against", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		defer j.Close()
		e, no := accept(1), errors.New("no")
		e.Decide = func(View, *Entry) error { return no }
		var told error
		e.Then = func(err error) { told = err }
		if err := j.Write(e); !errors.Is(err, no) || !errors.Is(told, no) {
			t.Errorf("got %v, told %v", err, told)
		}
		if all, err := j.Attempts(); err != nil || len(all) != 0 {
			t.Errorf("attempts %v, %v", all, err)
		}
	})
	t.Run("refuses writes after it was closed", func(t *testing.T) {
		j := openAt(t, filepath.Join(fastDir(t), "j.db"))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		if err := j.Write(accept(1)); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := j.Attempts(); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

func TestEvents(t *testing.T) {
	j := openAt(t, filepath.Join(fastDir(t), "j.db"))
	defer j.Close()
	rang := make(chan struct{}, 100)
	j.Notify(func() { rang <- struct{}{} })
	first, second := accept(1), accept(2)
	for _, e := range []Entry{first, second, end(*first.Attempt, time.Now())} {
		write(t, j, e)
		<-rang
	}
	t.Run("come oldest first, up to a count and a size", func(t *testing.T) {
		for _, c := range []struct{ count, size, want int }{{10, 1000, 3}, {2, 1000, 2}, {10, 1, 1}} {
			ev, all, err := j.Events(c.count, c.size)
			if err != nil || len(ev) != c.want || all != (c.want == 3) || ev[0].Event.TaskId != first.Attempt.Task.String() {
				t.Errorf("count %d, size %d: %d events, all %v, %v", c.count, c.size, len(ev), all, err)
			}
		}
	})
	t.Run("stay until they were delivered, also over a restart", func(t *testing.T) {
		ev, _, _ := j.Events(2, 1000)
		j.Delivered(ev[1].Position)
		if rest, _, _ := j.Events(10, 1000); len(rest) != 1 || rest[0].Event.GetResult() == nil {
			t.Errorf("left are %v", rest)
		}
		if a, _, _ := j.Attempt(first.Attempt.Key()); a.Delivered {
			t.Error("the attempt counts as told before its result was")
		}
		ev, _, _ = j.Events(1, 1000)
		j.Delivered(ev[0].Position)
		if err := j.Beat(); err != nil { // the note is written then
			t.Fatal(err)
		}
		if a, _, _ := j.Attempt(first.Attempt.Key()); !a.Delivered {
			t.Error("the attempt doesn't count as told")
		}
	})
	t.Run("are forgotten without another write, in the end", func(t *testing.T) {
		for name, wait := range map[string]func(*Journal){
			"after a while": func(j *Journal) {
				for deadline := time.Now().Add(10 * time.Second); stored(t, j) > 0 && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
			},
			"when it is closed": func(*Journal) {},
		} {
			path := filepath.Join(fastDir(t), "j.db")
			j := openAt(t, path)
			write(t, j, accept(1))
			ev, _, err := j.Events(10, 1000)
			if err != nil {
				t.Fatal(err)
			}
			j.Delivered(ev[0].Position)
			if stored(t, j) != 1 {
				t.Error("the note took a transaction of its own")
			}
			wait(j)
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = openAt(t, path)
			if n := stored(t, j); n != 0 {
				t.Errorf("%s %d events are still there", name, n)
			}
			j.Close()
		}
	})
}

// stored counts the events that are in the file, delivered or not.
func stored(t *testing.T, j *Journal) (n int) {
	t.Helper()
	err := j.view(func(tx *bolt.Tx) error {
		n = tx.Bucket(bucketEvents).Stats().KeyN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFull(t *testing.T) {
	path := filepath.Join(fastDir(t), "j.db")
	openAt(t, path).Close()
	db, err := open(path, 256<<10)
	if err != nil {
		t.Fatal(err)
	}
	j := &Journal{db: db, log: quiet, notify: func() {}, brokenC: make(chan struct{})}
	j.idle = sync.NewCond(&j.mu)
	defer j.Close()
	var written []Key
	for fence := uint64(1); ; fence++ {
		e := accept(fence)
		e.Attempt.Ended, e.Attempt.Delivered = time.Now().Add(-keepFor-time.Hour), true
		if err = j.Write(e); err != nil {
			break
		}
		written = append(written, e.Attempt.Key())
	}
	t.Run("says that it is full, and holds all that it took", func(t *testing.T) {
		if !Full(err) || len(written) == 0 {
			t.Errorf("after %d attempts: %v", len(written), err)
		}
		for _, key := range written {
			if _, found, err := j.Attempt(key); err != nil || !found {
				t.Fatalf("attempt %s is lost: %v", key, err)
			}
		}
	})
	t.Run("works on when there is room again", func(t *testing.T) {
		ev, _, err := j.Events(1000, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		j.Delivered(ev[len(ev)-1].Position)
		if err := j.Prune(time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := j.Write(accept(1000)); err != nil {
			t.Error(err)
		}
		select {
		case <-j.Broken():
			t.Error("it took a full disk for a broken one")
		default:
		}
	})
}

func TestPrune(t *testing.T) {
	now := time.Now()
	j := openAt(t, filepath.Join(fastDir(t), "j.db"))
	defer j.Close()
	var tickets []*Ticket
	add := func(fence uint64, ended time.Time, delivered bool) Key {
		e := accept(fence)
		e.Events = nil
		e.Attempt.Ended, e.Attempt.Delivered = ended, delivered
		e.Step = &Step{Attempt: e.Attempt.Key(), Name: "a"}
		tickets = append(tickets, j.Submit(e))
		return e.Attempt.Key()
	}
	old := now.Add(-8 * 24 * time.Hour)
	oldTold, oldUntold := add(1, old, true), add(2, old, false)
	running, recent := add(3, time.Time{}, false), add(4, now, true)
	for _, ticket := range tickets {
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	has := func(key Key) bool {
		_, found, err := j.Attempt(key)
		if err != nil {
			t.Fatal(err)
		}
		steps, err := j.Steps(key)
		if err != nil || (len(steps) > 0) != found {
			t.Fatalf("attempt is there: %v, and %d of its steps, %v", found, len(steps), err)
		}
		return found
	}
	prune := func(now time.Time) {
		if err := j.Prune(now); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("deletes nothing for its age while the time is not known", func(t *testing.T) {
		if prune(time.Time{}); !has(oldTold) {
			t.Error("it did")
		}
	})
	t.Run("deletes what ended a week ago and was told", func(t *testing.T) {
		if prune(now); has(oldTold) || !has(oldUntold) || !has(running) || !has(recent) {
			t.Error("the wrong ones went or stayed")
		}
	})
	t.Run("keeps no more than 2,000", func(t *testing.T) {
		tickets = nil
		for i := range 2000 {
			add(uint64(10+i), now, true)
		}
		if err := tickets[len(tickets)-1].Wait(); err != nil {
			t.Fatal(err)
		}
		prune(time.Time{})
		if has(recent) || !has(oldUntold) || !has(running) {
			t.Error("the wrong ones went or stayed")
		}
		if all, err := j.Attempts(); err != nil || len(all) != 2002 {
			t.Errorf("%d are left, %v", len(all), err)
		}
	})
}

func TestOpen(t *testing.T) {
	full := func(t *testing.T) string {
		path := filepath.Join(fastDir(t), "j.db")
		j := openAt(t, path)
		for i := range 50 {
			e := accept(uint64(i + 1))
			e.Site = &Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: contract.NewHandle(), UID: 200000 + uint32(i)}
			write(t, j, e)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	edit := func(t *testing.T, path string, f func(*bolt.Tx) error) {
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(f), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("refuses a newer layout", func(t *testing.T) {
		path := full(t)
		edit(t, path, func(tx *bolt.Tx) error { return put(tx.Bucket(bucketMeta), keyVersion, number(layout+1)) })
		if _, err := Open(path, server, quiet); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "layout 2") {
			t.Error(err)
		}
	})
	t.Run("refuses another server's file", func(t *testing.T) {
		if _, err := Open(full(t), contract.NewServerID().String(), quiet); !errors.Is(err, ErrForeign) {
			t.Error(err)
		}
	})
	t.Run("refuses a file that is open elsewhere", func(t *testing.T) {
		path := full(t)
		j := openAt(t, path)
		defer j.Close()
		if _, err := Open(path, server, quiet); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
	})
	t.Run("refuses a missing bucket", func(t *testing.T) {
		path := full(t)
		edit(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketSites) })
		if _, err := Open(path, server, quiet); !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
	})
	t.Run("refuses what is no journal", func(t *testing.T) {
		for name, content := range map[string][]byte{"empty": {}, "text": []byte(strings.Repeat("hello\n", 10000)), "zeroes": make([]byte, 1<<16)} {
			path := filepath.Join(fastDir(t), "j.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if j, err := Open(path, server, quiet); err == nil {
				j.Close()
				t.Errorf("a file of %s was opened", name)
			}
		}
	})
	t.Run("finds every flipped bit that matters, or reads what was written", func(t *testing.T) {
		path := full(t)
		want := contents(t, path)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		found, harmless := 0, 0
		for range 400 {
			bad := bytes.Clone(good)
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
			path := filepath.Join(fastDir(t), "bad.db")
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			j, err := Open(path, server, quiet)
			if err != nil {
				found++
				continue
			}
			j.Close()
			if got := contents(t, path); got != want {
				// One of the two meta pages was hit: the state is the one
				// before the last write, which was whole too.
				if !strings.Contains(want, got[strings.Index(got, "\n")+1:]) && !olderBy(want, got) {
					t.Fatalf("a flipped bit went unnoticed:\n%s\nwant\n%s", got, want)
				}
			}
			harmless++
		}
		if found == 0 || harmless == 0 {
			t.Errorf("%d flips were found, %d were harmless: the test is blind", found, harmless)
		}
	})
	t.Run("leaves no half file behind when it dies while making one", func(t *testing.T) {
		dir := fastDir(t)
		path := filepath.Join(dir, "j.db")
		if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		openAt(t, path).Close()
	})
}

// olderBy reports whether got is want without its newest attempts: a state of
// before.
func olderBy(want, got string) bool {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	return len(g) <= len(w) && strings.Join(w[len(w)-len(g)+1:], "\n") == strings.Join(g[1:], "\n")
}

// contents is everything in a journal as text: counters in the first line,
// then attempts with their orders, the newest first.
func contents(t testing.TB, path string) string {
	t.Helper()
	db, err := open(path, maxFile)
	if err != nil {
		t.Fatal(err)
	}
	j := &Journal{db: db, log: quiet, notify: func() {}}
	defer db.Close()
	var b strings.Builder
	c, err := j.Counters()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "uid %d fence %d\n", c.NextUID, c.HighestFence)
	all, err := j.Attempts()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		o, err := j.Order(a.Key())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s fence %d order %d bytes ended %v\n", a.Key(), a.Fence, len(o.GetOrder()), !a.Ended.IsZero())
	}
	return b.String()
}

func TestRetire(t *testing.T) {
	path := filepath.Join(fastDir(t), "j.db")
	if aside, err := Retire(path); err != nil || aside != "" {
		t.Fatal(aside, err)
	}
	j := openAt(t, path)
	e := accept(5)
	e.Site = &Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: contract.NewHandle(), UID: 200033}
	write(t, j, e)
	if _, err := Retire(path); !errors.Is(err, ErrInUse) {
		t.Error("an open journal was retired:", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	aside, err := Retire(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(aside); err != nil {
		t.Error("the former journal is gone:", err)
	}
	other := contract.NewServerID().String()
	j, err = Open(path, other, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	c, err := j.Counters()
	if all, _ := j.Attempts(); err != nil || len(all) != 0 || c.HighestFence != 0 || c.NextUID != 200034 {
		t.Errorf("the new journal has %d attempts and counters %+v, %v", len(all), c, err)
	}
}
