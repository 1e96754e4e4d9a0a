package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"chom.dev/agent/backup"
	"chom.dev/agent/backup/backuptest"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// walls are what of a unit's sandbox a test makes without systemd: mounts, and a
// network of its own.
type walls struct {
	UID   int
	Tree  string // in the place of Shell
	Shell string
	Fresh []string
	Gone  string // where the live sites are
}

// goInside makes the walls, and goes on as a program inside of them.
func goInside(text string, argv []string) error {
	var w walls
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/srv", "tmpfs", 0, "mode=755"),
		os.MkdirAll(w.Shell, 0o755), unix.Mount(w.Tree, w.Shell, "", unix.MS_BIND, ""),
		unix.Mount("tmpfs", w.Gone, "tmpfs", 0, "mode=755"),
	); err != nil {
		return err
	}
	for _, dir := range w.Fresh {
		if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777")); err != nil {
			return err
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(w.UID), syscall.Setuid(w.UID), os.Chdir("/")); err != nil {
		return err
	}
	return syscall.Exec(argv[0], argv, []string{"PATH=/usr/bin:/bin", "TMPDIR=/var/tmp", "LC_ALL=C.UTF-8"})
}

// supervised runs units of the scene, as systemd would.
type supervised struct{ *scene }

func (s supervised) command(u run.Unit) *exec.Cmd {
	own := tree.Shell(s.Handle)
	w := walls{UID: int(s.UID), Tree: s.Dir + "/sites/" + s.Handle.String(), Shell: own, Gone: s.Dir + "/sites"}
	for _, p := range u.Properties {
		from, to, elsewhere := strings.Cut(p.Value, ":")
		switch {
		case p.Key == "BindPaths" && elsewhere && to == own:
			w.Tree = from
		case p.Key == "TemporaryFileSystem" && strings.HasPrefix(from, s.dirs()):
			w.Fresh = append(w.Fresh, from)
		}
	}
	text, _ := json.Marshal(w)
	cmd := exec.Command(s.Agent, append([]string{"walled-in", string(text)}, u.Argv...)...)
	cmd.Stdin = u.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	return cmd
}

// dirs is the beginning of all directories that tests make.
func (s supervised) dirs() string { return os.TempDir() + "/chom-" }

func (s supervised) Run(ctx context.Context, u run.Unit) (run.Result, error) {
	if u.Argv[2] != "look-at-drill" {
		return asTenant{s.UID}.Run(ctx, u)
	}
	cmd := s.command(u)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return run.Result{}, fmt.Errorf("%w: %s", err, words.String())
	}
	return run.Result{Stdout: out.Bytes()}, nil
}

// Kill ends all of the user's processes, as systemd does those of a unit.
func (s supervised) Kill(context.Context, string) error {
	_ = exec.Command("/usr/bin/pkill", "-KILL", "-u", strconv.Itoa(int(s.UID))).Run() // there may be none
	return nil
}
func (s supervised) Stop(context.Context, string) error        { return nil }
func (s supervised) ResetFailed(context.Context, string) error { return nil }

type launched struct {
	supervised
	cmd         *exec.Cmd
	out, stderr *os.File
}

func (p *launched) Stdout() io.ReadCloser          { return p.out }
func (p *launched) Stderr() io.ReadCloser          { return p.stderr }
func (p *launched) Kill(ctx context.Context) error { return p.supervised.Kill(ctx, "") }
func (p *launched) Wait() error {
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &run.ExitError{Path: p.cmd.Path, Code: exit.ExitCode()}
	}
	return err
}

func (s supervised) launch(_ context.Context, u run.Unit) (backup.Process, error) {
	if _, err := u.Settings(); err != nil {
		return nil, err
	}
	p := &launched{supervised: s, cmd: s.command(u)}
	var outW, errW *os.File
	var err error
	if p.out, outW, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.stderr, errW, err = os.Pipe(); err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = outW, errW
	err = p.cmd.Start()
	outW.Close()
	errW.Close()
	return p, err
}

