package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Property is one systemd unit setting, e.g. {"PrivateTmp", "yes"}.
type Property struct{ Key, Value string }

// Unit is a program that PID 1 runs for us in a transient service, outside of
// the agent's own sandbox. Its name follows from what it does and for whom, so
// a restarted agent that repeats the step meets its own older try:
//
//	no unit of that name  -> started
//	an older one runs on  -> it is ended and waited for, then started anew
//
// The program must therefore bear being killed and repeated, as every step
// does. It never outlives Timeout, even when the agent dies meanwhile.
type Unit struct {
	Name        string // becomes chom-run-NAME.service; a-z, 0-9 and hyphens
	User, Group string // "" is root
	Slice       string // "" is chom.slice
	Argv        []string
	Env         map[string]string // no secrets: every user of the host can read it
	Dir         string            // "" is "/"
	Stdin       io.Reader         // the way in for secrets
	Timeout     time.Duration     // 0 is a minute
	MaxOutput   int               // as in Cmd
	Properties  []Property
}

const (
	systemdRun = "/usr/bin/systemd-run"
	systemctl  = "/usr/bin/systemctl"

	// stopWithin bounds how long a canceled unit may take to die; systemd
	// itself sends SIGKILL at once, this is for a process stuck in the kernel.
	stopWithin = 10 * time.Second

	// graceForClient lets systemd-run tell us the unit's end when the unit
	// runs into its own RuntimeMaxSec at the same moment as our timer.
	graceForClient = 2 * time.Second
)

var unitName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,100}[a-z0-9])?$`)

// Service is the full name of the transient unit.
func (u Unit) Service() string { return "chom-run-" + u.Name + ".service" }

// Run starts the unit, feeds it, and waits for its end. Canceling the context
// kills every process of the unit. A program that ran and failed gives an
// *ExitError.
func (u Unit) Run(ctx context.Context) (Result, error) {
	if u.Timeout == 0 {
		u.Timeout = defaultTimeout
	}
	args, err := u.args()
	if err != nil {
		return Result{}, err
	}
	// The unit holds our output pipes: it must die before the client that waits
	// for their end is reaped.
	unwatch := context.AfterFunc(ctx, func() { _ = Stop(context.WithoutCancel(ctx), u.Service()) }) // repeated below, where its error counts
	defer unwatch()
	c := Cmd{Path: systemdRun, Args: args, Stdin: u.Stdin, Timeout: u.Timeout + graceForClient, MaxOutput: u.MaxOutput}
	res, err := c.Run(ctx)
	if err != nil && nameTaken(res.Stderr) {
		if err := Stop(ctx, u.Service()); err != nil {
			return Result{}, fmt.Errorf("end older %s: %w", u.Service(), err)
		}
		res, err = c.Run(ctx)
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Path = u.Argv[0]
		if exit.Cause != nil {
			// Our client is dead, the unit is not. The caller's context is
			// over, and still nothing may be left behind.
			err = errors.Join(err, Stop(context.WithoutCancel(ctx), u.Service()))
		}
	}
	return res, err
}

// nameTaken recognizes systemd-run's refusal. The unit was not started then,
// and no input was read.
func nameTaken(stderr []byte) bool {
	s := string(stderr)
	return strings.Contains(s, "Failed to start transient service unit") &&
		(strings.Contains(s, "already exists") || strings.Contains(s, "already loaded"))
}

// Command prepares the unit as a child process for callers that talk to it
// while it runs: its stdin, stdout and stderr are those of the returned
// command. Killing that process does not kill the unit; call Stop with
// Service() for that, always, when done.
func (u Unit) Command() (*exec.Cmd, error) {
	args, err := u.args()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(systemdRun, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = env, "/", u.Stdin
	return cmd, nil
}

// args is the whole command line of systemd-run.
func (u Unit) args() ([]string, error) {
	if !unitName.MatchString(u.Name) {
		return nil, fmt.Errorf("run: unit name %q must be a-z, 0-9 and hyphens", u.Name)
	}
	if err := checkArgv(u.Argv); err != nil {
		return nil, err
	}
	slice := u.Slice
	if slice == "" {
		slice = "chom.slice"
	}
	args := []string{"--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", "--unit=" + u.Service(), "--slice=" + slice}
	if u.User != "" {
		args = append(args, "--uid="+u.User)
	}
	if u.Group != "" {
		args = append(args, "--gid="+u.Group)
	}
	if u.Dir != "" {
		args = append(args, "--working-directory="+u.Dir)
	}
	props := []Property{{"TimeoutStopSec", "2s"}}
	if u.Timeout != 0 {
		// The unit ends by itself when nobody is left to end it.
		props = append(props, Property{"RuntimeMaxSec", strconv.FormatInt(u.Timeout.Milliseconds(), 10) + "ms"})
	}
	for _, p := range append(props, u.Properties...) {
		args = append(args, "--property="+p.Key+"="+p.Value)
	}
	for _, e := range append(slices.Clone(env), sorted(u.Env)...) {
		args = append(args, "--setenv="+e)
	}
	args = append(args, "--", u.Argv[0])
	for _, a := range u.Argv[1:] {
		args = append(args, strings.ReplaceAll(a, "$", "$$")) // systemd expands $NAME in arguments otherwise
	}
	for _, a := range args {
		if strings.ContainsAny(a, "\x00") {
			return nil, fmt.Errorf("run %s: NUL byte in the unit's settings", u.Argv[0])
		}
	}
	return args, nil
}

func sorted(env map[string]string) []string {
	var out []string
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// Stop kills every process of a transient unit and waits until the unit is
// gone. A unit that is not there is fine.
func Stop(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	// Both answer with an error when the unit is already gone; whether it is
	// gets decided by Running alone.
	_, killErr := Cmd{Path: systemctl, Args: []string{"kill", "--signal=SIGKILL", "--", service}}.Run(ctx)
	_, stopErr := Cmd{Path: systemctl, Args: []string{"stop", "--", service}}.Run(ctx)
	running, err := Running(ctx, service)
	if err != nil {
		return err
	}
	if running {
		return fmt.Errorf("stop %s: still running: %w", service, errors.Join(killErr, stopErr))
	}
	return nil
}

// Running tells whether a unit has processes, for a restarted agent that finds
// its own older work.
func Running(ctx context.Context, service string) (bool, error) {
	res, err := Cmd{Path: systemctl, Args: []string{"show", "--property=ActiveState", "--value", "--", service}}.Run(ctx)
	if err != nil {
		return false, err
	}
	switch state := strings.TrimSpace(string(res.Stdout)); state {
	case "inactive", "failed", "":
		return false, nil
	default:
		return true, nil
	}
}
