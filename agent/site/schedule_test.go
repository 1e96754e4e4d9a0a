package site

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"chom.dev/agent/backup"
	"chom.dev/agent/clock"
	"chom.dev/agent/link"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestDue(t *testing.T) {
	day := schedule{24 * time.Hour, 2 * time.Hour} // at 02:00
	at := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02 15:04", "2026-"+text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	var none, never time.Time
	made := func(last string) backup.Schedule { return backup.Schedule{Last: at(last)} }
	begun := func(last time.Time, due, next string) backup.Schedule {
		b := &backup.Begun{Due: at(due)}
		if next != "" {
			b.Next = at(next)
		}
		return backup.Schedule{Last: last, Begun: b}
	}
	for name, c := range map[string]struct {
		now   string
		first time.Time
		s     schedule
		r     backup.Schedule
		want  time.Time
	}{
		"at the very moment":                         {"03-02 02:00", never, day, made("03-01 02:00"), at("03-02 02:00")},
		"before it":                                  {"03-02 01:59", never, day, made("03-01 02:00"), none},
		"made":                                       {"03-02 23:00", never, day, made("03-02 02:00"), none},
		"of ten that were missed, one":               {"03-11 13:00", never, day, made("03-01 02:00"), at("03-11 02:00")},
		"and that one is enough":                     {"03-11 13:30", never, day, made("03-11 02:00"), none},
		"the clock was set back a little":            {"03-02 01:50", never, day, made("03-02 02:00"), none},
		"the clock was set back by years":            {"03-02 13:00", never, day, backup.Schedule{Last: at("03-02 02:00").AddDate(9, 0, 0)}, at("03-02 02:00")},
		"never made one, and was just seen":          {"03-02 13:02", at("03-02 13:04"), day, backup.Schedule{}, none},
		"never made one, and was seen a while ago":   {"03-02 13:04", at("03-02 13:04"), day, backup.Schedule{}, at("03-02 13:04")},
		"never made one, as a moment goes by":        {"03-03 02:01", at("03-02 13:04"), day, backup.Schedule{}, at("03-03 02:00")},
		"never made one, and the clock went back":    {"03-02 13:00", at("03-09 13:04"), day, backup.Schedule{}, at("03-02 02:00")},
		"begun, and a former process ended":          {"03-02 02:30", never, day, begun(at("03-01 02:00"), "03-02 02:00", ""), at("03-02 02:00")},
		"failed, and rests":                          {"03-02 02:30", never, day, begun(at("03-01 02:00"), "03-02 02:00", "03-02 02:40"), none},
		"failed, and has rested":                     {"03-02 02:40", never, day, begun(at("03-01 02:00"), "03-02 02:00", "03-02 02:40"), at("03-02 02:00")},
		"rests for years, by a clock that was wrong": {"03-02 02:40", never, day, begun(at("03-01 02:00"), "03-02 02:00", "09-02 02:40"), at("03-02 02:00")},
		"failed until the next moment":               {"03-03 02:00", never, day, begun(at("03-01 02:00"), "03-02 02:00", "03-03 02:00"), at("03-03 02:00")},
		"a first one that was begun stays begun":     {"03-02 13:30", at("03-02 13:34"), day, begun(never, "03-02 13:04", ""), at("03-02 13:04")},
		"begun by a clock that was ahead":            {"03-02 13:30", never, day, begun(at("03-01 02:00"), "05-02 02:00", ""), at("03-02 02:00")},
		"begun, and the clock was set back a little": {"03-02 01:50", never, day, begun(at("03-01 02:00"), "03-02 02:00", ""), none},
		"every quarter of an hour":                   {"03-02 13:22", never, schedule{15 * time.Minute, 5 * time.Minute}, made("03-02 13:05"), at("03-02 13:20")},
		"a schedule that is denser than it was":      {"03-02 13:22", never, schedule{15 * time.Minute, 0}, made("03-02 02:00"), at("03-02 13:15")},
	} {
		if got := due(at(c.now), c.first, c.s, c.r); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := (schedule{24 * time.Hour, 2 * time.Hour}).before(time.Unix(0, 0)); !got.Equal(time.Unix(-22*3600, 0)) {
		t.Errorf("before the epoch: %s", got)
	}
}

func TestIdly(t *testing.T) {
	for _, c := range []struct {
		begun *backup.Begun
		want  bool
	}{
		{nil, false},
		{&backup.Begun{}, true},
		{&backup.Begun{Yielded: 3}, true},
		{&backup.Begun{Tries: 1}, false},
	} {
		if got := idly(backup.Schedule{Begun: c.begun}); got != c.want {
			t.Errorf("%+v: %v", c.begun, got)
		}
	}
}

func TestScheduleOf(t *testing.T) {
	for phase, want := range map[sitev1.Phase]bool{
		sitev1.Phase_PHASE_ACTIVE: true, sitev1.Phase_PHASE_SUSPENDED: true, sitev1.Phase_PHASE_TRASHED: false, sitev1.Phase_PHASE_ABSENT: false,
	} {
		s := scheduledSite(time.Hour, 0)
		s.Desired.Phase = phase
		if _, ok := scheduleOf(s); ok != want {
			t.Errorf("%s: %t", phase, ok)
		}
	}
	s := scheduledSite(time.Hour, 0)
	s.Converged = 0
	if _, ok := scheduleOf(s); ok {
		t.Error("a site that was never made")
	}
	s = scheduledSite(time.Hour, 0)
	s.Desired.BackupSchedule = nil
	if _, ok := scheduleOf(s); ok {
		t.Error("a site without a schedule")
	}
}

func scheduledSite(every, offset time.Duration) task.Site {
	h := contract.NewHandle()
	return task.Site{
		ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: h, UID: 200000, Converged: 7,
		Desired: &sitev1.DesiredState{
			Handle: h.String(), Phase: sitev1.Phase_PHASE_ACTIVE, Generation: 7,
			BackupSchedule: &sitev1.BackupSchedule{Interval: durationpb.New(every), Offset: durationpb.New(offset)},
		},
	}
}

// estate is a host with sites, its task engine and its control plane. Both are
// fakes, as is what makes a backup: those are tested with the packages that they are
// of. What is on disk is.
type estate struct {
	t       *testing.T
	dir     string
	clock   clock.Clock
	sites   []task.Site
	backups *backup.Manager
	keeper  *keeper
	stop    context.CancelFunc
	ended   chan error

	mu      sync.Mutex
	broken  error             // makes every backup fail
	takes   time.Duration     // a backup
	wanted  map[string]func() // has those that give way do so, by site
	ordered map[string]bool   // sites at which an order is carried out
	working map[string]int    // backups that are being made, by site
	most    int               // at the same time
	began   []contract.BackupID
	answer  func(*linkv1.ReportBackupRequest) error
	told    []*linkv1.ReportBackupRequest // taken in
	asked   int
}

// newEstate begins at noon, when nothing is due for half an hour.
func newEstate(t *testing.T, sites ...task.Site) *estate {
	e := &estate{t: t, dir: fastDir(t), sites: sites, takes: time.Minute, wanted: map[string]func(){}, working: map[string]int{}}
	e.clock.Set(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	e.start()
	return e
}

// fastDir is in memory where that can be had: days go by in these tests, and each of
// them writes.
func fastDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "chom-schedule-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// start is a new process of the agent.
func (e *estate) start() {
	log := slog.New(slog.NewTextHandler(e.t.Output(), nil))
	var err error
	if e.backups, err = backup.New(backup.Config{Dir: e.dir + "/backup", RunDir: e.dir + "/run", Log: log}); err != nil {
		e.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(e.t.Context())
	e.stop, e.ended = stop, make(chan error, 1)
	e.keeper = newKeeper(e.backups, e, e, &e.clock, log, e.make)
	go func() { e.ended <- e.keeper.run(ctx) }()
}

func (e *estate) end() {
	e.stop()
	<-e.ended
}

func (e *estate) Sites() ([]task.Site, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sites, nil
}

func (e *estate) find(id contract.SiteID) task.Site {
	for _, s := range e.sites {
		if s.ID == id {
			return s
		}
	}
	return task.Site{}
}

func (e *estate) Between(_ context.Context, id contract.SiteID, do func(task.Site) error) error {
	return do(e.find(id))
}

func (e *estate) GivingWay(ctx context.Context, id contract.SiteID, do func(context.Context, task.Site) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	e.mu.Lock()
	if e.ordered[id.String()] {
		e.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	e.wanted[id.String()] = func() { stop(task.ErrYielded) }
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.wanted, id.String())
		e.mu.Unlock()
	}()
	return do(ctx, e.find(id))
}

// order is one that arrives for a site. It is said whether anything gave way.
func (e *estate) order(site task.Site) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	tell := e.wanted[site.ID.String()]
	if tell != nil {
		tell()
	}
	return tell != nil
}

func (e *estate) make(ctx context.Context, site task.Site, id contract.BackupID) error {
	e.mu.Lock()
	e.began = append(e.began, id)
	e.working[site.ID.String()]++
	if n := e.working[site.ID.String()]; n > 1 {
		e.t.Errorf("%d backups of a site at the same time", n)
	}
	e.most = max(e.most, len(e.working))
	broken, takes := e.broken, e.takes
	e.mu.Unlock()
	start := time.Now() // by the host's own clock, which is years behind in here
	defer func() {
		e.mu.Lock()
		delete(e.working, site.ID.String())
		e.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
	}
	if broken != nil {
		return broken
	}
	return e.backups.Keep(site.Handle, id, backup.State{Contents: &backup.Contents{
		Start: start, End: time.Now(), Files: backup.Snapshot{ID: strings.Repeat("a", 64), Added: 3},
	}})
}

func (e *estate) ReportBackup(_ context.Context, r *linkv1.ReportBackupRequest) (*linkv1.ReportBackupResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.answer != nil {
		if err := e.answer(r); err != nil {
			return nil, err
		}
	}
	e.told = append(e.told, r)
	return &linkv1.ReportBackupResponse{}, nil
}

func (e *estate) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

// after lets time go by, and gives what the control plane was told of since the beginning.
func (e *estate) after(d time.Duration) []*linkv1.ReportBackupRequest {
	time.Sleep(d)
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.told
}

func (e *estate) want(told []*linkv1.ReportBackupRequest, made, failed int) {
	e.t.Helper()
	m, f := 0, 0
	ids := map[string]bool{}
	for _, r := range told {
		switch {
		case r.Report != nil && r.Error == "" && r.Report.BackupId == r.BackupId:
			m++
		case r.Report == nil && r.Error != "":
			f++
		}
		ids[r.BackupId] = true
	}
	if m != made || f != failed || len(ids) != len(told) {
		e.t.Errorf("told of %d backups and %d failures with %d ids, want %d and %d: %v", m, f, len(ids), made, failed, told)
	}
}

func TestKeepSchedules(t *testing.T) {
	day := func() task.Site { return scheduledSite(24*time.Hour, 12*time.Hour+30*time.Minute) } // at 12:30
	each := func(name string, do func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, do) }) }

	each("a new site gets one within minutes, then one at each moment", func(t *testing.T) {
		e := newEstate(t, day())
		defer e.end()
		e.want(e.after(firstAfter), 0, 0)
		told := e.after(firstWithin + 2*time.Minute)
		e.want(told, 1, 0)
		if r := told[0]; r.SiteId != e.sites[0].ID.String() || r.Generation != 7 || r.GetReport().GetContents().GetFilesSnapshot() == "" ||
			r.DueTime.AsTime().After(r.Report.StartTime.AsTime()) {
			t.Errorf("told %v", r)
		}
		told = e.after(28 * time.Minute) // 12:32
		e.want(told, 2, 0)
		if at := told[1].DueTime.AsTime(); !at.Equal(time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)) {
			t.Errorf("due at %s", at)
		}
		e.want(e.after(3*24*time.Hour), 5, 0)
	})
	each("none before the clock is confirmed, and none for one that is set to and fro", func(t *testing.T) {
		e := &estate{t: t, dir: fastDir(t), sites: []task.Site{day()}, takes: time.Minute, wanted: map[string]func(){}, working: map[string]int{}}
		e.start()
		defer e.end()
		e.want(e.after(3*24*time.Hour), 0, 0)
		e.clock.Set(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
		e.want(e.after(20*time.Minute), 1, 0)
		for i := range 60 {
			e.clock.Set(time.Date(2026+i%2*10, 3, 1, 13, 0, 0, 0, time.UTC))
			e.after(time.Minute)
		}
		if n := len(e.after(0)); n > 8 {
			t.Errorf("%d backups in an hour", n)
		}
		e.clock.Set(time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC))
		before := len(e.after(24 * time.Hour))
		e.want(e.after(24*time.Hour), before+1, 0)
	})
	each("what fails is tried again, and told of once for each moment", func(t *testing.T) {
		e := newEstate(t, day())
		defer e.end()
		e.set(func() { e.broken = errors.New("the disk\nis full") })
		e.want(e.after(15*time.Minute), 0, 0)
		told := e.after(30 * time.Minute) // the first one, and the one of 12:30 has just begun
		e.want(told, 0, 1)
		if told[0].Error != "the disk is full" {
			t.Errorf("told %v", told[0])
		}
		told = e.after(12 * time.Hour)
		e.want(told, 0, 2)
		e.set(func() { e.broken = nil })
		told = e.after(longestRest + 2*time.Minute)
		e.want(told, 1, 2)
		if !told[2].DueTime.AsTime().Equal(told[1].DueTime.AsTime()) {
			t.Errorf("made for %v, want the moment of %v", told[2], told[1])
		}
		if n := len(e.began); n > 60 || n < 20 {
			t.Errorf("%d tries", n)
		}
	})
	each("what no retry heals is told of at once", func(t *testing.T) {
		e := newEstate(t, day())
		defer e.end()
		e.set(func() { e.broken = task.Permanent(errors.New("the database is not there")) })
		e.want(e.after(firstAfter+firstWithin+2*time.Minute), 0, 1)
	})
	each("what nobody hears is told once somebody does, also by another process, and not more of it than is kept", func(t *testing.T) {
		e := newEstate(t, scheduledSite(15*time.Minute, 0))
		e.set(func() { e.answer = func(*linkv1.ReportBackupRequest) error { return link.ErrDown } })
		e.want(e.after(2*time.Hour), 0, 0)
		made := len(e.began)
		if made < 8 {
			t.Fatalf("%d made", made)
		}
		e.end()
		e.set(func() { e.answer = nil })
		e.start()
		told := e.after(time.Minute)
		e.want(told, made, 0)
		e.set(func() { e.answer = func(*linkv1.ReportBackupRequest) error { return link.ErrDown } })
		e.after(24 * time.Hour)
		e.set(func() { e.answer = nil })
		defer e.end()
		told = e.after(time.Minute)
		e.want(told, made+20, 0)
		if newest := told[len(told)-1].DueTime.AsTime(); e.clock.Time().Sub(newest) > 17*time.Minute {
			t.Errorf("the newest is of %s", newest)
		}
	})
	each("the control plane has it come again, or never", func(t *testing.T) {
		for code, again := range map[connect.Code]bool{
			connect.CodeAborted: true, connect.CodeFailedPrecondition: true, connect.CodeResourceExhausted: true, connect.CodeUnavailable: true,
			connect.CodeInternal: true, connect.CodeUnimplemented: true, connect.CodeNotFound: false, connect.CodeInvalidArgument: false,
		} {
			e := newEstate(t, scheduledSite(24*time.Hour, 0))
			e.answer = func(*linkv1.ReportBackupRequest) error { return connect.NewError(code, errors.New("no")) }
			e.after(25 * time.Minute)
			asked := e.asked
			if again != (asked > 1) || asked == 0 || asked > 10 {
				t.Errorf("%s: asked %d times", code, asked)
			}
			e.set(func() { e.answer = nil })
			want := 0
			if again {
				want = 1
			}
			if told := e.after(longestSilence + time.Minute); len(told) != want {
				t.Errorf("%s: told %v", code, told)
			}
			e.end()
		}
	})
	each("a process that ends goes on as the next one, with the same backup", func(t *testing.T) {
		e := newEstate(t, day())
		e.set(func() { e.takes = time.Hour })
		e.want(e.after(20*time.Minute), 0, 0)
		e.end()
		if len(e.began) != 1 {
			t.Fatalf("began %v", e.began)
		}
		e.set(func() { e.takes = time.Minute })
		e.start()
		defer e.end()
		told := e.after(2 * time.Minute)
		e.want(told, 1, 0)
		if len(e.began) != 2 || e.began[0] != e.began[1] || told[0].BackupId != e.began[0].String() {
			t.Errorf("began %v, told %v", e.began, told)
		}
	})
	each("what was made before a crash is not made again", func(t *testing.T) {
		s := day()
		e := newEstate(t, s)
		e.end()
		id, now := contract.NewBackupIDAt(e.clock.Time()), e.clock.Time()
		if err := errors.Join(
			e.backups.ChangeSchedule(s.Handle, func(r *backup.Schedule) {
				r.Last, r.Begun = now.Add(-48*time.Hour), &backup.Begun{Backup: id, Due: now.Add(-30 * time.Hour)}
			}),
			e.backups.Keep(s.Handle, id, backup.State{Contents: &backup.Contents{Start: now, End: now, Files: backup.Snapshot{ID: strings.Repeat("b", 64)}}}),
		); err != nil {
			t.Fatal(err)
		}
		e.start()
		defer e.end()
		told := e.after(5 * time.Second)
		e.want(told, 1, 0)
		if len(e.began) != 0 || told[0].BackupId != id.String() {
			t.Errorf("began %v, told %v", e.began, told)
		}
		e.want(e.after(20*time.Minute), 2, 0) // what was missed since
	})
	each("it gives way to orders, but not for ever", func(t *testing.T) {
		e := newEstate(t, day())
		defer e.end()
		e.set(func() { e.takes = 30 * time.Minute })
		e.after(firstAfter + firstWithin + time.Minute)
		for i := range patience {
			if !e.order(e.sites[0]) {
				t.Fatalf("order %d was not given way to", i)
			}
			e.want(e.after(yieldFor+time.Minute), 0, 0)
		}
		if e.order(e.sites[0]) {
			t.Error("it gives way to whoever comes")
		}
		told := e.after(35 * time.Minute)
		if len(told) != 1 || len(e.began) < patience+1 || e.began[patience].String() != told[0].BackupId || e.began[0] != e.began[patience] {
			t.Errorf("began %v, told %v", e.began, told)
		}
	})
	each("sites at which orders are carried out keep no other one waiting, and have their turn after that", func(t *testing.T) {
		e := newEstate(t, day(), day(), day(), scheduledSite(15*time.Minute, 0))
		defer e.end()
		e.set(func() {
			e.ordered = map[string]bool{}
			for _, s := range e.sites[:3] {
				e.ordered[s.ID.String()] = true
			}
		})
		told := e.after(2*time.Hour + 5*time.Minute)
		if len(told) != 9 {
			t.Errorf("told of %d backups, want 9", len(told))
		}
		e.set(func() { e.ordered = nil })
		e.want(e.after(5*time.Minute), 9+3, 0)
	})
	each("few at the same time, and each has its turn", func(t *testing.T) {
		var sites []task.Site
		for range 40 {
			sites = append(sites, day())
		}
		e := newEstate(t, sites...)
		defer e.end()
		told := e.after(29 * time.Minute)
		e.want(told, 40, 0)
		if e.most != schedulesAtOnce {
			t.Errorf("%d at the same time", e.most)
		}
	})
	each("nothing comes back of a site that was removed", func(t *testing.T) {
		s := day()
		e := newEstate(t, s)
		defer e.end()
		e.set(func() {
			e.answer = func(*linkv1.ReportBackupRequest) error {
				if err := e.backups.Remove(s.Handle); err != nil {
					t.Error(err)
				}
				e.sites = nil
				return nil
			}
		})
		e.want(e.after(15*time.Minute), 1, 0)
		if gone, err := e.backups.Gone(s.Handle); !gone || err != nil {
			t.Errorf("gone: %t, %v", gone, err)
		}
	})
	each("a record that is damaged begins anew", func(t *testing.T) {
		s := day()
		e := newEstate(t, s)
		defer e.end()
		if err := errors.Join(os.MkdirAll(e.dir+"/backup/"+s.Handle.String(), 0o700), os.WriteFile(e.dir+"/backup/"+s.Handle.String()+"/schedule.json", []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
		e.want(e.after(15*time.Minute), 1, 0)
	})
	each("a host whose own clock is years behind says when it was by the control plane's", func(t *testing.T) {
		e := newEstate(t, day())
		defer e.end()
		told := e.after(15 * time.Minute)
		e.want(told, 1, 0)
		r := told[0].GetReport()
		if start := r.GetStartTime().AsTime(); start.Sub(told[0].GetDueTime().AsTime()).Abs() > time.Minute || r.GetEndTime().AsTime().Sub(start) != e.takes {
			t.Errorf("told %v", told[0])
		}
	})
}
