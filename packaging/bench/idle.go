package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	idleSettle = 30 * time.Second // what a start leaves behind is collected, the first heartbeats are over
	idleWindow = time.Minute
	// scrapeEvery is how often a Prometheus asks node_exporter.
	scrapeEvery = 15 * time.Second
)

const (
	megabyte = 1e6     // of a file
	mebibyte = 1 << 20 // of memory
)

// agentIdle looks at an agent with nothing to do, and, over the same minute on
// the same host, at what an operator would need without it: node_exporter for
// the metrics, and an open SSH session to give orders.
func agentIdle(ctx context.Context, b *bench) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	h, _, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	if err := installNodeExporter(ctx, h); err != nil {
		return nil, err
	}
	pool, err := dialSSH(ctx, s.Lab, h)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pool.close()) }()
	sshd, err := pool.server(ctx)
	if err != nil {
		return nil, err
	}
	agent, err := mainPID(ctx, h, agentUnit)
	if err != nil {
		return nil, err
	}
	exporter, err := mainPID(ctx, h, "prometheus-node-exporter.service")
	if err != nil {
		return nil, err
	}

	scraping, stop := context.WithCancel(ctx)
	defer stop()
	scrapes := make(chan error, 1)
	go func() { scrapes <- scrape(scraping, h) }()
	if err := pause(ctx, idleSettle); err != nil {
		return nil, err
	}
	var use [3]usage
	for i, pid := range []string{agent, exporter, sshd} {
		if use[i].before, err = cpuTime(ctx, h, pid); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	if err := pause(ctx, idleWindow); err != nil {
		return nil, err
	}
	window := time.Since(begin)
	for i, pid := range []string{agent, exporter, sshd} {
		if err := use[i].read(ctx, h, pid); err != nil {
			return nil, err
		}
		b.detail("%s: %.1f MiB resident, %.1f MiB of it anonymous, %.0f ms of CPU in %s", []string{"agent", "node_exporter", "sshd"}[i],
			float64(use[i].rss)/mebibyte, float64(use[i].anon)/mebibyte, ms(use[i].cpu()), window.Round(time.Second))
	}
	stop()
	if err := <-scrapes; err != nil {
		return nil, fmt.Errorf("scrape node_exporter: %w", err)
	}
	size, err := fileSize(ctx, h, agent)
	if err != nil {
		return nil, err
	}
	exporterSize, err := fileSize(ctx, h, exporter)
	if err != nil {
		return nil, err
	}

	both := func(of func(usage) float64) *comparison {
		return &comparison{With: "node_exporter + an idle sshd session", Value: of(use[1]) + of(use[2])}
	}
	rss := func(u usage) float64 { return float64(u.rss) / mebibyte }
	anon := func(u usage) float64 { return float64(u.anon) / mebibyte }
	cpu := func(u usage) float64 { return 100 * u.cpu().Seconds() / window.Seconds() }
	return []row{
		{Name: "resident memory", Value: rss(use[0]), Unit: "MiB", Statistic: "once", Runs: 1, Bar: atMost(40), Comparison: both(rss)},
		{Name: "anonymous part of it", Value: anon(use[0]), Unit: "MiB", Statistic: "once", Runs: 1, Comparison: both(anon)},
		{Name: "CPU", Value: cpu(use[0]), Unit: "% of a core", Statistic: "mean over 60 s", Runs: 1, Bar: atMost(0.5), Comparison: both(cpu)},
		{
			Name: "stripped program", Value: size / megabyte, Unit: "MB", Statistic: "once", Runs: 1, Bar: atMost(30),
			Comparison: &comparison{With: "node_exporter", Value: exporterSize / megabyte},
		},
	}, nil
}

func installNodeExporter(ctx context.Context, h *lab.Host) error {
	for _, argv := range [][]string{
		{"apt-get", "--quiet=2", "update"},
		{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2", "--yes", "--no-install-recommends", "install", "prometheus-node-exporter"},
	} {
		if _, err := h.Output(ctx, argv...); err != nil {
			return fmt.Errorf("install node_exporter: %w", err)
		}
	}
	return nil
}

// scrape asks node_exporter as a Prometheus does, until ctx ends.
func scrape(ctx context.Context, h *lab.Host) error {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:9100/metrics", h.Addr()), nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if err != nil && ctx.Err() == nil {
				return err
			}
		} else if ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// usage is what a process took.
type usage struct {
	rss, anon     int64 // bytes
	before, after time.Duration
}

func (u usage) cpu() time.Duration { return u.after - u.before }

func (u *usage) read(ctx context.Context, h *lab.Host, pid string) (err error) {
	if u.after, err = cpuTime(ctx, h, pid); err != nil {
		return err
	}
	status, err := h.Output(ctx, "cat", "/proc/"+pid+"/status")
	if err != nil {
		return err
	}
	if u.rss, err = kibibytes(fieldOf(status, "VmRSS")); err != nil {
		return err
	}
	u.anon, err = kibibytes(fieldOf(status, "RssAnon"))
	return err
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that we run on.
const clockTick = 10 * time.Millisecond

func cpuTime(ctx context.Context, h *lab.Host, pid string) (time.Duration, error) {
	stat, err := h.Output(ctx, "cat", "/proc/"+pid+"/stat")
	if err != nil {
		return 0, err
	}
	return cpuOf(stat)
}

// cpuOf adds the time in user and in kernel mode.
func cpuOf(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // the name before may hold anything
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat of a process: %q", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat of a process: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// agentUnit is the agent's service on its host.
const agentUnit = "chom-agent.service"

func mainPID(ctx context.Context, h *lab.Host, unit string) (string, error) {
	pid, err := h.Output(ctx, "systemctl", "show", "--property=MainPID", "--value", unit)
	if err == nil && (pid == "" || pid == "0") {
		err = errors.New(unit + " does not run")
	}
	return pid, err
}

// fileSize is the size in bytes of the program that a process runs, as it was
// installed.
func fileSize(ctx context.Context, h *lab.Host, pid string) (float64, error) {
	out, err := h.Output(ctx, "stat", "--dereference", "--format=%s", "/proc/"+pid+"/exe")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(out, 64)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