// plane is the control plane, that keeps the scene's repository.
type plane struct{ *scene }

func (k plane) FetchRepositoryKey(context.Context, *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	return &linkv1.FetchRepositoryKeyResponse{Key: "0123456789abcdefghijABCDEFGHIJ_-0123456789a"}, nil
}

func (k plane) Repository(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", k.scene.Repository
	return http.DefaultTransport.RoundTrip(r)
}

func (s *scene) backups() (*backup.Manager, error) {
	return backup.New(backup.Config{
		Dir: s.Dir + "/keys", RunDir: s.Dir + "/run", Broker: plane{s}, Launch: supervised{s}.launch, Agent: s.Agent,
		MariaDB: s.Socket, Log: slog.New(slog.DiscardHandler),
	})
}

func (s *scene) drillPlan(o task.Order) (task.Plan, error) {
	backups, err := s.backups()
	if err != nil {
		return task.Plan{}, err
	}
	d := &drilling{
		drills: &drills{tree.At(s.Dir + "/sites"), supervised{s}, backups, s.Agent, s.Socket, s.Dir + "/php"},
		site:   o.Site, limit: o.Timeout,
	}
	if err := d.read(o.Message.GetDrillSite(), o); err != nil {
		return task.Plan{}, err
	}
	return d.plan(), nil
}

// newDrillScene has a site with a backup in a repository.
func newDrillScene(t *testing.T, socket, program string) (*scene, *backuptest.Repository, *backupv1.Manifest) {
	t.Helper()
	s := newScene(t, socket, program)
	t.Cleanup(func() { _ = supervised{s}.Kill(context.Background(), "") })
	repository := new(backuptest.Repository)
	server := httptest.NewServer(http.StripPrefix(contract.RepositoryPath+s.Site.String(), repository))
	t.Cleanup(server.Close)
	s.Repository = server.Listener.Addr().String()
	s.sh(t, fmt.Sprintf("cd %s/sites/%s && echo '<title>Old &amp; good</title>' > public/index.html && head -c 300000 /dev/urandom > private/big", s.Dir, s.Handle))
	s.sql(t, "CREATE SEQUENCE sq; CREATE FUNCTION fu() RETURNS INT DETERMINISTIC RETURN 3; CREATE TABLE hist (x INT) WITH SYSTEM VERSIONING; INSERT INTO hist VALUES (1); UPDATE hist SET x = 2;")
	backups, err := s.backups()
	if err != nil {
		t.Fatal(err)
	}
	site := task.Site{ID: s.Site, Organization: s.Organization, Handle: s.Handle, UID: s.UID}
	var c backup.Contents
	if err := errors.Join(
		backups.Make(t.Context(), site),
		backups.Do(t.Context(), site, backup.Work{Job: "backup", Timeout: time.Minute, Order: backup.ContentsOrder{Backup: "b", Database: true}}, nil, &c),
	); err != nil {
		t.Fatal(err)
	}
	res, err := asTenant{s.UID}.Run(t.Context(), run.Unit{Argv: []string{s.Agent, "sandbox", "list-tree", s.Dir + "/sites/" + s.Handle.String()}})
	if err != nil {
		t.Fatal(err)
	}
	var l tree.Found
	if err := json.Unmarshal(res.Stdout, &l); err != nil {
		t.Fatal(err)
	}
	m := &backupv1.Manifest{
		Schema: 1, OrganizationId: s.Organization.String(), SiteId: s.Site.String(), BackupId: contract.NewBackupID().String(), Sequence: 1,
		Contents: &backupv1.Contents{
			FilesSnapshot: c.Files.ID, DatabaseSnapshot: c.Database.ID, FileCount: l.Count, FileBytes: l.Bytes, ListingSha256: l.SHA256, LinksSha256: l.Links,
			DumpSha256: c.Database.SHA256, DumpBytes: c.Database.Bytes,
		},
	}
	for _, table := range c.Database.Tables {
		m.Contents.Tables = append(m.Contents.Tables, &backupv1.Table{Name: table.Name, Rows: table.Rows})
	}
	slices.SortFunc(m.Contents.Tables, func(a, b *backupv1.Table) int { return strings.Compare(a.Name, b.Name) })
	return s, repository, m
}

