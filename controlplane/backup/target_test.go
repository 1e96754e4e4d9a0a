package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
	"chom.dev/servers/s3"
	"chom.dev/servers/sshd"
)

const (
	firstCanary  = "CANARY-first-0123456789"
	secondCanary = "CANARY-second-012345678"
)

// rented is a real server that somebody else runs.
type rented struct {
	config      target.Config // but for the keys and the platform's own store
	place       target.Place
	elsewhere   target.Place // that is there too
	credentials target.Credentials
	refuses     string // what a refusal says
	files       func() int
	// rotate takes the credentials away and gives others.
	rotate func() target.Credentials
}

var loopback = outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8")))

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			n++
		}
		return err
	}))
	return n
}

// rentS3 is a bucket.
func rentS3(t *testing.T) rented {
	t.Helper()
	dir, mu, running := t.TempDir(), sync.Mutex{}, (*s3.Server)(nil)
	start := func(port int, key string) *s3.Server {
		mu.Lock()
		defer mu.Unlock()
		if running != nil {
			running.Stop()
		}
		var err error
		running, err = s3.Start(context.Background(), s3.Options{Dir: dir, Port: port, SecretKey: key, Buckets: []string{"backups", "others"}, TLS: true, Log: t.Output()})
		must(t, err)
		return running
	}
	server := start(0, firstCanary)
	t.Cleanup(func() { running.Stop() })
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.Endpoint, "https://"))
	must(t, err)
	number, err := strconv.Atoi(port)
	must(t, err)
	at := func(bucket string) target.Place {
		return target.Place{S3: &target.S3{Endpoint: server.Endpoint, Bucket: bucket, Prefix: "chom/sites", AccessKeyID: "access"}}
	}
	return rented{
		config: target.Config{Dialer: loopback, Roots: server.Roots}, place: at("backups"), elsewhere: at("others"),
		credentials: target.Credentials{SecretAccessKey: secret.New([]byte(firstCanary))},
		refuses:     "refuses the control plane's credentials (AccessDenied)",
		files: func() int {
			return countFiles(t, filepath.Join(dir, "objects", "backups")) + countFiles(t, filepath.Join(dir, "objects", "others"))
		},
		rotate: func() target.Credentials {
			start(number, secondCanary)
			return target.Credentials{SecretAccessKey: secret.New([]byte(secondCanary))}
		},
	}
}

// rentSFTP is a directory of an SSH server.
func rentSFTP(t *testing.T) rented {
	t.Helper()
	server, err := sshd.Start(t.Context(), t.TempDir(), t.Output())
	must(t, err)
	t.Cleanup(func() { server.Stop() })
	dir, other := t.TempDir(), t.TempDir()
	at := func(dir string) target.Place {
		return target.Place{SFTP: &target.SFTP{Host: server.Host, Port: uint32(server.Port), User: server.User, Directory: dir, HostKey: server.HostKey}}
	}
	return rented{
		config: target.Config{Dialer: loopback}, place: at(dir), elsewhere: at(other),
		credentials: target.Credentials{PrivateKey: secret.New([]byte(server.Keys[0]))},
		refuses:     "refuses the control plane's credentials",
		files:       func() int { return countFiles(t, dir) + countFiles(t, other) },
		rotate: func() target.Credentials {
			server.Stop()
			must(t, errors.Join(server.LetIn(1), server.Again(context.Background())))
			return target.Credentials{PrivateKey: secret.New([]byte(server.Keys[1]))}
		},
	}
}

// renting is a world whose organization has a target, that its policy names.
type renting struct {
	*world
	rented
	targets *target.Targets
	own     string // where the platform's own store is
	made    target.Target
	policy  Policy
	log     *strings.Builder
}

func newRenting(t *testing.T, d *db.DB, r rented) *renting {
	t.Helper()
	own := filepath.Join(t.TempDir(), "own")
	w := &renting{world: newWorld(t, d), rented: r, own: own, log: &strings.Builder{}}
	w.rented.config.Keys, w.rented.config.Own = secrettest.New(), openDisk(t, own)
	w.targets = target.New(d, slog.New(slog.NewTextHandler(&locked{to: io.MultiWriter(w.log, t.Output())}, nil)), w.rented.config)
	var err error
	w.made, err = w.targets.Create(t.Context(), w.ours, "offsite", r.place, r.credentials)
	must(t, err)
	name := "away"
	w.policy, err = w.CreatePolicy(t.Context(), w.ours, PolicyChange{Name: &name, Target: &w.made.ID})
	must(t, err)
	w.exec(t, `UPDATE sites SET backup_policy_id = $2 WHERE id = $1`, w.site, w.policy.ID)
	return w
}

