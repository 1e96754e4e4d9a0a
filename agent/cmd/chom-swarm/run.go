package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"chom.dev/agent/swarm"
	"chom.dev/agent/swarm/ledger"
)

// filesPerAgent are its journal and its connection, and some for a moment.
const filesPerAgent = 4

func runCommand() *cobra.Command {
	var (
		cfg                             swarm.Config
		tokensFile, ledgerFile, counted string
		duration                        time.Duration
		quiet                           bool
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the swarm until it is interrupted",
		Long: `Run the swarm until it is interrupted.

Agents that have no identity in --dir enrol with join tokens, one per line from --tokens. SIGUSR1 kills every agent at
once, as a power cut would; each comes back by itself.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
			if tokensFile == "-" {
				cfg.Tokens = cmd.InOrStdin()
			} else if tokensFile != "" {
				f, err := os.Open(tokensFile)
				if err != nil {
					return fmt.Errorf("read join tokens: %w", err)
				}
				defer f.Close() // only read from
				cfg.Tokens = f
			}
			if err := allowFiles(cfg.Agents); err != nil {
				return err
			}
			if cfg.Ledger, err = ledger.Create(ledgerFile); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, cfg.Ledger.Close()) }()
			ctx := cmd.Context()
			if duration > 0 {
				var stop context.CancelFunc
				ctx, stop = context.WithTimeout(ctx, duration)
				defer stop()
			}
			debug.SetGCPercent(50) // many small heaps in one: memory is what is scarce
			out := cmd.OutOrStdout()
			if quiet {
				out = io.Discard
			}
			return run(ctx, cfg, out, counted)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Server, "server", "", "address of the agents' door, host:port")
	f.StringVar(&cfg.Dir, "dir", "", "directory of the agents' files")
	f.IntVar(&cfg.Agents, "agents", 10, "how many agents")
	f.StringVar(&tokensFile, "tokens", "-", `file of join tokens, a line each; "-" for standard input, "" when all are enrolled`)
	f.StringVar(&ledgerFile, "ledger", "", "file to write the ledger to; it must not exist")
	f.StringVar(&counted, "counts", "", "file that holds the counts as JSON, renewed each second")
	f.DurationVar(&cfg.Ramp, "ramp", 10*time.Second, "time over which the agents start")
	f.DurationVar(&duration, "duration", 0, "end after this time; 0 runs until interrupted")
	f.DurationVar(&cfg.KillEvery, "kill-every", 0, "mean time between two kills of any agent; 0 for none")
	f.DurationVar(&cfg.DeadFor, "dead-for", 2*time.Second, "longest time that a killed agent stays away")
	f.DurationVar(&cfg.StepTime, "step-time", 0, "longest time that a step of a site's order takes")
	f.IntVar(&cfg.Samples, "samples", 0, "metrics without a meaning that each agent reports")
	f.BoolVar(&cfg.Measure, "measure", false, "report what a small web server would measure of itself and of its sites")
	f.DurationVar(&cfg.SampleEvery, "sample-every", time.Minute, "time between two reports of metrics")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of the schedule of kills")
	f.BoolVar(&quiet, "quiet", false, "print no counts")
	for _, name := range []string{"server", "dir", "ledger"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // a flag of that name is above
		}
	}
	return cmd
}

func run(ctx context.Context, cfg swarm.Config, out io.Writer, counted string) error {
	s, err := swarm.New(cfg)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	g.Go(func() error { return show(ctx, s, out, counted) })
	g.Go(func() error { return powerCuts(ctx, s) })
	return g.Wait()
}

// show prints the counts when they changed, and keeps the file.
func show(ctx context.Context, s *swarm.Swarm, out io.Writer, file string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last swarm.Counts
	for {
		c := s.Counts()
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if file != "" {
			if err := os.WriteFile(file+".new", text, 0o600); err != nil {
				return fmt.Errorf("write counts: %w", err)
			}
			if err := os.Rename(file+".new", file); err != nil {
				return fmt.Errorf("write counts: %w", err)
			}
		}
		if c != last {
			if _, err := fmt.Fprintf(out, "%s\n", text); err != nil {
				return err
			}
		}
		last = c
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// allowFiles raises the limit of open files as far as needed.
func allowFiles(agents int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	need := uint64(agents*filesPerAgent + 100)
	if limit.Cur >= need {
		return nil
	}
	if limit.Max < need && os.Geteuid() != 0 {
		return fmt.Errorf("%d agents need %d open files, and at most %d are allowed: raise ulimit -n", agents, need, limit.Max)
	}
	limit.Cur, limit.Max = need, max(limit.Max, need)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", need, err)
	}
	return nil
}
