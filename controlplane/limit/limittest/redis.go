// Package limittest starts real Redis servers for tests, each on a socket of its own.
package limittest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"chom.dev/servers/child"
)

// Redis is a server for one test. It ends with it, and with this process.
type Redis struct {
	// URL is where it listens.
	URL string

	socket string
	cmd    *exec.Cmd
	ended  <-chan struct{}
}

// Start starts an empty server and waits until it listens.
func Start(t testing.TB) *Redis {
	t.Helper()
	dir, err := os.MkdirTemp("", "chom-redis-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	r := &Redis{socket: filepath.Join(dir, "s")}
	r.URL = "unix://" + r.socket
	r.Again(t)
	t.Cleanup(func() {
		r.Stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Stop kills the server. Nothing of it is left.
func (r *Redis) Stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill() // one that has ended is as good
	<-r.ended
	r.cmd = nil
	_ = os.Remove(r.socket) // one that never was is as good
}

// Again starts the server after a Stop, empty.
func (r *Redis) Again(t testing.TB) {
	t.Helper()
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", r.socket, "--unixsocketperm", "700",
		"--save", "", "--appendonly", "no", "--dir", filepath.Dir(r.socket), "--daemonize", "no", "--logfile", "")
	ended, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	r.cmd, r.ended = cmd, ended
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("unix", r.socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis-server does not listen: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
