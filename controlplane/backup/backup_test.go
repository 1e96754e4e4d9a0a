package backup

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		made, err := w.Create(audit.As(t.Context(), audit.Actor{Kind: audit.Person, ID: "anna"}), w.ours, w.site)
		must(t, err)
		if made.State != Running || made.TaskID == "" || made.Reason != Requested {
			t.Fatalf("made %+v", made)
		}
		ordered, err := w.tasks.Get(t.Context(), w.ours.String(), made.TaskID)
		if err != nil || ordered.Kind != task.BackupSite || ordered.CreatedBy != "anna" || ordered.Deadline.Before(time.Now().Add(backupWithin)) {
			t.Errorf("ordered %+v, %v", ordered, err)
		}
		orders := w.work(t, well)
		of, err := w.sites.Get(t.Context(), w.ours, w.site)
		must(t, err)
		if o := orders[0].GetBackupSite(); len(orders) != 1 || o.GetHandle() != of.Handle.String() || o.GetBackupId() != made.ID.String() ||
			orders[0].SiteId != w.site.String() || orders[0].GetTimeout().AsDuration() != backupWithin {
			t.Errorf("orders %v", orders)
		}
		if b := w.get(t, made.ID); b.State != Checking || b.Sequence != 0 || b.Report.GetAddedBytes() != 17 {
			t.Errorf("after the report: %+v", b)
		}
		w.settled(t, time.Now())
		b := w.get(t, made.ID)
		if b.State != Ready || b.Sequence != 1 || b.CheckedAt.IsZero() || b.Problem != "" {
			t.Fatalf("after the check: %+v", b)
		}
		first := w.manifest(t, b)
		contents := reportOf(b.ID.String()).Contents
		contents.FileCount, contents.FileBytes, contents.ListingSha256 = 2, 42, files().SHA256()
		if first.GetOrganizationId() != w.ours.String() || first.GetSiteId() != w.site.String() || first.GetBackupId() != b.ID.String() ||
			first.GetSequence() != 1 || len(first.GetPreviousSha256()) != 0 || !proto.Equal(first.GetContents(), contents) ||
			first.GetDesired().GetHandle() != of.Handle.String() || first.GetDesired().GetGeneration() != 1 || len(first.GetCertificates()) != 1 {
			t.Errorf("manifest %v", first)
		}
		if !bytes.Equal(w.stored.manifests[w.site][1], b.manifest) {
			t.Error("the repository has another manifest than the row")
		}

		second := w.manifest(t, w.one(t))
		signed := &backupv1.SignedManifest{}
		must(t, proto.Unmarshal(b.manifest, signed))
		if sum := sha256.Sum256(signed.GetManifest()); second.GetSequence() != 2 || !bytes.Equal(second.GetPreviousSha256(), sum[:]) {
			t.Errorf("the second manifest: %v", second)
		}
		all, next, size, err := w.List(t.Context(), w.ours, w.site, 1, "")
		if err != nil || len(all) != 1 || all[0].Sequence != 2 || next == "" || size != 1234 {
			t.Errorf("first page: %v, %q, %d, %v", all, next, size, err)
		}
		all, next, _, err = w.List(t.Context(), w.ours, w.site, 1, next)
		if err != nil || len(all) != 1 || all[0].Sequence != 1 || next != "" {
			t.Errorf("second page: %v, %q, %v", all, next, err)
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action IN ('backup.create', 'backup.ready')`, b.ID); n != 2 {
			t.Errorf("%d audit events", n)
		}
	})
}

// manifest is a backup's, verified as a host does.
func (w *world) manifest(t *testing.T, b Backup) *backupv1.Manifest {
	t.Helper()
	signed := &backupv1.SignedManifest{}
	must(t, proto.Unmarshal(b.manifest, signed))
	m, err := contract.VerifyManifest([]ed25519.PublicKey{w.config.Signer.Public().(ed25519.PublicKey)}, signed)
	must(t, err)
	return m
}

func TestCreate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		t.Run("makes one of many that are asked for at once", func(t *testing.T) {
			var all sync.WaitGroup
			var mu sync.Mutex
			made, refused := 0, 0
			for range 20 {
				all.Go(func() {
					_, err := w.Create(t.Context(), w.ours, w.site)
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						made++
					case errors.Is(err, ErrUnderWay):
						refused++
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			if made != 1 || refused != 19 || w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind = 'backup_site'`) != 1 {
				t.Errorf("%d made, %d refused", made, refused)
			}
		})
		t.Run("refuses another one while one is checked", func(t *testing.T) {
			w.work(t, well)
			if _, err := w.Create(t.Context(), w.ours, w.site); !errors.Is(err, ErrUnderWay) {
				t.Errorf("got %v", err)
			}
			w.settled(t, time.Now())
		})
		t.Run("does not keep other sites waiting", func(t *testing.T) {
			if _, err := w.Create(t.Context(), w.theirs, w.theirSite); err != nil {
				t.Error(err)
			}
		})
		t.Run("refuses a site in the trash", func(t *testing.T) {
			_, _, err := w.sites.Delete(t.Context(), w.ours, w.site)
			must(t, err)
			if _, err := w.Create(t.Context(), w.ours, w.site); !errors.Is(err, site.ErrInTrash) {
				t.Errorf("got %v", err)
			}
		})
	})
}

