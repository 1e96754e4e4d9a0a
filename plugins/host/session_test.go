package host_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	"chom.dev/plugins/sdktest"
	"chom.dev/proto/contract"
)

// open opens a fake and makes sure that closing it leaves nothing behind.
func open(t *testing.T, name string) (*host.Session, sdk.Site, *sdktest.Starter) {
	t.Helper()
	h, siteType, starter := installFake(t, name)
	user := siteUser()
	s, err := h.Open(t.Context(), user, siteType)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if alive(t, starter.LastPID()) {
			t.Errorf("process %d lives on", starter.LastPID())
		}
	})
	return s, site(t, user), starter
}

func TestSession(t *testing.T) {
	t.Run("carries calls, progress and errors, cleaned", func(t *testing.T) {
		s, at, _ := open(t, "honest")
		var heard []sdk.Progress
		state, err := s.Install(t.Context(), at, func(p sdk.Progress) { heard = append(heard, p) })
		if err != nil || !state.Installed {
			t.Errorf("state %+v, err %v", state, err)
		}
		if len(heard) != 1 || heard[0].Step != "one" || heard[0].Fraction != 0.5 || strings.Contains(heard[0].Message, "\x1b") {
			t.Errorf("heard %+v", heard)
		}
		var field *sdk.FieldError
		if _, err := s.Update(t.Context(), at); !errors.As(err, &field) || field.Field != "settings.title" || field.Reason != "is ugly" {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("gives the process the site's ids and a bare environment", func(t *testing.T) {
		s, at, _ := open(t, "teller")
		state, err := s.Check(t.Context(), at)
		if err != nil || state.Version != "uid 1654321 gid 1654322 groups []" {
			t.Errorf("%q, %v", state.Version, err)
		}
		known := map[string]bool{"PATH": true, "LANG": true, "GOMEMLIMIT": true, "CHOM_PLUGIN": true}
		for _, f := range state.Findings {
			if !known[f.Code] && !strings.HasPrefix(f.Code, "PLUGIN_") {
				t.Errorf("the environment holds %s", f.Code)
			}
		}
		if len(state.Findings) < 5 {
			t.Errorf("only %d variables", len(state.Findings))
		}
	})
	t.Run("turns a panic into an error of that call", func(t *testing.T) {
		s, at, _ := open(t, "panicky")
		for range 2 { // the process lives on
			if _, err := s.Check(t.Context(), at); err == nil || !strings.Contains(err.Error(), "at the disco") {
				t.Errorf("err = %v", err)
			}
		}
	})
	t.Run("refuses a login that lives for hours", func(t *testing.T) {
		s, at, _ := open(t, "honest")
		var field *sdk.FieldError
		if err := s.ArmLogin(t.Context(), at, sdk.Login{Expires: time.Now().Add(time.Hour)}); !errors.As(err, &field) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("fails when the process is killed", func(t *testing.T) {
		s, at, starter := open(t, "slow")
		time.AfterFunc(100*time.Millisecond, starter.KillLast)
		if _, err := s.Check(t.Context(), at); err == nil {
			t.Error("a killed plugin answered")
		}
	})
	t.Run("ends with its caller's patience", func(t *testing.T) {
		s, at, _ := open(t, "slow")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Check(ctx, at); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("closes soon, whatever the process does, twice too", func(t *testing.T) {
		for _, name := range []string{"honest", "stubborn", "slow"} {
			s, at, starter := open(t, name)
			if name == "slow" {
				go func() { _, _ = s.Check(context.Background(), at) }() // still going when closed
				time.Sleep(50 * time.Millisecond)
			}
			began := time.Now()
			s.Close()
			s.Close()
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("%s took %v to close", name, took)
			}
			if alive(t, starter.LastPID()) {
				t.Errorf("%s lives on", name)
			}
		}
	})
}

func TestPluginEndsWithTheAgent(t *testing.T) {
	h, siteType, starter := installFake(t, "honest")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	starter.Change = func(c *host.Command) { c.Stdin = read }
	s, err := h.Open(t.Context(), siteUser(), siteType)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !alive(t, starter.LastPID()) {
		t.Fatal("the plugin is not there")
	}
	write.Close() // as the kernel does when the agent is killed
	for range 100 {
		if !alive(t, starter.LastPID()) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the plugin outlives the agent")
}

func TestOpenFails(t *testing.T) {
	for name, reason := range map[string]string{
		"silent":    "deadline",
		"crash":     "exited|read any lines", // whichever go-plugin notices first
		"garbled":   "Unrecognized",
		"tcp":       "no unix socket",
		"elsewhere": "outside its folder",
		"linker":    "not a socket",
		"future":    "incompatible API version",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, siteType, starter := installFake(t, name)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			began := time.Now()
			s, err := h.Open(ctx, siteUser(), siteType)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !regexp.MustCompile(reason).MatchString(err.Error()) {
				t.Errorf("err = %v, want it to say %q", err, reason)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if alive(t, starter.LastPID()) {
				t.Error("the process lives on")
			}
		})
	}
	t.Run("for root", func(t *testing.T) {
		h, siteType, _ := installFake(t, "honest")
		if _, err := h.Open(t.Context(), host.User{Handle: contract.NewHandle()}, siteType); err == nil {
			t.Error("opened as root")
		}
	})
}

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func TestLogIsBounded(t *testing.T) {
	_, siteType, starter, dir := installFakeIn(t, "chatty")
	var log lockedBuffer
	runtime := shortDir(t)
	h, err := host.New(host.Config{Dir: dir, RuntimeDir: runtime, Starter: starter, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	user := siteUser()
	s, err := h.Open(t.Context(), user, siteType)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Check(t.Context(), site(t, user)); err != nil {
		t.Error(err)
	}
	s.Close()
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := strings.Count(log.String(), "\n"); n < 100 || n > 210 {
		t.Errorf("%d lines", n)
	}
	if !strings.Contains(log.String(), "says too much") {
		t.Error("the log does not say that it is cut")
	}
	if entries, err := os.ReadDir(runtime); err != nil || len(entries) > 0 {
		t.Errorf("left in the runtime folder: %v, %v", entries, err)
	}
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chom-h-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// installFakeIn is installFake that tells where the files are.
func installFakeIn(t *testing.T, name string) (*host.Host, contract.SiteType, *sdktest.Starter, string) {
	t.Helper()
	h, siteType, starter := installFake(t, name)
	return h, siteType, starter, h.Dir()
}

func TestSocketFolderIsClosedAfterTheHandshake(t *testing.T) {
	_, siteType, starter, dir := installFakeIn(t, "honest")
	runtime := shortDir(t)
	h, err := host.New(host.Config{Dir: dir, RuntimeDir: runtime, Starter: starter})
	if err != nil {
		t.Fatal(err)
	}
	user := siteUser()
	s, err := h.Open(t.Context(), user, siteType)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	folders, err := filepath.Glob(filepath.Join(runtime, user.Handle.String(), "*"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("folders %v, %v", folders, err)
	}
	for path, want := range map[string]os.FileMode{runtime: 0o711, filepath.Dir(folders[0]): 0o710, folders[0]: 0o710} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}

func TestNewRemovesWhatAKilledAgentLeft(t *testing.T) {
	_, _, starter, dir := installFakeIn(t, "honest")
	runtime := shortDir(t)
	left := filepath.Join(runtime, siteUser().Handle.String(), "SESSION")
	for _, d := range []string{left, filepath.Join(runtime, "plugin-dir123")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(left, "plugin1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := host.New(host.Config{Dir: dir, RuntimeDir: runtime, Starter: starter}); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(runtime); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
