package site

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/backup"
	"chom.dev/agent/clock"
	"chom.dev/agent/drill"
	"chom.dev/agent/journal"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	mariadbserver "chom.dev/servers/mariadb"
)

// childVariable names the scene of a process that does one order and ends.
const childVariable = "CHOM_TEST_RESTORE"

// TestMain is also the helper that runs as a site's user, and the agent that is killed.
func TestMain(m *testing.M) {
	ctx := context.Background()
	var err error
	switch {
	case len(os.Args) > 3 && os.Args[1] == "sandbox" && os.Args[2] == "empty-tree":
		err = tree.Empty(ctx, os.Args[3:]...)
	case len(os.Args) > 3 && os.Args[1] == "sandbox" && os.Args[2] == "list-tree":
		err = ListTree(ctx, os.Args[3], os.Stdout)
	case len(os.Args) > 2 && os.Args[1] == "sandbox" && os.Args[2] == "define-objects":
		err = DefineObjects(ctx, os.Stdin, os.Stdout)
	case len(os.Args) > 2 && os.Args[1] == "sandbox" && os.Args[2] == "site-backup":
		err = backup.Enter(ctx, os.Stdin, os.Stdout, backup.Jobs(drill.Jobs()))
	case len(os.Args) > 2 && os.Args[1] == "sandbox" && os.Args[2] == "look-at-drill":
		err = drill.Look(ctx, os.Stdin, os.Stdout)
	case len(os.Args) > 2 && os.Args[1] == "walled-in":
		err = goInside(os.Args[2], os.Args[3:])
	case os.Getenv(makeVariable) != "":
		err = makeHost(os.Getenv(makeVariable))
	case os.Getenv(childVariable) != "":
		err = doOrder(os.Getenv(childVariable))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// scene is a host with one site, as far as a restore needs it: real directories,
// a real server and a real user. Nginx and PHP are a file that says who is served.
type scene struct {
	Dir, Socket, Agent string
	Server             contract.ServerID
	Organization       contract.OrganizationID
	Site               contract.SiteID
	Handle             contract.Handle
	UID                uint32
	Signer             ed25519.PrivateKey
	Order              []byte        // chom.order.v1.SignedOrder of a process of its own
	Repository         string        // address of one, for drills
	Door, Key          string        // where the real repository is, and what opens it; empty without one
	Result             string        // file that is to hold the order's result; empty for none
	Away               time.Duration // as backup.Config.Away

	hook func(point string) error // called by the fetcher, in this process alone
}

func (s *scene) restores(db *mariadb.Server) *restores {
	return &restores{restoreJournal{s.Dir + "/restore"}, tree.At(s.Dir + "/sites"), db, s.Socket, asTenant{s.UID}, s.Agent}
}

// handlers are those of the host, with a file in place of nginx.
func (s *scene) handlers(db *mariadb.Server) map[task.Kind]task.Handler {
	rs := s.restores(db)
	state := func(name, text string) task.Step {
		return task.Step{Name: name, Do: func(context.Context, *task.Log) error {
			if text == "open" && rs.switching(s.Handle) {
				return errors.New("opened in the middle of a restore")
			}
			return os.WriteFile(s.Dir+"/served", []byte(text), 0o600)
		}}
	}
	common := func(o task.Order, id string) (*restore, error) {
		restoreID, err := contract.ParseRestoreID(id)
		if err != nil {
			return nil, err
		}
		fetch := fetcher(copier{s})
		if s.far() {
			if fetch, err = s.manager(); err != nil {
				return nil, err
			}
		}
		return &restore{
			restores: rs, fetch: fetch, site: o.Site, handle: o.Site.Handle, uid: int(o.Site.UID), id: restoreID,
			quiet: []task.Step{state("nginx-restoring", "closed")}, wake: []task.Step{state("nginx", "open")},
		}, err
	}
	return map[task.Kind]task.Handler{
		task.BackupSite: s.backupHandler(db),
		task.RestoreSite: task.HandlerFunc(func(o task.Order) (task.Plan, error) {
			r, err := common(o, o.Message.GetRestoreSite().GetRestoreId())
			if err == nil {
				err = r.read(o.Message.GetRestoreSite(), o)
			}
			if err != nil {
				return task.Plan{}, err
			}
			return r.plan(), nil
		}),
		task.UndoRestore: task.HandlerFunc(func(o task.Order) (task.Plan, error) {
			r, err := common(o, o.Message.GetUndoRestore().GetRestoreId())
			if err != nil {
				return task.Plan{}, err
			}
			return r.undoPlan(!o.Message.GetUndoRestore().GetUndone()), nil
		}),
		task.DrillSite: task.HandlerFunc(s.drillPlan),
	}
}

// asTenant runs what a host runs walled in, without the wall.
type asTenant struct{ uid uint32 }

func (a asTenant) Run(ctx context.Context, u run.Unit) (run.Result, error) {
	cmd := exec.CommandContext(ctx, u.Argv[0], u.Argv[1:]...)
	var out, words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = u.Stdin, &out, &words, "/", []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.uid}, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	res := run.Result{Stdout: out.Bytes(), Stderr: words.Bytes()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &run.ExitError{Path: u.Argv[0], Code: exit.ExitCode(), Stderr: res.LastWords()}
	}
	return res, err
}

// copier fetches from a directory instead of a repository, as the site's user.
type copier struct{ *scene }

func (c copier) at(point string) error {
	if c.hook == nil {
		return nil
	}
	return c.hook(point)
}

// Fetch gets one after the other, so that tests know where it is.
func (c copier) Fetch(ctx context.Context, _ task.Site, o backup.FetchOrder, progress func(backup.Progress)) (f backup.Fetched, err error) {
	if o.Files != "" {
		progress(backup.Progress{What: "files", Done: 1, Total: 2})
		if err := c.files(ctx, o.Files, o.Dir); err != nil {
			return f, err
		}
	}
	if o.Database == "" {
		return f, nil
	}
	var files *tree.Found
	if o.Files != "" { // as the real one sees them, before the tables are there
		if files, err = c.found(ctx, o.Dir); err != nil {
			files = nil
		}
	}
	f, err = c.database(ctx, o.Database, o.Import)
	f.Files = files
	return f, err
}

func (s *scene) found(ctx context.Context, dir string) (*tree.Found, error) {
	res, err := asTenant{s.UID}.Run(ctx, run.Unit{Argv: []string{s.Agent, "sandbox", "list-tree", dir}})
	if err != nil {
		return nil, err
	}
	f := new(tree.Found)
	return f, json.Unmarshal(res.Stdout, f)
}

func (c copier) files(ctx context.Context, snapshot, dir string) error {
	_, err := asTenant{c.UID}.Run(ctx, run.Unit{Argv: []string{"/bin/cp", "-a", c.Dir + "/backup/" + snapshot + "/public", c.Dir + "/backup/" + snapshot + "/private", dir}})
	return errors.Join(err, c.at("files"), ctx.Err())
}

const objectsLine = "-- chom: objects\n"

func (c copier) database(ctx context.Context, snapshot string, in mariadb.Import) (backup.Fetched, error) {
	text, err := os.ReadFile(c.Dir + "/backup/" + snapshot + ".sql")
	if err != nil {
		return backup.Fetched{}, err
	}
	sum := sha256.Sum256(text)
	tables, objects, _ := bytes.Cut(text, []byte(objectsLine))
	r, w, err := os.Pipe()
	if err != nil {
		return backup.Fetched{}, err
	}
	defer r.Close()
	if err := r.Chown(int(c.UID), int(c.UID)); err != nil {
		return backup.Fetched{}, err
	}
	w.Write(in.OptionFile())
	w.Close()
	cmd := exec.CommandContext(ctx, "/usr/bin/mariadb", "--defaults-file=/dev/fd/3", "--sandbox", "--batch", "--database="+in.Schema.String())
	cmd.Stdin, cmd.ExtraFiles = bytes.NewReader(tables), []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.UID, Gid: c.UID}, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return backup.Fetched{}, fmt.Errorf("%w: %s", err, out)
	}
	return backup.Fetched{SHA256: sum[:], Bytes: uint64(len(text)), Objects: objects}, errors.Join(c.at("database"), ctx.Err())
}

