package restic_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/backup/restic"
	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

const key = "CANARY-OF-THE-KEY-0123456789abcdefghijklmno"

// world is a repository with a snapshot of files and one of a dump, made as a host makes them.
type world struct {
	t       testing.TB
	dir     string
	kept    *store.Disk
	at      store.Repository
	program *restic.Program
	from    string
	files   string // snapshots
	dump    string
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "backups"), from: t.TempDir()}
	w.at = store.Repository{Organization: contract.NewOrganizationID(), Site: contract.NewSiteID()}
	var err error
	if w.kept, err = store.OpenDisk(w.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.kept.Close() })
	if w.program, err = restic.New("", w.kept, w.log()); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(w.from, "public")
	if err := errors.Join(os.MkdirAll(public, 0o750), os.WriteFile(filepath.Join(public, "index.php"), []byte("<?php"), 0o640), os.Symlink("index.php", filepath.Join(public, "link"))); err != nil {
		t.Fatal(err)
	}
	if err := w.program.Init(t.Context(), w.at, secret.New([]byte(key))); err != nil {
		t.Fatal(err)
	}
	w.host("backup", "public")
	w.files = w.newest("")
	w.hostReads(strings.Repeat("-- a dump\n", 100_000), "backup", "--stdin", "--stdin-filename", "database.sql")
	w.dump = w.newest(w.files)
	return w
}

func (w *world) log() *slog.Logger { return slog.New(slog.NewTextHandler(w.t.Output(), nil)) }

func (w *world) host(args ...string) { w.hostReads("", args...) }

func (w *world) hostReads(stdin string, args ...string) {
	w.t.Helper()
	w.over(w.kept, stdin, args...)
}

