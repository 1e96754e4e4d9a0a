package site

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/backup"
	"chom.dev/agent/clock"
	"chom.dev/agent/link"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	// schedulesAtOnce is how many backups a host makes by itself at the same time: a small VPS has two cores, and one large site
	// must not keep all others from theirs.
	schedulesAtOnce = 2
	scheduleEvery   = 20 * time.Second // how late one begins whose turn it is
	// scheduledWithin is a terabyte at 50 MB/s, as for those that are ordered.
	scheduledWithin = 6 * time.Hour
	// firstAfter and firstWithin spread the first backups of sites that have none: those of a host that is new to schedules are many.
	firstAfter  = 30 * time.Second
	firstWithin = 2 * time.Minute
	// apart keeps a clock that is set to and fro from having one backup made after the other. No interval is shorter than 15 min.
	apart = 10 * time.Minute
	// patience is how often a backup gives way to orders of its site; the next time they wait for it.
	patience = 3
	yieldFor = time.Minute // the order's turn
	// turnWithin is how long a backup waits for a site at which an order is carried out: others are due, too.
	turnWithin = 10 * time.Second
	// tellAfter is how often a backup fails before people are told, a quarter of an hour: the control plane may just have been away.
	tellAfter = 5
	// Between two tries of the same backup.
	firstRest   = time.Minute
	longestRest = 30 * time.Minute
	// Between two tries to tell of one.
	firstSilence   = 30 * time.Second
	longestSilence = 10 * time.Minute
)

// schedule is when backups of a site are due: at each moment that lies offset after
// a multiple of every since the epoch.
type schedule struct{ every, offset time.Duration }

// scheduleOf gives a site's; false for one of which no backups are made by itself.
func scheduleOf(site task.Site) (schedule, bool) {
	wanted := site.Desired.GetBackupSchedule()
	s := schedule{wanted.GetInterval().AsDuration(), wanted.GetOffset().AsDuration()}
	p := site.Desired.GetPhase()
	return s, site.Converged > 0 && (p == sitev1.Phase_PHASE_ACTIVE || p == sitev1.Phase_PHASE_SUSPENDED) && s.every > 0 && s.offset >= 0
}

// before is the newest of these moments that is not after now.
func (s schedule) before(now time.Time) time.Time { return contract.LastDue(now, s.every, s.offset) }

// due says for which moment a backup is due; zero when for none. Of those that were
// missed the newest counts. First is when the first backup of a site is to be made
// that never had one. What lies further ahead than it could was written by a clock
// that has been set back since, and holds nothing up.
func due(now, first time.Time, s schedule, r backup.Schedule) time.Time {
	newest := s.before(now)
	switch b := r.Begun; {
	case b != nil && b.Next.After(now) && b.Next.Sub(now) <= longestRest:
		return time.Time{}
	case b != nil && b.Due.After(now) && b.Due.Sub(now) < s.every:
		return time.Time{}
	case b != nil && !b.Due.Before(newest) && !b.Due.After(now):
		return b.Due
	case r.Last.IsZero() && b != nil:
		return newest
	case r.Last.IsZero() && first.After(now) && first.Sub(now) <= firstAfter+firstWithin:
		return time.Time{}
	case r.Last.IsZero() && newest.Before(first) && !first.After(now):
		return first
	case r.Last.IsZero(), newest.After(r.Last), r.Last.Sub(now) >= s.every:
		return newest
	}
	return time.Time{}
}

// restAfter is how long a backup rests that failed so many times.
func restAfter(tries int, first, longest time.Duration) time.Duration {
	rest := min(first<<min(max(tries-1, 0), 10), longest)
	return rest - rand.N(rest/4) // what failed together is not tried again together
}

// turner is the task engine, to those who work at a site for long.
type turner interface {
	Sites() ([]task.Site, error)
	Between(context.Context, contract.SiteID, func(task.Site) error) error
	GivingWay(context.Context, contract.SiteID, func(context.Context, task.Site) error) error
}

// teller is the control plane, to those who tell it of backups.
type teller interface {
	ReportBackup(context.Context, *linkv1.ReportBackupRequest) (*linkv1.ReportBackupResponse, error)
}

