package site

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/backup"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestBackupPlan(t *testing.T) {
	backups, err := backup.New(backup.Config{Dir: t.TempDir(), RunDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(nil, nil, nil, nil, nil, backups, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	id := contract.NewBackupID()
	order := func(phase sitev1.Phase, converged uint64) task.Order {
		h := contract.NewHandle()
		return task.Order{
			Kind: task.BackupSite, Timeout: time.Minute,
			Site: task.Site{ID: contract.NewSiteID(), Handle: h, UID: 200000, Converged: converged, Desired: &sitev1.DesiredState{
				Handle: h.String(), Phase: phase, Type: "static", Domains: []string{"a.example"},
			}},
			Message: &orderv1.Order{Kind: &orderv1.Order_BackupSite{BackupSite: &orderv1.BackupSite{Handle: h.String(), BackupId: id.String()}}},
		}
	}
	// ACTIVE needs the site type's plugin, which only a host has.
	for _, phase := range []sitev1.Phase{sitev1.Phase_PHASE_SUSPENDED, sitev1.Phase_PHASE_TRASHED} {
		o := order(phase, 3)
		plan, err := s.Backup().Plan(o)
		if err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		var names []string
		for _, step := range plan.Steps {
			names = append(names, step.Name)
		}
		if got := strings.Join(names, " "); got != "repository contents" {
			t.Errorf("%s: steps are %s", phase, got)
		}
		if err := plan.Report(new(orderv1.Result)); err == nil {
			t.Error("a backup is reported that is not there")
		}
		made := backup.State{
			Title: "Home",
			Contents: &backup.Contents{Start: time.Unix(1, 0), End: time.Unix(2, 0), Files: backup.Snapshot{ID: strings.Repeat("a", 64), Added: 3},
				Database: &backup.Dumped{Snapshot: backup.Snapshot{ID: strings.Repeat("b", 64), Added: 4}, Bytes: 9, Tables: []backup.Table{{Name: "t", Rows: 1}}}},
		}
		if err := backups.Keep(o.Site.Handle, id, made); err != nil {
			t.Fatal(err)
		}
		var r orderv1.Result
		if err := plan.Report(&r); err != nil {
			t.Fatal(err)
		}
		c := r.GetBackup().GetContents()
		if r.Backup.GetBackupId() != id.String() || r.Backup.GetAddedBytes() != 7 || c.GetPageTitle() != "Home" ||
			c.GetFilesSnapshot() != made.Contents.Files.ID || c.GetDatabaseSnapshot() != made.Contents.Database.ID || len(c.GetTables()) != 1 {
			t.Errorf("reported is %v", &r)
		}
	}
	for name, o := range map[string]task.Order{
		"a site that is to go":          order(sitev1.Phase_PHASE_ABSENT, 3),
		"a site that was never made":    order(sitev1.Phase_PHASE_SUSPENDED, 0),
		"a site that the host has lost": {Message: order(sitev1.Phase_PHASE_SUSPENDED, 3).Message},
		"an order without a backup":     {Site: order(sitev1.Phase_PHASE_SUSPENDED, 3).Site, Message: new(orderv1.Order)},
	} {
		if _, err := s.Backup().Plan(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestForemost(t *testing.T) {
	files, database := backup.Progress{What: "files", Done: 5, Total: 10}, backup.Progress{What: "database", Done: 7}
	done := backup.Progress{What: "files", Done: 10, Total: 10}
	larger := backup.Progress{What: "database", Done: 1, Total: 100}
	for name, c := range map[string]struct{ files, database, want backup.Progress }{
		"what has an end in sight":            {files, database, files},
		"what is left once that is over":      {done, database, database},
		"of two that have, what takes longer": {files, larger, larger},
	} {
		all := map[string]backup.Progress{"files": c.files, "database": c.database}
		if got := foremost(all, c.database); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
