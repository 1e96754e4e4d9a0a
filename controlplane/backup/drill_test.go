package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// drilled has a backup of our site drilled by a host that answers in some way, and gives what became of it.
func (w *world) drilled(t *testing.T, of Backup, do func(*orderv1.Order) *orderv1.Result) Drill {
	t.Helper()
	_, err := w.Drill(t.Context(), w.ours, w.site, of.ID)
	must(t, err)
	w.work(t, do)
	return w.drills(t)[0]
}

func (w *world) drills(t *testing.T) []Drill {
	t.Helper()
	all, err := w.ListDrills(t.Context(), w.ours, w.site)
	must(t, err)
	return all
}

// finding is a host that finds something else than was recorded.
func finding(change func(*backupv1.DrillReport)) func(*orderv1.Order) *orderv1.Result {
	return func(o *orderv1.Order) *orderv1.Result {
		result := well(o)
		change(result.Drill)
		return result
	}
}

// lossy is a host on which rows are gone.
var lossy = finding(func(r *backupv1.DrillReport) { r.Evidence.Tables[0].Rows = 2 })

const lost = "table wp_posts has 2 rows, and 3 were recorded"

// recorder takes the values of mails, in the place of what would send them.
type recorder struct{ told []string }

func (r *recorder) Enqueue(_ context.Context, _ *db.Tx, mail notify.Mail) error {
	r.told = append(r.told, mail.To.String()+" "+mail.Template+" "+fmt.Sprint(mail.Values))
	return nil
}

// listen has a webhook of our organization told of everything.
func (w *world) listen(t *testing.T) {
	t.Helper()
	w.exec(t, `
		INSERT INTO webhooks (organization_id, id, url, description, events, enabled, problem, sealed_secret, created_at, updated_at)
		VALUES ($1, 'hook', 'https://hooks.example.com/', '', '', TRUE, '', $2, 1, 1)`, w.ours, []byte{})
}

func (w *world) events(t *testing.T, what webhook.Type) int {
	t.Helper()
	return w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE type = $1`, string(what))
}

func TestDrill(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.listen(t)
		ready := w.one(t)
		made, err := w.Drill(audit.As(t.Context(), audit.Actor{Kind: audit.Person, ID: "anna"}), w.ours, w.site, ready.ID)
		must(t, err)
		if made.State != Drilling || made.Backup != ready.ID || made.TaskID == "" || !made.EndedAt.IsZero() {
			t.Errorf("made %+v", made)
		}
		ordered, err := w.tasks.Get(t.Context(), w.ours.String(), made.TaskID)
		if err != nil || ordered.Kind != task.DrillSite || ordered.CreatedBy != "anna" || ordered.Deadline.Before(time.Now().Add(drillWithin)) {
			t.Errorf("ordered %+v, %v", ordered, err)
		}
		if last, proven, err := LastDrills(t.Context(), d.Reader(), w.ours, w.site); err != nil || last == nil || last.ID != made.ID || proven != nil {
			t.Errorf("while it runs: %v, %v, %v", last, proven, err)
		}
		if _, err := w.Drill(t.Context(), w.ours, w.site, ready.ID); !errors.Is(err, ErrDrilling) {
			t.Errorf("a second one: %v", err)
		}
		orders := w.work(t, well)
		of, err := w.sites.Get(t.Context(), w.ours, w.site)
		must(t, err)
		if o := orders[0].GetDrillSite(); len(orders) != 1 || o.GetHandle() != of.Handle.String() || o.GetDrillId() != made.ID.String() ||
			!proto.Equal(o.GetManifest(), w.signed(t, ready)) || orders[0].GetTimeout().AsDuration() != drillWithin {
			t.Errorf("orders %v", orders)
		}
		passed := w.drills(t)[0]
		if passed.State != DrillPassed || passed.Problem != "" || passed.EndedAt.IsZero() || !proto.Equal(passed.Evidence, found(made.ID.String()).Evidence) {
			t.Errorf("passed %+v", passed)
		}

		failed := w.drilled(t, ready, lossy)
		if failed.State != DrillFailed || failed.Problem != lost || failed.Evidence.GetTables()[0].GetRows() != 2 {
			t.Errorf("failed %+v", failed)
		}
		last, proven, err := LastDrills(t.Context(), d.Reader(), w.ours, w.site)
		if err != nil || last.ID != failed.ID || proven.ID != made.ID {
			t.Errorf("the last: %+v, %+v, %v", last, proven, err)
		}
		if n, m := w.events(t, webhook.DrillPassed), w.events(t, webhook.DrillFailed); n != 1 || m != 1 {
			t.Errorf("%d and %d events", n, m)
		}
		for action, want := range map[string]int{"backup.drill": 2, "backup.drill_pass": 1, "backup.drill_fail": 1} {
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action = $2`, ready.ID, action); n != want {
				t.Errorf("%d times %s in the audit trail", n, action)
			}
		}
		must(t, w.countProven(t.Context(), time.Now()))
		if v := testutil.ToFloat64(w.Backups.metrics.sites.WithLabelValues("proven")); v != 1 {
			t.Errorf("%v sites are proven", v)
		}
		if v := testutil.ToFloat64(w.Backups.metrics.oldest); time.Since(time.Unix(int64(v), 0)) > time.Hour {
			t.Errorf("the oldest proof is of %v", v)
		}
		must(t, w.countProven(t.Context(), time.Now().Add(week+provenSlack+time.Hour)))
		if v := testutil.ToFloat64(w.Backups.metrics.sites.WithLabelValues("unproven")); v != 1 {
			t.Errorf("%v sites are not proven any more", v)
		}
		for result, want := range map[string]float64{"passed": 1, "failed": 1, "stopped": 0} {
			if v := testutil.ToFloat64(w.Backups.metrics.ended.WithLabelValues(result)); v != want {
				t.Errorf("%v drills %s", v, result)
			}
		}
	})
}

