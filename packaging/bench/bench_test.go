package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUnknownFigureListsTheValidOnes(t *testing.T) {
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"--only", "speed"}, &out, &progress)
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, f := range figures {
		if !strings.Contains(err.Error(), f.name) {
			t.Errorf("%q does not name %s", err, f.name)
		}
	}
	if out.Len() > 0 {
		t.Errorf("it printed %q", &out)
	}
}

func TestChoose(t *testing.T) {
	t.Run("without a name it is all of them", func(t *testing.T) {
		got, err := choose(figures, "")
		if err != nil || len(got) != len(figures) {
			t.Errorf("%d figures, %v", len(got), err)
		}
	})
	t.Run("a name is that one alone", func(t *testing.T) {
		got, err := choose(figures, "site-static")
		if err != nil || len(got) != 1 || got[0].name != "site-static" {
			t.Errorf("%v, %v", names(got), err)
		}
	})
	t.Run("no two figures have the same name", func(t *testing.T) {
		n := slices.Sorted(slices.Values(names(figures)))
		if len(slices.Compact(n)) != len(figures) {
			t.Error(n)
		}
	})
}

func TestJudged(t *testing.T) {
	for _, c := range []struct {
		claim string
		row   row
		want  string
	}{
		{"at the bar is ok", row{Value: 10, Bar: atMost(10)}, "ok"},
		{"above the bar is short", row{Value: 10.1, Bar: atMost(10)}, "short"},
		{"zero lost is ok", row{Value: 0, Bar: exactly(0)}, "ok"},
		{"one lost is short", row{Value: 1, Bar: exactly(0)}, "short"},
		{"nothing promised has no verdict", row{Value: 10, Comparison: &comparison{Value: 5}}, ""},
		{"fast, but too slow beside the comparison, is short", row{Value: 4, Bar: atMost(6), Comparison: &comparison{Value: 3, Bar: atMost(1.3)}}, "short"},
		{"fast, and close to the comparison, is ok", row{Value: 4, Bar: atMost(6), Comparison: &comparison{Value: 3.2, Bar: atMost(1.3)}}, "ok"},
		{"slow is short even beside a slower comparison", row{Value: 7, Bar: atMost(6), Comparison: &comparison{Value: 9, Bar: atMost(1.3)}}, "short"},
		{"a comparison without a bar decides nothing", row{Value: 4, Bar: atMost(6), Comparison: &comparison{Value: 1}}, "ok"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			got, err := judged("f", []row{c.row})
			if err != nil || got[0].Verdict != c.want {
				t.Errorf("%q, %v", got[0].Verdict, err)
			}
		})
	}
	t.Run("a comparison of nothing is an error", func(t *testing.T) {
		if _, err := judged("f", []row{{Value: 1, Comparison: &comparison{}}}); err == nil {
			t.Error("it was taken")
		}
	})
	t.Run("no rows are an error", func(t *testing.T) {
		if _, err := judged("f", nil); err == nil {
			t.Error("it was taken")
		}
	})
}

func TestPercentile(t *testing.T) {
	var runs []time.Duration
	for i := range 200 {
		runs = append(runs, time.Duration(200-i)) // 200 to 1
	}
	for p, want := range map[float64]time.Duration{0: 1, 50: 100, 99: 198, 99.9: 200, 100: 200} {
		if got := percentile(runs, p); got != want {
			t.Errorf("p%v of 1 to 200 is %d, want %d", p, got, want)
		}
	}
	if got := median([]time.Duration{9, 1, 5}); got != 5 {
		t.Errorf("median of 1, 5, 9 is %d", got)
	}
	if runs[0] != 200 {
		t.Error("the runs were put into another order")
	}
}

// TestOfferKeepsTheRate is the claim that makes a slow answer count: calls are
// made when they are due, however long the former ones take.
func TestOfferKeepsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		made, failed, err := offer(t.Context(), 100, 300, func(context.Context) (time.Duration, error) {
			at := time.Since(begin)
			time.Sleep(5 * time.Second)
			return at, nil
		})
		if err != nil || len(failed) > 0 || len(made) != 300 {
			t.Fatal(len(made), failed, err)
		}
		slices.Sort(made)
		for i, at := range made {
			if want := time.Duration(i) * 10 * time.Millisecond; at != want {
				t.Fatalf("call %d was made after %s, want %s", i, at, want)
			}
		}
		if took := time.Since(begin); took != 2990*time.Millisecond+5*time.Second {
			t.Errorf("all had ended after %s", took)
		}
	})
}

func TestOfferSaysWhatFailed(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		good, failed, err := offer(t.Context(), 10, 3, func(context.Context) (int, error) { return 0, broken })
		if len(good) > 0 || len(failed) != 3 || !errors.Is(failed[0], broken) || err != nil {
			t.Error(good, failed, err)
		}
	})
}

func TestReport(t *testing.T) {
	rows, err := judged("site-static", []row{{
		Name: "API call to HTTP 200 with the title", Value: 0.71234, Unit: "s", Statistic: "median", Runs: 7, Bar: atMost(1.5),
		Comparison: &comparison{With: "bare shell steps", Value: 0.401, Bar: atMost(2)},
	}, {
		Name: "the slowest of them", Value: 1.6, Unit: "s", Statistic: "max", Runs: 7,
	}})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := judged("swarm", []row{{Name: "tasks lost", Value: 2, Unit: "tasks", Statistic: "once", Runs: 1, Bar: exactly(0)}})
	if err != nil {
		t.Fatal(err)
	}
	r := &report{
		Machine: machine{Cores: 2, CPU: "Some CPU", Memory: 24 << 30, Kernel: "6.1.0", Load: "0.10 0.20 0.30"},
		Time:    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Figures: append(rows, lost...),
		Failed:  []failure{{Figure: "dispatch-postgres", Error: "no PostgreSQL"}},
	}
	t.Run("as a table", func(t *testing.T) {
		var out bytes.Buffer
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, "report.txt", out.Bytes())
	})
	t.Run("as JSON", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "figures.json")
		if err := r.write(file); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "report.json", text)
		var back report
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if back.Figures[0].Verdict != "ok" || back.Figures[2].Verdict != "short" {
			t.Errorf("verdicts %q, %q", back.Figures[0].Verdict, back.Figures[2].Verdict)
		}
	})
}

func TestCPUOf(t *testing.T) {
	const stat = `42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 9 0 1 2 3`
	if got, err := cpuOf(stat); err != nil || got != 3*time.Second {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := cpuOf("42 (short) S"); err == nil {
		t.Error("half a line was taken")
	}
}

func TestGauge(t *testing.T) {
	const page = "# HELP chom_link_agents Agents.\nchom_link_agents_total 7\nchom_link_agents 2000\n"
	if got, err := gauge(strings.NewReader(page), "chom_link_agents"); err != nil || got != 2000 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := gauge(strings.NewReader(page), "chom_link"); err == nil {
		t.Error("half a name was taken")
	}
}

func TestBusy(t *testing.T) {
	for load, want := range map[string]bool{"0.30 5.00 9.00": false, "1.00 0 0": false, "1.10 0 0": true, "": false} {
		if got := (machine{Cores: 2, Load: load}).busy(); got != want {
			t.Errorf("two cores, load %q: %v", load, got)
		}
	}
}

func TestThisMachineIsKnown(t *testing.T) {
	m := thisMachine()
	if m.Cores < 1 || m.Memory < 1<<20 || m.Kernel == "" || m.Load == "" {
		t.Errorf("%+v", m)
	}
}

// golden compares with a file of testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}
