// Command counts says how a whole run of tests ended, from what go test and vitest wrote about it: which tests were the
// slowest, which needed a second try, which failed and with which words, and last, in one line, how many passed and failed.
// Whoever sees only a run's last lines sees why it failed.
//
//	counts [--failed] [--web FILE]... GO-LOG...
//
// A GO-LOG holds the events of `go test -json`, a FILE of --web the report of vitest's reporter "json". Of a test that ran more
// than once the last result counts. It exits with 1 when a test failed, was skipped (a missing server must fail, not hide) or
// did not end, when none ran, and with --failed, by which who ran them says that something failed, be it no test.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	slow     = 20 * time.Second // what is worth a look
	shown    = 15               // slowest tests, and failures with their words
	lastRows = 12               // of a failure's words
)

func main() {
	if !run(os.Args[1:], os.Stdout) {
		os.Exit(1)
	}
}

// run tells whether all is well.
func run(args []string, out io.Writer) bool {
	flags := flag.NewFlagSet("counts", flag.ContinueOnError)
	failed := flags.Bool("failed", false, "something failed, whatever the files say")
	var web []string
	flags.Func("web", "a report of vitest; may be given more than once", func(name string) error {
		web = append(web, name)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return false
	}
	results := results{}
	parse := func(name string, events func(io.Reader) error) {
		if err := read(name, events); err != nil {
			fmt.Fprintln(out, err)
			*failed = true
		}
	}
	for _, name := range flags.Args() {
		parse(name, results.goEvents)
	}
	for _, name := range web {
		parse(name, results.webReport)
	}
	return results.tell(out, *failed)
}

func read(name string, parse func(io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := parse(f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// tell writes what somebody wants to know in the end, and tells whether all is well.
func (rs results) tell(out io.Writer, failed bool) bool {
	var all, bad []*result
	passes := 0
	for _, r := range rs {
		switch {
		case r.bad():
			bad = append(bad, r)
		case r.name != "":
			passes++
		}
		all = append(all, r)
	}

	fmt.Fprintln(out, "the slowest tests:")
	slices.SortFunc(all, func(a, b *result) int { return int(b.took - a.took) })
	for _, r := range all[:min(shown, len(all))] {
		if r.name != "" && r.took >= slow {
			fmt.Fprintf(out, "  %s %s\n", r, r.took.Round(time.Second))
		}
	}
	slices.SortFunc(all, func(a, b *result) int { return strings.Compare(a.String(), b.String()) })
	for _, r := range all {
		if r.again && !r.bad() && !slices.ContainsFunc(all, func(part *result) bool { return part.again && part.partOf(r) }) {
			fmt.Fprintf(out, "needed a second try: %s\n", r)
		}
	}

	// A test that failed because a part of it did has nothing to say of its own, and neither has a package.
	bad = slices.DeleteFunc(bad, func(r *result) bool {
		return slices.ContainsFunc(bad, func(part *result) bool { return part.partOf(r) && part.outcome != skipped })
	})
	slices.SortFunc(bad, func(a, b *result) int {
		return cmp.Or(strings.Compare(string(a.outcome), string(b.outcome)), strings.Compare(a.String(), b.String()))
	})
	for _, r := range bad[:min(shown, len(bad))] {
		fmt.Fprintf(out, "%s %s:\n", r, r.outcome)
		for _, row := range r.words {
			fmt.Fprintf(out, "    %s\n", row)
		}
	}
	fails := len(bad)
	if fails == 0 && (failed || passes == 0) {
		fmt.Fprintln(out, "no test failed, and yet the run did: what it said stands further up")
		fails = 1
	}
	if fails > 1 {
		for _, r := range bad {
			fmt.Fprintf(out, "%s: %s\n", r.outcome, r)
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passes, fails)
	return fails == 0
}
