// Command mutants asks whether the tests bite. It removes one check at a time from the code (an authorization row, a tenant's
// filter, a signature check, a limit, an audit write, a scope comparison), runs the tests that are meant to notice, and
// says which checks could go without a test failing: those survive.
//
// The tree is never touched: each mutant is compiled from a changed copy through go's -overlay. Before the first, the whole
// table (mutants.go) is held against the code, and its tests must pass while nothing is missing. A mutant that no longer
// fits the code, does not compile, or names no test is an error of the table, never a kill.
//
//	mutants            all of them
//	mutants WORD...    only those whose name contains one of the words
//
// It exits with 1 when fewer than 95 % are killed or the table is wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// mutant is one check, and the code without it.
type mutant struct {
	// name says which rule is gone.
	name string
	// file is changed, from the repository's root; old stands in it exactly once, and new takes its place.
	file, old, new string
	// test is the package whose tests must fail then, from the repository's root, and behind a space the pattern of -run: the
	// fewest tests that notice.
	test string
}

// killed is the least share of mutants that tests must notice.
const killed = 0.95

// perMutant ends a run of tests that hangs since its check is gone, which counts as noticed: it would stop CI as well.
const perMutant = 3 * time.Minute

// atOnce mutants are tried: one links while another runs its tests.
const atOnce = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	chosen := named(words)
	if err := fit(chosen); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if err := pass(ctx, dir, chosen); err != nil {
		return err
	}
	survivors, wrong, err := try(ctx, dir, chosen)
	if err != nil {
		return err
	}
	for _, name := range survivors {
		fmt.Println("survivor:", name)
	}
	tried := len(chosen) - len(wrong)
	fmt.Printf("%d mutants: %d killed, %d survived, %d wrong\n", len(chosen), tried-len(survivors), len(survivors), len(wrong))
	if len(wrong) > 0 {
		return errors.New("the table does not fit the code")
	}
	if tried == 0 || float64(tried-len(survivors)) < killed*float64(tried) {
		return fmt.Errorf("fewer than %.0f %% were noticed", killed*100)
	}
	return nil
}

func named(words []string) []mutant {
	var chosen []mutant
	for _, m := range mutants {
		if len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(m.name, w) }) {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// fit says which mutants do not fit the code any more.
func fit(chosen []mutant) error {
	var errs []error
	for _, m := range chosen {
		text, err := os.ReadFile(m.file)
		if err == nil && strings.Count(string(text), m.old) != 1 {
			err = fmt.Errorf("what it replaces stands %d times in %s", strings.Count(string(text), m.old), m.file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
		}
	}
	return errors.Join(errs...)
}

// pass runs the tests of all mutants on the code as it is: a test that fails anyway, or does not exist, says nothing.
func pass(ctx context.Context, dir string, chosen []mutant) error {
	began := time.Now()
	patterns := map[string][]string{}
	for _, m := range chosen {
		pkg, pattern, _ := strings.Cut(m.test, " ")
		if !slices.Contains(patterns[pkg], pattern) {
			patterns[pkg] = append(patterns[pkg], pattern)
		}
	}
	for pkg, all := range patterns {
		binary := filepath.Join(dir, "whole.test")
		if err := build(ctx, binary, pkg); err != nil {
			return err
		}
		for _, pattern := range all {
			out, err := runTests(ctx, binary, pkg, pattern)
			if err != nil {
				return fmt.Errorf("%s %s fails without a mutant: %w\n%s", pkg, pattern, err, out)
			}
			if strings.Contains(out, "no tests to run") {
				return fmt.Errorf("%s has no test %s", pkg, pattern)
			}
		}
	}
	fmt.Printf("%-75s %6.1f s  passes\n", "the code as it is", time.Since(began).Seconds())
	return nil
}

// try tries all mutants and gives the names of those that survive, and of those that do not compile.
func try(ctx context.Context, dir string, chosen []mutant) (survivors, wrong []string, err error) {
	var mu sync.Mutex
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for i, m := range chosen {
		all.Go(func() error {
			began := time.Now()
			died, err := m.try(ctx, filepath.Join(dir, fmt.Sprint(i)))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			verdict := "killed"
			switch {
			case err != nil:
				verdict = "WRONG: " + err.Error()
				wrong = append(wrong, m.name)
			case !died:
				verdict = "SURVIVES"
				survivors = append(survivors, m.name)
			}
			fmt.Printf("%-75s %6.1f s  %s\n", m.name, time.Since(began).Seconds(), verdict)
			return nil
		})
	}
	err = all.Wait()
	return survivors, wrong, err
}

// try reports whether the tests notice that the check is gone. The folder is its own.
func (m mutant) try(ctx context.Context, dir string) (died bool, err error) {
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	overlay, err := m.overlay(dir)
	if err != nil {
		return false, err
	}
	pkg, pattern, _ := strings.Cut(m.test, " ")
	binary := filepath.Join(dir, "mutant.test")
	if err := build(ctx, binary, pkg, "-overlay", overlay); err != nil {
		return false, err
	}
	_, err = runTests(ctx, binary, pkg, pattern)
	return err != nil, nil
}

// overlay writes the changed copy and the file that tells go of it.
func (m mutant) overlay(dir string) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}

// build compiles the tests of a package.
func build(ctx context.Context, binary, pkg string, flags ...string) error {
	args := append([]string{"test", "-c", "-ldflags=-s -w", "-o", binary}, flags...)
	out, err := exec.CommandContext(ctx, "go", append(args, "./"+pkg)...).CombinedOutput()
	if err != nil {
		lines := strings.SplitN(string(out), "\n", 4)
		return fmt.Errorf("%s does not compile: %s", pkg, strings.Join(lines[:min(len(lines), 3)], " | "))
	}
	return nil
}

// runTests runs those of a compiled package that match a pattern, for perMutant at most.
func runTests(ctx context.Context, binary, pkg, pattern string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, perMutant)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.failfast", "-test.run", pattern)
	cmd.Dir = pkg
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