func TestForeign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		r, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
		must(t, err)
		w.work(t, well)
		other := w.addSite(t, w.ours, "second")
		w.work(t, well)
		before := w.count(t, `SELECT COUNT(*) FROM tasks`)
		for name, place := range map[string]struct {
			organization contract.OrganizationID
			site         contract.SiteID
			want         error
		}{
			"of another organization":     {w.theirs, w.site, site.ErrNotFound},
			"at another one's site":       {w.ours, w.theirSite, site.ErrNotFound},
			"at a site of theirs":         {w.theirs, w.theirSite, nil},
			"at another site of our own":  {w.ours, other, nil},
			"at a site that is not there": {w.ours, contract.NewSiteID(), site.ErrNotFound},
		} {
			_, getErr := w.Get(t.Context(), place.organization, place.site, ready.ID)
			_, restoreErr := w.Restore(t.Context(), place.organization, place.site, ready.ID, Parts{})
			_, undoErr := w.Undo(t.Context(), place.organization, place.site, r.ID)
			_, _, browseErr := w.Browse(t.Context(), place.organization, place.site, ready.ID, "", 0, "")
			downloadErr := w.Download(t.Context(), place.organization, place.site, ready.ID, "", io.Discard)
			for what, err := range map[string]error{"get": getErr, "restore": restoreErr, "undo": undoErr, "browse": browseErr, "download": downloadErr} {
				if fault.KindOf(err) != fault.KindNotFound || place.want != nil && !errors.Is(err, place.want) {
					t.Errorf("%s %s: %v", what, name, err)
				}
			}
			all, _, size, err := w.List(t.Context(), place.organization, place.site, 0, "")
			restores, restoresErr := w.ListRestores(t.Context(), place.organization, place.site)
			if len(all) != 0 || size != 0 || len(restores) != 0 || !errors.Is(err, place.want) || !errors.Is(restoresErr, place.want) {
				t.Errorf("list %s: %v, %d, %v, %v, %v", name, all, size, restores, err, restoresErr)
			}
			if place.want == nil {
				continue
			}
			_, createErr := w.Create(t.Context(), place.organization, place.site)
			_, keyErr := w.Key(t.Context(), place.organization, place.site)
			if !errors.Is(createErr, site.ErrNotFound) || !errors.Is(keyErr, site.ErrNotFound) {
				t.Errorf("create and key %s: %v, %v", name, createErr, keyErr)
			}
		}
		if after := w.count(t, `SELECT COUNT(*) FROM tasks`); after != before {
			t.Errorf("%d tasks were ordered", after-before)
		}
	})
}