func TestDrillRefuses(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		drill := func(id contract.BackupID) error {
			_, err := w.Drill(t.Context(), w.ours, w.site, id)
			return err
		}
		t.Run("a backup that is not ready, and any while one is made", func(t *testing.T) {
			made := w.create(t)
			if err := drill(made.ID); !errors.Is(err, ErrNotReady) {
				t.Errorf("running: %v", err)
			}
			if err := drill(ready.ID); !errors.Is(err, ErrUnderWay) {
				t.Errorf("another one while it runs: %v", err)
			}
			w.work(t, well)
			if err := drill(made.ID); !errors.Is(err, ErrNotReady) {
				t.Errorf("checking: %v", err)
			}
			w.settled(t, time.Now())
		})
		t.Run("any while a restore goes on", func(t *testing.T) {
			_, err := w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
			must(t, err)
			if err := drill(ready.ID); !errors.Is(err, ErrRestoring) {
				t.Errorf("got %v", err)
			}
			w.work(t, well)
		})
		t.Run("what is not signed for the backup", func(t *testing.T) {
			w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, w.one(t).manifest, ready.ID)
			if err := drill(ready.ID); !errors.Is(err, ErrForged) {
				t.Errorf("got %v", err)
			}
			w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, ready.manifest, ready.ID)
		})
		t.Run("what is somebody else's", func(t *testing.T) {
			for name, place := range map[string]struct {
				organization contract.OrganizationID
				site         contract.SiteID
				want         error
			}{
				"another organization's": {w.theirs, w.site, site.ErrNotFound},
				"at another one's site":  {w.ours, w.theirSite, site.ErrNotFound},
				"at a site of theirs":    {w.theirs, w.theirSite, ErrNotFound},
			} {
				if _, err := w.Drill(t.Context(), place.organization, place.site, ready.ID); !errors.Is(err, place.want) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind = 'drill_site'`) + w.count(t, `SELECT COUNT(*) FROM drills`); n != 0 {
			t.Errorf("%d drills were ordered", n)
		}
		t.Run("all but one of many at once", func(t *testing.T) {
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if err := drill(ready.ID); err != nil && !errors.Is(err, ErrDrilling) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE kind = 'drill_site'`); n != 1 {
				t.Errorf("%d tasks", n)
			}
			w.work(t, well)
		})
		t.Run("to show them to strangers", func(t *testing.T) {
			if _, err := w.ListDrills(t.Context(), w.theirs, w.site); !errors.Is(err, site.ErrNotFound) {
				t.Errorf("got %v", err)
			}
			if all, err := w.ListDrills(t.Context(), w.theirs, w.theirSite); err != nil || len(all) != 0 {
				t.Errorf("their own: %v, %v", all, err)
			}
			if last, proven, err := LastDrills(t.Context(), d.Reader(), w.theirs, w.site); err != nil || last != nil || proven != nil {
				t.Errorf("the last: %v, %v, %v", last, proven, err)
			}
		})
		t.Run("a site in the trash", func(t *testing.T) {
			_, _, err := w.sites.Delete(t.Context(), w.ours, w.site)
			must(t, err)
			if err := drill(ready.ID); fault.KindOf(err) != fault.KindConflict {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestDrillYields: people need not wait for a drill.
func TestDrillYields(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		mails := &recorder{}
		w.config.Mails = mails
		w.listen(t)
		ready := w.one(t)
		t.Run("a backup waits for it on the host", func(t *testing.T) {
			_, err := w.Drill(t.Context(), w.ours, w.site, ready.ID)
			must(t, err)
			w.create(t)
			if orders := w.work(t, well); len(orders) != 2 || orders[0].GetDrillSite() == nil || orders[1].GetBackupSite() == nil {
				t.Errorf("orders %v", orders)
			}
			w.settled(t, time.Now())
			if now := w.drills(t)[0]; now.State != DrillPassed {
				t.Errorf("got %+v", now)
			}
		})
		stopped := func(t *testing.T) {
			t.Helper()
			if now := w.drills(t)[0]; now.State != DrillFailed || now.Problem != "it was stopped before its end; that says nothing of the backup" {
				t.Errorf("got %+v", now)
			}
		}
		var restore Restoration
		t.Run("a restore stops one that waits", func(t *testing.T) {
			_, err := w.Drill(t.Context(), w.ours, w.site, ready.ID)
			must(t, err)
			restore, err = w.Restore(t.Context(), w.ours, w.site, ready.ID, Parts{WithoutBackup: true})
			must(t, err)
			stopped(t)
			if orders := w.work(t, well); len(orders) != 1 || orders[0].GetRestoreSite() == nil {
				t.Errorf("orders %v", orders)
			}
		})
		t.Run("an undo stops one that runs", func(t *testing.T) {
			_, err := w.Drill(t.Context(), w.ours, w.site, ready.ID)
			must(t, err)
			w.work(t, func(o *orderv1.Order) *orderv1.Result {
				if o.GetDrillSite() == nil {
					return well(o)
				}
				if _, err := w.Undo(t.Context(), w.ours, w.site, restore.ID); err != nil {
					t.Error(err)
				}
				return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_CANCELED}
			})
			stopped(t)
			if now := w.restores(t)[0]; !now.Undone {
				t.Errorf("got %+v", now)
			}
		})
		if len(mails.told) != 0 || w.events(t, webhook.DrillFailed) != 0 {
			t.Errorf("of what was stopped on purpose told was %v", mails.told)
		}
		if v := testutil.ToFloat64(w.Backups.metrics.ended.WithLabelValues("stopped")); v != 2 {
			t.Errorf("%v drills were stopped", v)
		}
	})
}

