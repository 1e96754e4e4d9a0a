package rig

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"chom.dev/servers/child"
)

// Postgres is a private server with its defaults but for how soon it looks at
// its tables, so with fsync: the time that a disk takes is part of a commit. It listens on a socket in a directory that
// only root and its own user can enter.
type Postgres struct {
	// URL is what chomd takes as --database.
	URL   string
	dir   string
	cmd   *exec.Cmd
	ended <-chan struct{}
}

// StartPostgres starts one. Stop it, always.
func StartPostgres(ctx context.Context) (_ *Postgres, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("no PostgreSQL in /usr/lib/postgresql: packaging/setup/deps.sh installs one")
	}
	bin := filepath.Dir(found[len(found)-1])
	as, err := postgresUser()
	if err != nil {
		return nil, err
	}
	p := &Postgres{}
	if p.dir, err = os.MkdirTemp("/var/tmp", "chom-pg-"); err != nil { // mode 0700
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Stop())
		}
	}()
	if err := os.Chown(p.dir, int(as.Uid), int(as.Gid)); err != nil {
		return nil, err
	}
	data := filepath.Join(p.dir, "data")
	init := runAs(ctx, as, filepath.Join(bin, "initdb"), "--pgdata="+data, "--auth=trust", "--username=chom", "--no-locale", "--encoding=UTF8")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	log, err := os.Create(filepath.Join(p.dir, "server.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Not bound to ctx: Stop ends it, after chomd has ended.
	server := runAs(context.WithoutCancel(ctx), as, filepath.Join(bin, "postgres"), "-D", data, "-k", p.dir, "-c", "listen_addresses=",
		"-c", "autovacuum_naptime=1s") // it knows its tables after seconds, as others do after minutes
	server.Stdout, server.Stderr = log, log
	if p.ended, err = child.Start(server, syscall.SIGQUIT); err != nil { // by which it ends at once, with its children
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	p.cmd = server
	p.URL = "postgres://chom@/postgres?host=" + url.QueryEscape(p.dir)
	return p, p.ready(ctx, as, bin, log.Name())
}

func (p *Postgres) ready(ctx context.Context, as *syscall.Credential, bin, log string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if runAs(ctx, as, filepath.Join(bin, "pg_isready"), "--quiet", "--host="+p.dir).Run() == nil {
			return nil
		}
		select {
		case <-p.ended:
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			continue
		}
		words, err := os.ReadFile(log)
		return errors.Join(fmt.Errorf("postgres does not start:\n%s", words), err)
	}
}

// Stop ends the server and removes its directory.
func (p *Postgres) Stop() error {
	if p.cmd != nil {
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) { // its fast shutdown
			return err
		}
		<-p.ended
	}
	return os.RemoveAll(p.dir)
}

// postgresUser is who runs the server: it refuses root.
func postgresUser() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func runAs(ctx context.Context, as *syscall.Credential, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	// A process group of its own: an interrupt on the terminal is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
	return cmd
}