func TestKey(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		var all sync.WaitGroup
		keys := make([]string, 10)
		for i := range keys {
			all.Go(func() {
				var err error
				if keys[i], err = w.Key(t.Context(), w.ours, w.site); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		slices.Sort(keys)
		if keys = slices.Compact(keys); len(keys) != 1 || len(keys[0]) != 43 {
			t.Fatalf("%d keys, of %d characters", len(keys), len(keys[0]))
		}
		if other, err := w.Key(t.Context(), w.theirs, w.theirSite); err != nil || other == keys[0] {
			t.Errorf("the other site's: %v", err)
		}
		w.one(t)
		if w.stored.keys[0] != keys[0] {
			t.Error("the repository is read with another key than the host has")
		}
		var sealed []byte
		must(t, d.Reader().QueryRow(t.Context(), `SELECT sealed_key FROM repositories WHERE site_id = $1`, w.site).Scan(&sealed))
		if bytes.Contains(sealed, []byte(keys[0])) {
			t.Error("it is not sealed")
		}
		// A key that was moved to another site's row does not open there.
		w.exec(t, `UPDATE repositories SET sealed_key = $1 WHERE site_id = $2`, sealed, w.theirSite)
		if _, err := w.Key(t.Context(), w.theirs, w.theirSite); err == nil {
			t.Error("another site's key opens")
		}
	})
}

// TestReport: nothing but a report of the very backup has it checked.
func TestReport(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		for name, test := range map[string]struct {
			do   func(*orderv1.Order) *orderv1.Result
			says string
		}{
			"a failure": {badly, "the disk is full"},
			"no report": {func(*orderv1.Order) *orderv1.Result {
				return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}
			}, "did not say"},
			"another backup":             {with(func(r *backupv1.Report) { r.BackupId = contract.NewBackupID().String() }), "another backup"},
			"no contents":                {with(func(r *backupv1.Report) { r.Contents = nil }), "did not say"},
			"a snapshot that is an path": {with(func(r *backupv1.Report) { r.Contents.FilesSnapshot = "../" + filesSnapshot[3:] }), "did not say"},
			"an option for a snapshot":   {with(func(r *backupv1.Report) { r.Contents.DatabaseSnapshot = "--help" }), "did not say"},
			"no time":                    {with(func(r *backupv1.Report) { r.StartTime = nil }), "when it began"},
			"an end before the start":    {with(func(r *backupv1.Report) { r.StartTime, r.EndTime = r.EndTime, r.StartTime }), "when it began"},
		} {
			t.Run(name, func(t *testing.T) {
				made := w.create(t)
				w.work(t, test.do)
				w.settled(t, time.Now())
				if b := w.get(t, made.ID); b.State != Failed || !strings.Contains(b.Problem, test.says) || b.manifest != nil || b.Sequence != 0 {
					t.Errorf("got %+v", b)
				}
			})
		}
		t.Run("a task that was canceled", func(t *testing.T) {
			made := w.create(t)
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
				_, err := w.tasks.Cancel(t.Context(), tx, w.ours.String(), made.TaskID)
				return err
			}, db.ReadCommitted()))
			if b := w.get(t, made.ID); b.State != Failed || b.Problem == "" {
				t.Errorf("got %+v", b)
			}
		})
		t.Run("a task whose time is over", func(t *testing.T) {
			made := w.create(t)
			must(t, w.tasks.Sweep(t.Context(), time.Now().Add(backupWithin+startWithin+time.Minute)))
			if b := w.get(t, made.ID); b.State != Failed || b.Problem == "" {
				t.Errorf("got %+v", b)
			}
		})
		if w.stored.checks != 0 || w.stored.puts != 0 {
			t.Error("the repository was asked")
		}
		if b := w.one(t); b.State != Ready || b.Sequence != 1 {
			t.Errorf("the next one: %+v", b)
		}
	})
}

