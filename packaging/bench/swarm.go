package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"

	"chom.dev/packaging/rig"
)

const (
	swarmAgents = 2000
	swarmRamp   = time.Minute      // over which they enrol: 2,000 new servers are not plugged in at once
	swarmSettle = 45 * time.Second // beyond three heartbeats, and collections of what enrolment left
	// swarmBack is what was promised, swarmLimit what is waited for, so that a miss has a number.
	swarmBack  = time.Minute
	swarmLimit = 5 * time.Minute
)

// swarm connects the simulated agents of chom-swarm, weighs chomd without and
// with them, kills it under them, and then gives some of them work while they
// and chomd are killed; see faults.go.
func swarm(ctx context.Context, b *bench) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Args: []string{"--log-level=warn"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	sw := &swarmed{stage: s, dir: filepath.Join(s.dir, "swarm")}
	if err := os.Mkdir(sw.dir, 0o700); err != nil {
		return nil, err
	}
	if err := sw.servers(ctx, swarmAgents); err != nil {
		return nil, err
	}
	// From here on chomd holds what 2,000 rows cost it, and no agent.
	s.Terminate()
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	if err := pause(ctx, swarmSettle); err != nil {
		return nil, err
	}
	without, err := s.rss()
	if err != nil {
		return nil, err
	}
	p, err := sw.start(ctx, "all", "--agents="+strconv.Itoa(swarmAgents), "--tokens="+sw.tokens(), "--ramp="+swarmRamp.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	begin := time.Now()
	if err := sw.connected(ctx, p, swarmAgents); err != nil {
		return nil, err
	}
	b.detail("%d agents enrolled and connected after %s", swarmAgents, time.Since(begin).Round(time.Second))
	if err := sw.prepared(ctx, p, swarmAgents); err != nil {
		return nil, err
	}
	if err := pause(ctx, swarmSettle); err != nil {
		return nil, err
	}
	enrolled, err := s.rss()
	if err != nil {
		return nil, err
	}

	s.Kill()
	begin = time.Now()
	if err := s.Restart(ctx); err != nil {
		return nil, err
	}
	if err := sw.connected(ctx, p, swarmAgents); err != nil {
		return nil, err
	}
	back := time.Since(begin)
	if err := pause(ctx, swarmSettle); err != nil {
		return nil, err
	}
	returned, err := s.rss()
	if err != nil {
		return nil, err
	}
	b.detail("chomd's RSS: %.1f MiB with none, %.1f MiB after all enrolled, %.1f MiB after all came back",
		float64(without)/mebibyte, float64(enrolled)/mebibyte, float64(returned)/mebibyte)
	if err := p.stop(); err != nil {
		return nil, err
	}

	each := func(rss int64) float64 { return float64(rss-without) / swarmAgents / (1 << 10) }
	rows := []row{
		{Name: "agents connected", Value: swarmAgents, Unit: "agents", Bar: exactly(swarmAgents)}, // else connected has failed
		{Name: "chomd's RSS per agent, after they enrolled", Value: each(enrolled), Unit: "KiB", Bar: atMost(128)},
		{Name: "chomd's RSS per agent, after they came back", Value: each(returned), Unit: "KiB", Bar: atMost(128)},
		{Name: "kill -9 of chomd until all are back", Value: back.Seconds(), Unit: "s", Bar: atMost(swarmBack.Seconds())},
	}
	for i := range rows {
		rows[i].Statistic, rows[i].Runs = "once", 1
	}
	work, err := sw.faults(ctx)
	return append(rows, work...), err
}

// swarmed is a stage whose servers are simulated.
type swarmed struct {
	*stage
	dir string
	ids []string // of the servers, in the order of their tokens
}

func (s *swarmed) tokens() string { return filepath.Join(s.dir, "tokens") }

// servers creates them and keeps their join tokens.
func (s *swarmed) servers(ctx context.Context, n int) error {
	s.ids = make([]string, n)
	tokens := make([]string, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			res, err := s.Servers.CreateServer(ctx, &fleetv1.CreateServerRequest{Name: fmt.Sprintf("swarm-%d", i)})
			if err != nil {
				return fmt.Errorf("create server: %w", err)
			}
			s.ids[i], tokens[i] = res.GetServer().GetId(), res.GetJoinToken().GetToken()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return os.WriteFile(s.tokens(), []byte(strings.Join(tokens, "\n")+"\n"), 0o600)
}

// rss is chomd's resident memory, in bytes.
func (s *stage) rss() (int64, error) {
	return kibibytes(field(fmt.Sprintf("/proc/%d/status", s.Pid()), "VmRSS"))
}

// linked is how many agents hold a link, by chomd's own metrics: a swarm does
// not know at once that it was cut off.
func (s *stage) linked(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close() //nolint:errcheck // only read from
	return gauge(res.Body, "chom_link_agents")
}

// connected waits until so many agents hold a link.
func (s *swarmed) connected(ctx context.Context, p *process, want int) error {
	ctx, cancel := context.WithTimeout(ctx, swarmLimit)
	defer cancel()
	for {
		n, err := s.linked(ctx)
		if err != nil {
			return err
		}
		if n == want {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("chom-swarm ended: %w", p.err)
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents are connected: %w", n, want, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// prepared waits until the agents have ended so many tasks: the one that follows enrolment, and those after it.
func (s *swarmed) prepared(ctx context.Context, p *process, tasks int) error {
	ctx, cancel := context.WithTimeout(ctx, swarmLimit)
	defer cancel()
	for {
		c, err := p.counts()
		if err != nil {
			return err
		}
		if c.Ended >= tasks && c.Busy == 0 {
			return nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return fmt.Errorf("%d of %d tasks have ended: %w", c.Ended, tasks, err)
		}
	}
}

// process is a running chom-swarm.
type process struct {
	cmd    *exec.Cmd
	ledger string
	counted,
	log string
	ended chan struct{}
	err   error // how it ended; read it after ended is closed
}

// counts are those of chom-swarm's counts file that are of use here.
type counts struct {
	Ended int `json:"ended"`
	Busy  int `json:"busy"`
	Kills int `json:"kills"`
}

// start runs chom-swarm with its own ledger, under a name.
func (s *swarmed) start(ctx context.Context, name string, args ...string) (*process, error) {
	p := &process{ended: make(chan struct{})}
	p.ledger, p.counted, p.log = filepath.Join(s.dir, name+".ledger"), filepath.Join(s.dir, name+".counts"), filepath.Join(s.dir, name+".log")
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(s.b.bin, "chom-swarm"), append([]string{"run",
		fmt.Sprintf("--server=%s:%d", s.Lab.Gateway(), rig.AgentsPort), "--dir=" + filepath.Join(s.dir, "agents"),
		"--ledger=" + p.ledger, "--counts=" + p.counted, "--quiet"}, args...)...)
	p.cmd.Stderr = log
	p.cmd.Env = []string{"PATH=/usr/bin:/bin"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt on the terminal is for us
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start chom-swarm: %w", err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// stop ends it; more than once is no error.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill() // it has had its time; Wait tells of it
		<-p.ended
	}
	if p.err != nil {
		return fmt.Errorf("chom-swarm: %w: %s", p.err, line(p.log))
	}
	return nil
}

func (p *process) counts() (c counts, err error) {
	select {
	case <-p.ended:
		return c, fmt.Errorf("chom-swarm ended: %w: %s", p.err, line(p.log))
	default:
	}
	text, err := os.ReadFile(p.counted)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil // it has just started
	}
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}