// locked is a log.
type locked struct {
	mu sync.Mutex
	to io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// eachTarget runs a test over all kinds of targets.
func eachTarget(t *testing.T, test func(t *testing.T, w *renting)) {
	t.Run("s3", func(t *testing.T) { test(t, newRenting(t, dbtest.Postgres(t), rentS3(t))) })
	t.Run("sftp", func(t *testing.T) { test(t, newRenting(t, dbtest.SQLite(t), rentSFTP(t))) })
}

// ask is what a host says to its door, and how that answers.
func ask(t *testing.T, method, url string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(text)
}

// TestTarget has backups lie in an organization's own place.
func TestTarget(t *testing.T) {
	eachTarget(t, func(t *testing.T, w *renting) {
		ctx, s := t.Context(), w.targets.Store()
		if w.files() != 0 {
			t.Errorf("%d files are left of the trial", w.files())
		}
		h := w.over(t, s)
		all := w.makeBackups(t, h, s, 4)
		r := store.Repository{Organization: w.ours, Site: w.site}

		t.Run("a site's backups lie where its policy says, and nowhere else", func(t *testing.T) {
			if all[0].Target != w.made.ID || w.files() == 0 || countFiles(t, w.own) != 0 {
				t.Errorf("target %s, %d files there, %d in the platform's own store", all[0].Target, w.files(), countFiles(t, w.own))
			}
			w.whole(t, all...)
			n, err := s.Usage(ctx, r)
			if listed, _, bytes, _ := w.List(ctx, w.ours, w.site, 0, ""); err != nil || n == 0 || bytes == 0 || len(listed) != 4 || listed[3].Target != w.made.ID {
				t.Errorf("%d bytes, %v; listed %d with %d bytes", n, err, len(listed), bytes)
			}
		})
		t.Run("a host restores from there", func(t *testing.T) {
			to := t.TempDir()
			h.restic(t, "", "restore", all[1].Report.GetContents().GetFilesSnapshot(), "--target", to)
			var want bytes.Buffer
			must(t, w.Download(ctx, w.ours, w.site, all[1].ID, "/public/page", &want))
			if got, err := os.ReadFile(filepath.Join(to, "public", "page")); err != nil || !bytes.Equal(got, want.Bytes()) || want.Len() == 0 {
				t.Errorf("%d bytes, want %d", len(got), want.Len())
			}
		})
		t.Run("G13: a host can neither delete nor overwrite what lies there", func(t *testing.T) {
			before := w.files()
			for _, kind := range []store.Kind{store.Keys, store.Data, store.Index, store.Snapshots} {
				objects, err := s.List(ctx, r, kind)
				must(t, err)
				at := fmt.Sprintf("%s/%s/%s", h.url, kind, objects[0].Name.Text())
				if status, words := ask(t, http.MethodDelete, at, nil); status != http.StatusForbidden {
					t.Errorf("delete of %s: %d %s", kind, status, words)
				}
				want := http.StatusBadRequest
				if kind == store.Keys { // a repository that is there takes none
					want = http.StatusForbidden
				}
				if status, words := ask(t, http.MethodPost, at, []byte("else")); status != want {
					t.Errorf("put of %s: %d %s", kind, status, words)
				}
			}
			if status, words := ask(t, http.MethodPost, h.url+"/config", []byte("else")); status != http.StatusConflict {
				t.Errorf("put of the config: %d %s", status, words)
			}
			if status, words := ask(t, http.MethodDelete, h.url+"/config", nil); status != http.StatusForbidden {
				t.Errorf("delete of the config: %d %s", status, words)
			}
			if n := w.files(); n != before {
				t.Errorf("%d files, before %d", n, before)
			}
			w.whole(t, all...)
		})
		t.Run("what no policy keeps is removed there", func(t *testing.T) {
			now := time.Now()
			day := now.Add(-200 * 24 * time.Hour).UTC().Truncate(24 * time.Hour)
			for i, b := range all[:3] {
				w.ages(t, b, day.Add(time.Duration(i)*time.Hour))
			}
			before := w.objects(t, s, store.Data)
			w.keeps(t, now)
			w.keeps(t, now.Add(removeAfter))
			if n, m := w.objects(t, s, store.Snapshots), w.objects(t, s, store.Manifests); n != 4 || m != 2 || w.objects(t, s, store.Data) >= before {
				t.Errorf("%d snapshots, %d manifests", n, m)
			}
			w.whole(t, all[2], all[3])
		})
		t.Run("the place of backups stays", func(t *testing.T) {
			if _, err := w.targets.Update(ctx, w.ours, w.made.ID, target.Change{Place: &w.elsewhere}); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "backups lie in the target") {
				t.Errorf("got %v", err)
			}
			if err := w.targets.Delete(ctx, w.ours, w.made.ID); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "away") {
				t.Errorf("got %v", err)
			}
			var none contract.TargetID
			_, err := w.UpdatePolicy(ctx, w.ours, w.policy.ID, PolicyChange{Target: &none})
			must(t, err)
			if err := w.targets.Delete(ctx, w.ours, w.made.ID); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "shop") {
				t.Errorf("got %v", err)
			}
			is, err := w.StatusOf(ctx, w.ours, w.site)
			if err != nil || !strings.Contains(is.Problem, `in the platform's own store, and those of this site lie in the target "offsite"`) {
				t.Errorf("%q, %v", is.Problem, err)
			}
			if b := w.makeBackups(t, h, s, 1)[0]; b.Target != w.made.ID || countFiles(t, w.own) != 0 {
				t.Errorf("the next one lies in %s", b.Target)
			}
			_, err = w.UpdatePolicy(ctx, w.ours, w.policy.ID, PolicyChange{Target: &w.made.ID})
			must(t, err)
			if is, err := w.StatusOf(ctx, w.ours, w.site); err != nil || is.Problem != "" {
				t.Errorf("%q, %v", is.Problem, err)
			}
		})
		t.Run("credentials that were taken away are told with what to do, and others go on", func(t *testing.T) {
			others := w.rotate()
			status, words := ask(t, http.MethodPost, h.url+"/locks/"+strings.Repeat("a", 64), []byte("x"))
			if status != http.StatusServiceUnavailable || !strings.Contains(words, w.refuses) || !strings.Contains(words, "chom backup target update") {
				t.Errorf("%d %s", status, words)
			}
			failed := w.create(t)
			w.work(t, badly)
			if failed = w.get(t, failed.ID); failed.State != Failed || !strings.Contains(failed.Problem, w.refuses) || !strings.Contains(failed.Problem, `the target "offsite"`) {
				t.Errorf("%s: %s", failed.State, failed.Problem)
			}
			if is, err := w.StatusOf(ctx, w.ours, w.site); err != nil || !strings.Contains(is.Problem, w.refuses) {
				t.Errorf("%q, %v", is.Problem, err)
			}
			if found, err := w.targets.Get(ctx, w.ours, w.made.ID); err != nil || !strings.Contains(found.Problem, w.refuses) {
				t.Errorf("%q, %v", found.Problem, err)
			}
			if _, err := w.targets.Update(ctx, w.ours, w.made.ID, target.Change{Credentials: &w.credentials}); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), w.refuses) {
				t.Errorf("the former ones: %v", err)
			}
			changed, err := w.targets.Update(ctx, w.ours, w.made.ID, target.Change{Credentials: &others})
			if err != nil || changed.Problem != "" {
				t.Errorf("%+v, %v", changed, err)
			}
			w.whole(t, w.makeBackups(t, h, s, 1)[0])
		})
		t.Run("what lets in is shown nowhere", func(t *testing.T) {
			for _, query := range []string{`SELECT COUNT(*) FROM audit_events WHERE detail LIKE '%CANARY%'`, `SELECT COUNT(*) FROM backup_targets WHERE place LIKE '%CANARY%' OR problem LIKE '%CANARY%'`} {
				if n := w.count(t, query); n != 0 {
					t.Errorf("%s: %d", query, n)
				}
			}
			found, err := w.targets.Get(ctx, w.ours, w.made.ID)
			must(t, err)
			if shown := fmt.Sprintf("%+v %v %s", found, found.Message(), w.log); strings.Contains(shown, "CANARY") || strings.Contains(shown, "PRIVATE KEY") {
				t.Error(shown)
			}
			var sealed []byte
			must(t, w.db.Reader().QueryRow(ctx, `SELECT sealed FROM backup_targets`).Scan(&sealed))
			if bytes.Contains(sealed, []byte("CANARY")) || bytes.Contains(sealed, []byte("PRIVATE KEY")) {
				t.Error("it is not sealed")
			}
		})
		t.Run("a repository goes with its site, and then the target may", func(t *testing.T) {
			must(t, w.dropPolicy(t))
			_, _, err := w.sites.Delete(ctx, w.ours, w.site)
			must(t, err)
			w.work(t, well)
			_, err = w.sites.Purge(ctx, time.Now().Add(site.DefaultTrashPeriod+time.Minute))
			must(t, err)
			w.work(t, well)
			must(t, w.removeGone(ctx, time.Now()))
			if w.files() != 0 {
				t.Errorf("%d files are left", w.files())
			}
			must(t, w.targets.Delete(ctx, w.ours, w.made.ID))
			if _, err := w.targets.Get(ctx, w.ours, w.made.ID); !errors.Is(err, target.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		})
	})
}