// TestDrillEnds: nothing but evidence passes, and what says nothing of the backup is told apart.
func TestDrillEnds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		for name, test := range map[string]struct {
			do   func(*orderv1.Order) *orderv1.Result
			want string
		}{
			"the host could not": {badly, "the host could not do it: the disk is full"},
			"it failed, whatever was found": {func(o *orderv1.Order) *orderv1.Result {
				result := well(o)
				result.Outcome, result.Error = orderv1.Outcome_OUTCOME_FAILED, "the scratch place was not removed"
				return result
			}, "the host could not do it: the scratch place was not removed"},
			"it ran too long": {func(*orderv1.Order) *orderv1.Result {
				return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_TIMED_OUT}
			}, "it ran longer than allowed; that says nothing of the backup"},
			"no report": {func(*orderv1.Order) *orderv1.Result {
				return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED}
			}, "the host did not say what it found"},
			"another drill's report": {finding(func(r *backupv1.DrillReport) { r.DrillId = contract.NewDrillID().String() }),
				"the host reported another drill than the one that was asked for"},
			"the backup was removed meanwhile": {func(o *orderv1.Order) *orderv1.Result {
				w.exec(t, `DELETE FROM backups WHERE id = $1`, ready.ID)
				return well(o)
			}, "the backup was removed before what came back could be compared; that says nothing of the backup"},
		} {
			t.Run(name, func(t *testing.T) {
				ready = w.one(t)
				if now := w.drilled(t, ready, test.do); now.State != DrillFailed || now.Problem != test.want || now.EndedAt.IsZero() {
					t.Errorf("got %+v", now)
				}
			})
		}
		t.Run("another report's evidence is not kept", func(t *testing.T) {
			ready = w.one(t)
			if now := w.drilled(t, ready, finding(func(r *backupv1.DrillReport) { r.DrillId = contract.NewDrillID().String() })); now.Evidence != nil {
				t.Errorf("got %v", now.Evidence)
			}
		})
		t.Run("what is recorded was changed meanwhile", func(t *testing.T) {
			ready = w.one(t)
			now := w.drilled(t, ready, func(o *orderv1.Order) *orderv1.Result {
				changed := w.manifest(t, ready)
				changed.Contents.Tables[0].Rows = 2
				w.exec(t, `UPDATE backups SET manifest = $1 WHERE id = $2`, marshal(t, &backupv1.SignedManifest{
					Manifest: marshal(t, changed), Signature: w.signed(t, ready).Signature, KeyId: w.signed(t, ready).KeyId,
				}), ready.ID)
				return lossy(o)
			})
			if now.State != DrillFailed || now.Problem != ErrForged.Error() {
				t.Errorf("got %+v", now)
			}
		})
		t.Run("the host was away", func(t *testing.T) {
			ready = w.one(t)
			_, err := w.Drill(t.Context(), w.ours, w.site, ready.ID)
			must(t, err)
			must(t, w.tasks.Sweep(t.Context(), time.Now().Add(drillWithin+startWithin+time.Minute)))
			if now := w.drills(t)[0]; now.State != DrillFailed || now.Problem != "its turn did not come before its deadline; that says nothing of the backup" {
				t.Errorf("got %+v", now)
			}
		})
		t.Run("the site went with it", func(t *testing.T) {
			_, err := w.Drill(t.Context(), w.ours, w.site, w.one(t).ID)
			must(t, err)
			w.exec(t, `DELETE FROM drills WHERE state = 'running'`)
			if orders := w.work(t, well); len(orders) != 1 {
				t.Errorf("orders %v", orders)
			}
		})
	})
}

