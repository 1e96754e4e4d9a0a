package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/clock/clocktest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
	"chom.dev/servers/s3"
)

// eachStore runs a test over both stores, at the same time once the test returns.
func eachStore(t *testing.T, test func(t *testing.T, s store.Store)) {
	t.Run("disk", func(t *testing.T) { t.Parallel(); test(t, openDisk(t, filepath.Join(t.TempDir(), "backups"))) })
	t.Run("s3", func(t *testing.T) {
		t.Parallel()
		server, err := s3.Start(t.Context(), s3.Options{Dir: t.TempDir(), Buckets: []string{"backups"}, Log: t.Output()})
		must(t, err)
		t.Cleanup(server.Stop)
		bucket, err := store.OpenS3(store.S3Config{Endpoint: server.Endpoint, Bucket: "backups", AccessKey: "access", SecretKey: secret.New([]byte(server.SecretKey))})
		must(t, err)
		test(t, bucket)
	})
}

func openDisk(t *testing.T, dir string) *store.Disk {
	t.Helper()
	d, err := store.OpenDisk(dir)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// over has the world's backups in a real store, read by the real restic, and gives the way of our site's host to its repository.
func (w *world) over(t *testing.T, s store.Store) *host {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	repositories, err := NewRepositories(s, "", log)
	must(t, err)
	w.config.Repositories = repositories
	return w.hostOf(t, s, w.ours, w.site)
}

// host makes backups as the host of our site does.
type host struct {
	url, key, dir string
	met           <-chan struct{} // holds a token once it was turned away for a quota
}

// run runs restic with some input. It gives the snapshot that was made, if any.
func (h *host) run(ctx context.Context, stdin string, args ...string) (snapshot string, err error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/restic", append([]string{"--no-cache", "--json", "--repo=rest:" + h.url + "/"}, args...)...)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{"RESTIC_PASSWORD=" + h.key}, h.dir, strings.NewReader(stdin)
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("restic %v: %w: %s", args, err, words.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var summary struct {
		SnapshotID string `json:"snapshot_id"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &summary); err != nil {
		return "", nil //nolint:nilerr // it is no backup
	}
	return summary.SnapshotID, nil
}

func (h *host) restic(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	snapshot, err := h.run(t.Context(), stdin, args...)
	must(t, err)
	return snapshot
}

// fullID is the whole of an id of which restic 0.14 tells the beginning.
func fullID(ctx context.Context, s store.Store, r store.Repository, short string) string {
	all, err := s.List(ctx, r, store.Snapshots)
	if err != nil {
		return ""
	}
	for _, one := range all {
		if strings.HasPrefix(one.Name.Text(), short) {
			return one.Name.Text()
		}
	}
	return ""
}

// makes is what a host does that has the site's files and its database in a repository.
func (h *host) makes(ctx context.Context, w *world, s store.Store) func(*orderv1.Order) *orderv1.Result {
	return func(o *orderv1.Order) *orderv1.Result {
		order := o.GetBackupSite()
		if order == nil {
			return well(o)
		}
		content := make([]byte, 300<<10)
		_, _ = rand.Read(content) // it never fails
		dump := order.BackupId
		broken := func(err error) *orderv1.Result {
			return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Error: err.Error()}
		}
		if err := errors.Join(os.MkdirAll(filepath.Join(h.dir, "public"), 0o700), os.WriteFile(filepath.Join(h.dir, "public", "page"), content, 0o600)); err != nil {
			return broken(err)
		}
		files, err := h.run(ctx, "", "backup", "public")
		if err != nil {
			return broken(err)
		}
		database, err := h.run(ctx, dump, "backup", "--stdin", "--stdin-filename", "database.sql")
		if err != nil {
			return broken(err)
		}
		r := store.Repository{Organization: w.ours, Site: w.site}
		sum := sha256.Sum256([]byte(dump))
		return &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_SUCCEEDED, Backup: &backupv1.Report{
			BackupId: order.BackupId, StartTime: timestamppb.Now(), EndTime: timestamppb.Now(),
			Contents: &backupv1.Contents{
				FilesSnapshot: fullID(ctx, s, r, files), DatabaseSnapshot: fullID(ctx, s, r, database), DumpSha256: sum[:], DumpBytes: uint64(len(dump)),
			},
		}}
	}
}

// makeBackups has a host make some, all READY.
func (w *world) makeBackups(t *testing.T, h *host, s store.Store, n int) (all []Backup) {
	t.Helper()
	for range n {
		made := w.create(t)
		w.work(t, h.makes(t.Context(), w, s))
		w.settled(t, time.Now())
		if made = w.get(t, made.ID); made.State != Ready {
			t.Fatalf("%+v", made)
		}
		all = append(all, made)
	}
	return all
}

// ages makes a backup one of another time.
func (w *world) ages(t *testing.T, b Backup, at time.Time) {
	t.Helper()
	b.Report.StartTime = timestamppb.New(at)
	report, err := proto.Marshal(b.Report)
	must(t, err)
	w.exec(t, `UPDATE backups SET report = $3, checked_at = $4 WHERE organization_id = $1 AND id = $2`, b.Organization, b.ID, report, db.Micros(at))
}

// keeps does all that is due at a moment, which it makes due.
func (w *world) keeps(t *testing.T, now time.Time) {
	t.Helper()
	w.exec(t, `UPDATE repositories SET keep_at = 0`)
	for more := true; more; {
		var err error
		more, err = w.keepNext(t.Context(), now)
		must(t, err)
	}
}

// whole says what is wrong with what is stored of our site's backups: nothing, or else.
func (w *world) whole(t *testing.T, all ...Backup) {
	t.Helper()
	r, err := w.open(t.Context(), w.ours, w.site)
	must(t, err)
	must(t, w.config.Repositories.Verify(t.Context(), r, 1, 1))
	for _, b := range all {
		must(t, w.Download(t.Context(), w.ours, w.site, b.ID, "", io.Discard))
		must(t, w.Download(t.Context(), w.ours, w.site, b.ID, "/public/page", io.Discard))
	}
}

func (w *world) objects(t *testing.T, s store.Store, kind store.Kind) int {
	t.Helper()
	all, err := s.List(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, kind)
	must(t, err)
	return len(all)
}

// TestKeep has what has expired removed, from a disk as SQLite has it, and from a bucket as PostgreSQL has it.
func TestKeep(t *testing.T) {
	eachStore(t, func(t *testing.T, s store.Store) {
		d := dbtest.SQLite
		if _, ok := s.(*store.S3); ok {
			d = dbtest.Postgres
		}
		func(t *testing.T, d *db.DB) {
			w := newWorld(t, d)
			h := w.over(t, s)
			all := w.makeBackups(t, h, s, 4)
			now := time.Now()
			day := now.Add(-200 * 24 * time.Hour).UTC().Truncate(24 * time.Hour)
			for i, b := range all[:3] {
				w.ages(t, b, day.Add(time.Duration(i)*time.Hour))
			}
			before := w.objects(t, s, store.Data)

			w.keeps(t, now)
			if n := w.count(t, `SELECT COUNT(*) FROM backups WHERE expire_at IS NOT NULL`); n != 2 {
				t.Errorf("%d are marked", n)
			}
			w.keeps(t, now.Add(removeAfter-time.Minute))
			w.whole(t, all[0]) // it is still there
			if n := w.objects(t, s, store.Manifests); n != 4 {
				t.Errorf("%d manifests", n)
			}

			w.keeps(t, now.Add(removeAfter))
			for _, b := range all[:2] {
				if _, err := w.Get(t.Context(), w.ours, w.site, b.ID); !errors.Is(err, ErrNotFound) {
					t.Errorf("a removed one: %v", err)
				}
				if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action = 'backup.expire'`, b.ID); n != 1 {
					t.Errorf("%d audit events", n)
				}
			}
			w.whole(t, all[2])
			if n, m, l := w.objects(t, s, store.Snapshots), w.objects(t, s, store.Manifests), w.objects(t, s, store.Locks); n != 4 || m != 2 || l != 0 {
				t.Errorf("%d snapshots, %d manifests, %d locks", n, m, l)
			}
			if n := w.objects(t, s, store.Data); n >= before {
				t.Errorf("%d packs, before %d", n, before)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM removals`); n != 0 {
				t.Errorf("%d removals are left", n)
			}
			w.makeBackups(t, h, s, 1) // and it goes on
		}(t, d(t))
	})
}

func TestKeepRules(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		now := time.Now()
		var all []Backup
		for i := range 4 {
			b := w.one(t)
			all = append(all, b)
			if i < 3 {
				w.ages(t, b, now.Add(-200*24*time.Hour).UTC().Truncate(24*time.Hour).Add(time.Duration(i)*time.Hour))
			}
		}
		marked := func() int { return w.count(t, `SELECT COUNT(*) FROM backups WHERE expire_at IS NOT NULL`) }
		ready := func() int { return w.count(t, `SELECT COUNT(*) FROM backups WHERE state = 'ready'`) }
		t.Run("what something keeps again is not removed", func(t *testing.T) {
			w.keeps(t, now)
			w.ages(t, all[0], now.Add(-300*24*time.Hour))
			w.keeps(t, now.Add(time.Hour))
			if marked() != 1 {
				t.Errorf("%d are marked", marked())
			}
		})
		t.Run("what a restore goes back to is not removed", func(t *testing.T) {
			w.ages(t, all[0], now.Add(-200*24*time.Hour).UTC().Truncate(24*time.Hour))
			w.keeps(t, now)
			_, err := w.Restore(t.Context(), w.ours, w.site, all[1].ID, Parts{WithoutBackup: true})
			must(t, err)
			w.keeps(t, now)
			if marked() != 1 {
				t.Errorf("%d are marked", marked())
			}
			w.keeps(t, now.Add(removeAfter+time.Hour))
			if ready() != 3 || len(w.stored.forgotten) != 0 {
				t.Errorf("%d are ready, %v forgotten while a restore goes on", ready(), w.stored.forgotten)
			}
			if n := w.count(t, `SELECT COUNT(*) FROM repositories WHERE keep_at = $1`, db.Micros(now.Add(removeAfter+time.Hour+busyRest))); n != 1 {
				t.Error("it is not looked after again soon")
			}
			w.work(t, well)
			w.keeps(t, now.Add(removeAfter+2*time.Hour))
			if !slices.Equal(w.stored.forgotten, []uint64{1}) {
				t.Errorf("forgotten are %v", w.stored.forgotten)
			}
		})
		t.Run("a host that works with the repository is waited for", func(t *testing.T) {
			w.stored.forgetErr = ErrBusy
			w.keeps(t, now.Add(60*24*time.Hour))
			w.keeps(t, now.Add(64*24*time.Hour)) // the restore can't be undone any more
			if n := w.count(t, `SELECT COUNT(*) FROM removals`); n != 1 {
				t.Errorf("%d removals", n)
			}
			w.stored.forgetErr = nil
			_, err := w.Drill(t.Context(), w.ours, w.site, all[3].ID) // which reads without a lock
			must(t, err)
			w.keeps(t, now.Add(64*24*time.Hour+busyRest))
			if !slices.Equal(w.stored.forgotten, []uint64{1}) {
				t.Errorf("while a drill reads, forgotten are %v", w.stored.forgotten)
			}
			w.work(t, well)
			w.keeps(t, now.Add(64*24*time.Hour+2*busyRest))
			if !slices.Equal(w.stored.forgotten, []uint64{1, 2}) {
				t.Errorf("forgotten are %v", w.stored.forgotten)
			}
		})
		t.Run("nothing begins while data is removed, and hosts are told to ask again", func(t *testing.T) {
			w.exec(t, `UPDATE repositories SET held_until = $1`, db.Micros(time.Now().Add(claimFor)))
			_, create := w.Create(t.Context(), w.ours, w.site)
			_, restore := w.Restore(t.Context(), w.ours, w.site, all[3].ID, Parts{WithoutBackup: true})
			_, undo := w.Undo(t.Context(), w.ours, w.site, w.restores(t)[0].ID)
			for what, err := range map[string]error{"create": create, "restore": restore, "undo": undo, "admit": w.Admit(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Data, 1)} {
				if !errors.Is(err, ErrHeld) || fault.KindOf(err) != fault.KindUnavailable {
					if what != "undo" || !errors.Is(err, ErrUndoOver) {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			if err := w.Admit(t.Context(), store.Repository{Organization: w.theirs, Site: w.theirSite}, store.Data, 1); err != nil {
				t.Errorf("another site: %v", err)
			}
			w.exec(t, `UPDATE repositories SET held_until = 0`)
			made := w.create(t)
			w.work(t, well)
			w.exec(t, `UPDATE repositories SET held_until = $1`, db.Micros(time.Now().Add(claimFor)))
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Checking {
				t.Errorf("it is checked meanwhile: %+v", b)
			}
			w.exec(t, `UPDATE repositories SET held_until = 0`)
			w.settled(t, time.Now())
			if b := w.get(t, made.ID); b.State != Ready {
				t.Errorf("it is not checked afterwards: %+v", b)
			}
		})
		t.Run("a clock that was set forward removes nothing", func(t *testing.T) {
			w.exec(t, `UPDATE repositories SET keep_at = 0`)
			now := time.Now()
			w.trusts(now)
			ahead := clocktest.Set(t, now, 1000*time.Hour)
			if more, err := w.keepNext(t.Context(), ahead); more || err != nil {
				t.Errorf("%t, %v", more, err)
			}
		})
	})
}

// TestStrays removes what hosts have left of backups that failed, a week after it was met.
func TestStrays(t *testing.T) {
	s := openDisk(t, filepath.Join(t.TempDir(), "backups"))
	w := newWorld(t, dbtest.SQLite(t))
	h := w.over(t, s)
	good := w.makeBackups(t, h, s, 1)
	made := w.create(t)
	w.work(t, func(o *orderv1.Order) *orderv1.Result { h.makes(t.Context(), w, s)(o); return badly(o) })
	if b := w.get(t, made.ID); b.State != Failed || w.objects(t, s, store.Snapshots) != 4 {
		t.Fatalf("%+v", b)
	}
	now := time.Now()
	w.keeps(t, now)
	w.keeps(t, now.Add(strayAfter-time.Minute))
	if n := w.objects(t, s, store.Snapshots); n != 4 {
		t.Errorf("%d snapshots", n)
	}
	w.keeps(t, now.Add(strayAfter))
	if n := w.objects(t, s, store.Snapshots); n != 2 {
		t.Errorf("%d snapshots", n)
	}
	w.whole(t, good...)
}

// TestKeepBesideHost has a host make backups of its own accord while what has expired is removed again and again.
func TestKeepBesideHost(t *testing.T) {
	eachStore(t, func(t *testing.T, s store.Store) {
		w := newWorld(t, dbtest.SQLite(t))
		h := w.over(t, s)
		newest := w.makeBackups(t, h, s, 1)[0]
		r := store.Repository{Organization: w.ours, Site: w.site}
		var waited atomic.Int64
		stop, end := context.WithCancel(t.Context())
		var hosts sync.WaitGroup
		var mu sync.Mutex
		var made []string
		hosts.Go(func() {
			for n := 0; stop.Err() == nil; n++ {
				time.Sleep(time.Second) // nothing can be removed while it is at it
				// What comes back is in packs that may be removed meanwhile.
				must(t, os.WriteFile(filepath.Join(h.dir, "again"), bytes.Repeat([]byte{byte(n % 3)}, 500<<10), 0o600))
				began := time.Now()
				short, err := h.run(t.Context(), "", "backup", "again", "public")
				switch {
				case err == nil:
					mu.Lock()
					made = append(made, fullID(t.Context(), s, r, short))
					mu.Unlock()
					if time.Since(began) > 5*time.Second {
						waited.Add(1)
					}
				case !strings.Contains(err.Error(), "locked"):
					t.Error(err)
				}
			}
		})
		now := time.Now()
		removed := 0
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(made)
		}
		for round := 0; round < 12 && !t.Failed(); round++ {
			// All but the newest of the host's are strays by now.
			stray := count()
			for n := 0; n < 600 && stray < 2; n++ { // who keeps has less to do than who makes, and would be at it all the time
				time.Sleep(100 * time.Millisecond)
				stray = count()
			}
			w.exec(t, `UPDATE stray_snapshots SET seen_at = 1`)
			w.keeps(t, now)
			mu.Lock()
			left := w.there(t, s)
			made = slices.DeleteFunc(made, func(id string) bool { return !left[id] })
			removed += max(stray-len(made), 0)
			mu.Unlock()
			t.Logf("round %d: %d snapshots, %d removed", round, len(left), removed)
			if removed > 8 {
				break
			}
		}
		end()
		hosts.Wait()
		if removed == 0 || len(made) == 0 {
			t.Errorf("%d removed, %d left: nothing is shown", removed, len(made))
		}
		t.Logf("%d backups waited", waited.Load())
		w.whole(t, newest)
	})
}

// there are the snapshots in our site's repository.
func (w *world) there(t *testing.T, s store.Store) map[string]bool {
	t.Helper()
	all, err := s.List(t.Context(), store.Repository{Organization: w.ours, Site: w.site}, store.Snapshots)
	must(t, err)
	found := map[string]bool{}
	for _, one := range all {
		found[one.Name.Text()] = true
	}
	return found
}

// dying is a store whose process is killed at its nth change, with all that it has started.
type dying struct {
	store.Store
	left atomic.Int64
}

// leftBehind begins a line with the processes that one leaves behind which dies. It does not end them: it might live to see that.
const leftBehind = "left behind: "

func (d *dying) die() {
	if d.left.Add(-1) != 0 {
		return
	}
	lists, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is fine
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread that has ended has none
		fmt.Fprintf(os.Stderr, "%s%s\n", leftBehind, text)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (d *dying) Put(ctx context.Context, r store.Repository, n store.Name, size int64, body io.Reader) error {
	d.die()
	return d.Store.Put(ctx, r, n, size, body)
}

func (d *dying) Delete(ctx context.Context, r store.Repository, n store.Name) error {
	d.die()
	return d.Store.Delete(ctx, r, n)
}

// again is what a world is to another process: its backups.
func again(t *testing.T, url string, of *world, s store.Store) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	repositories, err := NewRepositories(s, "", log)
	must(t, err)
	w := &world{ours: of.ours, site: of.site}
	w.Backups, err = New(dbtest.Open(t, url), log, Config{Keys: secrettest.New(), Signer: of.signer, Repositories: repositories, Metrics: prometheus.NewRegistry()})
	must(t, err)
	return w
}

// childKept tells a child of TestKeepKilled what to do.
const childKept = "CHOM_TEST_KEEP_CHILD"

// child is that.
type child struct {
	URL, Dir     string
	Signer       []byte
	Organization contract.OrganizationID
	Site         contract.SiteID
	Now          time.Time
	Step         int64
}

// TestKeepKilled kills the process at every change that it makes in a repository, with restic. Whatever it was about, all backups that
// are kept are whole then, and the next process brings it to its end.
func TestKeepKilled(t *testing.T) {
	if text := os.Getenv(childKept); text != "" {
		var c child
		must(t, json.Unmarshal([]byte(text), &c))
		d := &dying{Store: openDisk(t, c.Dir)}
		d.left.Store(c.Step)
		again(t, c.URL, &world{ours: c.Organization, site: c.Site, signer: c.Signer}, d).keeps(t, c.Now)
		return
	}
	url, dir := dbtest.SQLiteURL(t), filepath.Join(t.TempDir(), "backups")
	s := openDisk(t, dir)
	var w *world
	var all []Backup
	now := time.Now()
	t.Run("prepare", func(t *testing.T) {
		w = newWorld(t, dbtest.Open(t, url))
		h := w.over(t, s)
		all = w.makeBackups(t, h, s, 4)
		for i, b := range all[:3] {
			w.ages(t, b, now.Add(-200*24*time.Hour).UTC().Truncate(24*time.Hour).Add(time.Duration(i)*time.Hour))
		}
		w.keeps(t, now)
	})
	file := strings.TrimPrefix(url, "sqlite:")
	died := true
	for step := 1 + mrand.Int64N(3); died; step += 3 { // each of them in its time
		t.Run(fmt.Sprint("change ", step), func(t *testing.T) {
			to := t.TempDir()
			must(t, exec.Command("/usr/bin/cp", "-a", dir, filepath.Join(to, "backups")).Run())
			must(t, exec.Command("/usr/bin/cp", "-a", file, filepath.Join(to, "db")).Run())
			c := child{
				URL: "sqlite:" + filepath.Join(to, "db"), Dir: filepath.Join(to, "backups"), Signer: w.signer, Organization: w.ours, Site: w.site,
				Now: now.Add(removeAfter), Step: step,
			}
			text, err := json.Marshal(c)
			must(t, err)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKeepKilled$")
			cmd.Env = append(os.Environ(), childKept+"="+string(text))
			out, err := cmd.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				left, _ := strings.CutPrefix(line, leftBehind)
				if left == line {
					continue
				}
				for id := range strings.FieldsSeq(left) {
					if pid, err := strconv.Atoi(id); err == nil {
						_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
					}
				}
			}
			var exit *exec.ExitError
			died = errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			if err != nil && !died {
				t.Fatalf("%v\n%s", err, out)
			}
			next := again(t, c.URL, w, openDisk(t, c.Dir))
			if err := next.Admit(t.Context(), store.Repository{Organization: next.ours, Site: next.site}, store.Data, 1); died != errors.Is(err, ErrHeld) {
				t.Errorf("a host is told %v", err)
			}
			next.whole(t)
			next.keeps(t, c.Now)
			next.whole(t, all[2])
			if n, m, l := next.objects(t, next.store(t), store.Snapshots), next.objects(t, next.store(t), store.Manifests), next.objects(t, next.store(t), store.Locks); n != 4 || m != 2 || l != 0 {
				t.Errorf("%d snapshots, %d manifests, %d locks", n, m, l)
			}
			if n := next.count(t, `SELECT COUNT(*) FROM removals`); n != 0 {
				t.Errorf("%d removals are left", n)
			}
		})
		if t.Failed() {
			return
		}
	}
}

func (w *world) store(t *testing.T) store.Store {
	t.Helper()
	r, ok := w.config.Repositories.(*Repositories)
	if !ok {
		t.Fatal("nothing is stored for real")
	}
	return r.store
}
