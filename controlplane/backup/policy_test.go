package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

func TestPolicyFor(t *testing.T) {
	shops, eu, chosen := Policy{ID: contract.NewPolicyID(), Name: "shops", Tags: []string{"big", "shop"}}, Policy{ID: contract.NewPolicyID(), Name: "eu", Tags: []string{"eu"}},
		Policy{ID: contract.NewPolicyID(), Name: "chosen"}
	all := []Policy{shops, eu, chosen}
	for name, test := range map[string]struct {
		tags     []string
		chosen   contract.PolicyID
		policies []Policy
		want     string
	}{
		"no policy":                              {[]string{"shop"}, contract.PolicyID{}, nil, "platform"},
		"no tag":                                 {nil, contract.PolicyID{}, all, "platform"},
		"a tag that none has":                    {[]string{"sho"}, contract.PolicyID{}, all, "platform"},
		"a tag":                                  {[]string{"shop"}, contract.PolicyID{}, all, "shops"},
		"two, the first in the order of ranks":   {[]string{"eu", "shop"}, contract.PolicyID{}, all, "shops"},
		"two, in another order of ranks":         {[]string{"eu", "shop"}, contract.PolicyID{}, []Policy{eu, shops}, "eu"},
		"the chosen one":                         {nil, chosen.ID, all, "chosen"},
		"the chosen one before one for its tags": {[]string{"eu", "shop"}, chosen.ID, all, "chosen"},
		"one that is gone":                       {[]string{"eu"}, contract.NewPolicyID(), all, "eu"},
		"no tags are for nobody's":               {nil, contract.PolicyID{}, []Policy{{Name: "none"}}, "platform"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := policyFor(test.tags, test.chosen, test.policies, platform); got.Name != test.want {
				t.Errorf("goes by %q, want %q", got.Name, test.want)
			}
		})
	}
	p := (&Backups{config: Config{Every: day}}).Platform()
	if p.Interval != 24*time.Hour || p.Retention != (Retention{Daily: 7, Weekly: 5, Monthly: 12}) || !p.ID.IsZero() {
		t.Errorf("the platform's own: %+v", p)
	}
}

// TestOffset claims that sites are spread alike over an interval, or over the nights of a longer one, and keep their places.
func TestOffset(t *testing.T) {
	const sites, parts = 20000, 10
	for _, test := range []struct {
		interval, over time.Duration // the part of each day, or of the interval, that is used
		days           int64
	}{
		{15 * time.Minute, 15 * time.Minute, 1}, {time.Hour, time.Hour, 1}, {7 * time.Hour, 7 * time.Hour, 1},
		{day, night, 1}, {36 * time.Hour, night, 1}, {7 * day, night, 7}, {31 * day, night, 31},
	} {
		t.Run(test.interval.String(), func(t *testing.T) {
			var within [parts]int
			days := map[int64]int{}
			for range sites {
				id := contract.NewSiteID()
				at := offset(id, test.interval)
				if at != offset(id, test.interval) {
					t.Fatal("it moves")
				}
				ofDay := at % day
				if at < 0 || at >= test.interval || ofDay >= test.over || at%time.Second != 0 {
					t.Fatalf("%s is out of bounds", at)
				}
				within[ofDay*parts/test.over]++
				days[int64(at/day)]++
			}
			for i, n := range within {
				if want := sites / parts; n < want*85/100 || n > want*115/100 { // above six standard deviations
					t.Errorf("%d of %d are in part %d of %d", n, sites, i, parts)
				}
			}
			for of, n := range days {
				if want := sites / int(test.days); n < want*3/4 || n > want*5/4 {
					t.Errorf("%d of %d are on day %d", n, sites, of)
				}
			}
			if len(days) != int(test.days) {
				t.Errorf("they are on %d days", len(days))
			}
		})
	}
}

// asked is a change that names all parts of a policy.
func asked(name string, rank int32, interval time.Duration, tags ...string) PolicyChange {
	return PolicyChange{Name: &name, Tags: &tags, Rank: &rank, Interval: &interval}
}

// drillingFor is a change of what drills ask for.
func drillingFor(paths ...string) PolicyChange { return PolicyChange{DrillPaths: &paths} }

func (w *world) policy(t *testing.T, change PolicyChange) Policy {
	t.Helper()
	made, err := w.CreatePolicy(t.Context(), w.ours, change)
	must(t, err)
	return made
}

