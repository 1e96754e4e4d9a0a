package e2e

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	// firstWithin is how long a new site may take until it has its first backup: what agents spread first ones over, and the making.
	firstWithin = 6 * time.Minute
	interval    = 15 * time.Minute // the shortest that there is
)

// TestSchedule has hosts back up sites by themselves, with agents that end in the
// middle and, in the long form, through the next moment of the schedule.
func TestSchedule(t *testing.T) {
	policy, err := world.rig.Policies.CreatePolicy(t.Context(), &backupv1.CreatePolicyRequest{
		OrganizationId: world.org, Name: "often", Interval: durationpb.New(interval),
	})
	if err != nil {
		t.Fatal(err)
	}
	onBoth(t, func(t *testing.T, h *host) {
		req := newSite(h, "wordpress")
		req.BackupPolicyId = policy.GetPolicy().GetId()
		ctx := timeout(t, firstWithin)
		made, err := world.rig.Sites.CreateSite(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		done(t, ctx, made.GetTask())
		s := get(t, made.GetSite())
		first := scheduled(t, s, firstWithin, nil)
		if c := first.GetContents(); c.GetFileCount() == 0 || len(c.GetTables()) < 10 || first.GetTaskId() != "" {
			t.Errorf("the first is %v", first)
		}
		again := backUp(t, s) // an order is not kept waiting, and both have their numbers
		if again.GetSequence() <= first.GetSequence() {
			t.Errorf("numbers %d and %d", first.GetSequence(), again.GetSequence())
		}
		if proving {
			sh(t, h, "systemctl restart chom-agent")
			second := scheduled(t, s, interval+firstWithin, first)
			if apart := second.GetStartTime().AsTime().Sub(first.GetStartTime().AsTime()); apart > interval+firstWithin {
				t.Errorf("the second came %s after the first", apart)
			}
			restoreFrom(t, s, second)
			shows(t, h, s, 200, s.GetSettings()["title"])
		}
		purge(t, h, s)
	})
}

// scheduled waits for the backup that a host makes by itself after another one.
func scheduled(t *testing.T, s *sitev1.Site, within time.Duration, after *backupv1.Backup) *backupv1.Backup {
	t.Helper()
	for ctx := timeout(t, within); ; time.Sleep(2 * time.Second) {
		res, err := world.rig.Backups.ListBackups(ctx, &backupv1.ListBackupsRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range res.GetBackups() {
			if b.GetReason() == backupv1.Reason_REASON_SCHEDULED && b.GetId() > after.GetId() {
				return ready(t, ctx, b)
			}
		}
	}
}
