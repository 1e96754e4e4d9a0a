package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"pgregory.net/rapid"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// strangersValue marks values of a stranger's series: no answer may hold one, whatever was made of it.
const strangersValue = 1e15

// filled is a world in which the other organization's values are beyond what any expression makes of acme's.
func filled(t testing.TB) *world {
	w := newWorld(t, dbtest.SQLite(t))
	for i := range 20 {
		at := w.now.Add(time.Duration(i-19) * time.Minute)
		w.report(t, w.shared, at, Sample{"m", w.blog.String(), float64(i)}, Sample{`n{a="x"}`, w.blog.String(), 1},
			Sample{"m", w.shop.String(), strangersValue * float64(i+1)}, Sample{`n{a="x"}`, w.shop.String(), strangersValue}, Sample{`stranger{le="1"}`, w.shop.String(), strangersValue},
			Sample{"m", "", strangersValue}, Sample{"target_info", w.shop.String(), 1})
	}
	return w
}

// foreign says what of an answer is not the organization's.
func (w *world) foreign(a Answer) string {
	for _, s := range a.Series {
		for _, value := range s.Labels {
			if strings.Contains(value, w.other.String()) || strings.Contains(value, w.shop.String()) || value == "stranger" {
				return fmt.Sprint(s.Labels)
			}
		}
		for _, p := range s.Points {
			if math.Abs(p.Value) >= strangersValue && !math.IsInf(p.Value, 0) {
				return fmt.Sprint(s.Labels, p)
			}
		}
	}
	return ""
}

func TestScopeOfTrickyExpressions(t *testing.T) {
	w := filled(t)
	scope := OfOrganization(w.acme, nil)
	for _, query := range []string{
		`m`, `{__name__="m"}`, `{__name__=~".+"}`, `{__name__!=""}`, `{"m"}`, `stranger`, `{site=~".*",__name__=~".*r.*"}`,
		`m{organization="OTHER"}`, `m{organization=~"OTHER|.*"}`, `m{organization!="ACME"}`, `m{organization=~".*"}`, `m{organization!=""}`, `m{organization=""}`,
		`m{organization="ACME"} or m{organization="OTHER"}`, `m{organization="ACME",organization="OTHER"}`, `m{site=""}`, `m{site="SHOP"}`,
		`sum(m)`, `sum by (organization) (m)`, `max without (site) (m)`, `count_values("organization", m)`, `topk(10, m)`, `quantile(scalar(max(m)), m)`, `group(m)`,
		`m[5m]`, `m[5m:1m]`, `max_over_time(m[10m])`, `max_over_time(m[10m:30s] offset 1m)`, `max_over_time((m or stranger)[10m:1m] @ end())`,
		`m offset 5m`, `m offset -1m`, `m @ 0`, `m @ start()`, `m @ end() offset 1m`, `rate(m[5m] @ end())`, `deriv(m[5m:])`,
		`label_replace(m, "organization", "OTHER", "", "")`, `label_replace(m{organization="OTHER"}, "organization", "ACME", "", "")`, `label_join(m, "organization", "", "site")`,
		`label_replace(m, "x", "{organization=\"OTHER\"} or m", "", "")`, `m{a!="\"} or m{organization=\"OTHER"}`, "m{a!=`\"} or m{organization=\"OTHER\"}`}",
		`absent(m{organization="OTHER"})`, `absent_over_time(stranger[5m])`, `scalar(stranger)`, `vector(scalar(max(stranger)))`, `-m`, `+stranger`, `((m))`,
		`m * on() group_left(organization) n`, `m and on() stranger`, `m unless stranger`, `m or stranger`, `m + ignoring(site, organization) group_left stranger`,
		`histogram_quantile(0.9, stranger)`, `sort_desc(m or stranger)`, `time() + scalar(stranger)`, `clamp_max(stranger, scalar(stranger))`, `changes(stranger[10m])`,
		`m # } or stranger`, `m > bool on(a) stranger`, `1`, `"OTHER"[0:1]`, `timestamp(stranger)`, `count(stranger)`, `avg_over_time(stranger[5m]) or m`,
	} {
		query = strings.NewReplacer("OTHER", w.other.String(), "ACME", w.acme.String(), "SHOP", w.shop.String()).Replace(query)
		t.Run(query, func(t *testing.T) {
			a, err := w.Query(t.Context(), scope, query, w.now)
			if err != nil && fault.KindOf(err) != fault.KindInvalid {
				t.Fatal(err)
			}
			if strings.HasPrefix(query, "label_replace(m, ") || strings.HasPrefix(query, "absent(") {
				for i := range a.Series { // the caller's own words about what is his
					delete(a.Series[i].Labels, "organization")
					delete(a.Series[i].Labels, "x")
				}
			}
			if got := w.foreign(a); got != "" {
				t.Errorf("sees %s", got)
			}
			if a, err := w.Query(t.Context(), scope, "count(stranger)", w.now); err != nil || len(a.Series) > 0 {
				t.Errorf("it counts what it must not see: %+v, %v", a, err)
			}
		})
	}
	for _, query := range []string{`info(m)`, `m{`, `{}`, `{__name__=~".*"`, `sum(`, strings.Repeat("(", 1999), strings.Repeat("x", MaxQuery+1), ``, `limitk(1, m)`} {
		t.Run("refuses "+query[:min(len(query), 20)], func(t *testing.T) {
			if a, err := w.Query(t.Context(), scope, query, w.now); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("got %+v, %v", a, err)
			}
		})
	}
}

