package backup

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
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

	"google.golang.org/protobuf/proto"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
	"chom.dev/servers/mariadb"
)

// What a proof of restores is made of, beside this package's own code with its database: the agent's code, which is a test program of
// package agent/site (host_hand_test.go there), one process per order; a real user, a real MariaDB, a real store, and the real restic
// on both sides. Missing are nginx, PHP, systemd's walls and the link: packaging/e2e has them.

// hostDir holds the host's program, once it was built.
var hostDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if hostDir != "" {
		_ = os.RemoveAll(hostDir) // a leftover below /tmp harms nobody
	}
	os.Exit(code)
}

// hostProgram is the agent's, with the points at which it can be killed. It is built once.
var hostProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "chom-proof-bin-")
	if err != nil {
		return "", err
	}
	hostDir = dir
	program := dir + "/agent"
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", program, "chom.dev/agent/site").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return program, errors.Join(os.Chmod(dir, 0o755), os.Chmod(program, 0o755))
})

// hostScene is what a process of the agent is told: the scene of agent/site.
type hostScene struct {
	Dir, Socket, Agent string
	Server             contract.ServerID
	Organization       contract.OrganizationID
	Site               contract.SiteID
	Handle             contract.Handle
	UID                uint32
	Signer             ed25519.PrivateKey
	Order              []byte
	Door, Key, Result  string
	Away               time.Duration // for how long the host asks its repository in vain
}

// proven is one site, with its host and its control plane.
type proven struct {
	*world
	t     *testing.T
	scene hostScene
	repo  Repository
	at    store.Store
	where string // the repository's directory, of a store on a disk
	kill  string // point at which the next process dies
	// after is when the next process is killed, wherever it is; 0 is never.
	after time.Duration
	calm  func() // waits until what was taken away is there again; nil for nothing
	// fault is asked before each request of the host to its repository.
	fault atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

var provenUIDs atomic.Uint32

// hasty are arguments of a server that nobody takes the power from.
var hasty = []string{"--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--sync-frm=0", "--max-allowed-packet=64M"}

// startDatabase runs a real MariaDB, whose durability is not what is tested.
func startDatabase(t *testing.T) *mariadb.Server {
	t.Helper()
	s, err := mariadb.Start(hasty...)
	must(t, err)
	t.Cleanup(s.Stop)
	return s
}

// newProven makes a site of nothing.
func newProven(t *testing.T, socket string, at store.Store, root string) *proven {
	t.Helper()
	return newProvenIn(t, scratch(t), socket, at, root)
}

// newProvenIn is newProven with all of the host in a directory.
func newProvenIn(t *testing.T, dir, socket string, at store.Store, root string) *proven {
	t.Helper()
	program, err := hostProgram()
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	w := newWorld(t, dbtest.SQLite(t))
	p := &proven{world: w, t: t, at: at}
	of, err := site.Load(t.Context(), w.db.Reader(), w.ours, w.site)
	must(t, err)
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		_, err := w.ensure(t.Context(), tx, w.ours, w.site)
		return err
	}))
	p.repo, err = w.open(t.Context(), w.ours, w.site)
	must(t, err)
	p.where = filepath.Join(root, w.ours.String(), w.site.String())
	w.config.Repositories, err = NewRepositories(at, "", slog.New(slog.DiscardHandler))
	must(t, err)
	served := http.StripPrefix(strings.TrimSuffix(contract.RepositoryPath, "/")+"/"+w.site.String(),
		store.NewServer(at, nil, slog.New(slog.DiscardHandler)).Handler(p.repo.place(), store.AppendOnly))
	door := httptest.NewServer(http.HandlerFunc(func(res http.ResponseWriter, r *http.Request) {
		if f := p.fault.Load(); f != nil && (*f)(res, r) {
			return
		}
		served.ServeHTTP(res, r)
	}))
	t.Cleanup(door.Close)
	p.scene = hostScene{
		Dir: dir, Socket: socket, Agent: program, Server: w.server, Organization: w.ours, Site: w.site, Handle: of.Handle,
		UID: 40000 + uint32(os.Getpid()%200)*100 + provenUIDs.Add(1)%100, Signer: w.signer, Door: door.URL, Key: string(p.repo.Key.Reveal()), Result: scratch(t) + "/result",
	}
	for tries := 0; ; tries++ {
		out, err := p.process("CHOM_TEST_HOST")
		if err == nil {
			break
		}
		if tries == 20 || !strings.Contains(out, "is not unique") { // another test may have taken the number
			t.Fatalf("make the host: %v\n%s", err, out)
		}
		p.scene.UID += 100
	}
	t.Cleanup(func() {
		_ = exec.Command("/usr/bin/pkill", "-KILL", "-u", strconv.Itoa(int(p.scene.UID))).Run() // there may be none
		_ = exec.Command("/usr/sbin/userdel", of.Handle.UnixUser().String()).Run()
	})
	return p
}

