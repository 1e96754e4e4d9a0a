package backup

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

func TestRestore(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		r, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
		must(t, err)
		if r.State != Restoring || !r.Files || !r.Database || r.TaskID == "" || !r.UndoUntil.IsZero() {
			t.Errorf("made %+v", r)
		}
		t.Run("keeps others from beginning", func(t *testing.T) {
			if _, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true}); !errors.Is(err, ErrRestoring) {
				t.Errorf("a second restore: %v", err)
			}
			if _, err := w.Create(t.Context(), w.ours, w.site); !errors.Is(err, ErrRestoring) {
				t.Errorf("a backup: %v", err)
			}
			if _, err := w.Undo(t.Context(), w.ours, w.site, r.ID); !errors.Is(err, ErrRestoring) {
				t.Errorf("undo: %v", err)
			}
		})
		orders := w.work(t, well)
		o := orders[0].GetRestoreSite()
		signed := &backupv1.SignedManifest{}
		must(t, proto.Unmarshal(ready.manifest, signed))
		if len(orders) != 1 || o.GetRestoreId() != r.ID.String() || !o.GetFiles() || !o.GetDatabase() || !proto.Equal(o.GetManifest(), signed) || len(o.GetHandle()) != 10 {
			t.Errorf("orders %v", orders)
		}
		done := w.restores(t)[0]
		if done.State != Restored || done.EndedAt.IsZero() || done.UndoUntil.Sub(done.EndedAt) != undoFor || done.Undone {
			t.Errorf("done %+v", done)
		}

		t.Run("is undone, and that too", func(t *testing.T) {
			for _, undone := range []bool{true, false} {
				undoing, err := w.Undo(t.Context(), w.ours, w.site, r.ID)
				must(t, err)
				if undoing.State != Undoing || undoing.TaskID == r.TaskID {
					t.Errorf("undoing %+v", undoing)
				}
				if _, err := w.Create(t.Context(), w.ours, w.site); !errors.Is(err, ErrRestoring) {
					t.Errorf("a backup meanwhile: %v", err)
				}
				if o := w.work(t, well)[0].GetUndoRestore(); o.GetRestoreId() != r.ID.String() || o.GetUndone() != undone || len(o.GetHandle()) != 10 {
					t.Errorf("ordered %v", o)
				}
				if now := w.restores(t)[0]; now.State != Restored || now.Undone != undone || !now.UndoUntil.Equal(done.UndoUntil) {
					t.Errorf("undone %+v", now)
				}
			}
		})
		t.Run("says why it could not be undone", func(t *testing.T) {
			_, err := w.Undo(t.Context(), w.ours, w.site, r.ID)
			must(t, err)
			w.work(t, badly)
			if now := w.restores(t)[0]; now.State != Restored || now.Undone || !strings.Contains(now.Problem, "the disk is full") {
				t.Errorf("got %+v", now)
			}
		})
		t.Run("can't be undone after a day", func(t *testing.T) {
			for at, want := range map[time.Time]error{done.UndoUntil.Add(-time.Microsecond): nil, done.UndoUntil: ErrUndoOver} {
				if err := undoable(at, done, done.ID); !errors.Is(err, want) {
					t.Errorf("at %s: %v", at, err)
				}
			}
			w.exec(t, `UPDATE restores SET undo_until = $1`, db.Micros(time.Now()))
			if _, err := w.Undo(t.Context(), w.ours, w.site, r.ID); !errors.Is(err, ErrUndoOver) {
				t.Errorf("got %v", err)
			}
			w.exec(t, `UPDATE restores SET undo_until = $1`, db.Micros(done.UndoUntil))
		})
		t.Run("that fails has changed nothing, and the one before can be undone", func(t *testing.T) {
			failing, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{FilesOnly: true, WithoutBackup: true})
			must(t, err)
			w.work(t, badly)
			now := w.restores(t)[0]
			if now.ID != failing.ID || now.State != RestoreFailed || now.Problem != "the disk is full" || !now.EndedAt.IsZero() || !now.UndoUntil.IsZero() {
				t.Errorf("got %+v", now)
			}
			if _, err := w.Undo(t.Context(), w.ours, w.site, failing.ID); !errors.Is(err, ErrNotRestored) {
				t.Errorf("undo of the failed one: %v", err)
			}
			if _, err := w.Undo(t.Context(), w.ours, w.site, r.ID); err != nil {
				t.Errorf("undo of the one before: %v", err)
			}
			w.work(t, well)
		})
		t.Run("is the newest, or can't be undone", func(t *testing.T) {
			next, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{DatabaseOnly: true, WithoutBackup: true})
			must(t, err)
			if o := w.work(t, well)[0].GetRestoreSite(); o.GetFiles() || !o.GetDatabase() {
				t.Errorf("ordered %v", o)
			}
			if _, err := w.Undo(t.Context(), w.ours, w.site, r.ID); !errors.Is(err, ErrNotNewest) {
				t.Errorf("got %v", err)
			}
			if _, err := w.Undo(t.Context(), w.ours, w.site, next.ID); err != nil {
				t.Error(err)
			}
			w.work(t, well)
		})
	})
}