// TestFiles: what files a backup has is read in the repository, whatever the host says of them.
func TestFiles(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		made := w.create(t)
		w.work(t, with(func(r *backupv1.Report) {
			r.Contents.FileCount, r.Contents.FileBytes, r.Contents.ListingSha256 = 7, 7, make([]byte, 32)
		}))
		w.settled(t, time.Now())
		b := w.get(t, made.ID)
		_, m, err := w.verified(b)
		must(t, err)
		for what, c := range map[string]*backupv1.Contents{"the row": b.Report.GetContents(), "the manifest": m.GetContents()} {
			if c.GetFileCount() != 2 || c.GetFileBytes() != 42 || !bytes.Equal(c.GetListingSha256(), files().SHA256()) {
				t.Errorf("%s says %v", what, c)
			}
		}
	})
}

// TestDiffers: the control plane believes nothing that it can read itself.
func TestDiffers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		for name, test := range map[string]struct {
			host  func(*backupv1.Report)
			store func(*shelf)
			says  string
		}{
			"another dump":                    {host: func(r *backupv1.Report) { r.Contents.DumpBytes++ }, says: "4 bytes, and the host said 5"},
			"no database":                     {host: func(r *backupv1.Report) { r.Contents.DatabaseSnapshot = "" }, says: "the database is missing"},
			"no checksum of the dump":         {host: func(r *backupv1.Report) { r.Contents.DumpSha256 = nil }, says: "checksum of the database"},
			"two files in the dump":           {store: func(s *shelf) { s.database = files }, says: "the database in the repository"},
			"a snapshot that is not there":    {host: func(r *backupv1.Report) { r.Contents.FilesSnapshot = strings.Repeat("0", 64) }, says: "damaged or incomplete"},
			"a database that is not there":    {host: func(r *backupv1.Report) { r.Contents.DatabaseSnapshot = strings.Repeat("0", 64) }, says: "damaged or incomplete"},
			"a repository with a hole":        {store: func(s *shelf) { s.checkErr = fmt.Errorf("pack 7: %w", ErrDamaged) }, says: "damaged or incomplete"},
			"more tables than a manifest has": {host: func(r *backupv1.Report) { r.Contents.Tables = manyTables() }, says: "too many tables"},
		} {
			t.Run(name, func(t *testing.T) {
				*w.stored = shelf{manifests: w.stored.manifests}
				if test.store != nil {
					test.store(w.stored)
				}
				if test.host == nil {
					test.host = func(*backupv1.Report) {}
				}
				made := w.create(t)
				w.work(t, with(test.host))
				w.settled(t, time.Now())
				if b := w.get(t, made.ID); b.State != Failed || !strings.Contains(b.Problem, test.says) || b.manifest != nil {
					t.Errorf("got %+v", b)
				}
				if w.stored.puts != 0 {
					t.Error("a manifest was put")
				}
			})
		}
	})
}

func manyTables() (all []*backupv1.Table) {
	for i := range 9000 {
		all = append(all, &backupv1.Table{Name: fmt.Sprintf("table_with_a_long_name_%d", i), Rows: 1})
	}
	return all
}

// TestAway: a store that cannot be read says nothing of a backup, for a day.
func TestAway(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.stored.checkErr = errors.New("connection refused")
		made := w.create(t)
		w.work(t, well)
		now := time.Now()
		w.settled(t, now)
		if b := w.get(t, made.ID); b.State != Checking || b.tries != 1 {
			t.Fatalf("got %+v", b)
		}
		if more, err := w.checkNext(t.Context(), now); more || err != nil {
			t.Errorf("it is looked at again at once: %t, %v", more, err)
		}
		t.Run("is checked when the store is back", func(t *testing.T) {
			w.stored.checkErr = nil
			w.settled(t, now.Add(longestRest))
			if b := w.get(t, made.ID); b.State != Ready || b.tries != 0 {
				t.Errorf("got %+v", b)
			}
		})
		t.Run("is given up after a day", func(t *testing.T) {
			w.stored.checkErr = errors.New("connection refused")
			made := w.create(t)
			w.work(t, well)
			w.exec(t, `UPDATE backups SET checking_at = $1 WHERE id = $2`, db.Micros(now.Add(-giveUpAfter+time.Hour)), made.ID)
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Checking {
				t.Fatalf("an hour too early: %+v", b)
			}
			w.exec(t, `UPDATE backups SET checking_at = $1, check_at = 0 WHERE id = $2`, db.Micros(now.Add(-giveUpAfter-time.Hour)), made.ID)
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Failed || !strings.Contains(b.Problem, "for a day") || strings.Contains(b.Problem, "refused") {
				t.Errorf("got %+v", b)
			}
		})
	})
}

