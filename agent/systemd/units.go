package systemd

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// SitesMount is the unit that keeps /srv/chom mounted nosuid and nodev: a bind
// mount of the directory onto itself, so it needs no file system of its own.
const SitesMount = "srv-chom.mount"

// MountUnit describes SitesMount. Enable it for local-fs.target.
func MountUnit() Unit {
	return Unit{Name: SitesMount, Sections: []Section{
		{"Unit", []run.Property{
			{Key: "Description", Value: "Sites of CHOM, without setuid files and devices"},
		}},
		{"Mount", []run.Property{
			{Key: "What", Value: "/srv/chom"},
			{Key: "Where", Value: "/srv/chom"},
			{Key: "Type", Value: "none"},
			{Key: "Options", Value: "bind,nosuid,nodev"},
		}},
	}}
}

// Limits is what all processes of a site together may use. Zero values mean no
// limit of that kind.
type Limits struct {
	CPUPercent int               // of one core; 150 is one and a half
	Memory     contract.ByteSize // hard limit; reclaim starts at nine tenths of it
	Tasks      int               // processes and threads
	IOWeight   int               // 1 to 10000, 100 is the weight of everyone else
}

// SliceUnit describes the slice that holds every process of a site.
func SliceUnit(h contract.Handle, l Limits) Unit {
	s := []run.Property{
		{Key: "CPUAccounting", Value: "yes"},
		{Key: "MemoryAccounting", Value: "yes"},
		{Key: "TasksAccounting", Value: "yes"},
		{Key: "IOAccounting", Value: "yes"},
	}
	if l.CPUPercent > 0 {
		s = append(s, run.Property{Key: "CPUQuota", Value: strconv.Itoa(l.CPUPercent) + "%"})
	}
	if n := l.Memory.Bytes(); n > 0 {
		s = append(s,
			run.Property{Key: "MemoryHigh", Value: strconv.FormatInt(n-n/10, 10)},
			run.Property{Key: "MemoryMax", Value: strconv.FormatInt(n, 10)},
			run.Property{Key: "MemorySwapMax", Value: "0"}, // swapping slows the neighbours
		)
	}
	if l.Tasks > 0 {
		s = append(s, run.Property{Key: "TasksMax", Value: strconv.Itoa(l.Tasks)})
	}
	if l.IOWeight > 0 {
		s = append(s, run.Property{Key: "IOWeight", Value: strconv.Itoa(l.IOWeight)})
	}
	return Unit{Name: h.Slice(), Sections: []Section{
		{"Unit", []run.Property{{Key: "Description", Value: "Processes of site " + h.String()}}},
		{"Slice", s},
	}}
}

// Cron is what a site's timer runs, as the site's user, walled in.
type Cron struct {
	Handle contract.Handle
	Path   string // absolute program
	Args   []string
	Every  time.Duration // whole minutes that divide an hour, at least one
	Limit  time.Duration // a run that takes longer is ended; 0 is ten minutes
}

// Units gives the service and the timer. Enable the timer for timers.target.
func (c Cron) Units() (service, timer Unit, err error) {
	minutes := int(c.Every / time.Minute)
	if c.Every != time.Duration(minutes)*time.Minute || minutes < 1 || minutes > 60 || 60%minutes != 0 {
		return Unit{}, Unit{}, fmt.Errorf("cron of %s: %v is not a number of minutes that divides an hour", c.Handle, c.Every)
	}
	limit := c.Limit
	if limit == 0 {
		limit = 10 * time.Minute // an import may be slow; one that hangs must not block the next for long
	}
	user := c.Handle.UnixUser().String()
	service = Unit{Name: c.Handle.CronService(), Sections: []Section{
		{"Unit", []run.Property{
			{Key: "Description", Value: "Scheduled work of site " + c.Handle.String()},
			{Key: "RequiresMountsFor", Value: run.SitesDir},
		}},
		{"Service", slices.Concat([]run.Property{
			{Key: "Type", Value: "oneshot"},
			{Key: "ExecStart", Value: Argv(c.Path, c.Args...)},
			{Key: "User", Value: user},
			{Key: "Group", Value: user},
			{Key: "Slice", Value: c.Handle.Slice()},
			{Key: "WorkingDirectory", Value: run.SitesDir + "/" + c.Handle.String() + "/public"},
			{Key: "TimeoutStartSec", Value: strconv.Itoa(int(limit.Seconds()))},
			{Key: "TimeoutStopSec", Value: "5"},
			{Key: "Nice", Value: "5"},
			{Key: "LogRateLimitIntervalSec", Value: "60"},
			{Key: "LogRateLimitBurst", Value: "200"}, // a chatty plugin must not fill the journal
		}, run.SiteSandbox(c.Handle))},
	}}
	timer = Unit{Name: c.Handle.CronTimer(), Sections: []Section{
		{"Unit", []run.Property{{Key: "Description", Value: "Schedule of site " + c.Handle.String()}}},
		{"Timer", []run.Property{
			{Key: "OnCalendar", Value: "*:0/" + strconv.Itoa(minutes)},
			// Spread the sites of a host over the minute, each at its own
			// steady second.
			{Key: "RandomizedDelaySec", Value: "55"},
			{Key: "FixedRandomDelay", Value: "yes"},
			{Key: "AccuracySec", Value: "1"},
		}},
		{"Install", []run.Property{{Key: "WantedBy", Value: "timers.target"}}},
	}}
	return service, timer, nil
}