// TestScopeOfAnyExpression makes up expressions, and claims of each that it sees nothing of the stranger's, at one moment and over a range.
func TestScopeOfAnyExpression(t *testing.T) {
	w := filled(t)
	options := parser.Options{}
	made, asked := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		made++
		query := expression(r, w, 3)
		if _, err := parser.NewParser(options).ParseExpr(query); err != nil {
			return // two sides of one type are not always met
		}
		asked++
		scope := OfOrganization(w.acme, nil)
		if rapid.Bool().Draw(r, "bound") {
			scope = OfOrganization(w.acme, []string{w.blog.String(), w.shop.String()}) // a grant of another organization's site gives nothing
		}
		for name, ask := range map[string]func() (Answer, error){
			"at a moment": func() (Answer, error) { return w.Query(t.Context(), scope, query, w.now) },
			"over a range": func() (Answer, error) {
				return w.QueryRange(t.Context(), scope, query, w.now.Add(-9*time.Minute), w.now, 3*time.Minute)
			},
		} {
			a, err := ask()
			if err != nil && fault.KindOf(err) != fault.KindInvalid {
				r.Fatalf("%s: %s: %v", name, query, err)
			}
			if got := w.foreign(a); got != "" {
				r.Fatalf("%s: %s sees %s", name, query, got)
			}
		}
	})
	if asked < made/2 {
		t.Errorf("only %d of %d were PromQL", asked, made)
	}
}

