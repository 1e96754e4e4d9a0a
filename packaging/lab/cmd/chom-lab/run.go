package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"chom.dev/packaging/lab"
)

const usage = `usage: chom-lab COMMAND

  base [--release R] [--flavor F]      build a base into the cache, print its path
  up NAME [--release R] [--flavor F] [--warm-apt]
                                       boot a host, making the lab if need be; print its address
  exec NAME [--user U] -- PROGRAM ...  run a program in a host, with its exit status
  push NAME FILE PATH                  copy a file into a host, executable if it was
  ls                                   list labs and hosts
  down [NAME]                          remove a host, or the whole lab
  wordpress [--release R]              build the WordPress archive, print path, version, sha256

R is bookworm (default) or trixie; F is fresh (default) or stack.
up, exec, push and down take --lab LAB (default demo).
`

// exitStatus is the failure of a program that was run in a host.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, log *slog.Logger) error {
	if len(args) == 0 {
		return fmt.Errorf("no command given\n%s", usage)
	}
	verb, args := args[0], args[1:]
	var argv []string // what follows --
	if i := slices.Index(args, "--"); i >= 0 {
		args, argv = args[:i], args[i+1:]
	}
	o, names, err := parse(verb, args)
	if err != nil {
		return err
	}
	switch {
	case verb == "base" && len(names) == 0:
		b, err := lab.EnsureBase(ctx, lab.Release(o.release), lab.Flavor(o.flavor), log)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, b.Root())
		return nil
	case verb == "wordpress" && len(names) == 0:
		a, err := lab.EnsureWordPress(ctx, lab.Release(o.release), log)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, a.Path, a.Version, a.SHA256)
		return nil
	case verb == "up" && len(names) == 1:
		return up(ctx, o, names[0], stdout, log)
	case verb == "exec" && len(names) == 1 && len(argv) > 0:
		return execute(ctx, o, names[0], lab.Command{Argv: argv, User: o.user, Stdin: stdin, Stdout: stdout, Stderr: os.Stderr, Terminal: true})
	case verb == "push" && len(names) == 3:
		return push(o, names[0], names[1], names[2])
	case verb == "ls" && len(names) == 0:
		return list(stdout)
	case verb == "down" && len(names) <= 1:
		return down(ctx, o, names, log)
	}
	return fmt.Errorf("cannot make sense of %q\n%s", strings.Join(append([]string{verb}, args...), " "), usage)
}

type options struct {
	lab, release, flavor, user string
	warmApt                    bool
}

// parse reads flags and names in any order.
func parse(verb string, args []string) (options, []string, error) {
	var o options
	f := flag.NewFlagSet("chom-lab "+verb, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.lab, "lab", "demo", "")
	f.StringVar(&o.release, "release", string(lab.Bookworm), "")
	f.StringVar(&o.flavor, "flavor", string(lab.Fresh), "")
	f.StringVar(&o.user, "user", "", "")
	f.BoolVar(&o.warmApt, "warm-apt", false, "")
	var names []string
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			return o, nil, fmt.Errorf("%w\n%s", err, usage)
		}
		if args = f.Args(); len(args) > 0 {
			names, args = append(names, args[0]), args[1:]
		}
	}
	return o, names, nil
}

func up(ctx context.Context, o options, name string, stdout io.Writer, log *slog.Logger) error {
	base, err := lab.EnsureBase(ctx, lab.Release(o.release), lab.Flavor(o.flavor), log)
	if err != nil {
		return err
	}
	l, err := lab.Open(o.lab, log)
	if errors.Is(err, lab.ErrNoLab) {
		l, err = lab.New(ctx, lab.Options{Name: o.lab, Log: log})
	}
	if err != nil {
		return err
	}
	h, ok := l.Host(name)
	switch {
	case ok && h.Alive():
	case ok:
		err = h.Start(ctx)
	default:
		h, err = l.Boot(ctx, lab.Config{Name: name, Base: base, WarmApt: o.warmApt})
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, h.Addr())
	return nil
}

func find(o options, name string) (*lab.Host, error) {
	l, err := lab.Open(o.lab, nil)
	if err != nil {
		return nil, err
	}
	h, ok := l.Host(name)
	if !ok {
		return nil, fmt.Errorf("lab %s has no host %q", o.lab, name)
	}
	return h, nil
}

func execute(ctx context.Context, o options, name string, c lab.Command) error {
	h, err := find(o, name)
	if err != nil {
		return err
	}
	r, err := h.Run(ctx, c)
	if err == nil && r.Code != 0 {
		return exitStatus(r.Code)
	}
	return err
}

func push(o options, name, from, to string) error {
	h, err := find(o, name)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return h.Push(from, to, info.Mode().Perm())
}

func list(w io.Writer) error {
	names, err := lab.List()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LAB\tHOST\tADDRESS\tSTATE")
	for _, name := range names {
		l, err := lab.Open(name, nil)
		if errors.Is(err, lab.ErrNoLab) {
			continue // it went down meanwhile
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t(gateway %s)\t%s\tup\n", name, l.Bridge(), l.Gateway())
		for _, h := range l.Hosts() {
			state := "off"
			if h.Alive() {
				state = "up"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", name, h.Name(), h.Addr(), state)
		}
	}
	return t.Flush()
}

// down is quiet about what is not there: it may be run to be sure.
func down(ctx context.Context, o options, names []string, log *slog.Logger) error {
	l, err := lab.Open(o.lab, log)
	if errors.Is(err, lab.ErrNoLab) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return l.Down(ctx)
	}
	if h, ok := l.Host(names[0]); ok {
		return h.Destroy(ctx)
	}
	return nil
}