// TestDrillPaths: a drill asks for what the site's policy names, and fails where one of it is not there.
func TestDrillPaths(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ready := w.one(t)
		named := []string{"/", "/shop/", "/?p=7"}
		made := w.policy(t, PolicyChange{Name: new("watched"), DrillPaths: &named})
		w.exec(t, `UPDATE sites SET backup_policy_id = $1`, made.ID)
		var got *orderv1.DrillSite
		answering := func(status uint32) func(*orderv1.Order) *orderv1.Result {
			return func(o *orderv1.Order) *orderv1.Result {
				result := well(o)
				got = o.GetDrillSite()
				for _, path := range got.GetPaths() {
					result.Drill.Evidence.Pages = append(result.Drill.Evidence.Pages, &backupv1.Page{Path: path, HttpStatus: status})
				}
				return result
			}
		}
		if now := w.drilled(t, ready, answering(200)); now.State != DrillPassed || now.Note != "" || fmt.Sprint(got.GetPaths()) != "[/shop/ /?p=7]" {
			t.Errorf("asked for %q, got %+v", got.GetPaths(), now)
		}
		if now := w.drilled(t, ready, answering(404)); now.State != DrillFailed || now.Problem != "/shop/ was answered with status 404; /?p=7 was answered with status 404" {
			t.Errorf("got %+v", now)
		}
		if now := w.drilled(t, ready, well); now.State != DrillFailed || !strings.HasPrefix(now.Problem, "the host did not ask for /shop/") {
			t.Errorf("of an older agent: %+v", now)
		}
		none := []string{}
		if _, err := w.UpdatePolicy(t.Context(), w.ours, made.ID, PolicyChange{DrillPaths: &none}); err != nil {
			t.Fatal(err)
		}
		now := w.drilled(t, ready, finding(func(r *backupv1.DrillReport) { r.Evidence.Pages[0].Title = "Shop of today" }))
		if now.State != DrillPassed || now.Note != `the home page has the title "Shop of today", and "Shop" was recorded` || len(got.GetPaths()) == 0 {
			t.Errorf("got %+v", now)
		}
	})
}

