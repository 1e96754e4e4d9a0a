package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"chom.dev/packaging/lab"
)

func TestRun(t *testing.T) {
	name := fmt.Sprintf("cli-%d", os.Getpid())
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	chomLab := func(t *testing.T, stdin string, args ...string) (string, error) {
		t.Helper()
		var out strings.Builder
		err := run(t.Context(), args, strings.NewReader(stdin), &out, log)
		return out.String(), err
	}
	t.Cleanup(func() {
		if l, err := lab.Open(name, log); err == nil { // only when the test broke off
			if err := l.Down(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("up makes lab and host, and prints the address alone", func(t *testing.T) {
		first, err := chomLab(t, "", "up", "web", "--lab", name)
		if err != nil || !strings.HasPrefix(first, "10.213.") || strings.Count(first, "\n") != 1 {
			t.Fatalf("got %q, %v", first, err)
		}
		if again, err := chomLab(t, "", "up", "--lab", name, "web"); err != nil || again != first {
			t.Errorf("again, it is %q, %v", again, err)
		}
	})
	t.Run("ls shows it", func(t *testing.T) {
		out, err := chomLab(t, "", "ls")
		if err != nil || !strings.Contains(out, name) || !strings.Contains(out, "web") {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("push and exec reach the host", func(t *testing.T) {
		if _, err := chomLab(t, "", "push", "web", "run_test.go", "/root/pushed", "--lab", name); err != nil {
			t.Fatal(err)
		}
		if out, err := chomLab(t, "", "exec", "web", "--lab", name, "--", "head", "-1", "/root/pushed"); err != nil || out != "package main\n" {
			t.Errorf("got %q, %v", out, err)
		}
		if out, err := chomLab(t, "to cat", "exec", "web", "--lab", name, "--user", "nobody", "--", "cat"); err != nil || out != "to cat" {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("exec ends as the program does", func(t *testing.T) {
		_, err := chomLab(t, "", "exec", "web", "--lab", name, "--", "sh", "-c", "exit 42")
		var status exitStatus
		if !errors.As(err, &status) || status != 42 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("down of a host, then of the lab, then of nothing", func(t *testing.T) {
		for _, args := range [][]string{{"down", "web", "--lab", name}, {"down", "--lab", name}, {"down", "--lab", name}} {
			if out, err := chomLab(t, "", args...); err != nil || out != "" {
				t.Errorf("%v: %q, %v", args, out, err)
			}
		}
		if _, err := lab.Open(name, nil); !errors.Is(err, lab.ErrNoLab) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("refuses what makes no sense", func(t *testing.T) {
		for _, args := range [][]string{nil, {"boot"}, {"up"}, {"up", "a", "b"}, {"exec", "web"}, {"ls", "--color"}, {"push", "web", "x"}} {
			if _, err := chomLab(t, "", args...); err == nil || !strings.Contains(err.Error(), "usage:") {
				t.Errorf("%v: %v", args, err)
			}
		}
	})
}
