package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// outcome is how a test ended, in the words of go test.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	skipped outcome = "was skipped" // a missing server must fail, not skip
	endless outcome = "did not end"
)

// result is what became of a test; of a package as a whole where it has no name.
type result struct {
	where, name string
	outcome     outcome
	took        time.Duration
	again       bool     // ran more than once
	words       []string // the last that it said
}

func (r *result) String() string { return strings.TrimSpace(r.where + " " + r.name) }

// bad tells whether a result fails the run. Packages without tests are skipped by nature.
func (r *result) bad() bool {
	return r.outcome == failed || r.outcome == endless || r.outcome == skipped && r.name != ""
}

// partOf tells whether r is a part of other: a test of its package, or a subtest.
func (r *result) partOf(other *result) bool {
	return r != other && r.where == other.where && (other.name == "" || strings.HasPrefix(r.name, other.name+"/"))
}

// noise is what go test and vitest say about every test, or every failure.
var noise = regexp.MustCompile(`^(=== |--- FAIL|at .*/node_modules/|at new Promise)`)

func (r *result) say(text string) {
	for row := range strings.Lines(text) {
		row = strings.TrimRight(row, "\n")
		if words := strings.TrimSpace(row); words != "" && !noise.MatchString(words) {
			r.words = append(r.words, row)
		}
	}
	if more := len(r.words) - lastRows; more > 0 {
		r.words = r.words[more:]
	}
}

// results are kept by where and name.
type results map[[2]string]*result

func (rs results) of(where, name string) *result {
	r := rs[[2]string{where, name}]
	if r == nil {
		r = &result{where: where, name: name, outcome: endless}
		rs[[2]string{where, name}] = r
	}
	return r
}

// ended notes how a test ended; the last time counts.
func (rs results) ended(r *result, how outcome, took time.Duration) {
	r.again = r.again || r.outcome == failed
	r.outcome, r.took = how, took
}

// goEvents reads the events of `go test -json`, as `go doc test2json` has them. What a program wrote between them as it crashed is
// left out: the crash itself is an event.
func (rs results) goEvents(in io.Reader) error {
	for rows := bufio.NewReader(in); ; {
		row, err := rows.ReadBytes('\n')
		if len(row) == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var e struct {
			Action, Package, ImportPath, Test, Output string
			Elapsed                                   float64 // seconds
		}
		if json.Unmarshal(row, &e) != nil {
			continue
		}
		if e.Package == "" {
			e.Package = e.ImportPath // what did not build
		}
		r := rs.of(e.Package, e.Test)
		took := time.Duration(e.Elapsed * float64(time.Second))
		switch e.Action {
		case "run", "start":
			r.words = nil
			if r.outcome != failed {
				r.outcome = endless
			}
		case "output", "build-output":
			r.say(e.Output)
		case "pass":
			rs.ended(r, passed, took)
		case "fail", "build-fail":
			rs.ended(r, failed, took)
		case "skip":
			rs.ended(r, skipped, took)
		}
	}
}

// webReport reads what vitest's reporter "json" wrote.
func (rs results) webReport(in io.Reader) error {
	var report struct {
		TestResults []struct {
			Name, Status, Message string
			AssertionResults      []struct {
				FullName, Status string
				Duration         float64 // milliseconds
				FailureMessages  []string
			}
		}
	}
	if err := json.NewDecoder(in).Decode(&report); err != nil {
		return err
	}
	outcomes := map[string]outcome{"passed": passed, "failed": failed, "skipped": skipped, "pending": skipped, "todo": skipped}
	for _, file := range report.TestResults {
		where := file.Name[strings.LastIndexByte(file.Name, '/')+1:]
		whole := rs.of(where, "")
		whole.words = nil
		whole.say(file.Message)
		how, known := outcomes[file.Status]
		if !known {
			return fmt.Errorf("%s: a file's status %q", file.Name, file.Status)
		}
		rs.ended(whole, how, 0)
		for _, one := range file.AssertionResults {
			how, known := outcomes[one.Status]
			if !known {
				return fmt.Errorf("%s: %s: a test's status %q", file.Name, one.FullName, one.Status)
			}
			r := rs.of(where, one.FullName)
			r.words = nil
			r.say(strings.Join(one.FailureMessages, "\n"))
			rs.ended(r, how, time.Duration(one.Duration*float64(time.Millisecond)))
		}
	}
	return nil
}
