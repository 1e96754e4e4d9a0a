package run

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Unit is a program that PID 1 is to run for us in a transient service, outside
// of the agent's own sandbox; systemd.Host has it do so. Its name follows from
// what it does and for whom, so a restarted agent that repeats the step meets its
// own older try:
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
	Then        [][]string        // further programs, each once the one before has ended well
	Env         map[string]string // no secrets: every user of the host can read it
	Dir         string            // "" is "/"
	Stdin       io.Reader         // the way in for secrets; a file is handed over itself
	Timeout     time.Duration     // of each program; 0 is a minute
	MaxOutput   int               // as in Cmd
	Properties  []Property
}

var unitName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,100}[a-z0-9])?$`)

// Service is the full name of the transient unit.
func (u Unit) Service() string { return "chom-run-" + u.Name + ".service" }

// Settings is all that PID 1 is to be told of the unit, but for its streams.
func (u Unit) Settings() ([]sd.Property, error) {
	if !unitName.MatchString(u.Name) {
		return nil, fmt.Errorf("run: unit name %q must be a-z, 0-9 and hyphens", u.Name)
	}
	type command struct {
		Path    string
		Argv    []string
		MayFail bool
	}
	var commands []command
	for _, argv := range append([][]string{u.Argv}, u.Then...) {
		if err := checkArgv(argv); err != nil {
			return nil, err
		}
		argv = slices.Clone(argv)
		for i, a := range argv[1:] {
			argv[i+1] = strings.ReplaceAll(a, "$", "$$") // systemd expands $NAME in arguments otherwise
		}
		commands = append(commands, command{argv[0], argv, false})
	}
	micros := func(d time.Duration) uint64 { return uint64(d.Microseconds()) }
	say := func(name string, value any) sd.Property {
		return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
	}
	all := []sd.Property{
		say("Type", "oneshot"), // the job of its start ends with the program
		say("ExecStart", commands),
		say("Slice", cmp.Or(u.Slice, "chom.slice")),
		say("WorkingDirectory", cmp.Or(u.Dir, "/")),
		say("Environment", environment(u.Env)),
		say("TimeoutStartUSec", micros(u.timeout())), // it ends by itself when nobody is left to end it
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

// Limit is how long the unit may run.
func (u Unit) Limit() time.Duration { return u.timeout() * time.Duration(1+len(u.Then)) }

func (u Unit) timeout() time.Duration { return cmp.Or(u.Timeout, defaultTimeout) }

// environment is the fixed one of all programs, and what a unit wants besides or instead: systemd refuses a name that comes
// twice.
func environment(wanted map[string]string) []string {
	var out []string
	for _, assignment := range env {
		name, _, _ := strings.Cut(assignment, "=")
		if _, instead := wanted[name]; !instead {
			out = append(out, assignment)
		}
	}
	for name, value := range wanted {
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}