// TestVerdict: each difference is named, and none passes.
func TestVerdict(t *testing.T) {
	id := contract.NewDrillID().String()
	record := func() *backupv1.Manifest {
		contents := reportOf("").Contents
		contents.FileCount, contents.FileBytes, contents.ListingSha256 = files().Count(), files().Bytes(), files().SHA256()
		contents.Tables = append(contents.Tables, &backupv1.Table{Name: "wp_users", Rows: 14})
		return &backupv1.Manifest{Contents: contents}
	}
	find := func() *backupv1.DrillReport {
		report := found(id)
		report.Evidence.Tables = append(report.Evidence.Tables, &backupv1.Table{Name: "wp_users", Rows: 14})
		return report
	}
	for name, test := range map[string]struct {
		change func(m *backupv1.Manifest, r *backupv1.DrillReport)
		want   string // "note: " before what is told of one that passes
	}{
		"nothing": {func(*backupv1.Manifest, *backupv1.DrillReport) {}, ""},
		"the tables in another order": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence.Tables[0], r.Evidence.Tables[1] = r.Evidence.Tables[1], r.Evidence.Tables[0]
		}, ""},
		"no evidence":   {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence = nil }, "the host did not say what it found"},
		"another drill": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.DrillId = "another" }, "the host reported another drill than the one that was asked for"},
		"no begin":      {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.StartTime = nil }, "the host did not say when it began and ended"},
		"no end":        {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.EndTime = nil }, "the host did not say when it began and ended"},
		"an end before": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence.EndTime = timestamppb.New(time.Unix(1, 0))
		}, "the host did not say when it began and ended"},
		"a file is gone": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.FileCount = 1 }, "1 files, directories and links came back, and 2 were recorded"},
		"bytes are gone": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.FileBytes = 41 }, "the files have 41 bytes, and 42 were recorded"},
		"another listing": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.ListingSha256 = dump[:] },
			"the files have other names, modes, sizes or times than were recorded"},
		"no listing": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.ListingSha256 = nil },
			"the files have other names, modes, sizes or times than were recorded"},
		"another dump": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.DumpSha256 = files().SHA256() },
			"the dump of the database is not the one that was recorded"},
		"no dump": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.DumpSha256 = nil }, "the dump of the database is not the one that was recorded"},
		"rows are gone": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Tables[1].Rows = 12 },
			"table wp_users has 12 rows, and 14 were recorded"},
		"rows too many": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Tables[1].Rows = 15 },
			"table wp_users has 15 rows, and 14 were recorded"},
		"a table is gone": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Tables = r.Evidence.Tables[:1] }, "table wp_users is missing"},
		"a table too many": {func(m *backupv1.Manifest, _ *backupv1.DrillReport) { m.Contents.Tables = m.Contents.Tables[:1] },
			"table wp_users was not recorded"},
		"a table twice": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence.Tables = append(r.Evidence.Tables, r.Evidence.Tables[0])
		}, "the host counted table wp_posts twice"},
		"no page":           {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Pages = nil }, "the host did not ask for the home page"},
		"another page":      {func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Pages[0].Path = "/about" }, "the host did not ask for the home page"},
		"no answer":         {answered(func(p *backupv1.Page) { p.HttpStatus, p.Problem = 0, "connection refused" }), "the home page was not answered: connection refused"},
		"no answer, no why": {answered(func(p *backupv1.Page) { p.HttpStatus = 0 }), "the home page was not answered: no reason was given"},
		"an error":          {answered(func(p *backupv1.Page) { p.HttpStatus = 500 }), "the home page was answered with status 500"},
		"an error with the title": {answered(func(p *backupv1.Page) { p.HttpStatus = 503 }),
			"the home page was answered with status 503"},
		"another status": {answered(func(p *backupv1.Page) { p.HttpStatus = 404 }), "the home page was answered with status 404"},
		"half a page":    {answered(func(p *backupv1.Page) { p.Problem = "it broke off" }), "the home page could not be read: it broke off"},
		"another title":  {answered(func(p *backupv1.Page) { p.Title = "Shop, Friday" }), `note: the home page has the title "Shop, Friday", and "Shop" was recorded`},
		"no title":       {answered(func(p *backupv1.Page) { p.Title = "" }), `the home page has no title, and "Shop" was recorded`},
		"no body":        {answered(func(p *backupv1.Page) { p.BodyBytes = 0 }), `the home page has no title, and "Shop" was recorded`},
		"another title, and rows are gone": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence.Pages[0].Title, r.Evidence.Tables[1].Rows = "Install", 12
		}, "table wp_users has 12 rows, and 14 were recorded"},
		"a path":                   {also(&backupv1.Page{Path: "/shop/", HttpStatus: 302}), ""},
		"a path that is gone":      {also(&backupv1.Page{Path: "/shop/", HttpStatus: 404}), "/shop/ was answered with status 404"},
		"a path without an answer": {also(&backupv1.Page{Path: "/shop/", Problem: "refused"}), "/shop/ was not answered: refused"},
		"half of a path":           {also(&backupv1.Page{Path: "/shop/", HttpStatus: 200, Problem: "cut"}), "/shop/ could not be read: cut"},
		"another path":             {also(&backupv1.Page{Path: "/shop", HttpStatus: 200}), "the host did not ask for /shop/: its agent may be too old for it"},
		"other links":              {linked(dump[:]), "links lead elsewhere than was recorded"},
		"links of an older host":   {linked(nil), ""},
		"links of which nobody is sure": {func(m *backupv1.Manifest, _ *backupv1.DrillReport) {
			m.Contents.UnkeptLinks, m.Contents.UnkeptLinkCount = []string{"public/a"}, 1
		}, "note: 1 links have targets that are not UTF-8, and may come back as other ones: public/a"},
		"a title was none":  {untitled(func(*backupv1.Page) {}), ""},
		"no page was one":   {untitled(func(p *backupv1.Page) { p.HttpStatus = 403 }), ""},
		"no page, an error": {untitled(func(p *backupv1.Page) { p.HttpStatus = 502 }), "the home page was answered with status 502"},
		"a site without a database": {func(m *backupv1.Manifest, r *backupv1.DrillReport) {
			m.Contents.DatabaseSnapshot, m.Contents.DumpSha256, m.Contents.Tables = "", nil, nil
			r.Evidence.DumpSha256, r.Evidence.Tables = nil, nil
		}, ""},
		"more than one thing": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence.FileCount, r.Evidence.Pages = 0, nil
		}, "0 files, directories and links came back, and 2 were recorded; the host did not ask for the home page"},
		"everything": {func(_ *backupv1.Manifest, r *backupv1.DrillReport) {
			r.Evidence = &backupv1.Evidence{StartTime: r.Evidence.StartTime, EndTime: r.Evidence.EndTime}
		}, "0 files, directories and links came back, and 2 were recorded; the files have 0 bytes, and 42 were recorded; " +
			"the dump of the database is not the one that was recorded; table wp_posts is missing; table wp_users is missing; and 1 more"},
	} {
		t.Run(name, func(t *testing.T) {
			m, r := record(), find()
			test.change(m, r)
			var paths []string
			if strings.Contains(name, "path") {
				paths = []string{"/shop/"}
			}
			got, note := verdict(m, id, paths, r)
			if note != "" {
				got += "note: " + note
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func answered(change func(*backupv1.Page)) func(*backupv1.Manifest, *backupv1.DrillReport) {
	return func(_ *backupv1.Manifest, r *backupv1.DrillReport) { change(r.Evidence.Pages[0]) }
}

// also is what a path was answered with.
func also(page *backupv1.Page) func(*backupv1.Manifest, *backupv1.DrillReport) {
	return func(_ *backupv1.Manifest, r *backupv1.DrillReport) { r.Evidence.Pages = append(r.Evidence.Pages, page) }
}

// linked is what a host says of where links lead.
func linked(sum []byte) func(*backupv1.Manifest, *backupv1.DrillReport) {
	return func(m *backupv1.Manifest, r *backupv1.DrillReport) {
		m.Contents.LinksSha256, r.Evidence.LinksSha256 = files().SHA256(), sum
	}
}

// untitled is a site whose home page showed no title when the backup was made.
func untitled(change func(*backupv1.Page)) func(*backupv1.Manifest, *backupv1.DrillReport) {
	return func(m *backupv1.Manifest, r *backupv1.DrillReport) {
		m.Contents.PageTitle = ""
		change(r.Evidence.Pages[0])
	}
}

// TestDrillAlarm: who looks after the organization hears of a failure at once, and not each day of the same one.
func TestDrillAlarm(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		mails := &recorder{}
		w.config.Mails = mails
		ready := w.one(t)
		failed := w.drilled(t, ready, lossy)
		want := "acme@example.com drill_failed " + fmt.Sprint(map[string]string{
			"organization": "acme", "site": "shop", "problem": lost, "time": failed.EndedAt.Format(time.RFC3339),
			"link": publicURL + "/organizations/" + w.ours.String() + "/sites/" + w.site.String(),
		})
		if len(mails.told) != 1 || mails.told[0] != want {
			t.Errorf("told %v, want %q", mails.told, want)
		}
		for _, step := range []struct {
			name  string
			do    func(*orderv1.Order) *orderv1.Result
			after string // to be run first
			told  int
		}{
			{"the same again", lossy, "", 1},
			{"another one", badly, "", 2},
			{"the former again", lossy, "", 3},
			{"a week later", lossy, `UPDATE drills SET ended_at = ended_at - 604800000000`, 4},
			{"it passes", well, "", 4},
			{"and fails as before", lossy, "", 5},
		} {
			if step.after != "" {
				w.exec(t, step.after)
			}
			w.drilled(t, ready, step.do)
			if len(mails.told) != step.told {
				t.Errorf("%s: told %d times", step.name, len(mails.told))
			}
		}
	})
}

// TestDrillMail: what is mailed is what the template shows.
func TestDrillMail(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	w.drilled(t, w.one(t), lossy)
	if n := w.count(t, `SELECT COUNT(*) FROM mails WHERE template = 'drill_failed' AND recipient = 'acme@example.com'`); n != 1 {
		t.Errorf("%d mails", n)
	}
}

func TestDueDrill(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	of := drillable{site: contract.NewSiteID(), ready: now}
	if due := dueDrill(week, of); due.Before(now) || due.After(now.Add(firstDrill/2)) {
		t.Errorf("the first is due %s after the backup", due.Sub(now))
	}
	of.last = now
	if due := dueDrill(week, of); due.Before(now.Add(week/14)) || due.After(now.Add(week*13/14)) {
		t.Errorf("the next is due %s after the last", due.Sub(now))
	}
	of.failed = true
	if due := dueDrill(week, of); !due.Equal(now.Add(drillAgain)) {
		t.Errorf("one that failed is due again after %s", due.Sub(now))
	}
	if due := dueDrill(time.Hour, of); !due.Equal(now.Add(time.Hour)) {
		t.Errorf("one that failed is due again after %s, where each site has one in an hour", due.Sub(now))
	}
}

// TestFleet: a fleet that was backed up all at once has its drills in time, never too many together, and not all on one day.
func TestFleet(t *testing.T) {
	const (
		servers  = 10
		perEach  = 30
		takes    = 10 * time.Minute
		step     = 10 * time.Minute
		duration = 3 * week
	)
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var all []drillable
	for range servers {
		server := contract.NewServerID()
		for range perEach {
			all = append(all, drillable{site: contract.NewSiteID(), server: server, ready: begin})
		}
	}
	ends, begun, perDay := map[int]time.Time{}, map[int][]time.Time{}, map[int]int{}
	place := map[contract.SiteID]int{}
	for i, of := range all {
		place[of.site] = i
	}
	for now := begin; now.Before(begin.Add(duration)); now = now.Add(step) {
		running := underWay{}
		var free []drillable
		for i, of := range all {
			switch end, ok := ends[i]; {
			case !ok:
				free = append(free, of)
			case now.Before(end):
				running[of.server]++
			default:
				delete(ends, i)
				free = append(free, of)
			}
		}
		for _, of := range dueDrills(now, week, free) {
			if !running.room(of.server) {
				continue
			}
			running[of.server]++
			i := place[of.site]
			failed := len(begun[i]) == 1 && i%50 == 0 // one in fifty fails, once
			all[i].last, all[i].failed, ends[i] = now, failed, now.Add(takes)
			begun[i] = append(begun[i], now)
			perDay[int(now.Sub(begin)/(24*time.Hour))]++
		}
		together := 0
		for server, n := range running {
			if together += n; n > 1 {
				t.Fatalf("at %s: %d drills on server %s", now, n, server)
			}
		}
		if together > 4 {
			t.Fatalf("at %s: %d drills", now, together)
		}
	}
	for i := range all {
		if first := begun[i][0].Sub(begin); first > 24*time.Hour {
			t.Errorf("site %d had its first drill after %s", i, first)
		}
		for n, at := range append(begun[i][1:], begin.Add(duration)) {
			if gap := at.Sub(begun[i][n]); gap > week {
				t.Errorf("site %d was not drilled for %s", i, gap)
			}
			if i%50 == 0 && n == 1 && at.Sub(begun[i][n]) > drillAgain+4*time.Hour {
				t.Errorf("site %d failed and was tried again after %s", i, at.Sub(begun[i][n]))
			}
		}
	}
	for day := 7; day < 21; day++ {
		if n, even := perDay[day], servers*perEach/6; n < even/2 || n > even*2 {
			t.Errorf("%d drills on day %d, where %d would be even", n, day, even)
		}
	}
}

// TestBeginDrills: sites have drills without anybody asking for it.
func TestBeginDrills(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		mails := &recorder{}
		w.config.Mails = mails
		// at begins what is due at a moment, on a server that is there, and says how many drills that were.
		at := func(now time.Time) int {
			t.Helper()
			before := w.count(t, `SELECT COUNT(*) FROM drills`)
			w.exec(t, `UPDATE server_links SET last_seen_at = $1`, db.Micros(now))
			must(t, w.beginDrills(t.Context(), now))
			return w.count(t, `SELECT COUNT(*) FROM drills`) - before
		}
		now := time.Now()
		if n := at(now.Add(firstDrill)); n != 0 {
			t.Errorf("%d drills of sites without a backup", n)
		}
		ready := w.one(t)
		if n := at(now.Add(-time.Second)); n != 0 {
			t.Errorf("%d drills before one is due", n)
		}
		t.Run("not of a server that is away, in another state or of a site in the trash", func(t *testing.T) {
			day := now.Add(firstDrill)
			must(t, w.beginDrills(t.Context(), day))
			if n := w.count(t, `SELECT COUNT(*) FROM drills`); n != 0 {
				t.Errorf("%d drills on a server that is away", n)
			}
			for change, back := range map[string]string{
				`UPDATE servers SET state = 'quarantined'`: `UPDATE servers SET state = 'active'`,
				`UPDATE sites SET phase = 'trashed'`:       `UPDATE sites SET phase = 'active'`,
			} {
				w.exec(t, change)
				if n := at(day); n != 0 {
					t.Errorf("%s: %d drills", change, n)
				}
				w.exec(t, back)
			}
		})
		t.Run("not at all where that is turned off", func(t *testing.T) {
			w.config.DrillEvery = 0
			defer func() { w.config.DrillEvery = week }()
			if n := at(now.Add(firstDrill)); n != 0 {
				t.Errorf("%d drills", n)
			}
		})
		t.Run("of the newest backup, once", func(t *testing.T) {
			newest := w.one(t)
			if n := at(now.Add(firstDrill)) + at(now.Add(firstDrill)); n != 1 {
				t.Fatalf("%d drills", n)
			}
			if d := w.drills(t)[0]; d.Backup != newest.ID || d.Backup == ready.ID {
				t.Errorf("drilled %+v", d)
			}
			w.work(t, well)
			if n := at(now.Add(week/14 - time.Hour)); n != 0 {
				t.Errorf("%d drills too early", n)
			}
			if n := at(now.Add(week)); n != 1 {
				t.Errorf("%d drills a week later", n)
			}
		})
		t.Run("of one site on a server at a time", func(t *testing.T) {
			_, err := w.Create(t.Context(), w.theirs, w.theirSite)
			must(t, err)
			w.work(t, well)
			w.settled(t, time.Now())
			_, err = w.Drill(t.Context(), w.ours, w.site, ready.ID)
			must(t, err)
			if n := at(now.Add(week)); n != 0 {
				t.Errorf("%d drills beside one that runs", n)
			}
			if err := w.beginDrill(t.Context(), drillable{organization: w.theirs, site: w.theirSite, server: w.server}); !errors.Is(err, errNoRoom) {
				t.Errorf("another process: %v", err)
			}
			w.work(t, badly)
			if n := at(now.Add(firstDrill)); n != 1 {
				t.Errorf("%d drills after it", n)
			}
			w.work(t, well)
		})
		t.Run("one that failed the next day, though others cannot begin", func(t *testing.T) {
			w.exec(t, `DELETE FROM drills`)
			w.drilled(t, ready, badly)
			w.exec(t, `UPDATE drills SET created_at = created_at - $1`, time.Hour.Microseconds())
			_, err := w.Create(t.Context(), w.theirs, w.theirSite) // which keeps it from a drill, and is due before
			must(t, err)
			if n := at(now.Add(drillAgain - 2*time.Hour)); n != 0 {
				t.Errorf("%d drills too early", n)
			}
			if n := at(now.Add(drillAgain)); n != 1 || w.drills(t)[0].State != Drilling {
				t.Errorf("%d drills", n)
			}
			w.work(t, well)
			w.settled(t, time.Now())
		})
		t.Run("though the clock was set back", func(t *testing.T) {
			w.exec(t, `DELETE FROM drills`)
			w.drilled(t, ready, well)
			w.exec(t, `UPDATE drills SET created_at = created_at + $1`, (365 * 24 * time.Hour).Microseconds())
			if n := at(now.Add(firstDrill)); n != 2 {
				w.work(t, well)
				if n += at(now.Add(firstDrill)); n != 2 {
					t.Errorf("%d drills", n)
				}
			}
			w.work(t, well)
		})
		t.Run("which fails where what is recorded is not signed", func(t *testing.T) {
			w.exec(t, `DELETE FROM drills`)
			w.exec(t, `DELETE FROM backups WHERE site_id = $1`, w.theirSite)
			w.exec(t, `UPDATE backups SET manifest = $1 WHERE id <> $2 AND site_id = $3`, ready.manifest, ready.ID, w.site)
			told := len(mails.told)
			if n := at(now.Add(firstDrill)); n != 1 {
				t.Fatalf("%d drills", n)
			}
			if d := w.drills(t)[0]; d.State != DrillFailed || d.Problem != ErrForged.Error() || d.TaskID != "" || len(mails.told) != told+1 || !strings.Contains(mails.told[told], "not signed") {
				t.Errorf("got %+v, told %v", d, mails.told[told:])
			}
			if n := at(now.Add(drillAgain - time.Hour)); n != 0 {
				t.Errorf("%d more at once", n)
			}
		})
	})
}