func (s *scene) drillOrder(t *testing.T, m *backupv1.Manifest, paths ...string) (*orderv1.Order, *orderv1.SignedOrder) {
	t.Helper()
	sm, err := contract.SignManifest(s.Signer, m)
	if err != nil {
		t.Fatal(err)
	}
	return s.sign(t, func(o *orderv1.Order) {
		o.Kind = &orderv1.Order_DrillSite{DrillSite: &orderv1.DrillSite{Handle: s.Handle.String(), DrillId: contract.NewDrillID().String(), Manifest: sm, Paths: paths}}
	})
}

// agree says whether the evidence is that of the manifest, as the control plane does.
func agree(t *testing.T, m *backupv1.Manifest, e *backupv1.Evidence) {
	t.Helper()
	c := m.Contents
	if e.GetFileCount() != c.FileCount || e.GetFileBytes() != c.FileBytes || !bytes.Equal(e.GetListingSha256(), c.ListingSha256) || !bytes.Equal(e.GetLinksSha256(), c.LinksSha256) || !bytes.Equal(e.GetDumpSha256(), c.DumpSha256) {
		t.Errorf("found %v, want %v", e, c)
	}
	if !slices.EqualFunc(e.GetTables(), c.Tables, func(a, b *backupv1.Table) bool { return proto.Equal(a, b) }) {
		t.Errorf("tables are %v, want %v", e.GetTables(), c.Tables)
	}
	if p := e.GetPages(); len(p) == 0 || p[0].GetPath() != "/" || p[0].GetHttpStatus() != 200 || p[0].GetTitle() != "Old & good" || p[0].GetBodyBytes() != 30 || p[0].GetProblem() != "" {
		t.Errorf("pages are %v", p)
	}
}

// trace is what a drill has left: its place, and whoever runs as the site's user. Who is dead, and was not waited for yet, does not.
func (s *scene) trace(t *testing.T) string {
	t.Helper()
	var left []string
	if _, err := os.Lstat(s.Dir + "/sites/" + s.Handle.String() + "/drill"); err == nil {
		left = append(left, "a place")
	}
	if out, _ := exec.Command("/usr/bin/pgrep", "--runstates=R,S,D,T", "-l", "-u", strconv.Itoa(int(s.UID))).Output(); len(out) > 0 {
		left = append(left, string(out))
	}
	return strings.Join(left, ", ")
}

