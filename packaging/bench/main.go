// Command bench measures what CHOM promises, each figure on real hosts and with
// its comparison in the same run, and prints the figures as a table and as
// JSON. It judges a figure, it does not fail because one is short: the exit
// status is 1 only when a measurement could not be made.
//
//	bench [--only NAME] [--json FILE] [--verbose]
//
// It runs from the root of the tree, where `make bench` has put the programs
// into bin/ and the agent's packages into dist/. It needs root, makes load on
// loopback and the lab's own bridge only, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // a reader that has seen enough must not leave hosts behind
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	only := f.String("only", "", "measure this figure alone: "+strings.Join(names(figures), ", "))
	file := f.String("json", "", "also write the figures to this file as JSON")
	verbose := f.Bool("verbose", false, "show every run and where its time went")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("no arguments are taken, only flags: %q", f.Args())
	}
	chosen, err := choose(figures, *only)
	if err != nil {
		return err
	}
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	b := &bench{
		bin:      filepath.Join(tree, "bin"),
		packages: filepath.Join(tree, "dist"),
		verbose:  *verbose,
		progress: stderr,
	}
	r := newReport()
	var failed []error
	for _, f := range chosen {
		b.say("==> %s: %s", f.name, f.what)
		rows, err := f.measure(ctx, b)
		if len(rows) > 0 || err == nil { // what was measured before it broke off counts
			var unjudged error
			rows, unjudged = judged(f.name, rows)
			err = errors.Join(err, unjudged)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", f.name, err)
			b.say("    failed: %v", err)
			r.Failed = append(r.Failed, failure{Figure: f.name, Error: err.Error()})
			failed = append(failed, err)
		}
		r.Figures = append(r.Figures, rows...)
		if ctx.Err() != nil {
			break
		}
	}
	if err := r.print(stdout); err != nil {
		return err
	}
	if *file != "" {
		if err := r.write(*file); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}
