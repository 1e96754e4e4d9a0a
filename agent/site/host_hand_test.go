package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"google.golang.org/protobuf/proto"

	"chom.dev/agent/backup"
	"chom.dev/agent/journal"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/nginx"
	"chom.dev/agent/run"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// This program is also the host of the control plane's proof of restores
// (controlplane/backup, TestProof): a process per order, that works with the real
// repository behind a door of that test, and says in a file how the order ended.

// makeVariable names the scene of a host that is to be made.
const makeVariable = "CHOM_TEST_HOST"

// far says that the repository is real.
func (s *scene) far() bool { return s.Door != "" }

// makeHost makes the user, the directories, the schema and the journal of a scene.
func makeHost(file string) error {
	s, err := readScene(file)
	if err != nil {
		return err
	}
	name := s.Handle.UnixUser().String()
	if out, err := exec.Command("/usr/sbin/useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", "--uid", strconv.Itoa(int(s.UID)), "--user-group", name).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	db, err := mariadb.New(s.Socket)
	if err != nil {
		return err
	}
	defer db.Close()
	shells := tree.At(s.Dir + "/sites")
	if err := errors.Join(shells.EnsureBase(), shells.Ensure(s.Handle, int(s.UID)), db.Ensure(context.Background(), s.Handle.DBName(), s.Handle.UnixUser())); err != nil {
		return err
	}
	j, err := journal.Open(s.Dir+"/journal.db", s.Server.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	desired, err := proto.Marshal(&sitev1.DesiredState{SiteId: s.Site.String(), Handle: s.Handle.String(), Generation: 1, Phase: sitev1.Phase_PHASE_ACTIVE, Type: "wordpress", Domains: []string{"a.example"}})
	if err == nil {
		err = j.Write(journal.Entry{Site: &journal.Site{ID: s.Site, Organization: s.Organization, Handle: s.Handle, UID: s.UID, Fence: 1, Generation: 1, Desired: desired, Converged: 1}})
	}
	return errors.Join(err, j.Close())
}

func readScene(file string) (*scene, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := new(scene)
	return s, json.Unmarshal(text, s)
}

// manager works with the real repository.
func (s *scene) manager() (*backup.Manager, error) {
	return backup.New(backup.Config{
		Dir: s.Dir + "/keys", RunDir: s.Dir + "/run", Broker: door{s}, Launch: s.launch, Agent: s.Agent, Sites: s.Dir + "/sites", MariaDB: s.Socket, Away: s.Away,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// backupHandler is BACKUP_SITE of a site that is ACTIVE, but for its home page.
func (s *scene) backupHandler(db *mariadb.Server) task.Handler {
	return task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		id, err := contract.ParseBackupID(o.Message.GetBackupSite().GetBackupId())
		if err != nil {
			return task.Plan{}, err
		}
		m, err := s.manager()
		if err != nil {
			return task.Plan{}, err
		}
		domain, err := contract.ParseDomain("a.example")
		sites := &Sites{nginx: nginx.New(nil, slog.New(slog.DiscardHandler)), mariadb: db, backups: m}
		c := &converge{Sites: sites, site: o.Site, handle: o.Site.Handle, uid: int(o.Site.UID), domains: []contract.Domain{domain}}
		c.needs.NeedsDatabase = true
		b := &backingUp{converge: c, id: id, within: o.Timeout}
		return task.Plan{Steps: b.steps(), Report: func(r *orderv1.Result) error {
			st, err := m.State(c.handle, id)
			if err == nil {
				r.Backup, err = st.Report(id)
			}
			return err
		}}, err
	})
}

// door is the way to the control plane.
type door struct{ *scene }

func (d door) FetchRepositoryKey(context.Context, *linkv1.FetchRepositoryKeyRequest) (*linkv1.FetchRepositoryKeyResponse, error) {
	return &linkv1.FetchRepositoryKeyResponse{Key: d.Key}, nil
}

func (d door) Repository(r *http.Request) (*http.Response, error) {
	to, err := url.Parse(d.Door)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = to.Scheme, to.Host
	return http.DefaultTransport.RoundTrip(r)
}

// unwalled is a helper without a unit around it.
type unwalled struct {
	cmd      *exec.Cmd
	out, err *os.File
}

func (p *unwalled) Stdout() io.ReadCloser { return p.out }
func (p *unwalled) Stderr() io.ReadCloser { return p.err }

func (p *unwalled) Wait() error {
	err := p.cmd.Wait()
	_ = p.Kill(context.Background())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &run.ExitError{Path: p.cmd.Path, Code: exit.ExitCode()}
	}
	return err
}

// Kill ends all of the user's processes, as systemd does those of a unit.
func (p *unwalled) Kill(context.Context) error { return endAll(p.cmd.SysProcAttr.Credential.Uid) }

// endAll looks by itself: the pkill program takes longer than what it looks for.
func endAll(uid uint32) error {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat("/proc/"+name.Name(), &st) == nil && st.Uid == uid {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	return nil
}

func (s *scene) launch(_ context.Context, u run.Unit) (backup.Process, error) {
	if err := endAll(s.UID); err != nil {
		return nil, err
	}
	cmd := exec.Command(u.Argv[0], u.Argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	for k, v := range u.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.Dir, cmd.Stdin = u.Dir, u.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.UID, Gid: s.UID}}
	out, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	words, wordsW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = outW, wordsW
	err = cmd.Start()
	outW.Close()
	wordsW.Close()
	return &unwalled{cmd, out, words}, err
}

// tell writes how the order ended, for who has started this process.
func (s *scene) tell(r *orderv1.Result) error {
	text, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(s.Result, text, 0o600)
}