// TestCrash: whatever was done before a check broke off is done again with the same outcome.
func TestCrash(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.stored.putErr = errors.New("the disk is full")
		made := w.create(t)
		w.work(t, well)
		w.settled(t, time.Now())
		signed := w.get(t, made.ID)
		if signed.State != Checking || signed.manifest == nil {
			t.Fatalf("got %+v", signed)
		}
		w.stored.putErr = nil
		// The process dies while it puts: its claim lasts for a while, and then another one goes on.
		gone, err := w.claim(t.Context(), time.Now().Add(longestRest), false)
		must(t, err)
		if again, err := w.claim(t.Context(), time.Now().Add(longestRest), false); again != nil || err != nil {
			t.Fatalf("taken twice: %+v, %v", again, err)
		}
		w.settled(t, time.Now().Add(longestRest+claimFor))
		b := w.get(t, made.ID)
		if b.State != Ready || b.Sequence != 1 || !bytes.Equal(b.manifest, signed.manifest) || !bytes.Equal(w.stored.manifests[w.site][1], signed.manifest) {
			t.Errorf("got %+v", b)
		}
		if w.stored.checks != 1 {
			t.Errorf("what was signed was read %d times", w.stored.checks)
		}
		// The one that seemed dead ends after that, and changes nothing.
		if err := w.check(t.Context(), *gone); !errors.Is(err, errLost) {
			t.Errorf("the late one: %v", err)
		}
		must(t, w.settle(t.Context(), *gone, time.Now(), wrong("late")))
		if late := w.get(t, made.ID); late.State != Ready || w.manifest(t, w.one(t)).GetSequence() != 2 {
			t.Errorf("after the late one: %+v", late)
		}
		t.Run("leaves a gap where a signed one could not be kept", func(t *testing.T) {
			w.stored.putErr = errors.New("the disk is full")
			made := w.create(t)
			w.work(t, well)
			w.exec(t, `UPDATE backups SET checking_at = 0 WHERE id = $1`, made.ID)
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Failed || b.Sequence != 0 {
				t.Errorf("got %+v", b)
			}
			w.stored.putErr = nil
			if b := w.one(t); b.State != Ready || b.Sequence != 4 {
				t.Errorf("the next one: %+v", b)
			}
		})
		t.Run("goes on at once where a process has ended in order", func(t *testing.T) {
			made := w.create(t)
			w.work(t, well)
			ctx, cancel := context.WithCancel(t.Context())
			w.stored.files = func() *contract.Listing { cancel(); return files() }
			if _, err := w.checkNext(ctx, time.Now()); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			w.stored.files = nil
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Ready {
				t.Errorf("got %+v", b)
			}
		})
	})
}

