package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/clock"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Size is what a site takes of its host's disk.
type Size struct {
	Files    uint64  `json:"files"`              // how many: files, directories, links
	Bytes    uint64  `json:"bytes"`              // that they take
	Database *uint64 `json:"database,omitempty"` // bytes that its database takes; nil where it has none
}

// sizer is the task engine, to those who measure sites when nobody else is there.
type sizer interface {
	Sites() ([]task.Site, error)
	InQuiet(context.Context, contract.SiteID, func(context.Context, task.Site) error) (bool, error)
}

const (
	// sizeEvery is how old a site's size may become: disks fill within hours, and a large site is some work to measure.
	sizeEvery = time.Hour
	// sizeShare of the time is spent on a site at most, one part of so many.
	sizeShare = 20
	// sizeSettles is how long after an order its site is measured: what an order does it often does in several.
	sizeSettles = 30 * time.Second
	// sizeRests is between two tries to measure a site that was busy.
	sizeRests = time.Minute
	// sizeFailed is that of a site whose measurement failed.
	sizeFailed = 5 * time.Minute
	// sizeHolds is how long a size is told: of a site that could not be measured for longer nothing is known. It is above sizeShare
	// times what measuring may take (package site).
	sizeHolds = 6 * time.Hour
	// sizeLook is how late a site is measured whose turn it is.
	sizeLook = 5 * time.Second
)

// Sizes measures how much disk the sites of the host take, seldom and one after the other: each about once an hour, and soon after an
// order has changed it. In between, and after a restart, what was measured is told as what it was then, with the time.
//
//	never measured, or an order ended     -> measured half a minute later
//	measured                              -> again after an hour, give or take some minutes; later where it took minutes
//	could not be measured                 -> again after some minutes, or 20 times as long as that took, and not as idly
//	an order came, or somebody is there   -> again after a minute
//
// Safe for concurrent use; Run it once.
type Sizes struct {
	registry sizer
	measure  func(ctx context.Context, site task.Site, idly bool) (Size, error)
	clock    *clock.Clock
	file     string
	log      *slog.Logger

	mu    sync.Mutex
	sites map[contract.SiteID]*sized // those that have been seen
}

// sized is what is known of a site's size. Times are the control plane's, as far as it is known.
type sized struct {
	At   time.Time     `json:"at"` // when the last measurement began that came to its end; zero before
	Took time.Duration `json:"took"`
	Size

	changed time.Time // when an order ended since that has not been measured; zero for none
	tried   time.Time // when the last try did not come to its end; zero for none since At
	rest    time.Duration
	failed  bool // it had all the time there is, but nobody else's
}

// NewSizes measures the sites in a registry by a function, which is idle where it is told so, and keeps what it has measured in a file.
func NewSizes(registry sizer, file string, c *clock.Clock, measure func(context.Context, task.Site, bool) (Size, error), log *slog.Logger) *Sizes {
	s := &Sizes{registry: registry, measure: measure, clock: c, file: file, log: log}
	s.sites = s.load()
	return s
}

// Changed tells that an order of a site has ended.
func (s *Sizes) Changed(id contract.SiteID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(id).changed = s.clock.Time()
}

// of is what is known of a site. Called with mu held.
func (s *Sizes) of(id contract.SiteID) *sized {
	site := s.sites[id]
	if site == nil {
		site = new(sized)
		s.sites[id] = site
	}
	return site
}