// dropPolicy removes the policy that names the target.
func (w *renting) dropPolicy(t *testing.T) error {
	t.Helper()
	w.exec(t, `UPDATE sites SET backup_policy_id = NULL WHERE id = $1`, w.site)
	return w.DeletePolicy(t.Context(), w.ours, w.policy.ID)
}

// TestTargetFollows has a repository that holds no backup lie where the policy says now.
func TestTargetFollows(t *testing.T) {
	w := newRenting(t, dbtest.SQLite(t), rentS3(t))
	lies := func() (id string) {
		must(t, w.db.Reader().QueryRow(t.Context(), `SELECT COALESCE(target_id, '') FROM repositories WHERE site_id = $1`, w.site).Scan(&id))
		return id
	}
	to := func(id contract.TargetID) {
		_, err := w.UpdatePolicy(t.Context(), w.ours, w.policy.ID, PolicyChange{Target: &id})
		must(t, err)
	}
	_, err := w.Key(t.Context(), w.ours, w.site) // a host that begins by itself
	must(t, err)
	if lies() != w.made.ID.String() {
		t.Errorf("made, it lies in %q", lies())
	}
	to(contract.TargetID{})
	w.create(t)
	if lies() != "" {
		t.Errorf("before the first backup it lies in %q", lies())
	}
	to(w.made.ID)
	if lies() != "" {
		t.Errorf("while one is made it lies in %q", lies())
	}
	w.work(t, badly)
	if lies() != w.made.ID.String() {
		t.Errorf("after one that failed it lies in %q", lies())
	}
	w.one(t)
	to(contract.TargetID{})
	w.create(t)
	w.work(t, badly)
	if lies() != w.made.ID.String() {
		t.Errorf("with a backup it lies in %q", lies())
	}
}