// KeepSchedules makes the backups of this host's sites that are due by their
// schedules, and tells the control plane what came of them, until the context ends.
// None begins before the clock was confirmed: whoever does that has the
// repositories, too.
func (s *Sites) KeepSchedules(ctx context.Context, engine turner, control teller, clock *clock.Clock) error {
	return newKeeper(s.backups, engine, control, clock, s.log, func(ctx context.Context, site task.Site, id contract.BackupID) error {
		b, err := s.backup(site, id, scheduledWithin)
		if err != nil {
			return err
		}
		if s.restores.switching(site.Handle) {
			return errors.New("the site is neither what it was nor what a restore makes of it")
		}
		r, err := s.backups.Schedule(site.Handle)
		if err != nil {
			return err
		}
		b.idle = idly(r)
		ctx, cancel := context.WithTimeout(ctx, scheduledWithin)
		defer cancel()
		return task.Perform(ctx, s.log, b.steps()...)
	}).run(ctx)
}

// idly says whether the backup that is made may wait until the host is idle. One that
// failed may have done so in vain.
func idly(r backup.Schedule) bool { return r.Begun != nil && r.Begun.Tries == 0 }

// keeper keeps to schedules.
type keeper struct {
	backups *backup.Manager
	engine  turner
	control teller
	clock   *clock.Clock
	log     *slog.Logger
	make    func(context.Context, task.Site, contract.BackupID) error
	told    chan struct{} // holds a token when there is something to tell

	mu    sync.Mutex
	busy  map[contract.SiteID]bool
	first map[contract.SiteID]time.Time // when sites get their first backup that were seen without one
	rest  map[contract.SiteID]time.Time // not before, by the clock that nobody sets

	silence map[contract.SiteID]silence // of tell alone
}

// silence is how a site's reports are held back that were not taken.
type silence struct {
	tries int
	until time.Time
}

func newKeeper(b *backup.Manager, engine turner, control teller, c *clock.Clock, log *slog.Logger, make func(context.Context, task.Site, contract.BackupID) error) *keeper {
	return &keeper{
		backups: b, engine: engine, control: control, clock: c, log: log, make: make, told: newBell(),
		busy: map[contract.SiteID]bool{}, first: map[contract.SiteID]time.Time{}, rest: map[contract.SiteID]time.Time{},
		silence: map[contract.SiteID]silence{},
	}
}

func newBell() chan struct{} { return make(chan struct{}, 1) }

func (k *keeper) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range schedulesAtOnce {
		g.Go(func() error { return k.loop(ctx, nil, k.makeNext) })
	}
	g.Go(func() error { return k.loop(ctx, k.told, k.tell) })
	return g.Wait()
}

// loop does what is to be done, again at once where there may be more.
func (k *keeper) loop(ctx context.Context, wake <-chan struct{}, do func(context.Context) (more bool, err error)) error {
	for {
		more, err := do(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			k.log.Warn("the schedules of backups can't be kept to", "err", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-time.After(scheduleEvery):
		}
	}
}

// makeNext makes the backup that is due the longest, if any is.
func (k *keeper) makeNext(ctx context.Context) (bool, error) {
	site, err := k.next()
	if err != nil || site == nil {
		return false, err
	}
	defer k.release(site.ID)
	r, err := k.backups.Schedule(site.Handle)
	if err != nil {
		return false, err
	}
	if r.Begun != nil && r.Begun.Yielded >= patience {
		return true, k.engine.Between(ctx, site.ID, func(site task.Site) error { return k.at(ctx, site) })
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	late := time.AfterFunc(turnWithin, stop)
	err = k.engine.GivingWay(waiting, site.ID, func(ctx context.Context, site task.Site) error {
		if !late.Stop() {
			return ctx.Err()
		}
		return k.at(ctx, site)
	})
	if waiting.Err() != nil && ctx.Err() == nil {
		k.restFor(site.ID, yieldFor)
		return true, nil
	}
	return true, err
}

func (k *keeper) restFor(id contract.SiteID, d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rest[id] = time.Now().Add(d)
}

// next takes the site whose backup is due the longest, until it is released.
func (k *keeper) next() (*task.Site, error) {
	now, confirmed := k.clock.Now()
	if !confirmed {
		return nil, nil
	}
	sites, err := k.engine.Sites()
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	type candidate struct {
		site task.Site
		due  time.Time
	}
	var found []candidate
	for _, site := range sites {
		if k.busy[site.ID] {
			continue
		}
		at, err := k.due(now, site)
		if err != nil {
			k.log.Warn("whether a backup of a site is due can't be said", "site", site.ID.String(), "err", err)
		}
		if !at.IsZero() {
			found = append(found, candidate{site, at})
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(spread(a.site.ID), spread(b.site.ID)))
	})
	k.busy[found[0].site.ID] = true
	return &found[0].site, nil
}

func (k *keeper) release(id contract.SiteID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, id)
}