func TestDrill(t *testing.T) {
	socket := database(t)
	program := helper(t)
	t.Run("finds what was backed up, and leaves the site alone", func(t *testing.T) {
		s, _, m := newDrillScene(t, socket, program)
		s.sh(t, fmt.Sprintf("cd %s/sites/%s && echo changed > public/index.html", s.Dir, s.Handle))
		s.sql(t, "DROP VIEW v; DELETE FROM t; CREATE TABLE since (x INT)")
		before := s.live(t)
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.stop()
		for range 2 {
			o, signed := s.drillOrder(t, m, "/index.html?x=1", "/nothing")
			res := s.do(t, a, o, signed)
			if res.Outcome != orderv1.Outcome_OUTCOME_SUCCEEDED || res.GetDrill().GetDrillId() != o.GetDrillSite().DrillId {
				t.Fatal(res)
			}
			e := res.GetDrill().GetEvidence()
			agree(t, m, e)
			if p := e.GetPages(); len(p) != 3 || p[1].GetPath() != "/index.html?x=1" || p[1].GetHttpStatus() != 200 || p[2].GetPath() != "/nothing" || p[2].GetHttpStatus() != 404 {
				t.Errorf("pages are %v", p)
			}
			if e.EndTime.AsTime().Before(e.StartTime.AsTime()) || time.Since(e.StartTime.AsTime()) > time.Minute {
				t.Errorf("from %v to %v", e.StartTime.AsTime(), e.EndTime.AsTime())
			}
			if left := s.trace(t); left != "" {
				t.Errorf("left %s", left)
			}
		}
		if after := s.live(t); after != before {
			t.Errorf("the site was %q and is %q", before, after)
		}
	})
	t.Run("says what it found, not what was signed", func(t *testing.T) {
		s, _, m := newDrillScene(t, socket, program)
		signed := proto.CloneOf(m)
		signed.Contents.Tables[0].Rows += 5
		signed.Contents.FileCount++
		signed.Contents.ListingSha256 = make([]byte, 32)
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.stop()
		o, order := s.drillOrder(t, signed)
		res := s.do(t, a, o, order)
		if res.Outcome != orderv1.Outcome_OUTCOME_SUCCEEDED {
			t.Fatal(res)
		}
		agree(t, m, res.GetDrill().GetEvidence())
	})
	t.Run("a cancel while it is fetched leaves nothing, and the site alone", func(t *testing.T) {
		s, repository, m := newDrillScene(t, socket, program)
		before := s.live(t)
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.stop()
		o, signed := s.drillOrder(t, m)
		repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/data/") {
				a.engine.Cancel(o.TaskId, 1)
				time.Sleep(50 * time.Millisecond)
			}
			return false
		}
		if res := s.do(t, a, o, signed); res.Outcome != orderv1.Outcome_OUTCOME_CANCELED || res.GetDrill() != nil {
			t.Errorf("it ended as %v", res)
		}
		if left, after := s.trace(t), s.live(t); left != "" || after != before {
			t.Errorf("left %q, the site was %q and is %q", left, before, after)
		}
	})
	t.Run("fails with words, and leaves nothing", func(t *testing.T) {
		s, repository, m := newDrillScene(t, socket, program)
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.stop()
		huge := proto.CloneOf(m)
		huge.Contents.FileBytes = 1 << 49
		none := proto.CloneOf(m)
		none.Contents.FilesSnapshot = strings.Repeat("a", 64)
		foreign := proto.CloneOf(m)
		foreign.SiteId = contract.NewSiteID().String()
		for _, c := range []struct {
			manifest  *backupv1.Manifest
			words     string
			outcome   orderv1.Outcome
			permanent bool
		}{
			{huge, "make-room: the disk of the sites has", orderv1.Outcome_OUTCOME_FAILED, true},
			{none, "restore files", orderv1.Outcome_OUTCOME_FAILED, false},
			{foreign, "the backup is of another site", orderv1.Outcome_OUTCOME_REFUSED, false},
		} {
			o, signed := s.drillOrder(t, c.manifest)
			res := s.do(t, a, o, signed)
			if res.Outcome != c.outcome || !strings.Contains(res.Error, c.words) || res.Permanent != c.permanent || res.Drill != nil {
				t.Errorf("got %v, want %q", res, c.words)
			}
		}
		for _, name := range repository.Objects("data") {
			content := repository.Get("/data/" + name)
			content[len(content)/3] ^= 4
			repository.Put("/data/"+name, content)
		}
		o, signed := s.drillOrder(t, m)
		if res := s.do(t, a, o, signed); res.Outcome != orderv1.Outcome_OUTCOME_FAILED || !res.Permanent || !strings.Contains(res.Error, "the repository is damaged") || res.Drill != nil {
			t.Errorf("of a damaged repository: %v", res)
		}
		if left := s.trace(t); left != "" {
			t.Errorf("left %s", left)
		}
	})
}