// over is what a host does with another store than the usual one.
func (w *world) over(s store.Store, stdin string, args ...string) {
	w.t.Helper()
	door := httptest.NewServer(store.NewServer(s, nil, w.log()).Repository(w.at.Organization, w.at.Site))
	defer door.Close()
	cmd := exec.CommandContext(w.t.Context(), "/usr/bin/restic", append([]string{"--no-cache", "--repo", "rest:" + door.URL + "/"}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{"RESTIC_PASSWORD=" + key}, w.from, strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// meanwhile is a store at which something else happens right before a request.
type meanwhile struct {
	store.Store
	at, asked int
	do        func()
	mu        sync.Mutex
}

func (m *meanwhile) ask() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.asked++; m.asked == m.at {
		m.do()
	}
}

func (m *meanwhile) List(ctx context.Context, r store.Repository, kind store.Kind) ([]store.Object, error) {
	m.ask()
	return m.Store.List(ctx, r, kind)
}

func (m *meanwhile) Get(ctx context.Context, r store.Repository, n store.Name, from, length int64) (*store.Part, error) {
	m.ask()
	return m.Store.Get(ctx, r, n, from, length)
}

func (w *world) newest(besides string) string {
	w.t.Helper()
	for _, s := range must(w.program.Snapshots(w.t.Context(), w.at, secret.New([]byte(key)))) {
		if s.ID != besides {
			return s.ID
		}
	}
	w.t.Fatal("there is no snapshot")
	return ""
}

func TestProgram(t *testing.T) {
	w := newWorld(t)
	k := secret.New([]byte(key))
	nowhere := hex.EncodeToString(make([]byte, 32))
	t.Run("Check finds a whole repository whole", func(t *testing.T) {
		for _, subset := range []string{"", "1/1", "100%"} {
			if err := w.program.Check(t.Context(), w.at, k, subset); err != nil {
				t.Errorf("%q: %v", subset, err)
			}
		}
		if err := w.program.Check(t.Context(), w.at, k, "1 --repo=/x"); err == nil {
			t.Error("an option is a subset")
		}
	})
	t.Run("Check finds it whole while a host writes, whenever that is", func(t *testing.T) {
		undisturbed := &meanwhile{Store: w.kept, do: func() {}}
		program, err := restic.New("", undisturbed, w.log())
		if err == nil {
			err = program.Check(t.Context(), w.at, k, "100%")
		}
		if err != nil || undisturbed.asked < 5 {
			t.Fatalf("it asks %d times, %v", undisturbed.asked, err)
		}
		for at := 1; at <= undisturbed.asked; at++ {
			beside := &meanwhile{Store: w.kept, at: at, do: func() {
				w.hostReads(fmt.Sprint("a dump of moment ", at), "backup", "--stdin", "--stdin-filename", "other.sql")
			}}
			program, err := restic.New("", beside, w.log())
			if err != nil {
				t.Fatal(err)
			}
			if err := program.Check(t.Context(), w.at, k, "100%"); err != nil {
				t.Errorf("a backup before request %d of it: %v", at, err)
			}
		}
		for _, id := range must(w.program.Snapshots(t.Context(), w.at, k)) {
			if id.ID != w.files && id.ID != w.dump {
				if err := w.program.Forget(t.Context(), w.at, k, id.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.program.Prune(t.Context(), w.at, k); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("List gives what is in a snapshot", func(t *testing.T) {
		found := map[string]contract.Listed{}
		if err := w.program.List(t.Context(), w.at, k, w.files, "", func(f contract.Listed) error { found[f.Path] = f; return nil }); err != nil {
			t.Fatal(err)
		}
		if n := found["public/index.php"]; !n.Mode.IsRegular() || n.Size != 5 || n.Mode.Perm() != 0o640 || time.Since(n.MTime) > time.Hour {
			t.Errorf("got %+v", n)
		}
		if len(found) != 3 || !found["public"].Mode.IsDir() || found["public/link"].Mode.Type() != fs.ModeSymlink {
			t.Errorf("got %v", found)
		}
		enough := errors.New("enough")
		if err := w.program.List(t.Context(), w.at, k, w.files, "", func(contract.Listed) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Dump gives a file", func(t *testing.T) {
		var out bytes.Buffer
		if err := w.program.Dump(t.Context(), w.at, k, w.dump, "/database.sql", &out); err != nil || out.String() != strings.Repeat("-- a dump\n", 100_000) {
			t.Errorf("%d bytes, %v", out.Len(), err)
		}
		if err := w.program.Dump(t.Context(), w.at, k, w.dump, "/nothing", io.Discard); err == nil {
			t.Error("nothing was given")
		}
		if err := w.program.Dump(t.Context(), w.at, k, w.dump, "--help", io.Discard); err == nil {
			t.Error("an option is a path")
		}
	})
	t.Run("errors are in words, without the key", func(t *testing.T) {
		for want, err := range map[string]error{
			"no such snapshot":      w.program.List(t.Context(), w.at, k, nowhere, "", func(contract.Listed) error { return nil }),
			"does not open it":      w.program.Check(t.Context(), w.at, secret.New([]byte("x")), ""),
			"no repository":         w.program.Check(t.Context(), store.Repository{Organization: w.at.Organization, Site: contract.NewSiteID()}, k, ""),
			"no snapshot's id":      w.program.Forget(t.Context(), w.at, k, "--all"),
			`"latest" is no`:        w.program.Dump(t.Context(), w.at, k, "latest", "/x", io.Discard),
			"has no owner":          w.program.Check(t.Context(), store.Repository{}, k, ""),
			"did not end in time":   canceledCheck(t, w, k),
			"must be an absolute":   newAt(w, "restic"),
			"can be changed by oth": newAt(w, worldWritable(t)),
		} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "127.0.0.1") {
				t.Errorf("want %q, got %v", want, err)
			}
		}
	})
	t.Run("E15: neither key nor place is in the arguments or the environment", func(t *testing.T) {
		spy := filepath.Join(t.TempDir(), "spy")
		script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >%[1]s.seen\n/usr/bin/env >>%[1]s.seen\n/usr/bin/cat /dev/fd/3 >%[1]s.key\nexit 1\n", spy)
		if err := os.WriteFile(spy, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("CANARY", key)
		err := must(restic.New(spy, w.kept, w.log())).Prune(t.Context(), w.at, k)
		seen := string(must(os.ReadFile(spy + ".seen")))
		if err == nil || strings.Contains(seen, "CANARY") || strings.Contains(seen, "127.0.0.1") || !strings.Contains(seen, "prune") {
			t.Errorf("%v: %s", err, seen)
		}
		if got := string(must(os.ReadFile(spy + ".key"))); got != key {
			t.Errorf("the key is %q", got)
		}
	})
	t.Run("what hangs is ended with all that it started", func(t *testing.T) {
		dir := t.TempDir()
		script := fmt.Sprintf("#!/bin/sh\n(/usr/bin/sleep 1; echo x > %s/alive) &\n/usr/bin/sleep 60\n", dir)
		if err := os.WriteFile(filepath.Join(dir, "hangs"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := must(restic.New(filepath.Join(dir, "hangs"), w.kept, w.log())).Prune(ctx, w.at, k); err == nil || time.Since(began) > 3*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		time.Sleep(1300 * time.Millisecond)
		if _, err := os.Stat(filepath.Join(dir, "alive")); err == nil {
			t.Error("its child went on")
		}
	})
	t.Run("a store that fails is no damage, and is told soon", func(t *testing.T) {
		failing := must(restic.New("", down{w.kept}, w.log()))
		began := time.Now()
		if err := failing.Check(t.Context(), w.at, k, ""); err == nil || errors.Is(err, restic.ErrDamaged) || !strings.Contains(err.Error(), "store of backups failed") {
			t.Errorf("got %v", err)
		}
		t.Logf("it took %s", time.Since(began))
	})
	t.Run("Unlock removes the locks of those who died, and no other one", func(t *testing.T) {
		dies := must(restic.New("", keepsLocks{w.kept}, w.log()))
		if err := dies.Prune(t.Context(), w.at, k); err != nil {
			t.Fatal(err)
		}
		ours := must(w.kept.List(t.Context(), w.at, store.Locks))
		if len(ours) != 1 {
			t.Fatalf("locks %v", ours)
		}
		part := must(w.kept.Get(t.Context(), w.at, ours[0].Name, 0, 0))
		content := must(io.ReadAll(part))
		if err := errors.Join(part.Close(), w.kept.Delete(t.Context(), w.at, ours[0].Name)); err != nil {
			t.Fatal(err)
		}
		w.over(keepsLocks{w.kept}, "", "backup", "public")
		hosts := must(w.kept.List(t.Context(), w.at, store.Locks))
		if err := w.program.Prune(t.Context(), w.at, k); len(hosts) != 1 || !errors.Is(err, restic.ErrLocked) {
			t.Errorf("beside a host's lock %v: %v", hosts, err)
		}
		if err := w.kept.Put(t.Context(), w.at, ours[0].Name, int64(len(content)), bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if err := w.program.Unlock(t.Context(), w.at, k, time.Now()); err != nil {
			t.Fatal(err)
		}
		if left := must(w.kept.List(t.Context(), w.at, store.Locks)); !slices.Equal(left, hosts) {
			t.Errorf("left are %v of %v and %v", left, ours, hosts)
		}
		if err := w.program.Unlock(t.Context(), w.at, k, time.Now().Add(25*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if left := must(w.kept.List(t.Context(), w.at, store.Locks)); len(left) > 0 {
			t.Errorf("a day later left are %v", left)
		}
	})
	t.Run("Forget removes snapshots that are there, and Prune what no other one needs", func(t *testing.T) {
		before := must(w.kept.Usage(t.Context(), w.at))
		for range 2 { // the second time there is nothing to do
			if err := w.program.Forget(t.Context(), w.at, k, w.dump, nowhere); err != nil {
				t.Fatal(err)
			}
			if err := w.program.Prune(t.Context(), w.at, k); err != nil {
				t.Fatal(err)
			}
		}
		if got := must(w.program.Snapshots(t.Context(), w.at, k)); len(got) != 2 || slices.ContainsFunc(got, func(s restic.Snapshot) bool { return s.ID == w.dump }) {
			t.Errorf("left are %v", got)
		}
		if err := w.program.Check(t.Context(), w.at, k, "100%"); err != nil {
			t.Error(err)
		}
		if after := must(w.kept.Usage(t.Context(), w.at)); after >= before {
			t.Errorf("%d bytes before, %d after", before, after)
		}
		if locks := must(w.kept.List(t.Context(), w.at, store.Locks)); len(locks) > 0 {
			t.Errorf("locks are left: %v", locks)
		}
	})
	t.Run("G07: a bit that was flipped, and an object that is gone, are damage", func(t *testing.T) {
		packs := must(w.kept.List(t.Context(), w.at, store.Data))
		pack := filepath.Join(w.dir, w.at.String(), "data", packs[0].Name.Text()[:2], packs[0].Name.Text())
		whole := must(os.ReadFile(pack))
		flipped := bytes.Clone(whole)
		flipped[len(flipped)/3] ^= 1
		if err := os.WriteFile(pack, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.program.Check(t.Context(), w.at, k, "100%"); !errors.Is(err, restic.ErrDamaged) {
			t.Errorf("got %v", err)
		}
		if err := os.Remove(pack); err != nil {
			t.Fatal(err)
		}
		if err := w.program.Check(t.Context(), w.at, k, ""); !errors.Is(err, restic.ErrDamaged) {
			t.Errorf("got %v", err)
		}
		began, damaged := time.Now(), 0
		for _, snapshot := range must(w.program.Snapshots(t.Context(), w.at, k)) {
			if err := w.program.Dump(t.Context(), w.at, k, snapshot.ID, "/", io.Discard); errors.Is(err, restic.ErrDamaged) {
				damaged++
			} else if err != nil {
				t.Error(err)
			}
		}
		if damaged == 0 || time.Since(began) > 10*time.Second {
			t.Errorf("%d dumps told that data is gone, in %s", damaged, time.Since(began))
		}
		sum := sha256.Sum256(whole)
		if err := w.kept.Put(t.Context(), w.at, must(store.ParseName(store.Data, hex.EncodeToString(sum[:]))), int64(len(whole)), bytes.NewReader(whole)); err != nil {
			t.Fatal(err)
		}
		if err := w.program.Check(t.Context(), w.at, k, "100%"); err != nil {
			t.Error(err)
		}
	})
}

func canceledCheck(t *testing.T, w *world, k secret.Secret) error {
	sleeper := filepath.Join(t.TempDir(), "sleeper")
	if err := os.WriteFile(sleeper, []byte("#!/bin/sh\nexec /usr/bin/sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	return must(restic.New(sleeper, w.kept, w.log())).Check(ctx, w.at, k, "")
}

func newAt(w *world, path string) error {
	_, err := restic.New(path, w.kept, w.log())
	return err
}

func worldWritable(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "restic")
	if err := errors.Join(os.WriteFile(path, nil, 0o700), os.Chmod(path, 0o722)); err != nil {
		t.Fatal(err)
	}
	return path
}

// keepsLocks is what a store looks like to whoever is killed before it can remove its lock.
type keepsLocks struct{ store.Store }

func (s keepsLocks) Delete(ctx context.Context, r store.Repository, n store.Name) error {
	if n.Kind() == store.Locks {
		return nil
	}
	return s.Store.Delete(ctx, r, n)
}

// down is a store whose data can't be read.
type down struct{ store.Store }

func (d down) Get(ctx context.Context, r store.Repository, n store.Name, offset, length int64) (*store.Part, error) {
	if n.Kind() == store.Data || n.Kind() == store.Index {
		return nil, fault.Unavailable("the bucket of backups does not answer", 0, nil)
	}
	return d.Store.Get(ctx, r, n, offset, length)
}