// due says for which moment a backup of a site is. Called with mu held.
func (k *keeper) due(now time.Time, site task.Site) (time.Time, error) {
	s, ok := scheduleOf(site)
	if !ok || time.Now().Before(k.rest[site.ID]) {
		return time.Time{}, nil
	}
	r, err := k.backups.Schedule(site.Handle)
	if err != nil {
		return time.Time{}, err
	}
	if r.Last.IsZero() && k.first[site.ID].IsZero() {
		k.first[site.ID] = now.Add(firstAfter + spread(site.ID)).UTC().Round(0)
	}
	return due(now, k.first[site.ID], s, r), nil
}

// spread is a part of firstWithin, another one for each site.
func spread(id contract.SiteID) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(id.String())) // never fails
	return time.Duration(h.Sum32()) * firstWithin / (1 << 32)
}

// at makes the backup of a site whose turn it is, as the site is now.
func (k *keeper) at(ctx context.Context, site task.Site) error {
	b, err := k.begin(site)
	if err != nil || b == nil {
		return err
	}
	st, err := k.backups.State(site.Handle, b.Backup)
	if err == nil && st.Contents == nil { // otherwise a former process had made it
		if err = k.make(ctx, site, b.Backup); err == nil {
			st, err = k.backups.State(site.Handle, b.Backup)
		}
	}
	switch {
	case err == nil:
		return k.done(site, *b, st)
	case errors.Is(context.Cause(ctx), task.ErrYielded):
		k.log.Info("a scheduled backup gave way to an order", "site", site.ID.String(), "backup", b.Backup.String())
		b.Yielded++
		b.Next = k.clock.Time().Add(yieldFor).Round(0)
		return k.backups.ChangeSchedule(site.Handle, func(r *backup.Schedule) { r.Begun = b })
	case ctx.Err() != nil:
		return ctx.Err() // the next process goes on
	}
	return k.failed(site, *b, err)
}

// begin writes down which backup is being made; nil when none is due any more.
func (k *keeper) begin(site task.Site) (*backup.Begun, error) {
	now := k.clock.Time().Round(0)
	k.mu.Lock()
	at, err := k.due(now, site)
	k.mu.Unlock()
	if err != nil || at.IsZero() {
		return nil, err
	}
	r, err := k.backups.Schedule(site.Handle)
	if err != nil {
		return nil, err
	}
	if b := r.Begun; b != nil && !b.Due.Equal(at) && !b.Backup.IsZero() {
		if st, err := k.backups.State(site.Handle, b.Backup); err == nil && st.Contents != nil {
			return b, nil // it was made before the newer one became due
		}
	}
	err = k.backups.ChangeSchedule(site.Handle, func(r *backup.Schedule) {
		if b := r.Begun; b != nil && !b.Due.Equal(at) {
			note(r, site, b) // another one takes its place
			r.Begun = &backup.Begun{Due: at, Yielded: b.Yielded}
		}
		if r.Begun == nil {
			r.Begun = &backup.Begun{Due: at}
		}
		if r.Begun.Backup.IsZero() {
			r.Begun.Backup = contract.NewBackupIDAt(now)
		}
	})
	if err != nil {
		return nil, err
	}
	r, err = k.backups.Schedule(site.Handle)
	return r.Begun, err
}

