package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Schedule says when a site's host makes backups of it by itself, as its organization's policies are now. It is for site.Config, and
// nil where no backups are made.
func (b *Backups) Schedule() func(ctx context.Context, tx *db.Tx, of *site.Site) (site.Schedule, error) {
	if b.config.Off != "" {
		return nil
	}
	return func(ctx context.Context, tx *db.Tx, of *site.Site) (site.Schedule, error) {
		policy, err := b.policyOf(ctx, tx, of)
		if err != nil || policy.Interval == 0 {
			return site.Schedule{}, err
		}
		return site.Schedule{Interval: policy.Interval, Offset: offset(of.ID, policy.Interval)}, nil
	}
}

// ScheduleRevision is another one when the platform's own policy is; it is for site.Config.
func (b *Backups) ScheduleRevision() int64 { return int64(b.config.Every/time.Second) << 32 }

const (
	day = 24 * time.Hour
	// night is when sites have the fewest visitors, from midnight in UTC, and is long enough for a host's to take turns.
	night = 6 * time.Hour
)

// offset is when in an interval a site has its turn: any second, all alike likely, and always the same one for the same interval. Of
// intervals of a day and more it is in the night of one of their days.
func offset(id contract.SiteID, interval time.Duration) time.Duration {
	sum := sha256.Sum256([]byte(id.String()))
	one := func(from []byte, of time.Duration) time.Duration {
		return time.Duration(binary.BigEndian.Uint64(from) % uint64(of))
	}
	if interval < day {
		return one(sum[:8], interval/time.Second) * time.Second
	}
	return one(sum[8:16], interval/day)*day + one(sum[:8], night/time.Second)*time.Second
}
