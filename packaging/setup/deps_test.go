// Package setup_test proves the scripts of this folder on a machine that has
// nothing yet: a lab host as a provider hands it over.
package setup_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
)

func TestDeps(t *testing.T) {
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "bare", Base: labtest.Base(t, lab.Bookworm, lab.Fresh)})
	const script = "/tmp/deps.sh"
	if err := h.Push("deps.sh", script, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, c lab.Command) (lab.Result, time.Duration) {
		t.Helper()
		began := time.Now()
		r, err := h.Run(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return r, time.Since(began)
	}

	t.Run("refuses a set it does not know", func(t *testing.T) {
		if r, _ := run(t, lab.Command{Argv: []string{script, "lap"}}); r.Code != 2 || !strings.Contains(r.Stderr, "'lap'") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("tells a person without root what to install", func(t *testing.T) {
		r, _ := run(t, lab.Command{User: "nobody", Argv: []string{script, "lab"}})
		if r.Code != 1 || !strings.Contains(r.Stderr, "apt-get install git make debootstrap") {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("says what apt could not do", func(t *testing.T) {
		sources := "/etc/apt/sources.list.d/debian.sources"
		labtest.Output(t, h, "mv", sources, sources+".away")
		if r, _ := run(t, lab.Command{Argv: []string{script, "lab"}}); r.Code != 1 || !strings.Contains(r.Stderr, "Unable to locate package git") {
			t.Errorf("got %+v", r)
		}
		labtest.Output(t, h, "mv", sources+".away", sources)
	})
	t.Run("installs what is missing, and no more", func(t *testing.T) {
		r, _ := run(t, lab.Command{Argv: []string{script, "lab"}})
		if r.Code != 0 {
			t.Fatalf("got %+v", r)
		}
		labtest.Output(t, h, "systemd-nspawn", "--version")
		if r, _ := run(t, lab.Command{Argv: []string{"test", "-e", "/usr/lib/postgresql"}}); r.Code == 0 {
			t.Error("PostgreSQL came although only the lab was asked for")
		}
	})
	t.Run("leaves no server running, now or later", func(t *testing.T) {
		if r, _ := run(t, lab.Command{Argv: []string{script}}); r.Code != 0 {
			t.Fatalf("got %+v", r)
		}
		if got := labtest.Output(t, h, "pg_lsclusters", "--no-header"); got != "" {
			t.Errorf("clusters: %s", got)
		}
		for _, unit := range []string{"redis-server.service", "nginx.service", "mariadb.service"} {
			if r, _ := run(t, lab.Command{Argv: []string{"systemctl", "is-active", unit}}); r.Stdout != "inactive\n" {
				t.Errorf("%s is %s", unit, r.Stdout)
			}
			if r, _ := run(t, lab.Command{Argv: []string{"systemctl", "is-enabled", unit}}); r.Stdout != "disabled\n" {
				t.Errorf("%s is %s", unit, r.Stdout)
			}
		}
	})
	t.Run("lets services start that others install", func(t *testing.T) {
		if _, err := h.ReadFile("/usr/sbin/policy-rc.d"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("policy-rc.d: %v", err)
		}
	})
	t.Run("does nothing the second time, at once", func(t *testing.T) {
		r, took := run(t, lab.Command{Argv: []string{script}})
		if r.Code != 0 || r.Stderr+r.Stdout != "" || took > time.Second {
			t.Errorf("took %v: %+v", took, r)
		}
	})
}
