package contract

import "time"

// LastDue is the newest moment of a chom.site.v1.BackupSchedule that is not after now: one that lies offset after a multiple of
// interval since 1970-01-01T00:00:00Z. The next one is an interval later. Interval is above zero.
func LastDue(now time.Time, interval, offset time.Duration) time.Time {
	past := (now.Sub(time.Unix(0, 0)) - offset) % interval
	if past < 0 {
		past += interval
	}
	return now.Add(-past).UTC().Round(0)
}
