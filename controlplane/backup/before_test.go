package backup

import (
	"errors"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

func TestBackupBeforeRestore(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		begin := func(t *testing.T) Restoration {
			t.Helper()
			r, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{})
			must(t, err)
			return r
		}
		t.Run("is made first, and the restore is ordered once it is ready, and once", func(t *testing.T) {
			r := begin(t)
			before := w.get(t, r.Before)
			if before.Reason != BeforeRestore || before.State != Running || r.TaskID != before.TaskID || r.State != Restoring {
				t.Errorf("began %+v after %+v", r, before)
			}
			if _, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true}); !errors.Is(err, ErrRestoring) {
				t.Errorf("another one meanwhile: %v", err)
			}
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetBackupSite().GetBackupId() != r.Before.String() {
				t.Errorf("before the check: %v", orders)
			}
			w.settled(t, time.Now())
			w.settled(t, time.Now().Add(time.Hour))
			orders := w.work(t, well)
			if len(orders) != 1 || orders[0].GetRestoreSite().GetRestoreId() != r.ID.String() || !orders[0].GetRestoreSite().GetFiles() {
				t.Errorf("after it: %v", orders)
			}
			if now := w.restores(t)[0]; now.State != Restored || now.Before != r.Before || now.TaskID == r.TaskID || now.TaskID != orders[0].TaskId {
				t.Errorf("ended %+v", now)
			}
			if w.get(t, r.Before).State != Ready {
				t.Errorf("the backup is %+v", w.get(t, r.Before))
			}
		})
		t.Run("is none: the restore fails with it, and nothing is ordered", func(t *testing.T) {
			for name, end := range map[string]func(Restoration){
				"the disk is full": func(Restoration) { w.work(t, badly) },
				"what is stored of the backup is": func(Restoration) {
					w.work(t, well)
					w.stored.checkErr = ErrDamaged
					w.settled(t, time.Now())
					w.stored.checkErr = nil
				},
				"canceled": func(r Restoration) {
					must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
						_, err := w.tasks.Cancel(t.Context(), tx, w.ours.String(), r.TaskID)
						return err
					}))
				},
			} {
				r := begin(t)
				end(r)
				now := w.restores(t)[0]
				if now.ID != r.ID || now.State != RestoreFailed || !strings.Contains(now.Problem, name) || !strings.Contains(now.Problem, "--without-backup") {
					t.Errorf("%s: %+v", name, now)
				}
				if orders := w.work(t, well); len(orders) != 0 {
					t.Errorf("%s: ordered %v", name, orders)
				}
			}
		})
		t.Run("is ready, and the site or the backup to restore is no longer what it was: the restore fails", func(t *testing.T) {
			r := begin(t)
			w.work(t, well)
			w.exec(t, `UPDATE backups SET manifest = NULL WHERE id = $1`, ready.ID)
			w.settled(t, time.Now())
			w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, ready.manifest, ready.ID)
			if now := w.restores(t)[0]; now.ID != r.ID || now.State != RestoreFailed || now.Problem != ErrForged.Error() || w.get(t, r.Before).State != Ready {
				t.Errorf("forged: %+v", now)
			}
			r = begin(t)
			w.work(t, well)
			w.exec(t, `UPDATE backups SET state = 'failed' WHERE id = $1`, ready.ID)
			w.settled(t, time.Now())
			w.exec(t, `UPDATE backups SET state = 'ready' WHERE id = $1`, ready.ID)
			if now := w.restores(t)[0]; now.ID != r.ID || now.State != RestoreFailed || !strings.Contains(now.Problem, "gone") {
				t.Errorf("gone: %+v", now)
			}
			if orders := w.work(t, well); len(orders) != 0 {
				t.Errorf("ordered %v", orders)
			}
		})
		t.Run("keeps who has asked for it", func(t *testing.T) {
			_, err := w.Restore(audit.As(t.Context(), audit.Actor{Kind: audit.Person, ID: "somebody"}), w.ours, w.site, ready.ID, Parts{})
			must(t, err)
			w.work(t, well)
			w.settled(t, time.Now())
			w.work(t, well)
			if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind = 'restore_site' AND created_by = 'somebody'`); n != 1 {
				t.Errorf("%d tasks are somebody's", n)
			}
		})
		t.Run("can't be made where no backups are", func(t *testing.T) {
			w.config.Off = "no backups here"
			defer func() { w.config.Off = "" }()
			if _, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{}); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestRestoreTables(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		for name, parts := range map[string]Parts{
			"a table that is not in it": {Tables: []string{"wp_posts", "wp_other"}, WithoutBackup: true},
			"tables of files":           {Tables: []string{"wp_posts"}, FilesOnly: true, WithoutBackup: true},
		} {
			_, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, parts)
			if fault.KindOf(err) != fault.KindInvalid || !strings.Contains(err.Error(), "tables") {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{Tables: []string{"wp_other"}, WithoutBackup: true})
		if err == nil || !strings.Contains(err.Error(), `"wp_other"`) {
			t.Errorf("which table: %v", err)
		}
		r, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{Tables: []string{"wp_posts"}, WithoutBackup: true})
		must(t, err)
		if o := w.work(t, well)[0].GetRestoreSite(); r.Files || !r.Database || o.GetFiles() || !o.GetDatabase() || strings.Join(o.GetTables(), ",") != "wp_posts" {
			t.Errorf("made %+v, ordered %v", r, o)
		}
		if now := w.restores(t)[0]; strings.Join(now.Tables, ",") != "wp_posts" || now.State != Restored {
			t.Errorf("ended %+v", now)
		}
	})
}
