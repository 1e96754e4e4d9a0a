package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// measuredHost is a host whose sites are measured. Its sites are busy, slow and broken as it is told.
type measuredHost struct {
	*Sizes
	t     *testing.T
	file  string
	clock clock.Clock
	sites []task.Site
	stop  func()

	takes  time.Duration
	busy   bool
	gone   bool // its sites are, and were not when they were listed
	order  bool // one comes in the middle
	broken error
	size   Size
	looks  []look
}

// look is one at a site.
type look struct {
	at   time.Duration // since the test began
	site contract.SiteID
	idly bool
}

func newMeasuredHost(t *testing.T, sites int) *measuredHost {
	t.Helper()
	database := uint64(4096)
	d := &measuredHost{t: t, file: filepath.Join(t.TempDir(), "sizes.json"), takes: time.Second, size: Size{Files: 7, Bytes: 8192, Database: &database}}
	d.clock.Set(time.Now())
	for range sites {
		d.sites = append(d.sites, task.Site{ID: contract.NewSiteID(), Handle: contract.NewHandle(), Converged: 1, Desired: &sitev1.DesiredState{Phase: sitev1.Phase_PHASE_ACTIVE}})
	}
	d.start()
	return d
}

// start is another process with the same file.
func (d *measuredHost) start() {
	d.Sizes = NewSizes(d, d.file, &d.clock, func(ctx context.Context, site task.Site, idly bool) (Size, error) {
		d.looks = append(d.looks, look{time.Since(began).Truncate(time.Second), site.ID, idly})
		select {
		case <-ctx.Done():
			return Size{}, errors.New("it was ended")
		case <-time.After(d.takes):
			return d.size, d.broken
		}
	}, slog.New(slog.NewTextHandler(d.t.Output(), nil)))
	ctx, cancel := context.WithCancel(d.t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	d.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			d.t.Errorf("it ended with %v", err)
		}
	}
}

// began is when the test did, by synctest's clock.
var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (d *measuredHost) Sites() ([]task.Site, error) { return d.sites, nil }

func (d *measuredHost) InQuiet(ctx context.Context, id contract.SiteID, do func(context.Context, task.Site) error) (bool, error) {
	if d.busy {
		return false, nil
	}
	if d.gone {
		return true, nil
	}
	i := slices.IndexFunc(d.sites, func(s task.Site) bool { return s.ID == id })
	if d.order {
		var order context.CancelCauseFunc
		ctx, order = context.WithCancelCause(ctx)
		defer time.AfterFunc(d.takes/2, func() { order(task.ErrYielded) }).Stop()
	}
	return true, do(ctx, d.sites[i])
}

func (d *measuredHost) told() map[string]float64 {
	got := map[string]float64{}
	for _, s := range d.Gather(d.t.Context()) {
		got[s.Series] = s.Value
	}
	return got
}

// within fails the test unless so many looks happened in a time from now.
func (d *measuredHost) within(span time.Duration, want int) {
	d.t.Helper()
	before := len(d.looks)
	time.Sleep(span)
	synctest.Wait()
	if got := len(d.looks) - before; got != want {
		d.t.Errorf("%d looks within %s, want %d: %v", got, span, want, d.looks[before:])
	}
}