// process runs the host's program.
func (p *proven) process(variable string) (string, error) {
	text, err := json.Marshal(p.scene)
	if err := errors.Join(err, os.WriteFile(p.scene.Dir+"/scene.json", text, 0o600)); err != nil {
		return "", err
	}
	cmd := exec.Command(p.scene.Agent)
	cmd.Env = append(os.Environ(), variable+"="+p.scene.Dir+"/scene.json", "CHOM_FAILPOINT_FILE="+p.scene.Dir+"/point")
	if p.after > 0 {
		defer time.AfterFunc(p.after, func() { _ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL) }).Stop()
		p.after = 0
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// obey has the host do an order, and be started again when it was killed.
func (p *proven) obey(signed *orderv1.SignedOrder, _ *orderv1.Order) *orderv1.Result {
	p.t.Helper()
	var err error
	p.scene.Order, err = proto.Marshal(signed)
	must(p.t, err)
	for tries := 0; ; tries++ {
		_ = os.Remove(p.scene.Result) // of the order before
		if p.kill != "" {
			must(p.t, os.WriteFile(p.scene.Dir+"/point", []byte(p.kill), 0o600))
			p.kill = ""
		}
		out, err := p.process("CHOM_TEST_RESTORE")
		text, missing := os.ReadFile(p.scene.Result)
		if err == nil && missing == nil {
			result := new(orderv1.Result)
			must(p.t, proto.Unmarshal(text, result))
			return result
		}
		var exit *exec.ExitError
		if killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled(); !killed || tries == 3 {
			p.t.Fatalf("the host: %v %v\n%s", err, missing, out)
		}
	}
}

// makeBackup makes one, up to its end, whatever that is.
func (p *proven) makeBackup() Backup {
	p.t.Helper()
	made := p.create(p.t)
	p.orders(p.t, p.obey)
	p.rest()
	p.settled(p.t, p.now())
	return p.get(p.t, made.ID)
}

// goodBackup makes one that is READY.
func (p *proven) goodBackup() Backup {
	p.t.Helper()
	b := p.makeBackup()
	if b.State != Ready {
		p.t.Fatalf("the backup is %s: %s", b.State, b.Problem)
	}
	return b
}

// putBack restores a backup, and says what became of it.
func (p *proven) putBack(id contract.BackupID, parts Parts) Restoration {
	p.t.Helper()
	parts.WithoutBackup = true
	made, err := p.Restore(p.t.Context(), p.ours, p.site, id, parts)
	must(p.t, err)
	p.orders(p.t, p.obey)
	p.rest()
	return p.restoreOf(made.ID)
}

// rest is the end of what was disturbed.
func (p *proven) rest() {
	p.fault.Store(nil)
	if p.calm != nil {
		p.calm()
	}
}

func (p *proven) undo(id contract.RestoreID) Restoration {
	p.t.Helper()
	_, err := p.Undo(p.t.Context(), p.ours, p.site, id)
	must(p.t, err)
	p.orders(p.t, p.obey)
	return p.restoreOf(id)
}

func (p *proven) restoreOf(id contract.RestoreID) Restoration {
	p.t.Helper()
	for _, r := range p.restores(p.t) {
		if r.ID == id {
			return r
		}
	}
	p.t.Fatalf("no restore %s", id)
	return Restoration{}
}

// shell is where the site's files are.
func (p *proven) shell() string { return p.scene.Dir + "/sites/" + p.scene.Handle.String() }

// sql is what the site's own user tells the database.
func (p *proven) sql(statements string) {
	p.t.Helper()
	cmd := exec.Command("/usr/bin/mariadb", "--no-defaults", "--socket="+p.scene.Socket, "--batch", "--default-character-set=utf8mb4", "--database="+p.scene.Handle.DBName().String())
	cmd.Stdin, cmd.Dir, cmd.Env = strings.NewReader(statements), "/", []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.scene.UID, Gid: p.scene.UID}}
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
}

