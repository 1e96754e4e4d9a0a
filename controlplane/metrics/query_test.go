package metrics

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

func TestQuery(t *testing.T) {
	w := filled(t)
	scope := OfOrganization(w.acme, nil)
	for _, c := range []struct {
		query string
		kind  Kind
		want  float64
	}{
		{"1 + 1", Scalar, 2}, {"m", Vector, 19}, {"m offset 9m", Vector, 10}, {"sum(m) + 1", Vector, 20}, {"m[150s]", Matrix, 17},
	} {
		t.Run(c.query, func(t *testing.T) {
			a := w.ask(t, scope, c.query)
			if a.Kind != c.kind || len(a.Series) != 1 || a.Series[0].Points[0].Value != c.want {
				t.Errorf("got %+v", a)
			}
		})
	}
	if a := w.ask(t, scope, `"text"`); a.Kind != Text || a.Text != "text" {
		t.Errorf("got %+v", a)
	}
	a, err := w.QueryRange(t.Context(), scope, "m", w.now.Add(-10*time.Minute), w.now, 5*time.Minute)
	if err != nil || a.Kind != Matrix || len(a.Series) != 1 || len(a.Series[0].Points) != 3 || a.Series[0].Points[2].Value != 19 || !a.Series[0].Points[2].At.Equal(w.now) {
		t.Errorf("got %+v, %v", a, err)
	}
	if a, err := w.QueryRange(t.Context(), scope, "2", w.now, w.now, time.Minute); err != nil || len(a.Series) != 1 || a.Series[0].Points[0].Value != 2 {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestQueryRangeRefuses(t *testing.T) {
	w := filled(t)
	for _, c := range []struct {
		claim, field, query string
		span, step          time.Duration
	}{
		{"an end before the start", "end_time", "m", -time.Second, time.Minute},
		{"more than a year", "end_time", "m", MaxRange + time.Second, 24 * time.Hour},
		{"a short step", "step", "m", time.Hour, time.Second - 1},
		{"no step", "step", "m", time.Hour, 0},
		{"too many points", "step", "m", MaxSteps * time.Second, time.Second},
		{"what is no PromQL", "query", "m{", time.Hour, time.Minute},
		{"a range selector", "query", "m[5m]", time.Hour, time.Minute},
		{"a text", "query", `"a"`, time.Hour, time.Minute},
		{"what is too long", "query", strings.Repeat(" ", MaxQuery) + "m", time.Hour, time.Minute},
		{"two series for one", "query", `m * on() {__name__=~"m|n"}`, time.Hour, time.Minute},
	} {
		t.Run(c.claim, func(t *testing.T) {
			a, err := w.QueryRange(t.Context(), OfOrganization(w.acme, nil), c.query, w.now, w.now.Add(c.span), c.step)
			f, ok := fault.Of(err)
			if !ok || f.Kind() != fault.KindInvalid || f.Field() != c.field {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
}

// TestQueryIsBounded claims that an expression that would take too much ends, soon and with a word to the caller.
func TestQueryIsBounded(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	samples := make([]Sample, 300)
	for i := range samples {
		samples[i] = Sample{fmt.Sprintf(`m{i="%d"}`, i), w.blog.String(), float64(i)}
	}
	for i := range 20 {
		w.report(t, w.shared, w.now.Add(time.Duration(i-19)*time.Minute), samples...)
	}
	scope := OfOrganization(w.acme, nil)
	began := time.Now()
	if _, err := w.Query(t.Context(), scope, `sum_over_time(m[20m:10ms])`, w.now); fault.KindOf(err) != fault.KindInvalid {
		t.Errorf("too many samples: %v", err)
	}
	if _, err := w.QueryRange(t.Context(), scope, `m`, w.now.Add(-20*time.Minute), w.now, 2*time.Second); fault.KindOf(err) != fault.KindInvalid || !strings.Contains(err.Error(), "points in all") {
		t.Errorf("too large an answer: %v", err)
	}
	if _, err := w.Query(t.Context(), scope, strings.Repeat("sum_over_time(", 80)+"m"+strings.Repeat("[20m:1s])", 80), w.now); fault.KindOf(err) != fault.KindInvalid || !strings.Contains(err.Error(), "takes longer") {
		t.Errorf("too deep: %v", err)
	}
	if took := time.Since(began); took > 4*answerIn {
		t.Errorf("they took %s", took)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Query(over, scope, "m", w.now); err == nil {
		t.Error("a caller who went away gets an answer")
	}
}

func TestSparklines(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	for i := range 61 {
		at, n := w.now.Add(time.Duration(i-60)*time.Minute), float64(i)
		for _, server := range []contract.ServerID{w.shared, w.dedicated} {
			w.report(t, server, at,
				Sample{`node_cpu_seconds_total{cpu="0",mode="idle"}`, "", 45 * n}, Sample{`node_cpu_seconds_total{cpu="1",mode="idle"}`, "", 15 * n},
				Sample{`node_cpu_seconds_total{cpu="0",mode="user"}`, "", 15 * n}, Sample{`node_cpu_seconds_total{cpu="1",mode="user"}`, "", 45 * n},
				Sample{"node_memory_MemAvailable_bytes", "", 25}, Sample{"node_memory_MemTotal_bytes", "", 100},
				Sample{`node_filesystem_avail_bytes{mountpoint="/"}`, "", 60}, Sample{`node_filesystem_size_bytes{mountpoint="/"}`, "", 100}, Sample{`node_filesystem_avail_bytes{mountpoint="/boot"}`, "", 1})
		}
		for _, site := range []contract.SiteID{w.blog, w.shop} {
			w.report(t, w.shared, at,
				Sample{`chom_site_requests_total{status="2xx"}`, site.String(), 120 * n}, Sample{`chom_site_requests_total{status="5xx"}`, site.String(), 60 * n},
				Sample{"chom_site_cpu_seconds_total", site.String(), 30 * n}, Sample{"chom_site_memory_bytes", site.String(), 7},
				Sample{"chom_site_disk_bytes", site.String(), 1000}, Sample{"chom_site_database_bytes", site.String(), 200})
		}
	}
	near := func(points []Point, want float64) bool {
		return len(points) > 50 && len(points) <= sparkPoints && math.Abs(points[len(points)-1].Value-want) < 1e-6
	}
	servers, sites := []contract.ServerID{w.shared, w.dedicated}, []contract.SiteID{w.blog, w.shop}
	for figure, want := range map[Figure]float64{CPU: 0.5, Memory: 0.75, Disk: 0.4} {
		t.Run("of servers: "+string(figure), func(t *testing.T) {
			all, err := w.ServerSparklines(t.Context(), OfPlatform(), servers, figure, time.Hour, w.now)
			if err != nil || len(all) != 2 || !near(all[w.shared.String()], want) {
				t.Errorf("the platform: %v, %v", all, err)
			}
			if first := all[w.shared.String()][0].Value; math.Abs(first-want) > 1e-6 {
				t.Errorf("it begins at %v, with few reports, and is %v", first, want)
			}
			own, err := w.ServerSparklines(t.Context(), OfOrganization(w.acme, nil), servers, figure, time.Hour, w.now)
			if err != nil || len(own) != 1 || !near(own[w.dedicated.String()], want) {
				t.Errorf("whose it is: %v, %v", own, err)
			}
		})
	}
	for figure, want := range map[Figure]float64{CPU: 0.5, Memory: 7, Disk: 1200, Requests: 3, Errors: 1} {
		t.Run("of sites: "+string(figure), func(t *testing.T) {
			own, err := w.SiteSparklines(t.Context(), OfOrganization(w.acme, nil), sites, figure, time.Hour, w.now)
			if err != nil || len(own) != 1 || !near(own[w.blog.String()], want) {
				t.Errorf("got %v, %v", own, err)
			}
			if none, err := w.SiteSparklines(t.Context(), OfPlatform(), sites, figure, time.Hour, w.now); err != nil || len(none) != 0 {
				t.Errorf("the platform: %v, %v", none, err)
			}
		})
	}
	t.Run("requests of a server are those of the caller's sites", func(t *testing.T) {
		got, err := w.ServerSparklines(t.Context(), OfOrganization(w.acme, nil), servers, Requests, time.Hour, w.now)
		if err != nil || len(got) != 1 || !near(got[w.shared.String()], 3) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("200 at a time", func(t *testing.T) {
		many := sites
		for len(many) < MaxSparklines {
			many = append(many, contract.NewSiteID())
		}
		got, err := w.SiteSparklines(t.Context(), OfOrganization(w.acme, nil), many, Requests, MaxWindow, w.now)
		if err != nil || len(got) != 1 || len(got[w.blog.String()]) > sparkPoints {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("a site without a database takes what its files take", func(t *testing.T) {
		w.now = w.now.Add(10 * time.Minute) // whatever it had is no more
		w.report(t, w.shared, w.now, Sample{"chom_site_disk_bytes", w.blog.String(), 3000})
		own, err := w.SiteSparklines(t.Context(), OfOrganization(w.acme, nil), sites, Disk, time.Hour, w.now)
		if points := own[w.blog.String()]; err != nil || len(points) == 0 || points[len(points)-1].Value != 3000 || points[0].Value != 1200 {
			t.Errorf("got %v, %v", own, err)
		}
	})
}