// expression is PromQL of a depth, most of it valid.
func expression(r *rapid.T, w *world, depth int) string {
	pick := func(of ...string) string { return rapid.SampledFrom(of).Draw(r, "word") }
	selector := func() string {
		s := pick("m", "n", "stranger", `{__name__=~".+"}`, `{__name__=~"m|stranger"}`, "m")
		if !strings.HasPrefix(s, "{") {
			s += pick("", `{organization="`+w.other.String()+`"}`, `{organization=~".*"}`, `{site!="`+w.blog.String()+`"}`, `{site=""}`, `{organization!~"`+w.acme.String()+`"}`, `{a="x"}`)
		}
		return s
	}
	modifier := func() string {
		return pick("", "", " offset 1m", " offset -2m", " @ end()", " @ start()", " @ start() offset 1m")
	}
	if depth == 0 {
		return selector() + modifier()
	}
	inner := func() string { return expression(r, w, depth-1) }
	switch rapid.IntRange(0, 9).Draw(r, "kind") {
	case 0:
		return pick("max", "min", "avg", "sum", "count", "group") + pick("", " by (organization)", " without (site)") + "(" + inner() + ")"
	case 1:
		return pick("max_over_time", "avg_over_time", "changes", "last_over_time", "present_over_time") + "(" + selector() + "[5m]" + modifier() + ")"
	case 2:
		return pick("max_over_time((", "min_over_time((", "quantile_over_time(0.5, (") + inner() + ")[5m:1m]" + modifier() + ")"
	case 3:
		return "(" + inner() + ") " + pick("or", "and", "unless", "or on()", "and on()") + " (" + inner() + ")"
	case 4:
		return "(" + inner() + ") " + pick("+", "-", "== bool", "> ", "+ on() group_left()", "- ignoring(site, organization, server)") + " (" + inner() + ")"
	case 5:
		return "label_join(" + inner() + `, "a", ",", "site", "organization")`
	case 6:
		return "vector(scalar(" + inner() + "))"
	case 7:
		return pick("topk", "bottomk") + "(3, " + inner() + ")"
	case 8:
		return pick("abs", "ceil", "sort", "timestamp", "-") + "(" + inner() + ")"
	default:
		return selector() + modifier()
	}
}

func TestScopes(t *testing.T) {
	w := filled(t)
	for name, c := range map[string]struct {
		scope Scope
		want  int
	}{
		"all of an organization": {OfOrganization(w.acme, nil), 2},
		"a site of it":           {OfOrganization(w.acme, []string{w.blog.String()}), 2},
		"no site":                {OfOrganization(w.acme, []string{}), 0},
		"a site of others":       {OfOrganization(w.acme, []string{w.shop.String()}), 0},
		"what is no site":        {OfOrganization(w.acme, []string{"", ".*"}), 0},
		"nothing":                {Scope{}, 0},
		"no organization, which is not a shared server's": {OfOrganization(contract.OrganizationID{}, nil), 0},
		"servers": {OfPlatform(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.ask(t, c.scope, `{__name__=~".+"}`); len(got.Series) != c.want {
				t.Errorf("sees %d series, want %d: %+v", len(got.Series), c.want, got)
			}
		})
	}
}

// TestWall claims that the storage below the engine refuses what narrow has left out.
func TestWall(t *testing.T) {
	w := filled(t)
	history, release, err := w.use()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	scope := OfOrganization(w.acme, []string{w.blog.String()})
	for name, scoped := range map[string]Scope{"without the site": OfOrganization(w.acme, nil), "of others": OfOrganization(w.other, nil), "without any": {}} {
		t.Run(name, func(t *testing.T) {
			q, err := wall{history, scope}.Querier(0, w.now.UnixMilli())
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close() //nolint:errcheck // read-only
			matchers := append([]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}, scoped.matchers...)
			set := q.Select(t.Context(), false, nil, matchers...)
			if set.Next() || !errors.Is(set.Err(), errWall) {
				t.Errorf("got %v, %v", set.At(), set.Err())
			}
		})
	}
	t.Run("and lets the scope through", func(t *testing.T) {
		query, err := w.engine.NewInstantQuery(t.Context(), wall{history, scope}, nil, "m", w.now)
		if err != nil {
			t.Fatal(err)
		}
		defer query.Close()
		if result := query.Exec(t.Context()); !errors.Is(result.Err, errWall) {
			t.Errorf("a bare expression: %v", result.Err)
		}
	})
}

func TestSlots(t *testing.T) {
	s := newSlots()
	for range atOnceOfOne {
		if _, err := s.take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	full, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.take(full, "a"); fault.KindOf(err) != fault.KindLimited {
		t.Errorf("one more of the same: %v", err)
	}
	done, err := s.take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	done()
	if len(s.each) != 1 {
		t.Errorf("it remembers %d organizations", len(s.each))
	}
}