// state is what a site is: a line for each of its files, and a checksum of its database.
type state struct{ files, database string }

// String is for people.
func (s state) String() string {
	return fmt.Sprintf("%x, %s", sha256.Sum256([]byte(s.files)), s.database)
}

// other says what a state has that should be another one, and not.
func (s state) other(want state) string {
	have, wanted := strings.Split(s.files+s.database, "\n"), strings.Split(want.files+want.database, "\n")
	text := ""
	for _, line := range have {
		if !slices.Contains(wanted, line) {
			text += "\nhas " + line
		}
	}
	for _, line := range wanted {
		if !slices.Contains(have, line) {
			text += "\nhas not " + line
		}
	}
	if text == "" && s != want {
		text = "\nhas the same in another order"
	}
	return text
}

// observe reads it as root, and by other means than backups do.
func (p *proven) observe() state {
	p.t.Helper()
	files, err := treeLines(p.shell())
	must(p.t, err)
	return state{files, p.databaseText()}
}

// treeLines are path, type, mode, size, time, owner and checksum of all that is in a site's two directories; of links their target.
func treeLines(shell string) (string, error) {
	var lines strings.Builder
	for _, dir := range []string{"public", "private"} {
		err := filepath.WalkDir(filepath.Join(shell, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err != nil {
				return err
			}
			stat, _ := info.Sys().(*syscall.Stat_t)
			content := ""
			mode, time := info.Mode().String(), info.ModTime().UnixNano()
			switch {
			case info.Mode().IsRegular():
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				content = fmt.Sprintf("%d %x", info.Size(), sha256.Sum256(text))
			case info.Mode().Type() == fs.ModeSymlink:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				time = 0 // of no consequence, and not restored
				// restic 0.14 keeps no byte of a target that is not UTF-8 (its issue 3311); backups name such links.
				content = string([]rune(target))
			}
			fmt.Fprintf(&lines, "%q %s %d %d %q\n", strings.TrimPrefix(path, shell), mode, time, stat.Uid, content)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return lines.String(), nil
}

// databaseText is all definitions and all rows of the site's schema, as a dump has them, and the server's own checksums of the tables. Of those
// with generated columns or partitions there is none: MariaDB 10.11 gives another one for a table nobody touched after FLUSH TABLES, or a SELECT.
func (p *proven) databaseText() string {
	p.t.Helper()
	root := func(stdin, program string, args ...string) string {
		cmd := exec.Command(program, append([]string{"--no-defaults", "--socket=" + p.scene.Socket, "--default-character-set=utf8mb4"}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			p.t.Fatalf("%s: %v\n%s", program, err, out)
		}
		return string(out)
	}
	schema := p.scene.Handle.DBName().String()
	dump := root("", "/usr/bin/mariadb-dump", "--routines", "--triggers", "--hex-blob", "--skip-dump-date", "--order-by-primary", schema)
	names := root("SELECT CONCAT('CHECKSUM TABLE `', REPLACE(table_name, '`', '``'), '` EXTENDED;') FROM information_schema.tables "+
		"WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' AND table_name NOT IN "+
		"(SELECT table_name FROM information_schema.columns WHERE table_schema = DATABASE() AND extra LIKE '%GENERATED%') "+
		"AND table_name NOT IN (SELECT table_name FROM information_schema.partitions WHERE table_schema = DATABASE() AND partition_name IS NOT NULL) ORDER BY table_name", "/usr/bin/mariadb", "--batch", "--raw", "--skip-column-names", schema)
	sums := root(names, "/usr/bin/mariadb", "--batch", "--skip-column-names", schema)
	return dump + sums
}

// prepare makes the repository.
func (p *proven) prepare() {
	p.t.Helper()
	must(p.t, p.config.Repositories.Init(p.t.Context(), p.repo))
}
