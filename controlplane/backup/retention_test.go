package backup

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
)

func TestExpired(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC) // a Thursday
	at := func(text string) time.Time {
		when, err := time.Parse("2006-01-02 15:04", text)
		must(t, err)
		return when
	}
	for name, test := range map[string]struct {
		retention Retention
		all       string // oldest first; ! is needed
		gone      string
	}{
		"nothing of nothing":                  {Retention{Daily: 1}, "", ""},
		"the newest stays, though it is old":  {Retention{}, "2020-01-01 00:00", ""},
		"all of a day stay":                   {Retention{}, "2026-11-25 12:01, 2026-11-25 13:00, 2026-11-26 11:00", ""},
		"what is a day old does not":          {Retention{}, "2026-11-25 12:00, 2026-11-26 11:00", "2026-11-25 12:00"},
		"the newest of each hour":             {Retention{Hourly: 3}, "2026-11-20 10:00, 2026-11-20 11:01, 2026-11-20 12:01, 2026-11-20 12:59, 2026-11-20 13:00", "2026-11-20 10:00, 2026-11-20 12:01"},
		"days that have none do not count":    {Retention{Daily: 3}, "2026-01-01 01:00, 2026-01-02 02:00, 2026-05-01 01:00, 2026-09-01 01:00", "2026-01-01 01:00"},
		"a day is one in UTC":                 {Retention{Daily: 9}, "2026-11-01 23:58, 2026-11-01 23:59, 2026-11-02 00:00", "2026-11-01 23:58"},
		"a week is one of ISO 8601":           {Retention{Weekly: 9}, "2024-12-29 10:00, 2024-12-30 10:00, 2025-01-05 10:00, 2025-01-06 10:00", "2024-12-30 10:00"},
		"the same month of two years are two": {Retention{Monthly: 9}, "2024-05-01 10:00, 2025-05-01 10:00, 2025-05-31 10:00", "2025-05-01 10:00"},
		"one keeps what another does not":     {Retention{Daily: 1, Monthly: 2}, "2026-09-01 10:00, 2026-10-01 10:00, 2026-10-31 10:00, 2026-11-01 10:00", "2026-09-01 10:00, 2026-10-01 10:00"},
		"what is needed stays":                {Retention{Daily: 1}, "2026-01-01 10:00, 2026-01-02 10:00!, 2026-01-03 10:00", "2026-01-01 10:00"},
	} {
		t.Run(name, func(t *testing.T) {
			var all []aged
			words := map[contract.BackupID]string{}
			for text := range strings.SplitSeq(test.all, ", ") {
				if text == "" {
					continue
				}
				text, needed := strings.CutSuffix(text, "!")
				a := aged{ID: contract.NewBackupID(), Sequence: uint64(len(all) + 1), At: at(text), Checked: at(text), Needed: needed}
				all, words[a.ID] = append(all, a), text
			}
			var gone []string
			for _, id := range expired(now, all, test.retention) {
				gone = append(gone, words[id])
			}
			if got := strings.Join(gone, ", "); got != test.gone {
				t.Errorf("gone are %s", got)
			}
		})
	}
	t.Run("a host whose clock is ahead or behind takes no other backup's place", func(t *testing.T) {
		good := aged{ID: contract.NewBackupID(), Sequence: 1, At: now.Add(-40 * time.Hour), Checked: now.Add(-40 * time.Hour)}
		ahead := aged{ID: contract.NewBackupID(), Sequence: 2, At: now.Add(9999 * time.Hour), Checked: now.Add(-39 * time.Hour)}
		behind := aged{ID: contract.NewBackupID(), Sequence: 3, At: time.Unix(0, 0), Checked: now.Add(-38 * time.Hour)}
		if ahead.shows() != ahead.Checked {
			t.Errorf("it shows %s", ahead.shows())
		}
		if gone := expired(now, []aged{good, ahead, behind}, Retention{}); !slices.Equal(gone, []contract.BackupID{good.ID, ahead.ID}) {
			t.Errorf("gone are %v", gone)
		}
	})
}

// history is some backups of a site, the oldest first.
func history(r *rand.Rand, now time.Time) []aged {
	at := now.Add(-time.Duration(r.Int64N(int64(3 * 365 * 24 * time.Hour))))
	var all []aged
	for at.Before(now) && len(all) < 200 {
		all = append(all, aged{ID: contract.NewBackupID(), Sequence: uint64(len(all) + 1), At: at.Add(-time.Duration(r.Int64N(int64(time.Hour)))), Checked: at, Needed: r.IntN(30) == 0})
		at = at.Add(time.Minute + time.Duration(r.Int64N(int64(time.Hour)<<r.IntN(10))))
	}
	return all
}

