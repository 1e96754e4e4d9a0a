package sdktest

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
)

// survivesKills watches an installation, then kills others at the beginning
// and in the middle of each of its steps and at moments spread over the whole,
// installs again, and compares the ends.
func survivesKills(b *bench) error {
	var site sdk.Site
	var want sdk.State
	var seen course
	for range 2 { // the first one fills the caches: its time says little
		var user host.User
		site, user = b.suite.NewSite(b.t)
		err := b.visit(user, func(c Conn) (err error) {
			seen = course{}
			began := time.Now()
			want, err = c.Install(b.ctx, site, func(p sdk.Progress) {
				seen.events = append(seen.events, event{p.Step, time.Since(began)})
			})
			seen.took = time.Since(began)
			return err
		})
		if err != nil {
			return fmt.Errorf("install: %w", err)
		}
	}
	wantTree, err := snapshot(site.Tree, b.suite.Differs)
	if err != nil {
		return err
	}
	for _, m := range seen.moments(b.suite.Kills) {
		if err := b.killOnce(m, want, wantTree); err != nil {
			return fmt.Errorf("killed %v: %w", m, err)
		}
	}
	return nil
}

// course is how an undisturbed installation went.
type course struct {
	events []event
	took   time.Duration
}

type event struct {
	step string
	at   time.Duration
}

// moment is when to kill: some time after the n-th line of progress, or after
// the start for n = 0. Counting lines finds the same place on a slower day.
type moment struct {
	lines int
	after time.Duration
	what  string
}

func (m moment) String() string {
	return fmt.Sprintf("%v after %s", m.after.Round(time.Millisecond), m.what)
}

func (c course) moments(spread int) []moment {
	if spread == 0 {
		spread = 4
	}
	var all []moment
	for i := range spread {
		all = append(all, c.moment(c.took*time.Duration(i)/time.Duration(spread)))
	}
	for i, e := range c.events {
		if i > 0 && c.events[i-1].step == e.step {
			continue
		}
		end := c.took
		for _, later := range c.events[i:] {
			if later.step != e.step {
				end = later.at
				break
			}
		}
		all = append(all, moment{i + 1, 0, "the start of " + e.step}, c.moment((e.at+end)/2))
	}
	return all
}

// moment is the given time of the undisturbed installation.
func (c course) moment(at time.Duration) moment {
	m := moment{0, at, "the call"}
	for i, e := range c.events {
		if e.at <= at {
			m = moment{i + 1, at - e.at, fmt.Sprintf("line %d, in %s", i+1, e.step)}
		}
	}
	return m
}

func (b *bench) killOnce(m moment, want sdk.State, wantTree map[string]string) error {
	site, user := b.suite.NewSite(b.t)
	err := b.visit(user, func(c Conn) error {
		ctx, cancel := context.WithCancel(b.ctx)
		defer cancel()
		kill := func() {
			if k, ok := c.(Killer); ok {
				k.KillNow()
				return
			}
			cancel()
		}
		lines := 0
		var timer *time.Timer
		arm := func() {
			if lines == m.lines {
				timer = time.AfterFunc(m.after, kill)
			}
		}
		arm()
		_, err := c.Install(ctx, site, func(sdk.Progress) { lines++; arm() })
		if timer != nil {
			timer.Stop()
		}
		return err
	})
	b.t.Logf("install killed %v: %v", m, err)
	if b.suite.Halfway != nil {
		if err := b.suite.Halfway(b.ctx, site); err != nil {
			return err
		}
	}
	if _, err := b.check(site, user); err != nil {
		return fmt.Errorf("on the half-made site: %w", err)
	}
	got, err := b.install(site, user)
	if err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("ended as %+v, an undisturbed installation as %+v", got, want)
	}
	tree, err := snapshot(site.Tree, b.suite.Differs)
	if err != nil {
		return err
	}
	return differences(sameOwner(wantTree), sameOwner(tree))
}

// sameOwner drops the ids, which differ between two sites on purpose.
func sameOwner(tree map[string]string) map[string]string {
	same := make(map[string]string, len(tree))
	for name, about := range tree {
		fields := strings.Fields(about)
		same[name] = strings.Join(append(fields[:1:1], fields[2:]...), " ")
	}
	return same
}