func TestPolicies(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		late, early := w.policy(t, asked("late", 7, time.Hour, "b", "a")), w.policy(t, asked("early", 7, 0))
		first := w.policy(t, asked("first", 1, 15*time.Minute, "c"))
		names := func(of contract.OrganizationID) (all []string) {
			found, err := w.ListPolicies(ctx, of)
			must(t, err)
			for _, p := range found {
				all = append(all, p.Name)
			}
			return all
		}
		if got := fmt.Sprint(names(w.ours)); got != "[first late early]" {
			t.Errorf("they come as %s", got)
		}
		found, err := w.ListPolicies(ctx, w.ours)
		must(t, err)
		if got := found[1]; fmt.Sprint(got) != fmt.Sprint(late) || fmt.Sprint(got.Tags) != "[a b]" || got.Interval != time.Hour || got.Retention != platform.Retention {
			t.Errorf("read %+v, made %+v", got, late)
		}
		keep := Retention{Hourly: 1, Daily: 2, Weekly: 3, Monthly: 4}
		changed, err := w.UpdatePolicy(ctx, w.ours, early.ID, PolicyChange{Retention: &keep})
		if err != nil || changed.Retention != keep || changed.Name != "early" || !changed.UpdatedAt.After(early.UpdatedAt) {
			t.Errorf("changed %+v, %v", changed, err)
		}
		m := changed.Message()
		if m.Interval != nil || m.Retention.Weekly != 3 || m.Id != early.ID.String() || late.Message().GetInterval().AsDuration() != time.Hour || w.Platform().Message().CreateTime != nil {
			t.Errorf("said as %v", m)
		}

		t.Run("what is refused has no effect", func(t *testing.T) {
			before, text := w.count(t, `SELECT COUNT(*) FROM audit_events`), fmt.Sprint(found)
			for name, test := range map[string]struct {
				change PolicyChange
				field  string
			}{
				"a name":              {asked("Big", 0, 0), "name"},
				"no name":             {asked("", 0, 0), "name"},
				"the platform's name": {asked("platform", 0, 0), "name"},
				"a tag":               {asked("new", 0, 0, "ok", "Not ok"), "tags[1]"},
				"a tag twice":         {asked("new", 0, 0, "a", "a"), "tags[1]"},
				"many tags":           {asked("new", 0, 0, make([]string, 21)...), "tags"},
				"a rank":              {asked("new", -1, 0), "rank"},
				"a high rank":         {asked("new", 1000001, 0), "rank"},
				"a short interval":    {asked("new", 0, 15*time.Minute-time.Second), "interval"},
				"a long interval":     {asked("new", 0, 31*24*time.Hour+time.Second), "interval"},
				"half a second":       {asked("new", 0, time.Hour+time.Second/2), "interval"},
				"hours":               {PolicyChange{Retention: &Retention{Hourly: 721}}, "retention.hourly"},
				"days":                {PolicyChange{Retention: &Retention{Daily: 367}}, "retention.daily"},
				"weeks":               {PolicyChange{Retention: &Retention{Weekly: 261}}, "retention.weekly"},
				"months":              {PolicyChange{Retention: &Retention{Monthly: 121}}, "retention.monthly"},
				"a path":              {drillingFor("shop/"), "drill_paths"},
				"a path with a space": {drillingFor("/a b"), "drill_paths"},
				"a path of nobody":    {drillingFor("/%zz"), "drill_paths"},
				"a long path":         {drillingFor("/" + strings.Repeat("a", 1024)), "drill_paths"},
				"a path twice":        {drillingFor("/a", "/a"), "drill_paths"},
				"many paths":          {drillingFor("/1", "/2", "/3", "/4", "/5", "/6"), "drill_paths"},
			} {
				if test.change.Name == nil {
					name := "new"
					test.change.Name = &name
				}
				_, made := w.CreatePolicy(ctx, w.ours, test.change)
				_, changed := w.UpdatePolicy(ctx, w.ours, first.ID, test.change)
				for _, err := range []error{made, changed} {
					if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != test.field {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			if _, err := w.CreatePolicy(ctx, w.ours, asked("late", 0, 0)); !errors.Is(err, errPolicyName) {
				t.Errorf("the same name: %v", err)
			}
			if _, err := w.UpdatePolicy(ctx, w.ours, first.ID, asked("late", 0, 0)); !errors.Is(err, errPolicyName) {
				t.Errorf("another's name: %v", err)
			}
			again, err := w.ListPolicies(ctx, w.ours)
			must(t, err)
			again[2] = found[2] // whose retention was changed before
			if n := w.count(t, `SELECT COUNT(*) FROM audit_events`); n != before || fmt.Sprint(again) != text {
				t.Errorf("%d events, before %d; %v", n, before, again)
			}
		})

		t.Run("another organization's do not exist", func(t *testing.T) {
			if got := names(w.theirs); len(got) != 0 {
				t.Errorf("they see %v", got)
			}
			theirs, err := w.CreatePolicy(ctx, w.theirs, asked("late", 0, time.Hour, "a"))
			must(t, err) // a name is one organization's
			for name, try := range map[string]error{
				"update":        func() error { _, err := w.UpdatePolicy(ctx, w.ours, theirs.ID, asked("new", 0, 0)); return err }(),
				"delete":        w.DeletePolicy(ctx, w.ours, theirs.ID),
				"nobody's":      w.DeletePolicy(ctx, w.ours, contract.NewPolicyID()),
				"choose":        w.label(ctx, w.site, nil, &theirs.ID),
				"choose none's": w.label(ctx, w.site, nil, new(contract.NewPolicyID())),
				"create with": func() error {
					_, _, err := w.sites.Create(ctx, site.Request{Organization: w.ours, Name: "new", Type: "static", Domains: []string{"new.example.com"}, Policy: theirs.ID})
					return err
				}(),
			} {
				if fault.KindOf(try) != fault.KindNotFound || !strings.HasSuffix(fmt.Sprint(try), "backup policy not found") {
					t.Errorf("%s: %v", name, try)
				}
			}
			of, err := w.sites.Get(ctx, w.ours, w.site)
			must(t, err)
			if n := w.count(t, `SELECT COUNT(*) FROM sites`); n != 2 || !of.Policy.IsZero() || fmt.Sprint(names(w.theirs)) != "[late]" {
				t.Errorf("%d sites, it has chosen %s, theirs are %v", n, of.Policy, names(w.theirs))
			}
			// Their policies are for none of our sites, whatever its tags.
			must(t, w.label(ctx, w.site, &[]string{"a"}, nil))
			if p, err := w.PolicyOf(ctx, d.Reader(), w.ours, w.site); err != nil || p.ID != late.ID {
				t.Errorf("it goes by %+v, %v", p, err)
			}
			if _, err := w.PolicyOf(ctx, d.Reader(), w.theirs, w.site); !errors.Is(err, site.ErrNotFound) {
				t.Errorf("our site in their organization: %v", err)
			}
		})

		t.Run("a chosen one is not deleted", func(t *testing.T) {
			must(t, w.label(ctx, w.site, nil, &first.ID))
			err := w.DeletePolicy(ctx, w.ours, first.ID)
			if fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), ": shop. ") {
				t.Errorf("chosen: %v", err)
			}
			must(t, w.label(ctx, w.site, nil, &contract.PolicyID{}))
			gone := w.addSite(t, w.ours, "gone")
			must(t, w.label(ctx, gone, nil, &first.ID))
			_, _, err = w.sites.Delete(ctx, w.ours, gone)
			must(t, err)
			if err := w.DeletePolicy(ctx, w.ours, first.ID); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), ": gone. ") {
				t.Errorf("chosen for a site that may be restored: %v", err)
			}
			_, err = w.sites.Purge(ctx, time.Now().Add(8*day))
			must(t, err)
			must(t, w.DeletePolicy(ctx, w.ours, first.ID))
			if err := w.DeletePolicy(ctx, w.ours, first.ID); !errors.Is(err, ErrPolicyNotFound) {
				t.Errorf("deleted twice: %v", err)
			}
			must(t, w.DeletePolicy(ctx, w.ours, late.ID)) // the site came to it by its tag
			if got := fmt.Sprint(names(w.ours)); got != "[early]" {
				t.Errorf("left: %s", got)
			}
		})

		t.Run("there is a limit, whoever comes together", func(t *testing.T) {
			for i := range MaxPolicies - 3 {
				w.policy(t, asked(fmt.Sprintf("p%d", i), 0, 0))
			}
			var g errgroup.Group
			refused := make([]error, 4)
			for i := range refused {
				g.Go(func() error {
					_, refused[i] = w.CreatePolicy(ctx, w.ours, asked(fmt.Sprintf("q%d", i), 0, 0))
					return nil
				})
			}
			must(t, g.Wait())
			full := 0
			for _, err := range refused {
				if errors.Is(err, ErrTooManyPolicies) {
					full++
				}
			}
			if n := w.count(t, `SELECT COUNT(*) FROM backup_policies WHERE organization_id = $1`, w.ours); n != MaxPolicies || full != 2 {
				t.Errorf("%d policies, %v", n, refused)
			}
		})
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action IN ('backup_policy.create', 'backup_policy.update', 'backup_policy.delete')`); n != 103+1+2 {
			t.Errorf("%d events", n)
		}
	})
}

// label changes the tags and the policy of one of our sites.
func (w *world) label(ctx context.Context, id contract.SiteID, tags *[]string, chosen *contract.PolicyID) error {
	_, _, err := w.sites.Update(ctx, w.ours, id, site.Change{Tags: tags, Policy: chosen})
	return err
}

// followed has sites follow their policies to the end, and gives the intervals that hosts were ordered, by the names of sites.
func (w *world) followed(t *testing.T) map[string]time.Duration {
	t.Helper()
	for last := (contract.SiteID{}); ; {
		var err error
		_, last, err = w.sites.FollowPolicies(t.Context(), last)
		must(t, err)
		if last.IsZero() {
			break
		}
	}
	return w.ordered(t)
}

// ordered are the intervals in what hosts were ordered since.
func (w *world) ordered(t *testing.T) map[string]time.Duration {
	t.Helper()
	all := map[string]time.Duration{}
	for _, order := range w.work(t, well) {
		id, err := contract.ParseSiteID(order.SiteId)
		must(t, err)
		of, err := contract.ParseOrganizationID(order.GetConvergeSite().GetDesired().GetOrganizationId())
		must(t, err)
		found, err := w.sites.Get(t.Context(), of, id)
		must(t, err)
		if _, twice := all[found.Name]; twice {
			t.Errorf("%s was ordered twice", found.Name)
		}
		schedule := order.GetConvergeSite().GetDesired().GetBackupSchedule()
		all[found.Name] = schedule.GetInterval().AsDuration()
		if schedule != nil && schedule.GetOffset().AsDuration() != offset(id, all[found.Name]) {
			t.Errorf("%s has its turn at %s", found.Name, schedule.GetOffset().AsDuration())
		}
		if found.Wanted.Schedule.Interval != all[found.Name] {
			t.Errorf("of %s is written down %+v, ordered was %s", found.Name, found.Wanted.Schedule, all[found.Name])
		}
	}
	return all
}

// TestFollow claims that a change of what sites go by reaches those that it is about, each once, and no other ones.
func TestFollow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		want := func(got map[string]time.Duration, names ...any) {
			t.Helper()
			wanted := map[string]time.Duration{}
			for i := 0; i < len(names); i += 2 {
				wanted[names[i].(string)] = names[i+1].(time.Duration)
			}
			if !maps.Equal(got, wanted) {
				t.Errorf("ordered %v, want %v", got, wanted)
			}
			w.followedNothing(t)
		}
		generation := func(id contract.SiteID) uint64 {
			t.Helper()
			of, err := w.sites.Get(ctx, w.ours, id)
			must(t, err)
			return of.Wanted.Generation
		}
		other := w.addSite(t, w.ours, "other")
		if got := w.ordered(t); got["other"] != 24*time.Hour || len(got) != 1 || generation(other) != 1 {
			t.Fatalf("a new site was ordered %v, and is in generation %d", got, generation(other))
		}
		want(w.followed(t))

		hourly := w.policy(t, asked("hourly", 5, time.Hour, "shop"))
		want(w.followed(t)) // for nobody yet
		must(t, w.label(ctx, w.site, &[]string{"eu"}, nil))
		want(w.ordered(t)) // a tag that no policy has
		if generation(w.site) != 1 {
			t.Errorf("a tag alone made generation %d", generation(w.site))
		}
		must(t, w.label(ctx, w.site, &[]string{"shop", "eu"}, nil))
		want(w.ordered(t), "shop", time.Hour)
		half := 30 * time.Minute
		_, err := w.UpdatePolicy(ctx, w.ours, hourly.ID, PolicyChange{Interval: &half})
		must(t, err)
		want(w.followed(t), "shop", half)
		name, keep := "often", Retention{Hourly: 7}
		_, err = w.UpdatePolicy(ctx, w.ours, hourly.ID, PolicyChange{Name: &name, Retention: &keep})
		must(t, err)
		want(w.followed(t)) // nothing that hosts know of
		eu := w.policy(t, asked("eu", 4, 2*time.Hour, "eu"))
		want(w.followed(t), "shop", 2*time.Hour)
		rank := int32(6)
		_, err = w.UpdatePolicy(ctx, w.ours, eu.ID, PolicyChange{Rank: &rank})
		must(t, err)
		want(w.followed(t), "shop", half)
		must(t, w.label(ctx, other, nil, &eu.ID))
		want(w.ordered(t), "other", 2*time.Hour)
		never := time.Duration(0)
		_, err = w.UpdatePolicy(ctx, w.ours, eu.ID, PolicyChange{Interval: &never})
		must(t, err)
		want(w.followed(t), "other", never)
		must(t, w.DeletePolicy(ctx, w.ours, hourly.ID))
		want(w.followed(t), "shop", never)
		tags := []string{}
		_, err = w.UpdatePolicy(ctx, w.ours, eu.ID, PolicyChange{Tags: &tags})
		must(t, err)
		want(w.followed(t), "shop", 24*time.Hour)

		t.Run("what was in the trash meanwhile follows when it comes back", func(t *testing.T) {
			_, _, err := w.sites.Delete(ctx, w.ours, w.site)
			must(t, err)
			want(w.ordered(t), "shop", never)
			w.policy(t, asked("new", 1, time.Hour, "shop"))
			want(w.followed(t))
			_, _, err = w.sites.Restore(ctx, w.ours, w.site)
			must(t, err)
			want(w.ordered(t), "shop", time.Hour)
		})
		t.Run("a host that knows more than is wanted is not asked", func(t *testing.T) {
			w.exec(t, `UPDATE sites SET observed_generation = generation + 1 WHERE id = $1`, w.site)
			w.policy(t, asked("newer", 0, 3*time.Hour, "shop"))
			want(w.followed(t))
			w.exec(t, `UPDATE sites SET observed_generation = generation WHERE id = $1`, w.site)
			if got := w.followed(t); got["shop"] != 3*time.Hour || len(got) != 1 {
				t.Errorf("ordered %v", got)
			}
		})
		t.Run("the etag is another one with other tags, and a stale one is refused", func(t *testing.T) {
			seen, stale := map[string]bool{}, ""
			for _, tags := range [][]string{{"shop"}, {"shop", "x"}, {"shop", "y"}, {"shop"}} {
				must(t, w.label(ctx, w.site, &tags, nil))
				of, err := w.sites.Get(ctx, w.ours, w.site)
				must(t, err)
				if !seen[of.ETag()] {
					stale = of.ETag()
				}
				seen[of.ETag()] = true
			}
			if len(seen) != 3 {
				t.Errorf("etags %v", seen)
			}
			if _, _, err := w.sites.Update(ctx, w.ours, w.site, site.Change{Tags: &[]string{"z"}, ETag: stale}); !errors.Is(err, site.ErrChanged) {
				t.Errorf("a stale etag: %v", err)
			}
		})
	})
}

// followedNothing checks that nothing is left to follow.
func (w *world) followedNothing(t *testing.T) {
	t.Helper()
	if n, last, err := w.sites.FollowPolicies(t.Context(), contract.SiteID{}); n != 0 || !last.IsZero() || err != nil {
		t.Errorf("%d more were ordered, up to %s, %v", n, last, err)
	}
}

// TestPace claims that a thousand sites are not ordered at once, that no end of a process keeps any of them from following, and that
// each follows once.
func TestPace(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ctx := t.Context()
		// As after an upgrade: sites that never had a schedule.
		w.sites = w.newSites(nil)
		w.followed(t)
		const more = 20
		for i := range more {
			w.addSite(t, w.ours, fmt.Sprintf("s%02d", i))
		}
		for name, interval := range w.ordered(t) {
			if interval != 0 {
				t.Fatalf("%s has a schedule of %s", name, interval)
			}
		}
		after, rounds := contract.SiteID{}, 0
		got := map[string]time.Duration{}
		for {
			w.sites = w.newSites(w.Schedule()) // whoever ended the former
			n, last, err := w.sites.FollowPolicies(ctx, after)
			must(t, err)
			ordered := w.ordered(t)
			if n != len(ordered) || n > 8 {
				t.Errorf("%d were ordered at once, it says %d", len(ordered), n)
			}
			for name, interval := range ordered {
				if _, twice := got[name]; twice {
					t.Errorf("%s followed twice", name)
				}
				got[name] = interval
			}
			if n == 0 {
				break
			}
			if rounds++; rounds%2 == 0 {
				after = last
			} // else the place was forgotten
		}
		if len(got) != more+2 || rounds != 3 {
			t.Errorf("%d sites followed, in %d rounds", len(got), rounds)
		}
		for name, interval := range got {
			if interval != day {
				t.Errorf("%s: %s", name, interval)
			}
		}

		t.Run("a change of theirs reaches them by itself, at the pace", func(t *testing.T) {
			w.exec(t, `UPDATE sites SET tags = 'shop' WHERE name LIKE 's%'`)
			running, stop := context.WithCancel(ctx)
			var g errgroup.Group
			g.Go(func() error { return w.sites.Run(running) })
			tasks := w.count(t, `SELECT COUNT(*) FROM tasks`)
			w.policy(t, asked("shops", 0, time.Hour, "shop"))
			for deadline := time.Now().Add(time.Minute); w.count(t, `SELECT COUNT(*) FROM tasks`) < tasks+more+1 && time.Now().Before(deadline); {
				time.Sleep(50 * time.Millisecond)
			}
			stop()
			must(t, g.Wait())
			rows, err := d.Reader().Query(ctx, `SELECT created_at FROM tasks WHERE organization_id = $1 ORDER BY sequence DESC LIMIT $2`, w.ours, more+1)
			must(t, err)
			defer rows.Close()
			var at []int64
			for rows.Next() {
				at = append(at, 0)
				must(t, rows.Scan(&at[len(at)-1]))
			}
			must(t, rows.Err())
			slices.Sort(at)
			for i := 8; i < len(at); i++ {
				if rest := time.Duration(at[i]-at[i-8]) * time.Microsecond; rest < 1900*time.Millisecond {
					t.Errorf("nine were ordered within %s", rest)
				}
			}
			if ordered := w.ordered(t); len(ordered) != more+1 || ordered["shop"] != time.Hour {
				t.Errorf("ordered %v", ordered)
			}
		})

		t.Run("nothing is scheduled where no backups are made any more", func(t *testing.T) {
			w.sites = w.newSites(nil)
			for name, interval := range w.followed(t) {
				if delete(got, name); interval != 0 {
					t.Errorf("%s: %s", name, interval)
				}
			}
			if len(got) != 0 {
				t.Errorf("%v keep their schedules", got)
			}
			if (&Backups{config: Config{Off: "no restic"}}).Schedule() != nil {
				t.Error("there is a schedule")
			}
		})
	})
}

// TestTogether has sites made while a policy is changed: no one is left behind.
func TestTogether(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		p := w.policy(t, asked("shops", 0, time.Hour, "shop"))
		var g errgroup.Group
		for i := range 12 {
			g.Go(func() error {
				name := fmt.Sprintf("s%02d", i)
				_, _, err := w.sites.Create(t.Context(), site.Request{Organization: w.ours, Name: name, Type: "static", Domains: []string{name + ".example.com"}, Tags: []string{"shop"}})
				return err
			})
		}
		g.Go(func() error {
			for minutes := range time.Duration(8) {
				interval := (15 + minutes) * time.Minute
				if _, err := w.UpdatePolicy(t.Context(), w.ours, p.ID, PolicyChange{Interval: &interval}); err != nil {
					return err
				}
				if _, _, err := w.sites.FollowPolicies(t.Context(), contract.SiteID{}); err != nil {
					return err
				}
			}
			return nil
		})
		must(t, g.Wait())
		for n := 1; n > 0; {
			var err error
			n, _, err = w.sites.FollowPolicies(t.Context(), contract.SiteID{})
			must(t, err)
		}
		all, _, err := w.sites.List(t.Context(), w.ours, 0, "", site.Filter{})
		must(t, err)
		for _, s := range all {
			want := 22 * time.Minute
			if len(s.Tags) == 0 {
				want = day
			}
			if s.Wanted.Schedule.Interval != want {
				t.Errorf("%s: %s", s.Name, s.Wanted.Schedule)
			}
		}
	})
}
