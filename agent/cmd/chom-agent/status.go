package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/task"
)

// status is what "chom-agent status" shows. The agent listens nowhere, so it
// leaves it in a file on tmpfs.
type status struct {
	Version            string        `json:"version"`
	PID                int           `json:"pid"`
	Server             string        `json:"server"`
	ControlPlane       string        `json:"control_plane"`
	CertificateExpires time.Time     `json:"certificate_expires"`
	ClockAhead         time.Duration `json:"clock_ahead"` // of the control plane's
	Link               link.State    `json:"link"`
	Tasks              []taskStatus  `json:"tasks"` // running and waiting
	Sites              []siteStatus  `json:"sites"`
}

type taskStatus struct {
	ID      string `json:"id"`
	Attempt uint32 `json:"attempt"`
}

type siteStatus struct {
	ID         string `json:"id"`
	Handle     string `json:"handle"`
	Type       string `json:"type"`
	Phase      string `json:"phase"`      // wanted
	Generation uint64 `json:"generation"` // wanted
	Converged  uint64 `json:"converged"`
	Problem    string `json:"problem,omitempty"`
}

// reporter keeps the status file up to date.
type reporter struct {
	cfg     *config
	store   *identity.Store
	journal *journal.Journal
	engine  *task.Engine
	link    *link.Link
	clock   *clock.Clock
	log     *slog.Logger
}

const (
	lookEvery  = time.Second      // a person who just installed the agent waits
	writeEvery = 10 * time.Second // for what changes without the link noticing
)

// Run writes the file when something changed.
func (r *reporter) Run(ctx context.Context) error {
	if err := os.MkdirAll(r.cfg.RuntimeDir, 0o700); err != nil {
		return fmt.Errorf("show status: %w", err)
	}
	defer func() {
		if err := os.Remove(r.cfg.statusFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("status was not removed", "err", err)
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var (
		written time.Time
		last    status
		phase   link.Phase
		busy    int
	)
	for {
		p, b := r.link.State().Phase, r.engine.Busy()
		if p != phase || b != busy || time.Since(written) > writeEvery {
			now, err := r.look()
			if err != nil {
				return err
			}
			if !reflect.DeepEqual(now, last) {
				if err := r.write(now); err != nil {
					r.log.Warn("status was not written", "err", err) // a full tmpfs is no reason to stop
				}
			}
			last, phase, busy, written = now, p, b, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (r *reporter) look() (status, error) {
	id, err := r.store.Current()
	if err != nil {
		return status{}, err
	}
	s := status{
		Version: version, PID: os.Getpid(), Server: id.Server.String(), ControlPlane: r.cfg.Server,
		CertificateExpires: id.Certificate.NotAfter, ClockAhead: r.clock.Skew().Round(time.Second), Link: r.link.State(),
		Tasks: []taskStatus{}, Sites: []siteStatus{},
	}
	for _, e := range r.engine.Running() {
		s.Tasks = append(s.Tasks, taskStatus{e.TaskId, e.Attempt})
	}
	sites, err := r.engine.Sites()
	if err != nil {
		return status{}, err
	}
	for _, site := range sites {
		s.Sites = append(s.Sites, siteStatus{
			ID: site.ID.String(), Handle: site.Handle.String(), Type: site.Desired.GetType(), Phase: site.Desired.GetPhase().String(),
			Generation: site.Desired.GetGeneration(), Converged: site.Converged, Problem: site.Observed.GetProblem(),
		})
	}
	return s, nil
}

func (r *reporter) write(s status) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	// On tmpfs there is nothing to sync, but a reader must not see half a file.
	aside := filepath.Join(r.cfg.RuntimeDir, ".status.json.new")
	if err := os.WriteFile(aside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, r.cfg.statusFile())
}

// Exit codes of status, beside 0 for "connected".
const (
	exitNotConnected = 1
	exitNotRunning   = 3
)

func statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running agent does; exit code 0 means connected, 1 not connected, 3 not running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, os.Environ())
			if err != nil {
				return err
			}
			s, err := readStatus(cfg)
			if err != nil {
				return coded{err, exitNotRunning}
			}
			switch output {
			case "json":
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(s)
			case "text":
				err = s.print(cmd.OutOrStdout())
			default:
				return fmt.Errorf("-o must be text or json, not %q", output)
			}
			if err == nil && s.Link.Phase != link.Connected {
				return coded{errors.New("the agent is not connected to the control plane"), exitNotConnected}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func readStatus(cfg *config) (*status, error) {
	text, err := os.ReadFile(cfg.statusFile())
	if errors.Is(err, fs.ErrNotExist) {
		store, err := identity.NewStore(cfg.identityDir())
		if err != nil {
			return nil, err
		}
		if _, err := store.Current(); err != nil {
			return nil, err
		}
		return nil, errors.New("the agent does not run; start it with: systemctl start chom-agent")
	}
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	s := new(status)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	if err := syscall.Kill(s.PID, 0); errors.Is(err, syscall.ESRCH) {
		return nil, errors.New("the agent has ended; systemctl status chom-agent says why")
	}
	return s, nil
}

func (s *status) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return time.Since(t).Round(time.Second).String() + " ago"
	}
	fmt.Fprintf(w, "agent\t%s, process %d\n", s.Version, s.PID)
	fmt.Fprintf(w, "server\t%s\n", s.Server)
	fmt.Fprintf(w, "control plane\t%s\n", s.ControlPlane)
	fmt.Fprintf(w, "link\t%s for %s, last contact %s\n", s.Link.Phase, time.Since(s.Link.Since).Round(time.Second), ago(s.Link.LastContact))
	if s.Link.Polling {
		fmt.Fprintf(w, "\tpolling: something on the way breaks streams\n")
	}
	if s.Link.Problem != "" && s.Link.Phase != link.Connected {
		fmt.Fprintf(w, "problem\t%s\n", s.Link.Problem)
	}
	if s.Link.Phase == link.Waiting {
		fmt.Fprintf(w, "next try\tin %s\n", max(time.Until(s.Link.NextTry), 0).Round(time.Second))
	}
	fmt.Fprintf(w, "certificate\tuntil %s\n", s.CertificateExpires.Local().Format(time.DateTime))
	if s.ClockAhead.Abs() >= time.Minute {
		fmt.Fprintf(w, "clock\t%s ahead of the control plane's\n", s.ClockAhead)
	}
	fmt.Fprintf(w, "tasks\t%d\n", len(s.Tasks))
	for _, t := range s.Tasks {
		fmt.Fprintf(w, "\t%s, attempt %d\n", t.ID, t.Attempt)
	}
	fmt.Fprintf(w, "sites\t%d\n", len(s.Sites))
	for _, site := range s.Sites {
		fmt.Fprintf(w, "\t%s  %s  %s  generation %d of %d  %s\n", site.Handle, site.Type, site.Phase, site.Converged, site.Generation, site.Problem)
	}
	return w.Flush()
}
