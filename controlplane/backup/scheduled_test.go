package backup

import (
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// scheduled is what the host of a site says of a backup that was due a minute ago.
func scheduled() *linkv1.ReportBackupRequest {
	now := time.Now()
	id := contract.NewBackupIDAt(now.Add(-time.Minute))
	made := reportOf(id.String())
	made.StartTime, made.EndTime = timestamppb.New(now.Add(-time.Minute)), timestamppb.New(now)
	return &linkv1.ReportBackupRequest{BackupId: id.String(), DueTime: timestamppb.New(now.Add(-time.Minute)), Generation: 1, Report: made}
}

// toldOfNone is what it says when there is none.
func toldOfNone() *linkv1.ReportBackupRequest {
	r := scheduled()
	r.Report, r.Error = nil, "the disk is full"
	return r
}

func (w *world) reported(t *testing.T, r *linkv1.ReportBackupRequest) Backup {
	t.Helper()
	must(t, w.Reported(t.Context(), w.ours, w.site, r))
	id, err := contract.ParseBackupID(r.GetBackupId())
	must(t, err)
	return w.get(t, id)
}

func TestReported(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		t.Run("a backup that a host made by itself is checked and becomes READY", func(t *testing.T) {
			b := w.reported(t, scheduled())
			if b.State != Checking || b.Reason != Scheduled || b.TaskID != "" || time.Since(b.CreatedAt) > time.Minute {
				t.Fatalf("after the report: %+v", b)
			}
			w.settled(t, time.Now())
			if b = w.get(t, b.ID); b.State != Ready || b.Sequence != 1 {
				t.Fatalf("after the check: %+v", b)
			}
			m := w.manifest(t, b)
			if m.GetBackupId() != b.ID.String() || m.GetDesired().GetGeneration() != 1 || m.GetContents().GetFileCount() != 2 {
				t.Errorf("manifest %v", m)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action IN ('backup.create', 'backup.ready')`, b.ID); n != 2 {
				t.Errorf("%d audit events", n)
			}
		})
		t.Run("said again, also at once, it has no further effect", func(t *testing.T) {
			r := scheduled()
			before := w.count(t, `SELECT COUNT(*) FROM backups`)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					if err := w.Reported(t.Context(), w.ours, w.site, r); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			w.settled(t, time.Now())
			ready := w.reported(t, r)
			other := toldOfNone()
			other.BackupId = r.BackupId
			if again := w.reported(t, other); again.State != Ready || again.Sequence != ready.Sequence || again.Problem != "" {
				t.Errorf("G13: after another report of it: %+v", again)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM backups`) - before; n != 1 {
				t.Errorf("%d rows", n)
			}
		})
		t.Run("one that failed is FAILED, with the host's words", func(t *testing.T) {
			r := toldOfNone()
			b := w.reported(t, r)
			if b.State != Failed || b.Problem != "the disk is full" || b.Reason != Scheduled || b.Report != nil {
				t.Errorf("got %+v", b)
			}
			w.reported(t, r)
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action = 'backup.fail'`, b.ID); n != 1 {
				t.Errorf("%d audit events", n)
			}
		})
		t.Run("one whose report is none is FAILED", func(t *testing.T) {
			r := scheduled()
			r.Report.Contents.FilesSnapshot = "latest"
			if b := w.reported(t, r); b.State != Failed || b.Problem == "" {
				t.Errorf("got %+v", b)
			}
		})
		t.Run("it waits for what is under way at the site, which a failure need not", func(t *testing.T) {
			ordered := w.create(t)
			r := scheduled()
			if err := w.Reported(t.Context(), w.ours, w.site, r); !errors.Is(err, ErrUnderWay) {
				t.Errorf("while one runs: %v", err)
			}
			w.reported(t, toldOfNone())
			w.work(t, with(func(made *backupv1.Report) { made.StartTime, made.EndTime = timestamppb.Now(), timestamppb.Now() }))
			if err := w.Reported(t.Context(), w.ours, w.site, r); !errors.Is(err, ErrUnderWay) {
				t.Errorf("while one is checked: %v", err)
			}
			w.settled(t, time.Now())
			if b := w.get(t, ordered.ID); b.State != Ready {
				t.Fatalf("the other one is %+v", b)
			}
			_, err := w.Restore(t.Context(), w.ours, w.site, ordered.ID, Parts{WithoutBackup: true})
			must(t, err)
			if err := w.Reported(t.Context(), w.ours, w.site, r); !errors.Is(err, ErrRestoring) {
				t.Errorf("while one is restored: %v", err)
			}
			w.work(t, well)
			w.reported(t, r)
			if _, err := w.Create(t.Context(), w.ours, w.site); !errors.Is(err, ErrUnderWay) {
				t.Errorf("an order while it is checked: %v", err)
			}
			w.settled(t, time.Now())
		})
		t.Run("G13: no id, and no time, of another one", func(t *testing.T) {
			ordered := w.one(t)
			theirs := scheduled()
			must(t, w.Reported(t.Context(), w.theirs, w.theirSite, theirs))
			before := w.count(t, `SELECT COUNT(*) FROM backups`)
			for name, change := range map[string]func(*linkv1.ReportBackupRequest){
				"backup_id: must not be that of another backup": func(r *linkv1.ReportBackupRequest) {
					r.BackupId = theirs.BackupId
					r.Report.BackupId = theirs.BackupId
				},
				"report: must not be of a backup that was begun long before the site's newest one": func(r *linkv1.ReportBackupRequest) {
					old := time.Now().Add(-30 * 24 * time.Hour)
					id := contract.NewBackupIDAt(old).String()
					r.BackupId, r.Report.BackupId = id, id
					r.DueTime, r.Report.StartTime, r.Report.EndTime = timestamppb.New(old), timestamppb.New(old), timestamppb.New(old)
				},
			} {
				w.exec(t, `UPDATE backups SET report = $2 WHERE id = $1`, ordered.ID, newestOf(t, ordered))
				r := scheduled()
				change(r)
				if err := w.Reported(t.Context(), w.ours, w.site, r); fault.KindOf(err) != fault.KindInvalid || faultText(err) != name {
					t.Errorf("want %q, got %v", name, err)
				}
			}
			r := toldOfNone()
			r.BackupId = ordered.ID.String()
			if err := w.Reported(t.Context(), w.ours, w.site, r); faultText(err) != "backup_id: must not be that of another backup" {
				t.Errorf("the id of an ordered one: %v", err)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM backups`); n != before {
				t.Errorf("%d rows, want %d", n, before)
			}
			if b := w.get(t, ordered.ID); b.State != Ready || b.Problem != "" || b.Reason != Requested {
				t.Errorf("the ordered one is %+v", b)
			}
		})
		t.Run("a host whose clock was ahead when one was ordered is not silenced by that", func(t *testing.T) {
			ordered := w.create(t)
			ahead := time.Now().Add(48 * time.Hour)
			w.work(t, with(func(r *backupv1.Report) { r.StartTime, r.EndTime = timestamppb.New(ahead), timestamppb.New(ahead) }))
			w.settled(t, time.Now())
			if b := w.get(t, ordered.ID); b.State != Ready {
				t.Fatalf("the ordered one is %+v", b)
			}
			r := scheduled()
			r.Report.StartTime, r.Report.EndTime = timestamppb.Now(), timestamppb.Now()
			w.reported(t, r)
			w.settled(t, time.Now())
		})
		t.Run("of a generation that the site never had", func(t *testing.T) {
			for _, g := range []uint64{0, 99} {
				r := scheduled()
				r.Generation = g
				if err := w.Reported(t.Context(), w.ours, w.site, r); faultText(err) != "generation: must be one that the site has or had" {
					t.Errorf("%d: %v", g, err)
				}
			}
		})
		t.Run("a site that is not there, or another organization's", func(t *testing.T) {
			for name, err := range map[string]error{
				"gone":     w.Reported(t.Context(), w.ours, contract.NewSiteID(), scheduled()),
				"theirs":   w.Reported(t.Context(), w.ours, w.theirSite, scheduled()),
				"of other": w.Reported(t.Context(), w.theirs, w.site, scheduled()),
			} {
				if !errors.Is(err, site.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		t.Run("a control plane that keeps no backups", func(t *testing.T) {
			w.config.Off = "no store"
			defer func() { w.config.Off = "" }()
			if err := w.Reported(t.Context(), w.ours, w.site, scheduled()); fault.KindOf(err) != fault.KindNotFound {
				t.Errorf("got %v", err)
			}
		})
		t.Run("more than a schedule can bring is refused for a while", func(t *testing.T) {
			var err error
			taken := 0
			for ; err == nil && taken < 2*maxReports; taken++ {
				err = w.Reported(t.Context(), w.ours, w.site, toldOfNone())
			}
			if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindLimited || f.RetryAfter() <= 0 {
				t.Errorf("after %d: %v", taken, err)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM backups WHERE site_id = $1 AND reason = 'scheduled'`, w.site); n != maxReports {
				t.Errorf("%d rows", n)
			}
			w.exec(t, `UPDATE backups SET created_at = created_at - $1`, reportsWithin.Microseconds())
			w.reported(t, toldOfNone())
		})
	})
}

// newestOf is the report of a backup as if it had been made now.
func newestOf(t *testing.T, b Backup) []byte {
	t.Helper()
	r := scheduled().GetReport()
	r.BackupId = b.ID.String()
	text, err := proto.Marshal(r)
	must(t, err)
	return text
}

func faultText(err error) string {
	if f, ok := fault.Of(err); ok {
		return f.Error()
	}
	return ""
}

func TestClaims(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	if _, err := claims(scheduled(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := claims(toldOfNone(), now); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		field  string
		change func(*linkv1.ReportBackupRequest)
	}{
		"no id":                  {"backup_id", func(r *linkv1.ReportBackupRequest) { r.BackupId = "" }},
		"an id without a time":   {"backup_id", func(r *linkv1.ReportBackupRequest) { r.BackupId = "6f1f5e5e-7f5e-4f55-8a44-3d9d8a6f3b11" }},
		"an id of the future":    {"backup_id", func(r *linkv1.ReportBackupRequest) { r.BackupId = contract.NewBackupIDAt(now.Add(time.Hour)).String() }},
		"an id of before":        {"backup_id", func(r *linkv1.ReportBackupRequest) { r.BackupId = contract.NewBackupIDAt(now.Add(-time.Hour)).String() }},
		"neither":                {"error", func(r *linkv1.ReportBackupRequest) { r.Report = nil }},
		"both":                   {"error", func(r *linkv1.ReportBackupRequest) { r.Error = "no" }},
		"no due time":            {"due_time", func(r *linkv1.ReportBackupRequest) { r.DueTime = nil }},
		"due in the future":      {"due_time", func(r *linkv1.ReportBackupRequest) { r.DueTime = at(time.Hour) }},
		"due long ago":           {"due_time", func(r *linkv1.ReportBackupRequest) { r.DueTime = at(-63 * 24 * time.Hour) }},
		"begun before it is due": {"report", func(r *linkv1.ReportBackupRequest) { r.Report.StartTime = at(-time.Hour) }},
		"ended in the future":    {"report", func(r *linkv1.ReportBackupRequest) { r.Report.EndTime = at(time.Hour) }},
	} {
		r := scheduled()
		c.change(r)
		_, err := claims(r, now)
		if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != c.field {
			t.Errorf("%s: %v", name, err)
		}
	}
}