func TestRestoreRefuses(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		restore := func(id contract.BackupID, parts Parts) error {
			parts.WithoutBackup = true
			_, err := w.Restore(t.Context(), w.ours, w.site, id, parts)
			return err
		}
		t.Run("what restores nothing", func(t *testing.T) {
			var f *fault.Fault
			if err := restore(ready.ID, Parts{FilesOnly: true, DatabaseOnly: true}); !errors.As(err, &f) || f.Kind() != fault.KindInvalid {
				t.Errorf("got %v", err)
			}
		})
		t.Run("a backup that is not ready", func(t *testing.T) {
			made := w.create(t)
			if err := restore(made.ID, Parts{}); !errors.Is(err, ErrNotReady) {
				t.Errorf("running: %v", err)
			}
			if err := restore(ready.ID, Parts{}); !errors.Is(err, ErrUnderWay) {
				t.Errorf("another one while it runs: %v", err)
			}
			w.work(t, well)
			if err := restore(made.ID, Parts{}); !errors.Is(err, ErrNotReady) {
				t.Errorf("checking: %v", err)
			}
			w.stored.checkErr = ErrDamaged
			w.settled(t, time.Now())
			w.stored.checkErr = nil
			if err := restore(made.ID, Parts{}); !errors.Is(err, ErrNotReady) {
				t.Errorf("failed: %v", err)
			}
		})
		t.Run("what is signed for something else, or not at all", func(t *testing.T) {
			other := w.one(t)
			_, err := w.Create(t.Context(), w.theirs, w.theirSite)
			must(t, err)
			w.work(t, well)
			w.settled(t, time.Now())
			theirs, _, _, err := w.List(t.Context(), w.theirs, w.theirSite, 0, "")
			must(t, err)
			changed := proto.CloneOf(w.signed(t, ready))
			changed.Manifest[len(changed.Manifest)-1] ^= 1
			for name, manifest := range map[string][]byte{
				"another backup's": other.manifest, "another site's": theirs[0].manifest, "a changed one": marshal(t, changed), "none": nil, "noise": []byte("noise"),
			} {
				w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, manifest, ready.ID)
				if err := restore(ready.ID, Parts{}); !errors.Is(err, ErrForged) {
					t.Errorf("%s: %v", name, err)
				}
			}
			w.exec(t, `UPDATE backups SET manifest = $1, sequence = 99 WHERE id = $2`, ready.manifest, ready.ID)
			if err := restore(ready.ID, Parts{}); !errors.Is(err, ErrForged) {
				t.Errorf("another number: %v", err)
			}
			w.exec(t, `UPDATE backups SET sequence = 1 WHERE id = $1`, ready.ID)
			if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind = 'restore_site'`); n != 0 {
				t.Errorf("%d restores were ordered", n)
			}
		})
		t.Run("all but one of many at once", func(t *testing.T) {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if err := restore(ready.ID, Parts{}); err != nil && !errors.Is(err, ErrRestoring) && !errors.Is(err, ErrUnderWay) {
						t.Error(err)
					}
				})
				all.Go(func() {
					if _, err := w.Create(t.Context(), w.ours, w.site); err != nil && !errors.Is(err, ErrRestoring) && !errors.Is(err, ErrUnderWay) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind IN ('restore_site', 'backup_site') AND state = 'queued'`); n != 1 {
				t.Errorf("%d tasks", n)
			}
			w.work(t, well)
			w.settled(t, time.Now())
		})
		t.Run("a site in the trash", func(t *testing.T) {
			_, _, err := w.sites.Delete(t.Context(), w.ours, w.site)
			must(t, err)
			if err := restore(ready.ID, Parts{}); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRestoreTimedOut(t *testing.T) {
	d := dbtest.SQLite(t)
	w := newWorld(t, d)
	ready := w.one(t)
	_, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
	must(t, err)
	must(t, w.tasks.Sweep(t.Context(), time.Now().Add(restoreWithin+startWithin+time.Minute)))
	if now := w.restores(t)[0]; now.State != RestoreFailed || !strings.Contains(now.Problem, "is not known") {
		t.Errorf("got %+v", now)
	}
}

// TestLateEnds: a host that was given up in the middle of a switch goes on, and what it did is told once it says so.
func TestLateEnds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		w.givenUp = true
		// late is a host that says how an order ended after the control plane has given it up.
		late := func(t *testing.T, do func(*orderv1.Order) *orderv1.Result) {
			t.Helper()
			w.work(t, func(o *orderv1.Order) *orderv1.Result {
				must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
					_, err := w.tasks.Apply(t.Context(), tx, w.server.String(), []*linkv1.TaskEvent{{
						TaskId: o.TaskId, Attempt: o.Attempt, Fence: o.Fence, Sequence: 1, Time: timestamppb.Now(), Event: &linkv1.TaskEvent_Accepted{Accepted: &linkv1.Accepted{}},
					}}, time.Now())
					return err
				}, db.ReadCommitted()))
				for range 2 { // it is asked to stop first
					must(t, w.tasks.Sweep(t.Context(), time.Now().Add(restoreWithin+startWithin+time.Minute)))
				}
				return do(o)
			})
		}
		restore := func(t *testing.T, do func(*orderv1.Order) *orderv1.Result) Restoration {
			t.Helper()
			_, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
			must(t, err)
			late(t, do)
			return w.restores(t)[0]
		}
		if now := restore(t, badly); now.State != RestoreFailed || !strings.HasSuffix(now.Problem, "; the host said later that it did not do it: the disk is full") {
			t.Errorf("one that it did not do: %+v", now)
		}
		done := restore(t, well)
		if done.State != Restored || done.Problem != "" || done.EndedAt.IsZero() || time.Until(done.UndoUntil) < undoFor-time.Minute {
			t.Fatalf("one that it did: %+v", done)
		}
		_, err := w.Undo(t.Context(), w.ours, w.site, done.ID)
		must(t, err)
		late(t, badly)
		if now := w.restores(t)[0]; now.Undone || !strings.HasPrefix(now.Problem, "it could not be undone: ") || !strings.HasSuffix(now.Problem, "did not do it: the disk is full") {
			t.Errorf("an undoing that it did not do: %+v", now)
		}
		_, err = w.Undo(t.Context(), w.ours, w.site, done.ID)
		must(t, err)
		late(t, well)
		if now := w.restores(t)[0]; !now.Undone || now.Problem != "" || now.State != Restored {
			t.Errorf("an undoing that it did: %+v", now)
		}
	})
}

func (w *world) signed(t *testing.T, b Backup) *backupv1.SignedManifest {
	t.Helper()
	signed := &backupv1.SignedManifest{}
	must(t, proto.Unmarshal(b.manifest, signed))
	return signed
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	must(t, err)
	return b
}
