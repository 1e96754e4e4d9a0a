// Command mutants asks whether the tests bite. It removes one check at a time from the code (an authorization row, a tenant's
// filter, a signature check, a limit, an audit write, a scope comparison), runs the tests that are meant to notice, and
// says which checks could go without a test failing: those survive.
//
// The tree is never touched: each mutant is compiled from a changed copy through go's -overlay. A mutant that no longer
// fits the code or does not compile is an error of the table (mutants.go), never a kill.
//
//	mutants            all of them
//	mutants NAME...    only those whose name contains one of the words
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
	"strings"
	"time"
)

// mutant is one check, and the code without it.
type mutant struct {
	// name says which rule is gone.
	name string
	// file is changed, from the repository's root; old stands in it exactly once, and new takes its place.
	file, old, new string
	// tests are the packages whose tests must fail then, from the repository's root, with the pattern of -run behind a
	// space where one suffices to be quick.
	tests []string
}

// killed is the least share of mutants that tests must notice.
const killed = 0.95

// perMutant ends a run of tests that hangs since its check is gone, which counts as noticed: it would stop CI as well.
const perMutant = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, words []string) error {
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	var wrong, survivors []string
	tried := 0
	for _, m := range mutants {
		if !named(m.name, words) {
			continue
		}
		begin := time.Now()
		died, err := m.run(ctx, dir)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		verdict := "killed"
		switch {
		case err != nil:
			verdict = "WRONG: " + err.Error()
			wrong = append(wrong, m.name)
		case !died:
			verdict = "SURVIVES"
			survivors = append(survivors, m.name)
			tried++
		default:
			tried++
		}
		fmt.Printf("%-70s %6.1f s  %s\n", m.name, time.Since(begin).Seconds(), verdict)
	}
	for _, name := range survivors {
		fmt.Println("survivor:", name)
	}
	fmt.Printf("%d killed, %d survived, %d wrong\n", tried-len(survivors), len(survivors), len(wrong))
	if len(wrong) > 0 {
		return errors.New("the table does not fit the code")
	}
	if tried == 0 || float64(tried-len(survivors)) < killed*float64(tried) {
		return fmt.Errorf("fewer than %.0f %% were noticed", killed*100)
	}
	return nil
}

func named(name string, words []string) bool {
	for _, w := range words {
		if strings.Contains(name, w) {
			return true
		}
	}
	return len(words) == 0
}

// run reports whether the tests notice that the check is gone.
func (m mutant) run(ctx context.Context, dir string) (died bool, err error) {
	overlay, err := m.overlay(dir)
	if err != nil {
		return false, err
	}
	for _, test := range m.tests {
		pkg, pattern, _ := strings.Cut(test, " ")
		if out, err := gotest(ctx, "-overlay", overlay, "-run", "^$", "./"+pkg); err != nil {
			return false, fmt.Errorf("it does not compile: %s", firstLines(out))
		}
		if fails(ctx, "-overlay", overlay, "-count=1", "-failfast", "-run", pattern, "./"+pkg) {
			return true, nil
		}
	}
	return false, nil
}

// fails runs tests, which may take perMutant.
func fails(ctx context.Context, args ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, perMutant)
	defer cancel()
	_, err := gotest(ctx, args...)
	return err != nil
}

// overlay writes the changed copy and the file that tells go of it.
func (m mutant) overlay(dir string) (string, error) {
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("what it replaces stands %d times in %s", n, m.file)
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

func gotest(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test"}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func firstLines(out string) string {
	lines := strings.SplitN(out, "\n", 4)
	return strings.Join(lines[:min(len(lines), 3)], " | ")
}