// TestRun: what a host reports is checked without anybody asking for it.
func TestRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		made := w.create(t)
		w.work(t, well)
		for until := time.Now().Add(10 * time.Second); w.get(t, made.ID).State != Ready; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("got %+v", w.get(t, made.ID))
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestResign: a rotated signer's manifests can be restored, and say the same as before.
func TestResign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		first, second := w.one(t), w.one(t)
		forged := w.one(t)
		_, stranger, err := ed25519.GenerateKey(nil)
		must(t, err)
		w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, w.signedBy(t, stranger, forged), forged.ID)
		former := w.config.Signer
		_, w.config.Signer, err = ed25519.GenerateKey(nil)
		must(t, err)
		if _, err := w.Restore(t.Context(), w.ours, w.site, second.ID, Parts{WithoutBackup: true}); !errors.Is(err, ErrForged) {
			t.Fatalf("by the former signer: %v", err)
		}
		must(t, w.Resign(t.Context(), former))
		must(t, w.Resign(t.Context(), former))
		w.settled(t, time.Now())
		for _, b := range []Backup{first, second} {
			now := w.get(t, b.ID)
			if now.State != Ready || !now.put || bytes.Equal(now.manifest, b.manifest) || !bytes.Equal(w.stored.manifests[w.site][b.Sequence], now.manifest) {
				t.Errorf("got %+v", now)
			}
			before, after := &backupv1.SignedManifest{}, &backupv1.SignedManifest{}
			must(t, proto.Unmarshal(b.manifest, before))
			must(t, proto.Unmarshal(now.manifest, after))
			if !bytes.Equal(before.GetManifest(), after.GetManifest()) {
				t.Error("it says something else")
			}
			w.manifest(t, now)
		}
		if _, err := w.Restore(t.Context(), w.ours, w.site, forged.ID, Parts{WithoutBackup: true}); !errors.Is(err, ErrForged) {
			t.Errorf("a forged one: %v", err)
		}
		if _, err := w.Restore(t.Context(), w.ours, w.site, first.ID, Parts{WithoutBackup: true}); err != nil {
			t.Error(err)
		}
	})
}

// signedBy is a backup's manifest with another signature.
func (w *world) signedBy(t *testing.T, key ed25519.PrivateKey, b Backup) []byte {
	t.Helper()
	signed := &backupv1.SignedManifest{}
	must(t, proto.Unmarshal(b.manifest, signed))
	again, err := contract.SignManifestAgain(key, signed)
	must(t, err)
	text, err := proto.Marshal(again)
	must(t, err)
	return text
}

// TestPurge: a site's backups leave with it, its repository after it, and nobody else's.
func TestPurge(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		second := w.addSite(t, w.ours, "second")
		w.work(t, well)
		for _, id := range []contract.SiteID{w.site, second} {
			_, err := w.Create(t.Context(), w.ours, id)
			must(t, err)
		}
		_, err := w.Create(t.Context(), w.theirs, w.theirSite)
		must(t, err)
		w.work(t, well)
		w.settled(t, time.Now())
		all, _, _, err := w.List(t.Context(), w.ours, w.site, 0, "")
		must(t, err)
		_, err = w.Restore(t.Context(), w.ours, w.site, all[0].ID, Parts{})
		must(t, err)
		w.work(t, well)

		at := time.Now()
		gone := func() { must(t, w.removeGone(t.Context(), at)) }
		_, _, err = w.sites.Delete(t.Context(), w.ours, w.site)
		must(t, err)
		w.work(t, well)
		gone()
		_, err = w.sites.Purge(t.Context(), time.Now().Add(site.DefaultTrashPeriod+time.Minute))
		must(t, err)
		gone()
		if len(w.stored.removed) != 0 {
			t.Fatal("the repository is gone before the site")
		}
		w.work(t, well)
		if n := w.count(t, `SELECT COUNT(*) FROM sites`); n != 2 {
			t.Fatalf("%d sites", n)
		}
		w.stored.removeErr = errors.New("away")
		gone()
		if n := w.count(t, `SELECT COUNT(*) FROM repositories WHERE site_id = $1 AND tries = 1`, w.site); n != 1 {
			t.Error("the key is gone before the repository")
		}
		w.stored.removeErr = nil
		gone()
		if len(w.stored.removed) != 0 {
			t.Error("it is tried again at once")
		}
		at = at.Add(longestRest)
		gone()
		gone()
		if !slices.Equal(w.stored.removed, []contract.SiteID{w.site}) {
			t.Errorf("removed %v", w.stored.removed)
		}
		for table, want := range map[string]int{"backups": 2, "restores": 0, "repositories": 2} {
			if n := w.count(t, `SELECT COUNT(*) FROM `+table); n != want {
				t.Errorf("%d rows in %s, not %d", n, table, want)
			}
		}
		if n := w.count(t, `SELECT COUNT(*) FROM backups WHERE site_id = $1`, w.site); n != 0 {
			t.Errorf("%d backups are left", n)
		}
	})
}
