package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// doorCost is what stands between the network and a noun: who calls, how often, whether they may, the rules of the protos, the
// log and the metrics. It is the difference of the same call with and without, measured in one process by controlplane/api's
// own benchmark.
func doorCost(ctx context.Context, _ *bench) ([]row, error) {
	var rows []row
	for _, engine := range []string{"sqlite", "postgres"} {
		bare, err := benchmark(ctx, "api", "^BenchmarkDoor$/^"+engine+"$/^bare$")
		if err != nil {
			return nil, err
		}
		door, err := benchmark(ctx, "api", "^BenchmarkDoor$/^"+engine+"$/^door$")
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{
			Name: "the door's part of a call, " + engine, Value: float64(median(door)-median(bare)) / float64(time.Microsecond), Unit: "us", Statistic: "median", Runs: len(door),
			Bar:        atMost(150),
			Comparison: &comparison{With: "the handler and its query alone", Value: float64(median(bare)) / float64(time.Microsecond)},
		})
	}
	return rows, nil
}

const benchmarkRuns = 5

var perCall = regexp.MustCompile(`^Benchmark.*\s([0-9.]+) ns/op`)

// benchmark runs one of a package of the control plane, on one core, and gives how long each run's operation took.
func benchmark(ctx context.Context, pkg, name string) (runs []time.Duration, err error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", name, "-benchtime", "1s", "-cpu", "1", "-count", strconv.Itoa(benchmarkRuns), "chom.dev/controlplane/"+pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmark %s: %w: %s", name, err, out)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if found := perCall.FindStringSubmatch(lines.Text()); found != nil {
			ns, err := strconv.ParseFloat(found[1], 64)
			if err != nil {
				return nil, err
			}
			runs = append(runs, time.Duration(ns))
		}
	}
	if len(runs) != benchmarkRuns {
		return nil, fmt.Errorf("benchmark %s: %d runs: %s", name, len(runs), out)
	}
	return runs, nil
}