// Run measures until the context ends.
func (s *Sizes) Run(ctx context.Context) error {
	for {
		more, err := s.measureNext(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.log.Warn("the sizes of sites could not be measured", "err", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(sizeLook):
		}
	}
}

// measureNext measures the site whose turn it has been the longest, if any's is.
func (s *Sizes) measureNext(ctx context.Context) (more bool, err error) {
	site, err := s.next()
	if err != nil || site == nil {
		return false, err
	}
	s.mu.Lock()
	idly := !s.of(site.ID).failed
	s.mu.Unlock()
	var size *Size
	began, since := s.clock.Time(), time.Now()
	free, err := s.registry.InQuiet(ctx, site.ID, func(ctx context.Context, site task.Site) error {
		got, err := s.measure(ctx, site, idly)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		size = &got
		return err
	})
	took := time.Since(since)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.of(site.ID)
	switch {
	case ctx.Err() != nil:
		return false, nil
	case !free, errors.Is(err, task.ErrYielded):
		known.tried, known.rest = began, sizeRests
		return true, nil
	case err != nil:
		s.log.Warn("the size of a site could not be measured", "site", site.ID.String(), "took", took, "err", err)
		known.tried, known.rest, known.failed = began, max(sizeFailed, sizeShare*took), true
		return true, nil
	case size == nil: // it is gone
		delete(s.sites, site.ID)
		return true, nil
	}
	now := &sized{At: began.Round(0), Took: took, Size: *size} // Round drops the monotonic reading, which no file has
	if known.changed.After(began) {
		now.changed = known.changed
	}
	s.sites[site.ID] = now
	return true, s.save()
}

// next is the site whose turn it has been the longest; nil when it is nobody's. Sites that are gone are forgotten.
func (s *Sizes) next() (*task.Site, error) {
	sites, err := s.registry.Sites()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Time()
	var (
		first *task.Site
		since time.Time
	)
	here := map[contract.SiteID]bool{}
	for _, site := range sites {
		here[site.ID] = true
		if site.Converged == 0 || site.Desired.GetPhase() == sitev1.Phase_PHASE_ABSENT {
			continue
		}
		known := s.of(site.ID)
		if known.At.IsZero() && known.changed.IsZero() {
			known.changed = now // it was here before we came
		}
		if known.changed.After(now) {
			known.changed = now // the clock has been set back since
		}
		if due := known.due(now, jitter(site.ID)); !due.After(now) && (first == nil || due.Before(since)) {
			first, since = &site, due
		}
	}
	maps.DeleteFunc(s.sites, func(id contract.SiteID, _ *sized) bool { return !here[id] })
	return first, nil
}

// due says when a site is to be measured. What was measured after now was so by a clock that has been set back since, and is too old.
func (k *sized) due(now time.Time, jitter time.Duration) time.Time {
	apart := sizeShare * k.Took
	due := k.At.Add(max(sizeEvery, apart) + jitter)
	if k.At.IsZero() || k.At.After(now) {
		due = k.changed.Add(sizeSettles)
	} else if soon := k.changed.Add(sizeSettles); !k.changed.IsZero() && soon.Before(due) {
		due = later(soon, k.At.Add(apart))
	}
	if !k.tried.IsZero() && !k.tried.After(now) {
		due = later(due, k.tried.Add(k.rest))
	}
	return due
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// jitter is up to a sixth of sizeEvery, another one for each site: sites that came together are not measured together for ever.
func jitter(id contract.SiteID) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(id.String())) // never fails
	return time.Duration(h.Sum32()) * (sizeEvery / 6) / (1 << 32)
}

// Gather tells what was measured, without a look at anything.
func (s *Sizes) Gather(context.Context) []*linkv1.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Time()
	var out []*linkv1.Sample
	for _, id := range slices.SortedFunc(maps.Keys(s.sites), func(a, b contract.SiteID) int { return strings.Compare(a.String(), b.String()) }) {
		k := s.sites[id]
		if k.At.IsZero() || now.Sub(k.At) > sizeHolds {
			continue
		}
		add := func(series string, value float64) {
			out = append(out, &linkv1.Sample{Series: series, Value: value, SiteId: id.String()})
		}
		add("chom_site_disk_bytes", float64(k.Bytes))
		add("chom_site_files", float64(k.Files))
		if k.Database != nil {
			add("chom_site_database_bytes", float64(*k.Database))
		}
		add("chom_site_size_timestamp_seconds", float64(k.At.Unix()))
	}
	return out
}

// load reads what was kept. Of a file that cannot be read nothing is known: all is measured anew.
func (s *Sizes) load() map[contract.SiteID]*sized {
	sites := map[contract.SiteID]*sized{}
	text, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(text, &sites)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the sizes of sites could not be read, they are measured anew", "err", err)
		return map[contract.SiteID]*sized{}
	}
	maps.DeleteFunc(sites, func(_ contract.SiteID, k *sized) bool { return k == nil })
	return sites
}

// save keeps what was measured. Called with mu held.
func (s *Sizes) save() error {
	measured := maps.Clone(s.sites)
	maps.DeleteFunc(measured, func(_ contract.SiteID, k *sized) bool { return k.At.IsZero() })
	text, err := json.Marshal(measured)
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(s.file, text, 0o600, 0)
	return err
}