// drillPoints are where a drill's process is killed.
var drillPoints = []string{
	"task/drill-site/make-room/after", "tree.staging-made", "tree.staging-database-made", "drill.to-come", "drill.fetched",
	"task/drill-site/fetch/after", "drill.seen", "task/drill-site/look/after", "task/drill-site/tidy/before", "drill.ended", "tree.emptied",
	"tree.staging-database-removed", "drill.removed", "task/drill-site/tidy/after",
}

func TestDrillKilledAnywhere(t *testing.T) {
	socket := database(t)
	program := failing(t)
	points := drillPoints
	if os.Getenv("CHOM_PROVE") == "" { // each takes seconds
		points = []string{"drill.fetched", "drill.seen"}
	}
	s, repository, m := newDrillScene(t, socket, program)
	before := s.live(t)
	drilled := func(t *testing.T, m *backupv1.Manifest) *orderv1.Order {
		o, signed := s.drillOrder(t, m)
		var err error
		if s.Order, err = proto.Marshal(signed); err != nil {
			t.Fatal(err)
		}
		return o
	}
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, "/", "."), func(t *testing.T) {
			o := drilled(t, m)
			out, err := process(s, program, point)
			if _, gone := os.Stat(s.Dir + "/point"); err == nil || gone == nil {
				t.Fatalf("was not killed: %v %s", err, out)
			}
			if out, err = process(s, program, ""); err != nil {
				t.Fatalf("did not go on: %v %s", err, out)
			}
			var res orderv1.Result
			if err := (&drilling{drills: &drills{backups: s.ready(t)}, site: task.Site{Handle: s.Handle}, id: drillOf(t, o)}).report(&res); err != nil {
				t.Fatal(err)
			}
			agree(t, m, res.GetDrill().GetEvidence())
			if left, after := s.trace(t), s.live(t); left != "" || after != before {
				t.Errorf("left %q, the site was %q and is %q", left, before, after)
			}
		})
	}
	t.Run("who is killed while a failed one is removed removes it later, and looks at no half", func(t *testing.T) {
		drilled(t, m)
		if out, err := process(s, program, "drill.fetched"); err == nil {
			t.Fatal(out)
		}
		d := &drills{tree.At(s.Dir + "/sites"), supervised{s}, s.ready(t), s.Agent, s.Socket, s.Dir + "/php"}
		if !strings.Contains(s.trace(t), "a place") {
			t.Fatal("nothing was left to remove")
		}
		if err := d.remove(t.Context(), s.Handle); err != nil {
			t.Fatal(err)
		}
		if left := s.trace(t); left != "" {
			t.Errorf("left %s", left)
		}
		if out, err := process(s, program, ""); err != nil { // the order is still in the journal
			t.Errorf("did not go on: %v %s", err, out)
		}
		for _, name := range repository.Objects("data") {
			content := repository.Get("/data/" + name)
			content[len(content)/3] ^= 4
			repository.Put("/data/"+name, content)
		}
		drilled(t, m)
		if out, err := process(s, program, "tree.emptied"); err == nil {
			t.Fatal(out)
		}
		if out, err := process(s, program, ""); err == nil || !strings.Contains(out, "FAILED") {
			t.Errorf("%v %s", err, out)
		}
		if left := s.trace(t); left != "" {
			t.Errorf("left %s", left)
		}
	})
}

func drillOf(t *testing.T, o *orderv1.Order) contract.DrillID {
	t.Helper()
	id, err := contract.ParseDrillID(o.GetDrillSite().GetDrillId())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ready opens the backups.
func (s *scene) ready(t *testing.T) *backup.Manager {
	t.Helper()
	m, err := s.backups()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// live is all that the site has.
func (s *scene) live(t *testing.T) string {
	t.Helper()
	files, err := asTenant{s.UID}.Run(t.Context(), run.Unit{Argv: []string{s.Agent, "sandbox", "list-tree", s.Dir + "/sites/" + s.Handle.String()}})
	if err != nil {
		t.Fatal(err)
	}
	return string(files.Stdout) + s.sql(t, "SELECT table_name, table_type, create_time FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1; SELECT COUNT(*) FROM t")
}