// agent is one process of the agent, without a link.
type agent struct {
	journal *journal.Journal
	engine  *task.Engine
	stop    func()
}

func (s *scene) start(db *mariadb.Server) (*agent, error) {
	log := slog.New(slog.DiscardHandler)
	j, err := journal.Open(s.Dir+"/journal.db", s.Server.String(), log)
	if err != nil {
		return nil, err
	}
	e, err := task.New(task.Config{
		Server: s.Server, Journal: j, Handlers: s.handlers(db), Signers: []ed25519.PublicKey{s.Signer.Public().(ed25519.PublicKey)},
		Clock: new(clock.Clock), Log: log, Pause: time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = e.Run(ctx) })
	return &agent{j, e, func() { cancel(); run.Wait(); _ = j.Close() }}, nil
}

// await gives the result of an attempt, and the lines of its log.
func (a *agent) await(id string) (*orderv1.Result, string, error) {
	var log strings.Builder
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		b, err := a.engine.Outbox(100, 1<<20)
		if err != nil {
			return nil, "", err
		}
		for _, ev := range b.Events {
			if l := ev.GetLog(); l != nil {
				fmt.Fprintln(&log, l.GetText())
			}
			if ev.TaskId == id && ev.GetResult() != nil {
				a.engine.Delivered(b)
				return ev.GetResult(), log.String(), nil
			}
		}
		a.engine.Delivered(b)
	}
	all := make([]byte, 1<<20)
	return nil, log.String(), fmt.Errorf("the order did not end:\n%s%s", log.String(), all[:runtime.Stack(all, true)])
}

