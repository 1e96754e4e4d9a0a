package backup

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// warned decides about all sites at a moment, twice, and gives what was mailed.
func (w *world) warned(t *testing.T, now time.Time) (mails []string) {
	t.Helper()
	for range 2 {
		w.exec(t, `UPDATE backup_alarms SET decide_at = 0`)
		more, err := w.warn(t.Context(), now)
		must(t, err)
		if more {
			t.Error("more are waiting")
		}
	}
	return w.mailed(t)
}

// mailed gives what was mailed since it was asked for at last.
func (w *world) mailed(t *testing.T) (mails []string) {
	t.Helper()
	rows, err := w.db.Reader().Query(t.Context(), `SELECT m.template || ' ' || m.recipient FROM mails m JOIN outbox o ON o.id = m.id ORDER BY o.id`)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var one string
		must(t, rows.Scan(&one))
		mails = append(mails, one)
	}
	must(t, rows.Err())
	all := mails[w.mailsRead:]
	w.mailsRead = len(mails)
	return all
}

func TestWarn(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.exec(t, `UPDATE sites SET phase = 'suspended' WHERE id = $1`, w.theirSite)
		now := time.Now()
		w.exec(t, `
			INSERT INTO webhooks (organization_id, id, url, description, events, enabled, problem, sealed_secret, created_at, updated_at)
			VALUES ($1, $2, 'https://hooks.example.com', '', '', TRUE, '', $3, 1, 1)`, w.ours, contract.NewSiteID(), []byte{0})
		expect := func(what string, at time.Time, want ...string) {
			t.Helper()
			if got := w.warned(t, at); !slices.Equal(got, want) {
				t.Errorf("%s: mailed %v, want %v", what, got, want)
			}
		}
		expect("a new site", now)
		w.create(t)
		w.work(t, func(o *orderv1.Order) *orderv1.Result { return badly(o) })
		expect("a backup failed", now.Add(time.Hour), "backup_failing acme@example.com")
		w.create(t)
		w.work(t, func(o *orderv1.Order) *orderv1.Result { return badly(o) })
		expect("the next failed", now.Add(2*time.Hour))
		status, err := w.StatusOf(t.Context(), w.ours, w.site)
		must(t, err)
		if status.Last != nil || status.Failure == nil || !strings.Contains(status.Problem, "the disk is full") {
			t.Errorf("status %+v", status)
		}
		expect("none for 26 hours", now.Add(26*time.Hour), "backup_overdue acme@example.com")
		if n := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE type = $1`, string(webhook.BackupOverdue)); n != 1 {
			t.Errorf("%d events", n)
		}
		must(t, w.gauges.count(t.Context(), w.db.Reader()))
		if n := testutil.ToFloat64(w.gauges.sites.WithLabelValues("overdue")); n != 1 {
			t.Errorf("%v sites are overdue", n)
		}
		b := w.one(t)
		w.exec(t, `UPDATE backups SET checked_at = $2 WHERE id = $1`, b.ID, db.Micros(now.Add(27*time.Hour)))
		expect("a good one", now.Add(27*time.Hour), "backup_well acme@example.com")
		status, err = w.StatusOf(t.Context(), w.ours, w.site)
		must(t, err)
		if status.Last == nil || status.Last.ID != b.ID || status.Failure != nil || status.Problem != "" || status.Bytes != 1234 || status.Policy.Interval != 24*time.Hour {
			t.Errorf("status %+v", status)
		}
		expect("all is well", now.Add(30*time.Hour))
		w.exec(t, `UPDATE sites SET phase = 'suspended'`)
		expect("a site that nobody is to be served with", now.Add(99*time.Hour))
		if _, err := w.StatusOf(t.Context(), w.theirs, w.site); err == nil {
			t.Error("another organization's site has a status")
		}
	})
}

func TestVerify(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.one(t)
		now := time.Now()
		verified := func() time.Time {
			t.Helper()
			status, err := w.StatusOf(t.Context(), w.ours, w.site)
			must(t, err)
			return status.VerifiedAt
		}
		for day := range parts {
			if !verified().IsZero() {
				t.Fatalf("after %d days all is read", day)
			}
			w.keeps(t, now)
		}
		if first, last := w.stored.verified[0], w.stored.verified[parts-1]; first != "1/30" || last != "30/30" || len(w.stored.verified) != parts {
			t.Errorf("read were %v", w.stored.verified)
		}
		if !verified().Equal(db.Time(db.Micros(now))) {
			t.Errorf("verified at %s", verified())
		}
		w.warned(t, now)
		w.stored.verifyErr = ErrDamaged
		w.keeps(t, now)
		if got := w.warned(t, now); !slices.Equal(got, []string{"backup_damaged acme@example.com"}) {
			t.Errorf("mailed %v", got)
		}
		status, err := w.StatusOf(t.Context(), w.ours, w.site)
		must(t, err)
		if !strings.Contains(status.Problem, "damaged") || w.Admit(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Data, 1) != nil {
			t.Errorf("status %+v", status)
		}
		w.stored.verified, w.stored.verifyErr = nil, nil
		w.keeps(t, now)
		if !slices.Equal(w.stored.verified, []string{"1/1"}) {
			t.Errorf("of a damaged one was read %v", w.stored.verified)
		}
		if got := w.warned(t, now); !slices.Equal(got, []string{"backup_well acme@example.com"}) {
			t.Errorf("repaired, mailed %v", got)
		}
		// What a host writes meanwhile looks like damage, once.
		w.stored.verified, w.stored.once = nil, ErrDamaged
		w.keeps(t, now)
		if n := w.count(t, `SELECT COUNT(*) FROM repositories WHERE damaged_at IS NOT NULL`); n != 0 || len(w.stored.verified) != 2 {
			t.Errorf("%d damaged, read were %v", n, w.stored.verified)
		}
	})
}
