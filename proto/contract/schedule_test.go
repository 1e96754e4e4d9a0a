package contract_test

import (
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func TestLastDue(t *testing.T) {
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, test := range []struct {
		now              string
		interval, offset time.Duration
		want             string
	}{
		{"2026-11-26T12:00:00Z", time.Hour, 0, "2026-11-26T13:00:00Z"},
		{"2026-11-26T12:00:01Z", time.Hour, 0, "2026-11-26T13:00:00Z"},
		{"2026-11-26T12:10:00Z", time.Hour, 17 * time.Minute, "2026-11-26T12:17:00Z"},
		{"2026-11-26T12:17:00Z", time.Hour, 17 * time.Minute, "2026-11-26T13:17:00Z"},
		{"2026-11-26T14:10:00+02:00", 24 * time.Hour, 3 * time.Hour, "2026-11-27T03:00:00Z"},
		{"1970-01-01T00:00:00Z", 24 * time.Hour, 3 * time.Hour, "1970-01-01T03:00:00Z"},
		{"2026-11-26T12:00:00Z", 7 * 24 * time.Hour, 0, "2026-12-03T00:00:00Z"}, // the epoch was a Thursday
	} {
		if got := contract.LastDue(at(test.now), test.interval, test.offset).Add(test.interval); got.Format(time.RFC3339) != test.want {
			t.Errorf("after %s comes %s, want %s", test.now, got.Format(time.RFC3339), test.want)
		}
	}
}