// doOrder is the process that is killed. Started again, it goes on.
func doOrder(file string) error {
	s, err := readScene(file)
	if err != nil {
		return err
	}
	signed, order := new(orderv1.SignedOrder), new(orderv1.Order)
	if err := errors.Join(proto.Unmarshal(s.Order, signed), proto.Unmarshal(signed.GetOrder(), order)); err != nil {
		return err
	}
	db, err := mariadb.New(s.Socket)
	if err != nil {
		return err
	}
	a, err := s.start(db)
	if err != nil {
		return err
	}
	a.engine.Offer(signed)
	res, log, err := a.await(order.TaskId)
	if err == nil && s.Result != "" {
		a.stop()
		return s.tell(res)
	}
	if err == nil && res.Outcome != orderv1.Outcome_OUTCOME_SUCCEEDED {
		err = fmt.Errorf("%v: %s\n%s", res.Outcome, res.Error, log)
	}
	a.stop()
	return err
}

// database runs a real MariaDB, whose durability is not what is tested.
func database(t *testing.T) (socket string) {
	t.Helper()
	s, err := mariadbserver.Start("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.Socket
}

var uids atomic.Uint32

// newScene makes a site with something old in it, and a backup of something new.
func newScene(t *testing.T, socket, program string) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chom-restore-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{
		Dir: dir, Socket: socket, Agent: program, Server: contract.NewServerID(), Organization: contract.NewOrganizationID(), Site: contract.NewSiteID(),
		Handle: contract.NewHandle(), UID: 30000 + uint32(os.Getpid()%300)*100 + uids.Add(1)%100, Signer: key,
	}
	name := s.Handle.UnixUser().String()
	for tries := 0; ; tries++ { // another test may have taken the number
		out, err := exec.Command("/usr/sbin/useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", "--uid", strconv.Itoa(int(s.UID)), "--user-group", name).CombinedOutput()
		if err == nil {
			break
		}
		if tries == 20 {
			t.Fatalf("%v\n%s", err, out)
		}
		s.UID = 30000 + uint32(os.Getpid()%300)*100 + uids.Add(1)%100
	}
	t.Cleanup(func() { _ = exec.Command("/usr/sbin/userdel", name).Run() })
	shells := tree.At(dir + "/sites")
	db := s.db(t)
	if err := errors.Join(os.Chmod(dir, 0o711), shells.EnsureBase(), shells.Ensure(s.Handle, int(s.UID)), db.Ensure(t.Context(), s.Handle.DBName(), s.Handle.UnixUser()),
		os.WriteFile(dir+"/served", []byte("open"), 0o600), os.MkdirAll(dir+"/backup", 0o755), os.Chmod(dir, 0o755), os.Chmod(dir+"/backup", 0o777)); err != nil {
		t.Fatal(err)
	}
	s.sh(t, fmt.Sprintf("cd %s/sites/%s && echo old > public/f && mkdir public/d && echo old > private/f && ln -s f public/link", dir, s.Handle))
	s.sql(t, "CREATE TABLE parent (id INT PRIMARY KEY); CREATE TABLE t (x VARCHAR(9), p INT, FOREIGN KEY (p) REFERENCES parent (id)); INSERT INTO parent VALUES (1); INSERT INTO t VALUES ('old', 1);"+
		"CREATE TABLE only_old (x INT); CREATE VIEW v AS SELECT CONCAT('view of ', x) AS y FROM t; CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.x = 'oldtr'; CREATE PROCEDURE pr() SELECT 'old';")
	j, err := journal.Open(dir+"/journal.db", s.Server.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	desired, err := proto.Marshal(&sitev1.DesiredState{SiteId: s.Site.String(), Handle: s.Handle.String(), Generation: 1, Phase: sitev1.Phase_PHASE_ACTIVE, Type: "wordpress", Domains: []string{"a.example"}})
	if err != nil {
		t.Fatal(err)
	}
	rec := &journal.Site{ID: s.Site, Organization: s.Organization, Handle: s.Handle, UID: s.UID, Fence: 1, Generation: 1, Desired: desired, Converged: 1}
	if err := errors.Join(j.Write(journal.Entry{Site: rec}), j.Close()); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) db(t *testing.T) *mariadb.Server {
	t.Helper()
	db, err := mariadb.New(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *scene) sh(t *testing.T, script string) {
	t.Helper()
	if _, err := (asTenant{s.UID}).Run(t.Context(), run.Unit{Argv: []string{"/bin/sh", "-ec", "umask 027; " + script}}); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) sql(t *testing.T, statements string) string {
	t.Helper()
	res, err := asTenant{s.UID}.Run(context.Background(), run.Unit{
		Argv:  []string{"/usr/bin/mariadb", "--no-defaults", "--socket=" + s.Socket, "--batch", "--skip-column-names", "--default-character-set=utf8mb4", "--database=" + s.Handle.DBName().String()},
		Stdin: strings.NewReader(statements),
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(res.Stdout))
}

const snapshot = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

const (
	newTables  = "SET FOREIGN_KEY_CHECKS=0; CREATE TABLE t (x VARCHAR(9), p INT, FOREIGN KEY (p) REFERENCES parent (id)); INSERT INTO t VALUES ('new', 7); CREATE TABLE parent (id INT PRIMARY KEY); INSERT INTO parent VALUES (7),(8); CREATE TABLE only_new (x INT);\n"
	newObjects = "CREATE VIEW v AS SELECT CONCAT('view of ', x) AS y FROM t;\nDELIMITER ;;\nCREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.x = 'newtr' ;;\nDELIMITER ;\n"
)

// backup makes one of something new, and what is signed for it.
func (s *scene) backup(t *testing.T, objects string) *backupv1.Manifest {
	t.Helper()
	from := s.Dir + "/backup/" + snapshot
	s.sh(t, fmt.Sprintf("mkdir -p %[1]s && cd %[1]s && mkdir -p public/e private && echo new > public/f && echo new > private/f && ln -sf /etc/passwd public/link && touch -d 2020-01-02T03:04:05.678 public/f", from))
	dump := newTables + objectsLine + objects
	if err := os.WriteFile(from+".sql", []byte(dump), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := s.found(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(dump))
	return &backupv1.Manifest{
		Schema: 1, OrganizationId: s.Organization.String(), SiteId: s.Site.String(), BackupId: contract.NewBackupID().String(), Sequence: 1,
		Contents: &backupv1.Contents{
			FilesSnapshot: snapshot, DatabaseSnapshot: snapshot, FileCount: l.Count, FileBytes: l.Bytes, ListingSha256: l.SHA256, LinksSha256: l.Links,
			Tables: []*backupv1.Table{{Name: "only_new"}, {Name: "parent", Rows: 2}, {Name: "t", Rows: 1}}, DumpSha256: sum[:], DumpBytes: uint64(len(dump)),
		},
	}
}

var fences atomic.Uint64

func (s *scene) sign(t *testing.T, edit func(*orderv1.Order)) (*orderv1.Order, *orderv1.SignedOrder) {
	t.Helper()
	o := &orderv1.Order{
		Schema: contract.OrderSchema, TaskId: contract.NewTaskID().String(), ServerId: s.Server.String(), OrganizationId: s.Organization.String(), SiteId: s.Site.String(),
		Attempt: 1, Fence: 10 + fences.Add(1), Nonce: make([]byte, 16), IssueTime: timestamppb.Now(), ExpireTime: timestamppb.New(time.Now().Add(time.Hour)), Timeout: durationpb.New(time.Minute),
	}
	edit(o)
	signed, err := contract.SignOrder(s.Signer, o)
	if err != nil {
		t.Fatal(err)
	}
	return o, signed
}

func (s *scene) restoreOrder(t *testing.T, m *backupv1.Manifest, id contract.RestoreID, edits ...func(*orderv1.RestoreSite)) (*orderv1.Order, *orderv1.SignedOrder) {
	t.Helper()
	sm, err := contract.SignManifest(s.Signer, m)
	if err != nil {
		t.Fatal(err)
	}
	r := &orderv1.RestoreSite{Handle: s.Handle.String(), RestoreId: id.String(), Manifest: sm, Files: true, Database: true}
	for _, edit := range edits {
		edit(r)
	}
	return s.sign(t, func(o *orderv1.Order) { o.Kind = &orderv1.Order_RestoreSite{RestoreSite: r} })
}

func (s *scene) undoOrder(t *testing.T, id contract.RestoreID, undone bool) (*orderv1.Order, *orderv1.SignedOrder) {
	t.Helper()
	return s.sign(t, func(o *orderv1.Order) {
		o.Kind = &orderv1.Order_UndoRestore{UndoRestore: &orderv1.UndoRestore{Handle: s.Handle.String(), RestoreId: id.String(), Undone: undone}}
	})
}

// do has an order done in this process.
func (s *scene) do(t *testing.T, a *agent, o *orderv1.Order, signed *orderv1.SignedOrder) *orderv1.Result {
	t.Helper()
	a.engine.Offer(signed)
	res, log, err := a.await(o.TaskId)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	t.Log(res.Outcome, res.Error)
	return res
}

// has is what a visitor would find: all old, all new, or a mixture.
func (s *scene) has(t *testing.T) string {
	t.Helper()
	var parts []string
	for _, path := range []string{"public/f", "private/f"} {
		b, err := os.ReadFile(s.Dir + "/sites/" + s.Handle.String() + "/" + path)
		if err != nil {
			return err.Error()
		}
		parts = append(parts, strings.TrimSpace(string(b)))
	}
	tables := s.sql(t, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name; SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE();")
	rows := s.sql(t, "SELECT x FROM t; SELECT y FROM v; SELECT action_statement FROM information_schema.triggers WHERE trigger_schema = DATABASE()")
	all := strings.ReplaceAll(strings.Join(append(parts, tables, rows), "|"), "\n", ",")
	switch all {
	case "old|old|only_old,parent,t,v,pr|old,view of old,SET NEW.x = 'oldtr'":
		return "old"
	case "new|new|only_new,parent,t,v|new,view of new,SET NEW.x = 'newtr'":
		return "new"
	}
	return all
}

// left is what a restore left beside the site.
func (s *scene) left(t *testing.T) string {
	t.Helper()
	var left []string
	if _, err := os.Stat(s.Dir + "/sites/" + s.Handle.String() + "/restore"); !errors.Is(err, fs.ErrNotExist) {
		left = append(left, "staging")
	}
	if gone, err := s.db(t).Forgotten(t.Context(), s.Handle); err != nil || !gone {
		left = append(left, "schemas")
	}
	if rec, err := s.restores(nil).load(s.Handle); err != nil || rec != nil {
		left = append(left, "record")
	}
	return strings.Join(left, ",")
}

func (s *scene) served(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(s.Dir + "/served")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// helper copies this program to where every user can run it.
func helper(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "chom-restore-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	text, err := os.ReadFile(self)
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(dir+"/agent", text, 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir + "/agent"
}

func TestRestore(t *testing.T) {
	socket, program := database(t), helper(t)
	setup := func(t *testing.T) (*scene, *agent, *backupv1.Manifest) {
		s := newScene(t, socket, program)
		m := s.backup(t, newObjects)
		if got := s.has(t); got != "old" {
			t.Fatal(got)
		}
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.stop)
		return s, a, m
	}
	const ok = orderv1.Outcome_OUTCOME_SUCCEEDED
	want := func(t *testing.T, s *scene, res *orderv1.Result, outcome orderv1.Outcome, has, served string) {
		t.Helper()
		if res.Outcome != outcome || s.has(t) != has || s.served(t) != served {
			t.Errorf("%v (%s), the site has %s and is %s", res.Outcome, res.Error, s.has(t), s.served(t))
		}
	}
	t.Run("puts a backup back, and is undone and redone", func(t *testing.T) {
		s, a, m := setup(t)
		id := contract.NewRestoreID()
		o, signed := s.restoreOrder(t, m, id)
		want(t, s, s.do(t, a, o, signed), ok, "new", "open")
		for _, undone := range []bool{true, true, false, false, true} {
			o, signed := s.undoOrder(t, id, undone)
			want(t, s, s.do(t, a, o, signed), ok, map[bool]string{true: "old", false: "new"}[undone], "open")
		}
		s.sql(t, "INSERT INTO t VALUES ('x', 1); DROP TABLE t")
	})
	t.Run("files alone, database alone", func(t *testing.T) {
		s, a, m := setup(t)
		o, signed := s.restoreOrder(t, m, contract.NewRestoreID(), func(r *orderv1.RestoreSite) { r.Database = false })
		if res := s.do(t, a, o, signed); res.Outcome != ok || !strings.HasPrefix(s.has(t), "new|new|only_old,") {
			t.Errorf("%v: %s", res, s.has(t))
		}
		o, signed = s.restoreOrder(t, m, contract.NewRestoreID(), func(r *orderv1.RestoreSite) { r.Files = false })
		want(t, s, s.do(t, a, o, signed), ok, "new", "open")
	})
	t.Run("single tables: the others, and views, triggers and routines stay; it is undone and redone", func(t *testing.T) {
		s, a, m := setup(t)
		s.sql(t, "CREATE TABLE other (x INT); INSERT INTO other VALUES (1)")
		id := contract.NewRestoreID()
		o, signed := s.restoreOrder(t, m, id, func(r *orderv1.RestoreSite) { r.Files, r.Tables = false, []string{"parent", "t", "only_new"} })
		if res := s.do(t, a, o, signed); res.Outcome != ok {
			t.Fatal(res)
		}
		const restored = "old|old|only_new,only_old,other,parent,t,v,pr|new,view of new,SET NEW.x = 'oldtr'"
		const before = "old|old|only_old,other,parent,t,v,pr|old,view of old,SET NEW.x = 'oldtr'"
		if has := s.has(t); has != restored {
			t.Errorf("restored: %s", has)
		}
		s.sql(t, "INSERT INTO other VALUES (2)")
		for _, undone := range []bool{true, false, true} {
			o, signed := s.undoOrder(t, id, undone)
			if res := s.do(t, a, o, signed); res.Outcome != ok {
				t.Fatal(res)
			}
			if has, want := s.has(t), map[bool]string{true: before, false: restored}[undone]; has != want {
				t.Errorf("undone %v: %s", undone, has)
			}
		}
		if rows := s.sql(t, "SELECT COUNT(*) FROM other; INSERT INTO t VALUES ('x', 1)"); rows != "2" {
			t.Errorf("the others have %s", rows)
		}
		was := s.has(t)
		o, signed = s.restoreOrder(t, m, contract.NewRestoreID(), func(r *orderv1.RestoreSite) { r.Files, r.Tables = false, []string{"t"} })
		if res := s.do(t, a, o, signed); res.Outcome != orderv1.Outcome_OUTCOME_FAILED || !strings.Contains(res.Error, `"t" refers to table "parent"`) || s.has(t) != was || s.left(t) != "" {
			t.Errorf("torn from its parent: %v, %s, left %q", res, s.has(t), s.left(t))
		}
	})
	t.Run("refuses what is not signed for this site", func(t *testing.T) {
		s, a, m := setup(t)
		for name, edit := range map[string]struct {
			manifest func(*backupv1.Manifest)
			order    func(*orderv1.RestoreSite)
		}{
			"another site":          {manifest: func(m *backupv1.Manifest) { m.SiteId = contract.NewSiteID().String() }},
			"another organization":  {manifest: func(m *backupv1.Manifest) { m.OrganizationId = contract.NewOrganizationID().String() }},
			"no database in it":     {manifest: func(m *backupv1.Manifest) { m.Contents.DatabaseSnapshot = "" }},
			"a byte changed":        {order: func(r *orderv1.RestoreSite) { r.Manifest.Manifest[20] ^= 1 }},
			"a table not in it":     {order: func(r *orderv1.RestoreSite) { r.Tables = []string{"t", "zz"} }},
			"tables of no database": {order: func(r *orderv1.RestoreSite) { r.Database, r.Tables = false, []string{"t"} }},
			"nothing to restore":    {order: func(r *orderv1.RestoreSite) { r.Files, r.Database = false, false }},
		} {
			changed := proto.CloneOf(m)
			if edit.manifest != nil {
				edit.manifest(changed)
			}
			o, signed := s.restoreOrder(t, changed, contract.NewRestoreID(), func(r *orderv1.RestoreSite) {
				if edit.order != nil {
					edit.order(r)
				}
			})
			if res := s.do(t, a, o, signed); res.Outcome != orderv1.Outcome_OUTCOME_REFUSED {
				t.Errorf("%s: %v", name, res)
			}
		}
		if s.has(t) != "old" || s.left(t) != "" {
			t.Errorf("%s, left %s", s.has(t), s.left(t))
		}
	})
	t.Run("what differs from the manifest never reaches the site, and nothing of it stays", func(t *testing.T) {
		s, a, m := setup(t)
		for name, edit := range map[string]func(*backupv1.Contents){
			"listing":        func(c *backupv1.Contents) { c.ListingSha256[0] ^= 1 },
			"links":          func(c *backupv1.Contents) { c.LinksSha256[0] ^= 1 },
			"file count":     func(c *backupv1.Contents) { c.FileCount++ },
			"rows":           func(c *backupv1.Contents) { c.Tables[1].Rows++ },
			"a table more":   func(c *backupv1.Contents) { c.Tables = append(c.Tables, &backupv1.Table{Name: "zz"}) },
			"a table less":   func(c *backupv1.Contents) { c.Tables = c.Tables[1:] },
			"the dump":       func(c *backupv1.Contents) { c.DumpSha256[0] ^= 1 },
			"more than fits": func(c *backupv1.Contents) { c.FileBytes = 1 << 50 },
		} {
			changed := proto.CloneOf(m)
			edit(changed.Contents)
			o, signed := s.restoreOrder(t, changed, contract.NewRestoreID())
			if res := s.do(t, a, o, signed); res.Outcome != orderv1.Outcome_OUTCOME_FAILED || s.has(t) != "old" || s.served(t) != "open" || s.left(t) != "" {
				t.Errorf("%s: %v, %s, left %q", name, res, s.has(t), s.left(t))
			}
		}
	})
	t.Run("objects that the server refuses bring back what was there", func(t *testing.T) {
		s, a, _ := setup(t)
		m := s.backup(t, newObjects+"CREATE DEFINER=root@localhost VIEW evil AS SELECT 1;\n")
		o, signed := s.restoreOrder(t, m, contract.NewRestoreID())
		want(t, s, s.do(t, a, o, signed), orderv1.Outcome_OUTCOME_FAILED, "old", "open")
		if left := s.left(t); left != "" {
			t.Errorf("left %s", left)
		}
	})
	t.Run("a cancel while it is fetched leaves the site as it was", func(t *testing.T) {
		for _, point := range []string{"files", "database"} {
			s, a, m := setup(t)
			o, signed := s.restoreOrder(t, m, contract.NewRestoreID())
			s.hook = func(at string) error {
				if at == point {
					a.engine.Cancel(o.TaskId, 1)
					time.Sleep(50 * time.Millisecond)
				}
				return nil
			}
			want(t, s, s.do(t, a, o, signed), orderv1.Outcome_OUTCOME_CANCELED, "old", "open")
			if left := s.left(t); left != "" {
				t.Errorf("at %s left %s", point, left)
			}
		}
	})
	t.Run("a database server that is away in the middle of the switch is waited for", func(t *testing.T) {
		server, err := mariadbserver.Start("--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Stop()
		s := newScene(t, server.Socket, program)
		m := s.backup(t, newObjects)
		a, err := s.start(s.db(t))
		if err != nil {
			t.Fatal(err)
		}
		defer a.stop()
		o, signed := s.restoreOrder(t, m, contract.NewRestoreID())
		var away sync.WaitGroup
		away.Go(func() {
			for end := time.Now().Add(time.Minute); !s.restores(nil).switching(s.Handle) && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
			server.Kill()
			time.Sleep(2 * time.Second)
			if err := server.Again(); err != nil {
				t.Error(err)
			}
		})
		res := s.do(t, a, o, signed)
		away.Wait()
		want(t, s, res, ok, "new", "open")
	})
	t.Run("a cancel after the commit comes too late", func(t *testing.T) {
		s, a, m := setup(t)
		o, signed := s.restoreOrder(t, m, contract.NewRestoreID())
		stop := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() {
			for !s.restores(nil).switching(s.Handle) {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
			a.engine.Cancel(o.TaskId, 1)
		})
		want(t, s, s.do(t, a, o, signed), ok, "new", "open")
		close(stop)
		watch.Wait()
	})
	t.Run("the site's user plants files and links while it is staged: nothing of it goes live, nothing outside is touched", func(t *testing.T) {
		s, a, m := setup(t)
		canary := s.Dir + "/canary"
		if err := os.WriteFile(canary, []byte("keep"), 0o666); err != nil {
			t.Fatal(err)
		}
		for name, script := range map[string]string{
			"a link":            "ln -s " + canary + " public/planted",
			"a link for a file": "rm public/f && ln -s " + canary + " public/f",
			"a link for a tree": "rm -r public/e && ln -s " + s.Dir + " public/e",
			"another content":   "echo other > public/f",
			"closed doors":      "mkdir -p public/x/y && chmod 0 public/x",
			"itself swapped":    "mv public/e public/was && ln -s /etc public/e",
		} {
			for _, point := range []string{"files", "database"} { // before the first look at them, and after it
				s.hook = func(at string) error {
					if at == point {
						s.sh(t, fmt.Sprintf("cd %s/sites/%s/restore && "+script, s.Dir, s.Handle))
					}
					return nil
				}
				o, signed := s.restoreOrder(t, m, contract.NewRestoreID())
				want(t, s, s.do(t, a, o, signed), orderv1.Outcome_OUTCOME_FAILED, "old", "open")
				if left := s.left(t); left != "" {
					t.Errorf("%s at %s left %q", name, point, left)
				}
				if b, err := os.ReadFile(canary); err != nil || string(b) != "keep" {
					t.Errorf("%s: the canary is %q, %v", name, b, err)
				}
			}
		}
	})
	t.Run("what was replaced goes when its time is over, and with the next restore", func(t *testing.T) {
		s, a, m := setup(t)
		first, second := contract.NewRestoreID(), contract.NewRestoreID()
		o, signed := s.restoreOrder(t, m, first)
		want(t, s, s.do(t, a, o, signed), ok, "new", "open")
		o, signed = s.restoreOrder(t, m, second)
		want(t, s, s.do(t, a, o, signed), ok, "new", "open")
		o, signed = s.undoOrder(t, first, true)
		want(t, s, s.do(t, a, o, signed), orderv1.Outcome_OUTCOME_FAILED, "new", "open")
		rs, now := s.restores(s.db(t)), time.Now()
		for _, at := range []time.Duration{0, time.Hour, 23 * time.Hour} {
			if err := rs.expire(t.Context(), s.Handle, now.Add(at)); err != nil || s.left(t) == "" {
				t.Errorf("after %v: %v, left %q", at, err, s.left(t))
			}
		}
		for range 2 {
			if err := rs.expire(t.Context(), s.Handle, now.Add(24*time.Hour)); err != nil || s.left(t) != "" || s.has(t) != "new" {
				t.Errorf("at the end: %v, left %q", err, s.left(t))
			}
		}
	})
}

// points are where a restore's process is killed, besides before and after each step.
var points = []string{
	"tree.staging-made", "tree.staging-public-made", "restore.files-to-come",
	"mariadb.scratch-made", "mariadb.import-made", "mariadb.import-granted", "restore.database-to-come", "restore.staged", "mariadb.import-closed",
	"restore.quiet", "mariadb.switch-prepared", "restore.before-commit", "restore.committed",
	"tree.public-exchanged", "tree.private-exchanged", "restore.files-switched",
	"mariadb.object-dropped", "mariadb.before-switch", "mariadb.switched", "restore.tables-switched", "restore.objects-made", "restore.before-kept", "restore.kept",
}

// failing builds this program so that it can be killed at its points.
func failing(t *testing.T) (program string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chom-restore-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program = filepath.Join(dir, "agent")
	build := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(program, 0o755)); err != nil {
		t.Fatal(err)
	}
	return program
}

// process does the scene's order in a process of its own, killed at a point unless
// that is empty.
func process(s *scene, program, armed string) (string, error) {
	text, err := json.Marshal(s)
	if err := errors.Join(err, os.WriteFile(s.Dir+"/scene.json", text, 0o600)); err != nil {
		return "", err
	}
	point := s.Dir + "/point"
	if armed != "" {
		if err := os.WriteFile(point, []byte(armed), 0o600); err != nil {
			return "", err
		}
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childVariable+"="+s.Dir+"/scene.json", "CHOM_FAILPOINT_FILE="+point)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestKilledAnywhere(t *testing.T) {
	socket := database(t)
	program := failing(t)
	var err error
	process := func(s *scene, armed string) (string, error) { return process(s, program, armed) }
	all := slices.Clone(points)
	for _, step := range []string{"make-room", "compare", "compare-again", "commit", "switch-files", "switch-database", "switched", "settle"} {
		all = append(all, "task/restore-site/"+step+"/before", "task/restore-site/"+step+"/after")
	}
	if os.Getenv("CHOM_PROVE") == "" { // each takes seconds
		all = []string{
			"restore.files-to-come", "mariadb.import-granted", "restore.quiet", "restore.committed", "tree.public-exchanged",
			"mariadb.before-switch", "mariadb.switched", "restore.objects-made", "task/restore-site/commit/before", "task/restore-site/switched/after",
		}
	}
	whole := func(t *testing.T, s *scene, point string) {
		t.Helper()
		if has := s.servedHas(t); has != "" && has != "old" && has != "new" {
			t.Errorf("killed at %s, visitors see a mixture: %s", point, has)
		}
	}
	for _, point := range all {
		t.Run(strings.ReplaceAll(point, "/", "."), func(t *testing.T) {
			s := newScene(t, socket, program)
			m := s.backup(t, newObjects)
			id := contract.NewRestoreID()
			_, signed := s.restoreOrder(t, m, id)
			if s.Order, err = proto.Marshal(signed); err != nil {
				t.Fatal(err)
			}
			out, err := process(s, point)
			if _, gone := os.Stat(s.Dir + "/point"); err == nil || gone == nil {
				t.Fatalf("was not killed: %v %s", err, out)
			}
			whole(t, s, point)
			if out, err := process(s, ""); err != nil {
				t.Fatalf("did not go on: %v %s", err, out)
			}
			if s.has(t) != "new" || s.served(t) != "open" {
				t.Errorf("has %s and is %s", s.has(t), s.served(t))
			}
			// The way back, killed at the same point if it passes there.
			_, signed = s.undoOrder(t, id, true)
			if s.Order, err = proto.Marshal(signed); err != nil {
				t.Fatal(err)
			}
			_, _ = process(s, strings.Replace(point, "restore-site", "undo-restore", 1))
			whole(t, s, point)
			_ = os.Remove(s.Dir + "/point")
			if out, err := process(s, ""); err != nil {
				t.Fatalf("undo did not go on: %v %s", err, out)
			}
			if s.has(t) != "old" || s.served(t) != "open" {
				t.Errorf("undone, it has %s and is %s", s.has(t), s.served(t))
			}
		})
	}
	t.Run("who comes next finishes what was left in its middle, without the order", func(t *testing.T) {
		for _, point := range []string{"restore.committed", "tree.public-exchanged", "mariadb.before-switch", "mariadb.switched", "restore.objects-made"} {
			s := newScene(t, socket, program)
			_, signed := s.restoreOrder(t, s.backup(t, newObjects), contract.NewRestoreID())
			if s.Order, err = proto.Marshal(signed); err != nil {
				t.Fatal(err)
			}
			_, _ = process(s, point)
			rs := s.restores(s.db(t))
			if !rs.switching(s.Handle) || s.served(t) != "closed" {
				t.Fatalf("at %s: switching %v, %s", point, rs.switching(s.Handle), s.served(t))
			}
			for range 2 {
				if err := rs.finish(t.Context(), s.Handle, new(task.Log)); err != nil {
					t.Fatal(err)
				}
			}
			if s.has(t) != "new" || rs.switching(s.Handle) {
				t.Errorf("at %s: has %s", point, s.has(t))
			}
		}
	})
	t.Run("killed while a refused backup is taken back, or a failed one is discarded", func(t *testing.T) {
		for _, point := range []string{"restore.taking-back", "mariadb.switched", "restore.objects-made", "restore.discarding", "tree.emptied", "tree.staging-public-removed", "mariadb.leftover-dropped", "restore.discarded"} {
			s := newScene(t, socket, program)
			m := s.backup(t, newObjects+"CREATE DEFINER=root@localhost VIEW evil AS SELECT 1;\n")
			_, signed := s.restoreOrder(t, m, contract.NewRestoreID())
			if s.Order, err = proto.Marshal(signed); err != nil {
				t.Fatal(err)
			}
			if out, err := process(s, point); err == nil {
				t.Fatalf("at %s it went well: %s", point, out)
			}
			if _, err := os.Stat(s.Dir + "/point"); err == nil {
				t.Errorf("%s was not passed", point)
			}
			whole(t, s, point)
			if out, err := process(s, ""); err == nil || !strings.Contains(out, "FAILED") {
				t.Errorf("at %s: %v %s", point, err, out)
			}
			if s.has(t) != "old" || s.served(t) != "open" || s.left(t) != "" {
				t.Errorf("at %s: has %s, is %s, left %q", point, s.has(t), s.served(t), s.left(t))
			}
		}
	})
}

// servedHas is what the site has if visitors can see it.
func (s *scene) servedHas(t *testing.T) string {
	if s.served(t) == "closed" {
		return ""
	}
	return s.has(t)
}
