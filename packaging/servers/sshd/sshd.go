// Package sshd starts real SSH servers for tests: OpenSSH's sshd (Debian's openssh-server), which does nothing but SFTP, for the user
// of the test.
package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
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
)

const program = "/usr/sbin/sshd"

// Server is one that runs.
type Server struct {
	Host string
	Port int
	User string
	// HostKey is its public key, as a line of known_hosts has it after the name.
	HostKey string
	// Keys are two private keys, of which the first lets in.
	Keys [2]string

	dir    string
	public [2]string
	log    io.Writer
	server *exec.Cmd
	ended  <-chan struct{}
}

// Start starts a server with its files in a directory, and returns when it answers. What it prints goes to log.
func Start(ctx context.Context, dir string, log io.Writer) (*Server, error) {
	s := &Server{dir: dir, log: log}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	return s, nil
}

func (s *Server) prepare() error {
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("install openssh-server: %w", err)
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	s.User = me.Username
	names := []string{"host", "first", "second"}
	var public, private [3]string
	for i, name := range names {
		file := filepath.Join(s.dir, name)
		if out, err := exec.Command("/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file).CombinedOutput(); err != nil {
			return fmt.Errorf("make a key: %w: %s", err, out)
		}
		secret, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file + ".pub")
		if err != nil {
			return err
		}
		private[i], public[i] = string(secret), strings.TrimSpace(string(text))
	}
	s.HostKey, s.public, s.Keys = public[0], [2]string{public[1], public[2]}, [2]string{private[1], private[2]}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().(*net.TCPAddr)
	s.Host, s.Port = address.IP.String(), address.Port
	config := fmt.Sprintf(`ListenAddress %s
Port %d
HostKey %s/host
PidFile none
AuthorizedKeysFile %s/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
ForceCommand internal-sftp
`, s.Host, s.Port, s.dir, s.dir)
	// sshd wants it to be there when root starts it; there is no harm in it.
	made := os.MkdirAll("/run/sshd", 0o755)
	if os.Geteuid() != 0 {
		made = nil
	}
	return errors.Join(l.Close(), made, os.WriteFile(filepath.Join(s.dir, "config"), []byte(config), 0o600), s.LetIn(0))
}

// LetIn has one of the Keys let in, and the other one not.
func (s *Server) LetIn(key int) error {
	return os.WriteFile(filepath.Join(s.dir, "authorized_keys"), []byte(s.public[key]+"\n"), 0o600)
}

func (s *Server) start(ctx context.Context) (err error) {
	s.server = exec.Command(program, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	s.server.Stdout, s.server.Stderr = s.log, s.log
	if s.ended, err = child.Start(s.server, syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.Host, strconv.Itoa(s.Port)))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-s.ended:
			return errors.New("it ended at once; see its log")
		case <-ctx.Done():
			s.Stop()
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Again starts it again where it was.
func (s *Server) Again(ctx context.Context) error { return s.start(ctx) }

// Stop ends it, with the connections that it has.
func (s *Server) Stop() {
	all := below(s.server.Process.Pid)
	_ = s.server.Process.Kill() // gone already is fine
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGKILL) // the same
	}
	<-s.ended // once nobody holds its log any more
}

// below are all processes that a process has started, and those that these have.
func below(pid int) (all []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(text)) {
		if one, err := strconv.Atoi(word); err == nil {
			all = append(append(all, one), below(one)...)
		}
	}
	return all
}
