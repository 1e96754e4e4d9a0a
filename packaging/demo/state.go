package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chom.dev/packaging/lab"
)

// state is what later runs must know; it lies in .demo/state.json.
type state struct {
	Done         bool
	URL, Token   string
	Host         string
	Organization string
	Site         string
	Preview      string // its preview name
	Processes    []process
	Mirror       mirror
}

type mirror struct {
	Listen  string
	Archive lab.Archive
}

// process is a process that up left behind. Its start time tells it from a
// later one with the same pid.
type process struct {
	Pid   int
	Start string
}

func identify(pid int) process { return process{pid, startTime(pid)} }

// startTime is field 22 of /proc/PID/stat, see proc(5); empty for no process.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name before it may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

func (d demo) load() (*state, error) {
	b, err := os.ReadFile(filepath.Join(d.state, "state.json"))
	if err != nil {
		return nil, err
	}
	var s state
	return &s, json.Unmarshal(b, &s)
}

func (d demo) save(s *state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.state, "token"), []byte(s.Token+"\n"), 0o600); err != nil {
		return err
	}
	aside := filepath.Join(d.state, "state.json.new")
	if err := os.WriteFile(aside, b, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, filepath.Join(d.state, "state.json"))
}

// down removes everything that up made. It may be repeated.
func (d demo) down(ctx context.Context) error {
	s, err := d.load()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	if s != nil {
		for _, p := range slices.Backward(s.Processes) {
			errs = append(errs, end(p))
		}
	}
	l, err := lab.Open(labName, d.log())
	switch {
	case err == nil:
		errs = append(errs, l.Down(ctx))
	case !errors.Is(err, lab.ErrNoLab):
		errs = append(errs, err)
	}
	errs = append(errs, dropName(domain))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.say.line("the demo is gone (Debian's packages stay cached for the next one)")
	return os.RemoveAll(d.state)
}

func end(p process) error {
	if p.Start == "" || startTime(p.Pid) != p.Start {
		return nil
	}
	if err := syscall.Kill(p.Pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end process %d: %w", p.Pid, err)
	}
	for range 100 {
		if startTime(p.Pid) != p.Start {
			return nil
		}
		time.Sleep(100 * time.Millisecond) // chomd drains its agents first
	}
	return syscall.Kill(p.Pid, syscall.SIGKILL)
}

const hostsFile = "/etc/hosts"

// mark is at the end of the line that the demo owns in /etc/hosts.
const mark = "# chom demo"

// addName lets this machine's programs find the site by its name.
func addName(addr, name string) error {
	if err := dropName(name); err != nil {
		return err
	}
	f, err := os.OpenFile(hostsFile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s %s %s\n", addr, name, mark)
	return errors.Join(err, f.Close())
}

func dropName(name string) error {
	b, err := os.ReadFile(hostsFile)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(b), "\n")
	kept := slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		return strings.Contains(l, " "+name+" ") && strings.HasSuffix(strings.TrimSpace(l), mark)
	})
	if len(kept) == len(lines) {
		return nil
	}
	// Written in place: containers and virtual machines often mount this file.
	return os.WriteFile(hostsFile, []byte(strings.Join(kept, "")), 0o644)
}
