package metrics

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

func TestAppend(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		acme, other := OfOrganization(w.acme, nil), OfOrganization(w.other, nil)

		t.Run("sets whose a series is from the database", func(t *testing.T) {
			w.report(t, w.shared, w.now, Sample{"node_load1", "", 1}, Sample{"chom_site_memory_bytes", w.blog.String(), 2}, Sample{"chom_site_memory_bytes", w.shop.String(), 3})
			w.report(t, w.dedicated, w.now, Sample{"node_load1", "", 4})
			got := w.ask(t, acme, "chom_site_memory_bytes")
			if len(got.Series) != 1 || got.Series[0].Points[0].Value != 2 || got.Series[0].Labels["site"] != w.blog.String() ||
				got.Series[0].Labels["server"] != w.shared.String() || got.Series[0].Labels["organization"] != w.acme.String() {
				t.Errorf("got %+v", got)
			}
			if got := w.ask(t, acme, "node_load1"); len(got.Series) != 1 || got.Series[0].Points[0].Value != 4 {
				t.Errorf("of its dedicated server: %+v", got)
			}
			if got := w.ask(t, other, `{__name__=~".+"}`); len(got.Series) != 1 || got.Series[0].Points[0].Value != 3 {
				t.Errorf("the other sees %+v", got)
			}
			if got := w.ask(t, OfPlatform(), `{__name__=~".+"}`); len(got.Series) != 2 || got.Series[0].Labels["site"] != "" {
				t.Errorf("the platform sees %+v", got)
			}
		})
		t.Run("keeps nothing of a site that the server does not hold", func(t *testing.T) {
			w.report(t, w.dedicated, w.now, Sample{"chom_site_disk_bytes", w.shop.String(), 1}, Sample{"chom_site_database_bytes", w.blog.String(), 1}, Sample{"stolen", w.shop.String(), 1}, Sample{"stolen", contract.NewSiteID().String(), 1}, Sample{"stolen", "x", 1})
			for _, scope := range []Scope{acme, other, OfPlatform()} {
				if got := w.ask(t, scope, `{__name__=~"stolen|chom_site_(disk|database)_bytes"}`); len(got.Series) > 0 {
					t.Errorf("got %+v", got)
				}
			}
		})
		t.Run("goes by where a site is now", func(t *testing.T) {
			exec(t, d, `UPDATE sites SET server_id = $1 WHERE id = $2`, w.dedicated, w.blog)
			defer exec(t, d, `UPDATE sites SET server_id = $1 WHERE id = $2`, w.shared, w.blog)
			w.report(t, w.shared, w.now, Sample{"moved", w.blog.String(), 1})
			w.report(t, w.dedicated, w.now, Sample{"moved", w.blog.String(), 2})
			if got := w.ask(t, acme, "moved"); len(got.Series) != 1 || got.Series[0].Points[0].Value != 2 {
				t.Errorf("got %+v", got)
			}
		})
	})
}

func TestAppendRefusesWhatAHostMustNotSay(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	for _, bad := range []string{
		fmt.Sprintf(`x{organization=%q}`, w.other), `x{server="x"}`, `x{site="x"}`, `x{__x__="1"}`, `{a="1"}`, `x{a="1"`, `x 1`, "", `x{a=~"1"}`, `x offset 1m`, `x{"é"="1"}`,
		"x{" + strings.Repeat(`a="1",`, 20) + "}", `x{a="` + strings.Repeat("1", maxText) + `"}`,
	} {
		t.Run(bad[:min(len(bad), 40)], func(t *testing.T) {
			w.report(t, w.shared, w.now, Sample{bad, w.blog.String(), 1}, Sample{bad, "", 1})
			for _, scope := range []Scope{OfOrganization(w.acme, nil), OfOrganization(w.other, nil), OfPlatform()} {
				if got := w.ask(t, scope, `{__name__=~".+",__name__!="fine"}`); len(got.Series) > 0 {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
	t.Run("and no NaN", func(t *testing.T) {
		w.report(t, w.dedicated, w.now, Sample{"x", "", math.NaN()}, Sample{"fine", "", 1})
		if got := w.ask(t, OfPlatform(), `{__name__=~".+"}`); len(got.Series) != 1 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAppendBoundsWhatAHostInvents(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	invent := func(from, n int, at time.Time) {
		samples := make([]Sample, n)
		for i := range samples {
			samples[i] = Sample{fmt.Sprintf("x%d", from+i), "", 1}
		}
		w.report(t, w.shared, at, samples...)
	}
	count := func() float64 {
		a := w.ask(t, OfPlatform(), `count({__name__=~"x.+"})`)
		if len(a.Series) == 0 {
			return 0
		}
		return a.Series[0].Points[0].Value
	}
	invent(0, maxHostSeries-1, w.now)
	invent(maxHostSeries, 100, w.now)
	if got := count(); got != maxHostSeries {
		t.Errorf("%v series, want %d", got, maxHostSeries)
	}
	w.report(t, w.dedicated, w.now, Sample{"x", "", 1}, Sample{"xy", "", 1})
	if got := count(); got != maxHostSeries+1 {
		t.Errorf("another host has no room: %v", got)
	}
	w.now = w.now.Add(block + 2*time.Minute)
	invent(2*maxHostSeries, 100, w.now)
	if got := count(); got != 100 {
		t.Errorf("%v series after two hours, want 100", got)
	}
}

func TestAppendWithAClockThatIsSetBack(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	scope := OfPlatform()
	w.report(t, w.shared, w.now, Sample{"x", "", 1})
	w.report(t, w.shared, w.now.Add(-30*time.Minute), Sample{"x", "", 2})
	w.report(t, w.shared, w.now.Add(-3*time.Hour), Sample{"x", "", 3}) // not kept, and no error
	a, err := w.QueryRange(t.Context(), scope, "x", w.now.Add(-30*time.Minute), w.now, 30*time.Minute)
	if err != nil || len(a.Series) != 1 || len(a.Series[0].Points) != 2 || a.Series[0].Points[0].Value != 2 {
		t.Errorf("got %+v, %v", a, err)
	}
	if got, err := w.Query(t.Context(), scope, "x", w.now.Add(-3*time.Hour)); err != nil || len(got.Series) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAppendTwice(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	for i := range 10 {
		at := w.now.Add(time.Duration(i-9) * time.Minute)
		for _, again := range []time.Duration{0, 0, 300 * time.Millisecond} {
			w.report(t, w.shared, at.Add(again-time.Second), Sample{"x_total", "", float64(60 * i)})
		}
	}
	got := w.ask(t, OfPlatform(), "rate(x_total[5m])")
	if len(got.Series) != 1 || math.Abs(got.Series[0].Points[0].Value-1) > 0.01 {
		t.Errorf("got %+v, want 1 a second", got)
	}
}

func TestOff(t *testing.T) {
	m, err := New(dbtest.SQLite(t), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Append(t.Context(), contract.NewServerID(), []Sample{{"x", "", 1}}, time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := m.Query(t.Context(), OfPlatform(), "x", time.Now()); fault.KindOf(err) != fault.KindConflict {
		t.Errorf("got %v", err)
	}
}