// note has the control plane told, once for each moment, that a backup failed.
func note(r *backup.Schedule, site task.Site, b *backup.Begun) {
	if b.Told || b.Tries == 0 {
		return
	}
	r.Note(backup.Unreported{Backup: b.Backup, Due: b.Due, Generation: site.Converged, Problem: b.Problem})
	b.Told, b.Backup = true, contract.BackupID{}
}

// done writes down that a backup was made.
func (k *keeper) done(site task.Site, b backup.Begun, st backup.State) error {
	// The site's user has asked the host's own clock.
	if skew := k.clock.Skew(); skew.Abs() > time.Minute {
		c := *st.Contents
		c.Start, c.End = c.Start.Add(-skew), c.End.Add(-skew)
		st.Contents = &c
	}
	k.restFor(site.ID, apart)
	err := k.backups.ChangeSchedule(site.Handle, func(r *backup.Schedule) {
		r.Last, r.Begun = b.Due, nil
		r.Note(backup.Unreported{Backup: b.Backup, Due: b.Due, Generation: site.Converged, State: &st})
	})
	k.ring()
	return err
}

// failed writes down that a backup is to be tried again.
func (k *keeper) failed(site task.Site, b backup.Begun, broken error) error {
	rest := restAfter(b.Tries+1, firstRest, longestRest)
	k.log.Warn("a scheduled backup failed and is tried again", "site", site.ID.String(), "backup", b.Backup.String(), "after", rest, "err", broken)
	b.Tries++
	b.Problem = task.Line(broken.Error(), 4096) // the limit of chom.link.v1.ReportBackupRequest.error
	b.Next = k.clock.Time().Add(rest).Round(0)
	err := k.backups.ChangeSchedule(site.Handle, func(r *backup.Schedule) {
		if b.Tries >= tellAfter || task.IsPermanent(broken) {
			note(r, site, &b)
		}
		r.Begun = &b
	})
	k.ring()
	return err
}

func (k *keeper) ring() {
	select {
	case k.told <- struct{}{}:
	default:
	}
}

// tell tells the control plane what it was not told yet, the oldest of each site
// first.
func (k *keeper) tell(ctx context.Context) (bool, error) {
	sites, err := k.engine.Sites()
	if err != nil {
		return false, err
	}
	for _, site := range sites {
		s := k.silence[site.ID]
		if time.Now().Before(s.until) {
			continue
		}
		err := k.tellOf(ctx, site)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil:
			delete(k.silence, site.ID)
			continue
		case errors.Is(err, link.ErrDown):
			return false, nil // nobody hears anything
		}
		s.tries++
		s.until = time.Now().Add(restAfter(s.tries, firstSilence, longestSilence))
		k.silence[site.ID] = s
		k.log.Info("what came of a scheduled backup was not taken, and is told again", "site", site.ID.String(), "err", err)
	}
	return false, nil
}

// tellOf tells of one site's.
func (k *keeper) tellOf(ctx context.Context, site task.Site) error {
	r, err := k.backups.Schedule(site.Handle)
	if err != nil {
		return err
	}
	for _, u := range r.Unreported {
		req, err := request(site.ID, u)
		if err == nil {
			_, err = k.control.ReportBackup(ctx, req)
		}
		switch code := connect.CodeOf(err); {
		case err == nil:
		case code == connect.CodeNotFound, code == connect.CodeInvalidArgument: // and never will be
			k.log.Warn("the control plane does not take in a scheduled backup", "site", site.ID.String(), "backup", u.Backup.String(), "err", err)
		default:
			return err
		}
		if err := k.backups.ChangeSchedule(site.Handle, func(r *backup.Schedule) { r.Reported(u.Backup) }); err != nil {
			return err
		}
	}
	return nil
}

func request(id contract.SiteID, u backup.Unreported) (*linkv1.ReportBackupRequest, error) {
	req := &linkv1.ReportBackupRequest{
		SiteId: id.String(), BackupId: u.Backup.String(), DueTime: timestamppb.New(u.Due), Generation: u.Generation, Error: u.Problem,
	}
	if u.State != nil {
		var err error
		req.Report, err = u.State.Report(u.Backup)
		return req, err
	}
	return req, nil
}