func TestSizes(t *testing.T) {
	for claim, do := range map[string]func(*measuredHost){
		"are those that were measured, with the time": func(d *measuredHost) {
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("before there is one: %v", got)
			}
			d.within(time.Minute, 1)
			at := float64(began.Add(d.looks[0].at).Unix())
			for range 2 {
				got := d.told()
				if got["chom_site_disk_bytes"] != 8192 || got["chom_site_files"] != 7 || got["chom_site_database_bytes"] != 4096 || got["chom_site_size_timestamp_seconds"] != at || len(got) != 4 {
					d.t.Errorf("got %v, measured at %v", got, at)
				}
				d.within(25*time.Minute, 0) // the same until it is measured again
			}
		},
		"are measured once an hour or so": func(d *measuredHost) {
			d.within(time.Minute, 1)
			time.Sleep(24 * time.Hour)
			for i := range d.looks[1:] {
				if apart := d.looks[i+1].at - d.looks[i].at; apart < time.Hour || apart > 71*time.Minute {
					d.t.Errorf("looked at %v", d.looks[i:i+2])
				}
			}
			if n := len(d.looks); n < 21 {
				d.t.Errorf("%d looks in a day", n)
			}
		},
		"are measured soon after orders, once for several": func(d *measuredHost) {
			d.within(time.Minute, 1)
			time.Sleep(10 * time.Minute)
			for range 3 {
				d.Changed(d.sites[0].ID)
				d.within(20*time.Second, 0)
			}
			d.within(20*time.Second, 1)
			d.within(50*time.Minute, 0)
		},
		"of a site that has none say nothing of its database": func(d *measuredHost) {
			d.size.Database = nil
			d.within(time.Minute, 1)
			if got := d.told(); len(got) != 3 {
				d.t.Errorf("got %v", got)
			}
		},
		"of large sites are measured for a twentieth of the time at most": func(d *measuredHost) {
			d.takes = 10 * time.Minute
			d.within(time.Minute, 1)
			for range 100 {
				time.Sleep(5 * time.Minute)
				d.Changed(d.sites[0].ID)
			}
			if n := len(d.looks); n < 2 || n > 3 {
				d.t.Errorf("%d looks in 500 minutes: %v", n, d.looks)
			}
		},
		"of busy sites wait until nobody is there": func(d *measuredHost) {
			d.busy = true
			d.within(10*time.Minute, 0)
			d.busy = false
			d.within(70*time.Second, 1)
		},
		"are measured anew where an order came": func(d *measuredHost) {
			d.order = true
			d.within(40*time.Second, 1)
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("got %v", got)
			}
			d.order = false
			d.within(70*time.Second, 1)
			if got := d.told(); len(got) != 4 || !d.looks[1].idly {
				d.t.Errorf("got %v, %v", got, d.looks)
			}
		},
		"that could not be measured are absent, and tried again with more force": func(d *measuredHost) {
			d.broken = errors.New("too many files")
			d.within(time.Minute, 1)
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("got %v", got)
			}
			d.within(4*time.Minute, 0)
			d.broken = nil
			d.within(90*time.Second, 1)
			d.within(65*time.Minute+jitter(d.sites[0].ID), 1)
			if got := []bool{d.looks[0].idly, d.looks[1].idly, d.looks[2].idly}; !slices.Equal(got, []bool{true, false, true}) {
				d.t.Errorf("idle: %v", got)
			}
		},
		"are not told for ever": func(d *measuredHost) {
			d.within(time.Minute, 1)
			d.broken = errors.New("gone bad")
			time.Sleep(5 * time.Hour)
			if got := d.told(); len(got) != 4 {
				d.t.Errorf("after five hours: %v", got)
			}
			time.Sleep(time.Hour)
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("after six hours: %v", got)
			}
		},
		"outlive the process": func(d *measuredHost) {
			d.within(time.Minute, 1)
			before := d.told()
			d.stop()
			time.Sleep(30 * time.Minute)
			d.start()
			if got := d.told(); len(got) != 4 || got["chom_site_size_timestamp_seconds"] != before["chom_site_size_timestamp_seconds"] {
				d.t.Errorf("got %v, before %v", got, before)
			}
			d.within(20*time.Minute, 0)
			d.within(25*time.Minute, 1)
		},
		"are measured anew when the file is broken": func(d *measuredHost) {
			d.within(time.Minute, 1)
			d.stop()
			if err := os.WriteFile(d.file, []byte(`{"x":`), 0o600); err != nil {
				d.t.Fatal(err)
			}
			d.start()
			d.within(time.Minute, 1)
		},
		"are measured anew when the clock is set back": func(d *measuredHost) {
			d.within(time.Minute, 1)
			d.clock.Set(time.Now().Add(-48 * time.Hour))
			d.within(time.Minute, 1)
			d.within(50*time.Minute, 0)
		},
		"are measured when the clock is found to have been ahead": func(d *measuredHost) {
			d.clock.Set(time.Now().Add(48 * time.Hour))
			d.Changed(d.sites[0].ID)
			d.clock.Set(time.Now())
			d.within(time.Minute, 1)
		},
		"of sites that are gone are forgotten": func(d *measuredHost) {
			d.within(time.Minute, 1)
			d.sites = nil
			d.within(2*time.Hour, 0)
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("got %v", got)
			}
		},
		"of a site that went meanwhile are nothing": func(d *measuredHost) {
			d.gone = true
			d.within(time.Minute, 0)
			if got := d.told(); len(got) != 0 {
				d.t.Errorf("got %v", got)
			}
		},
		"are measured of no site that is not there yet, or any more": func(d *measuredHost) {
			d.sites[0].Converged = 0
			d.within(2*time.Hour, 0)
			d.sites[0].Converged, d.sites[0].Desired.Phase = 1, sitev1.Phase_PHASE_ABSENT
			d.within(2*time.Hour, 0)
			d.sites[0].Desired.Phase = sitev1.Phase_PHASE_TRASHED // its files are
			d.within(time.Minute, 1)
		},
	} {
		t.Run(claim, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newMeasuredHost(t, 1)
				defer func() { d.stop() }()
				do(d)
			})
		})
	}
}

func TestSizesOfManySites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMeasuredHost(t, 40)
		defer func() { d.stop() }()
		d.takes = 20 * time.Second
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		seen := map[contract.SiteID]bool{}
		for i, l := range d.looks {
			if seen[l.site] {
				t.Errorf("%s was looked at twice", l.site)
			}
			seen[l.site] = true
			if i > 0 && l.at-d.looks[i-1].at < d.takes {
				t.Errorf("two at a time: %v", d.looks[i-1:i+1])
			}
		}
		if len(seen) != 40 {
			t.Errorf("%d sites were measured", len(seen))
		}
		of := map[string]int{}
		for _, s := range d.Gather(t.Context()) {
			of[s.SiteId]++
		}
		if len(of) != 40 || of[d.sites[0].ID.String()] != 4 {
			t.Errorf("told of %v", of)
		}
		text, err := os.ReadFile(d.file)
		if err != nil || strings.Count(string(text), `"bytes"`) != 40 {
			t.Errorf("%v, %s", err, text)
		}
	})
}
