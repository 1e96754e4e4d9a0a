// Package mariadb runs a real MariaDB, as small as it gets, with root
// authenticated by the kernel as Debian does. It needs Debian's mariadb-server and
// to be started by root.
package mariadb

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"chom.dev/servers/child"
)

// Server is one with a socket and no port.
type Server struct {
	// Socket is where it listens; everybody may connect.
	Socket string

	dir   string
	args  []string
	cmd   *exec.Cmd
	ended <-chan struct{}
}

// Start makes the data of a new server and runs it; args are further ones of
// mariadbd. Stop it, always.
func Start(args ...string) (*Server, error) {
	dir, err := os.MkdirTemp("/tmp", "chom-mariadb-") // a test's own directory is too long for a socket's name
	if err != nil {
		return nil, err
	}
	return StartIn(dir, args...)
}

// StartIn is Start in a directory that everybody may enter, with a short name. Stop
// empties it.
func StartIn(dir string, args ...string) (*Server, error) {
	s := &Server{Socket: filepath.Join(dir, "sock"), dir: dir, args: args}
	err := s.install()
	if err == nil {
		err = s.Again()
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) install() error {
	mysql, err := user.Lookup("mysql")
	if err != nil {
		return fmt.Errorf("mariadb-server is not installed: %w", err)
	}
	uid, err := strconv.Atoi(mysql.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(mysql.Gid)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chown(s.dir, uid, gid), os.Chmod(s.dir, 0o755)); err != nil {
		return err
	}
	out, err := exec.Command("/usr/bin/mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+filepath.Join(s.dir, "data"),
		"--tmpdir="+s.dir, // one that starts removes what is in a common one
		"--auth-root-authentication-method=socket", "--skip-test-db").CombinedOutput()
	if err != nil {
		return fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	return nil
}

// Again runs it once more, after Kill.
func (s *Server) Again() error {
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was killed
		return err
	}
	args := []string{
		"--no-defaults", "--user=mysql", "--datadir=" + filepath.Join(s.dir, "data"), "--socket=" + s.Socket, "--skip-networking",
		"--tmpdir=" + s.dir,
		"--local-infile=0", "--innodb-buffer-pool-size=32M", "--performance-schema=OFF",
		"--pid-file=" + filepath.Join(s.dir, "pid"), "--log-error=" + filepath.Join(s.dir, "error.log"),
	}
	s.cmd = exec.Command("/usr/sbin/mariadbd", append(args, s.args...)...)
	var err error
	if s.ended, err = child.Start(s.cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("start mariadb: %w", err)
	}
	for range 600 {
		select {
		case <-s.ended:
			log, _ := os.ReadFile(filepath.Join(s.dir, "error.log")) // without it there is less to see
			return fmt.Errorf("mariadb ended at once:\n%s", log)
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := os.Stat(s.Socket); err == nil {
			return nil
		}
	}
	return errors.New("mariadb makes no socket")
}

// Kill ends it as a loss of power would, and keeps its data.
func (s *Server) Kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.ended
	}
}

// Ended says whether it has ended, by itself or by Kill.
func (s *Server) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Stop ends it and removes its data.
func (s *Server) Stop() {
	s.Kill()
	_ = os.RemoveAll(s.dir) // a leftover below /tmp harms nobody
}
