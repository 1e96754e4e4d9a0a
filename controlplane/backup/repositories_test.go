package backup

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// TestRepositories reads what a real restic has written, where a real store has it.
func TestRepositories(t *testing.T) {
	dir := t.TempDir()
	kept, err := store.OpenDisk(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	r := Repository{contract.NewOrganizationID(), contract.NewSiteID(), secret.New([]byte("the key"))}
	site := filepath.Join(dir, "site")
	for name, content := range map[string]string{"public/index.php": "<?php", "public/own/page.html": "kept\n", "public/own/näme": "\xff\x00", "public/-rf": "an option", "private/a": ""} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(site, name)), 0o700), os.WriteFile(filepath.Join(site, name), []byte(content), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(site, "public/link")); err != nil {
		t.Fatal(err)
	}
	restic := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("/usr/bin/restic", append([]string{"--no-cache", "--json", "--repo=" + filepath.Join(dir, "store", r.Organization.String(), r.Site.String())}, args...)...)
		cmd.Dir, cmd.Env = site, []string{"RESTIC_PASSWORD=the key"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("restic %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	restic("init", "--repository-version=2")
	restic("backup", "public", "private")
	snapshots, err := os.ReadDir(filepath.Join(dir, "store", r.Organization.String(), r.Site.String(), "snapshots"))
	if err != nil || len(snapshots) != 1 {
		t.Fatal(snapshots, err)
	}
	snapshot := snapshots[0].Name()
	s, err := NewRepositories(kept, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := s.Check(ctx, r); err != nil {
		t.Errorf("check: %v", err)
	}
	if l, err := s.List(ctx, r, snapshot); err != nil || l.Count() != 9 {
		t.Errorf("list: %v, %v", l, err)
	}
	browse := func(dir string) (string, error) {
		var out []string
		err := s.Browse(ctx, r, snapshot, dir, func(f contract.Listed) error {
			out = append(out, fmt.Sprintf("%s %s %d", f.Mode, path.Base(f.Path), f.Size))
			return nil
		})
		return strings.Join(out, "\n"), err
	}
	for dir, want := range map[string]string{
		"/":           "drwx------ private 0\ndrwx------ public 0",
		"/public":     "-rw-r----- -rf 9\n-rw-r----- index.php 5\nLrwxrwxrwx link 0\ndrwx------ own 0",
		"/public/own": "-rw-r----- näme 2\n-rw-r----- page.html 5",
	} {
		if got, err := browse(dir); err != nil || got != want {
			t.Errorf("%s holds\n%s, %v", dir, got, err)
		}
	}
	for _, dir := range []string{"/nowhere", "/public/index.php", "/public/own/nothing"} {
		if got, err := browse(dir); !errors.Is(err, ErrNoFile) {
			t.Errorf("%s holds %q, %v", dir, got, err)
		}
	}
	for file, want := range map[string]string{"/public/own/page.html": "kept\n", "/public/own/näme": "\xff\x00", "/public/-rf": "an option", "/private/a": ""} {
		var out bytes.Buffer
		if err := s.Read(ctx, r, snapshot, file, &out); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v", file, out.String(), err)
		}
	}
	var tar bytes.Buffer
	if err := s.Read(ctx, r, snapshot, "/public/own", &tar); err != nil || !strings.Contains(tar.String(), "ustar") {
		t.Errorf("a directory: %d bytes, %v", tar.Len(), err)
	}
	for _, manifest := range []string{"first", "first", "signed again"} {
		if err := s.PutManifest(ctx, r, 1, []byte(manifest)); err != nil {
			t.Errorf("manifest %q: %v", manifest, err)
		}
	}
	if n, err := s.Usage(ctx, r); err != nil || n == 0 {
		t.Errorf("usage %d, %v", n, err)
	}
	if _, err := s.List(ctx, r, strings.Repeat("0", 64)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	if err := s.Remove(ctx, r.Organization, r.Site); err != nil {
		t.Error(err)
	}
	if n, err := s.Usage(ctx, r); err != nil || n != 0 {
		t.Errorf("removed, it takes %d, %v", n, err)
	}
}
