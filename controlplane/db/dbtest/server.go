package dbtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"chom.dev/servers/child"
	"github.com/jackc/pgx/v5"
)

// startPostgres starts a server for this process and gives its URL. Its
// directory is a copy of one that initdb made once per boot; durability is
// off. The kernel ends the server when this process ends, however it ends; the
// directory is removed by the next process that starts one.
func startPostgres() (string, error) {
	bin, err := postgresBinaries()
	if err != nil {
		return "", err
	}
	as, err := postgresUser()
	if err != nil {
		return "", err
	}
	base := filepath.Join(Scratch(), fmt.Sprintf("chom-dbtest-%d", os.Getuid()))
	if err := os.MkdirAll(base, 0o711); err != nil {
		return "", err
	}
	if err := as.own(base); err != nil {
		return "", err
	}
	unlock, err := lockDir(base)
	if err != nil {
		return "", err
	}
	defer unlock()
	removeStale(base)
	template := filepath.Join(base, "initdb-"+filepath.Base(filepath.Dir(bin)))
	if _, err := os.Stat(filepath.Join(template, "PG_VERSION")); errors.Is(err, fs.ErrNotExist) {
		if err := initdb(bin, template, as); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(base, fmt.Sprintf("run-%d", os.Getpid()))
	if err := copyTree(template, dir, as); err != nil {
		return "", err
	}
	return launch(bin, dir, as)
}

// Scratch is where databases of tests lie, and what else they write in great numbers: in memory where there is room, as no
// test asks whether they survive a power loss. A database is hundreds of files
// there for a second or two, and ext4 is slow at exactly this: whoever creates a
// file makes it step over the inodes of all that were deleted within 5 seconds.
func Scratch() string {
	const memory, room = "/dev/shm", 2 << 30
	var have syscall.Statfs_t
	if err := syscall.Statfs(memory, &have); err != nil || have.Bavail*uint64(have.Bsize) < room {
		return os.TempDir()
	}
	return memory
}

// postgresBinaries finds the newest Debian installation.
func postgresBinaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	best, version := "", -1
	for _, path := range found {
		dir := filepath.Dir(path)
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir))); err == nil && n > version {
			best, version = dir, n
		}
	}
	if best == "" {
		return "", errors.New("no /usr/lib/postgresql/*/bin/postgres")
	}
	return best, nil
}

// account is who runs the server: PostgreSQL refuses root.
type account struct {
	cred *syscall.Credential // nil: this process's own user
}

func postgresUser() (account, error) {
	if os.Getuid() != 0 {
		return account{}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return account{}, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, err
	}
	return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

func (a account) own(path string) error {
	if a.cred == nil {
		return nil
	}
	return os.Lchown(path, int(a.cred.Uid), int(a.cred.Gid))
}

func lockDir(base string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(base, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing releases the lock
}

// removeStale removes the directories of processes that are gone.
func removeStale(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, "run-*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "run-"))
		if err != nil || syscall.Kill(pid, 0) == nil && pid != os.Getpid() {
			continue
		}
		_ = os.RemoveAll(dir) // what stays is tried again next time
	}
}

func initdb(bin, dir string, as account) error {
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(bin, "initdb"), "-D", partial, "-A", "trust", "-U", "chom", "--no-sync", "--no-locale", "-E", "UTF8")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return os.Rename(partial, dir)
}

func copyTree(from, to string, as account) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if e.IsDir() {
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
			return as.own(target)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, b, 0o600); err != nil {
			return err
		}
		return as.own(target)
	})
}

// launch starts the server and waits until it answers.
func launch(bin, dir string, as account) (string, error) {
	port, err := freePort()
	if err != nil {
		return "", err
	}
	logFile := filepath.Join(dir, "server.log")
	out, err := os.Create(logFile)
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", dir, "-p", strconv.Itoa(port), "-k", dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
		"-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "max_wal_size=128MB",
		"-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "autovacuum_naptime=10s")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as.cred}
	ended, err := child.Start(cmd, syscall.SIGQUIT) // PostgreSQL's immediate shutdown
	if err != nil {
		return "", err
	}
	url := fmt.Sprintf("postgres://chom@127.0.0.1:%d/postgres?sslmode=disable", port)
	for deadline := time.Now().Add(30 * time.Second); ; {
		if err := try(url); err == nil {
			return url, nil
		} else if time.Now().After(deadline) {
			return "", fmt.Errorf("the server does not answer: %w", err)
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(logFile) // the error says enough without it
			return "", fmt.Errorf("the server ended: %s", text)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func try(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}