// TestExpiredAlways lets random sites live, and holds what is true of each of them.
func TestExpiredAlways(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	some := func() uint32 { return uint32(r.IntN(2) * r.IntN(20)) }
	for range 500 {
		now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC).Add(time.Duration(r.Int64N(int64(1000 * time.Hour))))
		all := history(r, now)
		kept := Retention{some(), some(), some(), some()}
		gone := expired(now, all, kept)
		left := slices.DeleteFunc(slices.Clone(all), func(a aged) bool { return slices.Contains(gone, a.ID) })
		for i, a := range all {
			if slices.Contains(gone, a.ID) && (i == len(all)-1 || a.Needed || now.Sub(a.Checked) < youngFor) {
				t.Fatalf("seed %d: %+v is taken of %d", seed, a, len(all))
			}
		}
		if again := expired(now, left, kept); len(again) > 0 {
			t.Fatalf("seed %d: what was kept is taken then: %v", seed, again)
		}
		more := kept
		more.Daily, more.Monthly = more.Daily+uint32(r.IntN(9)), more.Monthly+uint32(r.IntN(9))
		for _, id := range expired(now, all, more) {
			if !slices.Contains(gone, id) {
				t.Fatalf("seed %d: who keeps more loses %s", seed, id)
			}
		}
		// Time goes on and there are newer ones: nothing comes back.
		later := now
		for range r.IntN(40) {
			later = later.Add(time.Duration(r.Int64N(int64(50 * time.Hour))))
			all = append(all, aged{ID: contract.NewBackupID(), Sequence: uint64(len(all) + 1), At: later, Checked: later})
		}
		then := expired(later, all, kept)
		for _, id := range gone {
			if !slices.Contains(then, id) {
				t.Fatalf("seed %d: %s is kept later", seed, id)
			}
		}
	}
}

// TestExpiredAsRestic compares with what restic would forget of the same history. It keeps the oldest one besides, where a rule is
// not used up.
func TestExpiredAsRestic(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o600))
	restic := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("/usr/bin/restic", append([]string{"--no-cache", "--json", "--repo=" + filepath.Join(dir, "r")}, args...)...)
		cmd.Dir, cmd.Env = dir, []string{"RESTIC_PASSWORD=the key", "TZ=UTC"}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("restic %v: %v\n%s", args, err, out)
		}
		return out
	}
	restic("init")
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(1, 2))
	var all []aged
	for at := now.Add(-900 * time.Hour); len(all) < 14; at = at.Add(time.Minute + time.Duration(r.Int64N(int64(30*time.Hour)))) {
		at = at.Truncate(time.Second)
		restic("backup", "a", "--time", at.Format(time.DateTime))
		all = append(all, aged{ID: contract.NewBackupID(), Sequence: uint64(len(all) + 1), At: at, Checked: at})
	}
	for _, kept := range []Retention{{Hourly: 3, Daily: 2}, {Daily: 5}, {Daily: 4, Weekly: 2}, {Hourly: 2, Weekly: 3, Monthly: 1}, {Daily: 7, Weekly: 5, Monthly: 12}} {
		var groups []struct {
			Remove []struct{ Time time.Time }
		}
		must(t, json.Unmarshal(restic("forget", "--dry-run", "--keep-hourly", fmt.Sprint(kept.Hourly), "--keep-daily", fmt.Sprint(kept.Daily),
			"--keep-weekly", fmt.Sprint(kept.Weekly), "--keep-monthly", fmt.Sprint(kept.Monthly)), &groups))
		var theirs, ours []time.Time
		for _, s := range groups[0].Remove {
			theirs = append(theirs, s.Time.UTC())
		}
		for _, id := range expired(now.Add(9999*time.Hour), all, kept) {
			if id != all[0].ID {
				ours = append(ours, all[slices.IndexFunc(all, func(a aged) bool { return a.ID == id })].At)
			}
		}
		theirs = slices.DeleteFunc(theirs, func(t time.Time) bool { return t.Equal(all[0].At) })
		slices.SortFunc(theirs, time.Time.Compare)
		if !slices.EqualFunc(ours, theirs, time.Time.Equal) {
			t.Errorf("%+v: ours\n%v\nrestic's\n%v", kept, ours, theirs)
		}
	}
}
