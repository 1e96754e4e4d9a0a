package keycommand

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func script(t *testing.T, body string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "command")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	const canary = "CANARY-OF-THE-KEY"
	t.Run("gives what the command prints, and tells it nothing", func(t *testing.T) {
		t.Setenv("CANARY", canary)
		c, err := New(script(t, `cat; echo "$# $1 $2 $(env | grep -c CANARY) $PWD"`, 0o700) + "  $(id)   ;id ")
		if err != nil {
			t.Fatal(err)
		}
		if text, err := c.Read(t.Context()); err != nil || string(text) != "2 $(id) ;id 0 /\n" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	for name, test := range map[string]struct {
		body string
		mode os.FileMode
		want string
	}{
		"a failure":                  {"echo " + canary + "; echo " + canary + " >&2; exit 3", 0o700, "exit status 3"},
		"too much":                   {"head -c 100000 /dev/zero", 0o700, "prints too much"},
		"a program of others":        {"echo x", 0o722, "can be changed by others"},
		"a program that cannot run":  {"echo x", 0o600, "permission denied"},
		"a script that is no script": {"exec /nonexistent/" + canary, 0o700, "failed"},
	} {
		t.Run("refuses "+name+", and repeats nothing of it", func(t *testing.T) {
			c, err := New(script(t, test.body, test.mode))
			if err != nil {
				t.Fatal(err)
			}
			if text, err := c.Read(t.Context()); err == nil || text != nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("got %d bytes, %v", len(text), err)
			}
		})
	}
	t.Run("ends what hangs, with all that it started", func(t *testing.T) {
		alive := filepath.Join(t.TempDir(), "alive")
		c, err := New(script(t, fmt.Sprintf("(sleep 1; echo x > %s) & sleep 60", alive), 0o700))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := c.Read(ctx); err == nil || !strings.Contains(err.Error(), "did not end in time") || time.Since(began) > 5*time.Second {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		time.Sleep(1500 * time.Millisecond)
		if _, err := os.Stat(alive); err == nil {
			t.Error("its child went on")
		}
	})
	for _, line := range []string{"", "  ", "command", "./command", "sh -c id"} {
		if _, err := New(line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}