// TestTargets is what a target may be, and whose it is.
func TestTargets(t *testing.T) {
	w := newRenting(t, dbtest.SQLite(t), rentS3(t))
	ctx := t.Context()
	count := func() int { return w.count(t, `SELECT COUNT(*) FROM backup_targets`) }
	t.Run("one that does not work is refused, with the reason", func(t *testing.T) {
		far, port, none := *w.place.S3, *w.place.S3, *w.place.S3
		far.Endpoint, none.Bucket = "https://169.254.169.254", "nothing"
		port.Endpoint = "https://127.0.0.1:1"
		for want, at := range map[string]*target.S3{"no public address": &far, "connection was refused": &port, "is not there": &none} {
			if _, err := w.targets.Create(ctx, w.ours, "second", target.Place{S3: at}, w.credentials); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %v", want, err)
			}
		}
		wrong := target.Credentials{SecretAccessKey: secret.New([]byte(secondCanary))}
		if _, err := w.targets.Create(ctx, w.ours, "second", w.place, wrong); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), w.refuses) || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("got %v", err)
		}
		untrusted := w.rented.config
		untrusted.Roots = nil
		if _, err := target.New(w.db, w.Backups.log, untrusted).Create(ctx, w.ours, "second", w.place, w.credentials); err == nil || !strings.Contains(err.Error(), "certificate is not valid") {
			t.Errorf("got %v", err)
		}
		if count() != 1 || w.files() != 0 {
			t.Errorf("%d targets, %d files", count(), w.files())
		}
	})
	t.Run("a field that breaks a rule is named", func(t *testing.T) {
		for field, change := range map[string]func(*target.S3){
			"s3.endpoint":      func(s *target.S3) { s.Endpoint = "http://s3.example.com" },
			"s3.bucket":        func(s *target.S3) { s.Bucket = "A" },
			"s3.prefix":        func(s *target.S3) { s.Prefix = "a/../b" },
			"s3.region":        func(s *target.S3) { s.Region = "a b" },
			"s3.access_key_id": func(s *target.S3) { s.AccessKeyID = "" },
		} {
			at := *w.place.S3
			change(&at)
			_, err := w.targets.Create(ctx, w.ours, "second", target.Place{S3: &at}, w.credentials)
			if f, ok := fault.Of(err); !ok || f.Kind() != fault.KindInvalid || f.Field() != field {
				t.Errorf("%s: got %v", field, err)
			}
		}
		for _, try := range []func() (target.Target, error){
			func() (target.Target, error) { return w.targets.Create(ctx, w.ours, "Second", w.place, w.credentials) },
			func() (target.Target, error) {
				return w.targets.Create(ctx, w.ours, "second", target.Place{}, w.credentials)
			},
			func() (target.Target, error) {
				return w.targets.Create(ctx, w.ours, "second", w.place, target.Credentials{})
			},
		} {
			if _, err := try(); fault.KindOf(err) != fault.KindInvalid {
				t.Errorf("got %v", err)
			}
		}
		if _, err := w.targets.Create(ctx, w.ours, "offsite", w.place, w.credentials); fault.KindOf(err) != fault.KindConflict {
			t.Errorf("the same name: %v", err)
		}
	})
	t.Run("an SSH server that is another one or lets nobody in is refused", func(t *testing.T) {
		other := rentSFTP(t)
		place, credentials := *other.place.SFTP, other.credentials
		place.HostKey = rentSFTP(t).place.SFTP.HostKey
		if _, err := w.targets.Create(ctx, w.ours, "second", target.Place{SFTP: &place}, credentials); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "another host key") {
			t.Errorf("got %v", err)
		}
		place = *other.place.SFTP
		place.Directory += "/nothing"
		if _, err := w.targets.Create(ctx, w.ours, "second", target.Place{SFTP: &place}, credentials); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), "is not there") {
			t.Errorf("got %v", err)
		}
		for _, wrong := range []target.Credentials{{PrivateKey: secret.New([]byte(firstCanary))}, {SecretAccessKey: secret.New([]byte(firstCanary))}} {
			if _, err := w.targets.Create(ctx, w.ours, "second", other.place, wrong); fault.KindOf(err) != fault.KindInvalid || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("got %v", err)
			}
		}
		if _, err := w.targets.Create(ctx, w.ours, "second", other.place, target.Credentials{Password: secret.New([]byte(firstCanary))}); fault.KindOf(err) != fault.KindConflict || !strings.Contains(err.Error(), other.refuses) {
			t.Errorf("got %v", err)
		}
		if count() != 1 || other.files() != 0 {
			t.Errorf("%d targets, %d files", count(), other.files())
		}
	})
	t.Run("another organization's does not exist", func(t *testing.T) {
		name := "theirs"
		_, get := w.targets.Get(ctx, w.theirs, w.made.ID)
		_, update := w.targets.Update(ctx, w.theirs, w.made.ID, target.Change{Name: &name})
		_, check := w.targets.Check(ctx, w.theirs, w.made.ID)
		_, policy := w.CreatePolicy(ctx, w.theirs, PolicyChange{Name: &name, Target: &w.made.ID})
		for what, err := range map[string]error{"get": get, "update": update, "check": check, "delete": w.targets.Delete(ctx, w.theirs, w.made.ID), "policy": policy} {
			if !errors.Is(err, target.ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := w.count(t, `SELECT COUNT(*) FROM backup_policies WHERE organization_id = $1`, w.theirs); n != 0 {
			t.Errorf("%d policies", n)
		}
	})
	t.Run("its place and its name may change while no backup lies there", func(t *testing.T) {
		name := "moved"
		changed, err := w.targets.Update(ctx, w.ours, w.made.ID, target.Change{Name: &name, Place: &w.elsewhere})
		if err != nil || changed.Name != name || changed.Place.S3.Bucket != w.elsewhere.S3.Bucket {
			t.Errorf("%+v, %v", changed, err)
		}
	})
	t.Run("Check says what is wrong, and that nothing is any more", func(t *testing.T) {
		w.rotate()
		found, err := w.targets.Check(ctx, w.ours, w.made.ID)
		if err != nil || !strings.HasPrefix(found.Problem, "an object can't be written: ") || !strings.Contains(found.Problem, w.refuses) {
			t.Errorf("%q, %v", found.Problem, err)
		}
		if kept, err := w.targets.Get(ctx, w.ours, w.made.ID); err != nil || kept.Problem != found.Problem || !kept.CheckedAt.Equal(found.CheckedAt) {
			t.Errorf("%+v, %v", kept, err)
		}
	})
}
