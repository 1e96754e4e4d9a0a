package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

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
	Stdin       io.Reader         // the way in for secrets; a file is handed over itself
	Timeout     time.Duration     // 0 is a minute
	MaxOutput   int               // as in Cmd
	Properties  []Property
}

var unitName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,100}[a-z0-9])?$`)

// Service is the full name of the transient unit.
func (u Unit) Service() string { return "chom-run-" + u.Name + ".service" }

// Run starts the unit, feeds it, and waits for its end. Canceling the context
// kills every process of the unit. A program that ran and failed gives an
// *ExitError.
func (u Unit) Run(ctx context.Context) (Result, error) {
	s, err := u.Start(ctx)
	if err != nil {
		return Result{}, err
	}
	killed := make(chan error, 1)
	spare := context.AfterFunc(ctx, func() { killed <- s.Kill(context.WithoutCancel(ctx)) })
	stdout, stderr := &head{limit: cmp.Or(u.MaxOutput, defaultMaxOutput)}, &tail{limit: stderrTail}
	var read sync.WaitGroup
	read.Go(func() { _, _ = io.Copy(stdout, s.Stdout) }) // what can't be read was not said
	read.Go(func() { _, _ = io.Copy(stderr, s.Stderr) })
	read.Wait()
	err = s.Wait()
	res := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Truncated: stdout.dropped}
	if !spare() {
		err = errors.Join(&ExitError{Path: u.Argv[0], Code: -1, Cause: ctx.Err()}, <-killed)
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Stderr = lastLines(res.Stderr, stderrLines)
	}
	return res, err
}

// settings is all that PID 1 is told, but for the streams.
func (u Unit) settings() ([]setting, error) {
	if !unitName.MatchString(u.Name) {
		return nil, fmt.Errorf("run: unit name %q must be a-z, 0-9 and hyphens", u.Name)
	}
	if err := checkArgv(u.Argv); err != nil {
		return nil, err
	}
	argv := slices.Clone(u.Argv)
	for i, a := range argv[1:] {
		argv[i+1] = strings.ReplaceAll(a, "$", "$$") // systemd expands $NAME in arguments otherwise
	}
	type command struct {
		Path    string
		Argv    []string
		MayFail bool
	}
	micros := func(d time.Duration) uint64 { return uint64(d.Microseconds()) }
	say := func(name string, value any) setting { return setting{name, dbus.MakeVariant(value)} }
	all := []setting{
		say("Type", "oneshot"),                   // the job of its start ends with the program
		say("CollectMode", "inactive-or-failed"), // nothing is left behind
		say("ExecStart", []command{{argv[0], argv, false}}),
		say("Slice", cmp.Or(u.Slice, "chom.slice")),
		say("WorkingDirectory", cmp.Or(u.Dir, "/")),
		say("Environment", environment(u.Env)),
		say("TimeoutStartUSec", micros(cmp.Or(u.Timeout, defaultTimeout))), // it ends by itself when nobody is left to end it
		say("TimeoutStopUSec", micros(2*time.Second)),
	}
	if u.User != "" {
		all = append(all, say("User", u.User))
	}
	if u.Group != "" {
		all = append(all, say("Group", u.Group))
	}
	for _, p := range u.Properties {
		s, err := p.setting()
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// environment is the fixed one of all programs, and what a unit wants besides or instead: systemd refuses a name that comes
// twice.
func environment(wanted map[string]string) []string {
	var out []string
	for _, assignment := range env {
		if name, _, _ := strings.Cut(assignment, "="); wanted[name] == "" {
			out = append(out, assignment)
		}
	}
	for name, value := range wanted {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}
