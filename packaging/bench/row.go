package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// row is one number of a figure, as printed and as in the JSON.
type row struct {
	Figure    string  `json:"figure"`
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Statistic string  `json:"statistic"` // what the value is of its runs: "median", "p99", "once" ...
	Runs      int     `json:"runs"`      // how many runs it was taken from
	// Bar is what was promised; a row without one explains another.
	Bar *bar `json:"bar,omitempty"`
	// Verdict is "ok" or "short", and empty where nothing was promised.
	Verdict string `json:"verdict,omitempty"`
	// Comparison was measured beside it.
	Comparison *comparison `json:"comparison,omitempty"`
}

// comparison is what does the same work without CHOM.
type comparison struct {
	With  string  `json:"with"`
	Value float64 `json:"value"` // in the row's unit
	Ratio float64 `json:"ratio"` // the row's value divided by this one
	Bar   *bar    `json:"bar,omitempty"`
}

// bar is a limit that belongs to the promise.
type bar struct {
	Relation string  `json:"relation"` // "<=", ">=" or "="
	Limit    float64 `json:"limit"`
}

func atMost(limit float64) *bar  { return &bar{"<=", limit} }
func atLeast(limit float64) *bar { return &bar{">=", limit} }
func exactly(limit float64) *bar { return &bar{"=", limit} }

func (b bar) reached(v float64) bool {
	switch b.Relation {
	case "<=":
		return v <= b.Limit
	case ">=":
		return v >= b.Limit
	}
	return v == b.Limit
}

// judged completes the rows of a figure: its name, ratios, verdicts.
func judged(figure string, rows []row) ([]row, error) {
	if len(rows) == 0 {
		return nil, errors.New("nothing was measured")
	}
	for i := range rows {
		r := &rows[i]
		r.Figure = figure
		good := r.Bar == nil || r.Bar.reached(r.Value)
		promised := r.Bar != nil
		if c := r.Comparison; c != nil {
			c.Ratio = r.Value / c.Value
			if c.Bar != nil {
				promised = true
				good = good && c.Bar.reached(c.Ratio)
			}
			if math.IsNaN(c.Ratio) || math.IsInf(c.Ratio, 0) {
				return nil, fmt.Errorf("%s: there is no ratio of %v to %v", r.Name, r.Value, c.Value)
			}
		}
		switch {
		case !promised:
		case good:
			r.Verdict = "ok"
		default:
			r.Verdict = "short"
		}
	}
	return rows, nil
}

// percentile is the nearest-rank percentile: the smallest run that is at least
// as large as p percent of all. There must be a run.
func percentile(runs []time.Duration, p float64) time.Duration {
	if len(runs) == 0 {
		panic("percentile of no runs")
	}
	sorted := slices.Sorted(slices.Values(runs))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median(runs []time.Duration) time.Duration { return percentile(runs, 50) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
