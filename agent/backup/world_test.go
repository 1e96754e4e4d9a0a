package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chom.dev/agent/backup/backuptest"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	mariadbserver "chom.dev/servers/mariadb"
)

// TestMain lets the test's program be the helper, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "sandbox" && os.Args[2] == "site-backup" {
		if err := Enter(context.Background(), os.Stdin, os.Stdout, Jobs(walls)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// walls are jobs that look at the walls around them, of tests on a host.
var walls = map[string]Job{}

const testKey = "0123456789abcdefghijABCDEFGHIJ_-0123456789a"

// world is a host with one site, whose repository lies on a control plane nearby.
// Helpers run as the site's user, with the real restic and MariaDB, but without
// systemd's walls.
type world struct {
	t          *testing.T
	dir        string
	site       task.Site
	cred       *syscall.Credential
	repository *backuptest.Repository
	server     *httptest.Server
	socket     string // of MariaDB; empty without one
	broker     Broker
	manager    *Manager
	keys       atomic.Int32 // asked for
	launched   *process
	unit       run.Unit // the newest
}

func newWorld(t *testing.T, withDatabase bool) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "chom-backup-") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, repository: new(backuptest.Repository)}
	h := contract.NewHandle()
	name := h.UnixUser().String()
	if out, err := exec.Command("/usr/sbin/useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("/usr/sbin/userdel", name).Run() })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	w.site = task.Site{ID: contract.NewSiteID(), Organization: contract.NewOrganizationID(), Handle: h, UID: uint32(uid)}
	w.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	shell := w.path("sites", h.String())
	if err := errors.Join(
		os.Chmod(dir, 0o755), os.MkdirAll(shell, 0o711),
		os.Mkdir(shell+"/public", 0o750), os.Chown(shell+"/public", uid, uid),
		os.Mkdir(shell+"/private", 0o700), os.Chown(shell+"/private", uid, uid),
	); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(w.path("agent"), self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	prefix := contract.RepositoryPath + w.site.ID.String()
	w.server = httptest.NewServer(http.StripPrefix(prefix, w.repository))
	t.Cleanup(w.server.Close)
	if withDatabase {
		w.socket = startMariaDB(t)
		s, err := mariadb.New(w.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Ensure(t.Context(), h.DBName(), h.UnixUser()); err != nil {
			t.Fatal(err)
		}
	}
	w.broker = w
	w.restart()
	return w
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) shell() string { return w.path("sites", w.site.Handle.String()) }

// restart is a new process of the agent.
func (w *world) restart() {
	w.t.Helper()
	var err error
	w.manager, err = New(Config{
		Dir: w.path("keys"), RunDir: w.path("run"), Broker: w.broker, Launch: w.launch, Agent: w.path("agent"),
		Sites: w.path("sites"), MariaDB: w.socket, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) FetchRepositoryKey(_ context.Context, req *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	w.keys.Add(1)
	if req.SiteId != w.site.ID.String() {
		return nil, errors.New("no such site")
	}
	return &linkv1.FetchRepositoryKeyResponse{Key: testKey}, nil
}

func (w *world) Repository(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", w.server.Listener.Addr().String()
	return http.DefaultTransport.RoundTrip(r)
}

// process is a helper without a unit.
type process struct {
	cmd         *exec.Cmd
	out, stderr *os.File
}

func (p *process) Stdout() io.ReadCloser { return p.out }
func (p *process) Stderr() io.ReadCloser { return p.stderr }

func (p *process) Wait() error {
	err := p.cmd.Wait()
	_ = p.Kill(context.Background())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &run.ExitError{Path: p.cmd.Path, Code: exit.ExitCode()}
	}
	return err
}

// Kill ends all of the user's processes, as systemd does those of a unit.
func (p *process) Kill(context.Context) error {
	_ = exec.Command("/usr/bin/pkill", "-KILL", "-u", strconv.Itoa(int(p.cmd.SysProcAttr.Credential.Uid))).Run()
	return nil
}

func (w *world) launch(_ context.Context, u run.Unit) (Process, error) {
	if _, err := u.Settings(); err != nil {
		return nil, err
	}
	cmd := exec.Command(u.Argv[0], u.Argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	for k, v := range u.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Dir, cmd.Stdin = u.Dir, u.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	p := &process{cmd: cmd}
	var outW, errW *os.File
	var err error
	if p.out, outW, err = os.Pipe(); err != nil {
		return nil, err
	}
	if p.stderr, errW, err = os.Pipe(); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	outW.Close()
	errW.Close()
	w.launched, w.unit = p, u
	return p, err
}

// as runs a program as the site's user and gives what it printed.
func (w *world) as(stdin string, argv ...string) string {
	w.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Dir = strings.NewReader(stdin), w.shell()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) sh(script string) string { w.t.Helper(); return w.as(script, "/bin/sh", "-e") }

func (w *world) sql(statements string) string {
	w.t.Helper()
	return w.as(statements, "/usr/bin/mariadb", "--no-defaults", "--socket="+w.socket, "--batch", "--skip-column-names",
		"--user="+w.site.Handle.UnixUser().String(), w.site.Handle.DBName().String())
}

// restic runs on the repository itself, as the control plane would.
func (w *world) restic(args ...string) string {
	w.t.Helper()
	return resticAt(w.t, w.server, w.site, testKey, args...)
}

func resticAt(t *testing.T, server *httptest.Server, site task.Site, key string, args ...string) string {
	t.Helper()
	cmd := exec.Command(restic, append([]string{"--repo=rest:" + server.URL + contract.RepositoryPath + site.ID.String() + "/", "--no-cache"}, args...)...)
	cmd.Env = []string{"RESTIC_PASSWORD=" + key, "PATH=/usr/bin"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("restic %q: %v\n%s%s", args, err, out, stderr.String())
	}
	return string(out)
}

// listingAt is what the control plane reads in a snapshot.
func listingAt(t *testing.T, server *httptest.Server, site task.Site, key, snapshot string) *contract.Listing {
	t.Helper()
	l := new(contract.Listing)
	text := resticAt(t, server, site, key, "ls", "--json", snapshot)
	if err := contract.ReadListed(strings.NewReader(text), func(f contract.Listed) error { l.Add(f); return nil }); err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *world) init() {
	w.t.Helper()
	if err := w.manager.Make(w.t.Context(), w.site); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) backup(ctx context.Context) (*Contents, error) {
	c := new(Contents)
	err := w.manager.Do(ctx, w.site, Work{
		Job: "backup", Timeout: time.Minute, Order: ContentsOrder{Backup: contract.NewBackupID().String(), Database: w.socket != ""},
	}, func(p Progress) { w.t.Log(p) }, c)
	return c, err
}

// startMariaDB runs a real server.
func startMariaDB(t *testing.T) (socket string) {
	t.Helper()
	s, err := mariadbserver.Start("--max-allowed-packet=64M")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s.Socket
}
