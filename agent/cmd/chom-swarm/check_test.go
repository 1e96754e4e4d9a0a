package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/agent/swarm/ledger"
)

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, entries ...ledger.Entry) string {
		path := filepath.Join(dir, name)
		w, err := ledger.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			e.Agent, e.Life, e.Task, e.Attempt, e.Fence = "a", 1, "t1", 1, 1
			w.Append(e)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list := func(name string, ids ...string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Join(ids, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", ledger.Entry{What: ledger.Born}, ledger.Entry{What: ledger.Accepted}, ledger.Entry{What: ledger.Started},
		ledger.Entry{What: ledger.Result, Outcome: "succeeded"})
	bad := write("bad", ledger.Entry{What: ledger.Born}, ledger.Entry{What: ledger.Started})
	for _, c := range []struct {
		claim  string
		args   []string
		broken bool
		want   string // part of the output
	}{
		{"finds nothing wrong with a good ledger", []string{"--ledger", good}, false, "1 succeeded: 0 findings"},
		{"nor with what the control plane says of it", []string{"--ledger", good, "--succeeded", list("same", "t1")}, false, ": 0 findings"},
		{"names the line and the rule", []string{"--ledger", bad}, true, "line 2: once:"},
		{"takes an empty list for nothing that succeeded", []string{"--ledger", good, "--succeeded", list("none")}, true, "unheard"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			var out bytes.Buffer
			cmd := root()
			cmd.SetArgs(append([]string{"check"}, c.args...))
			cmd.SetOut(&out)
			if err := cmd.Execute(); errors.Is(err, errBroken) != c.broken || err != nil && !c.broken {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("output is %q, want %q", out.String(), c.want)
			}
		})
	}
}
