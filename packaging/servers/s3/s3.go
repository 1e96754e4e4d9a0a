// Package s3 starts real S3 servers for tests and labs: versitygw over a directory (the tool "versitygw" of
// packaging/setup/tools.sh). What is in the directory outlives it.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"chom.dev/servers/child"
)

// Options say how a server is. The zero value of each but Dir has a meaning.
type Options struct {
	Dir       string    // its files; must be there
	Address   string    // the IP address to listen at; empty is 127.0.0.1
	Port      int       // 0 is a free one
	AccessKey string    // the one account's; empty is "access"
	SecretKey string    // empty is "secret-of-a-test"
	Buckets   []string  // that there are
	Log       io.Writer // what it prints; nil is nowhere
}

// Server is one that runs.
type Server struct {
	Endpoint  string // http://host:port
	AccessKey string
	SecretKey string

	server *exec.Cmd
	ended  <-chan struct{}
}

// Start starts a server and returns when it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start versitygw: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		return nil, fmt.Errorf("build it with packaging/setup/tools.sh versitygw: %w", err)
	}
	objects, attributes := filepath.Join(o.Dir, "objects"), filepath.Join(o.Dir, "attributes")
	for _, dir := range append([]string{objects, attributes}, buckets(objects, o.Buckets)...) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	listen, err := address(o)
	if err != nil {
		return nil, err
	}
	s := &Server{Endpoint: "http://" + listen, AccessKey: or(o.AccessKey, "access"), SecretKey: or(o.SecretKey, "secret-of-a-test")}
	// Attributes beside the files: not every file system of a test has its own.
	s.server = exec.Command(program, "--port", listen, "--quiet", "posix", "--sidecar", attributes, objects)
	s.server.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.server.Stdout, s.server.Stderr = o.Log, o.Log
	if s.ended, err = child.Start(s.server, syscall.SIGKILL); err != nil {
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func buckets(dir string, names []string) []string {
	dirs := make([]string, len(names))
	for i, name := range names {
		dirs[i] = filepath.Join(dir, name)
	}
	return dirs
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// address is where it will listen.
func address(o Options) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(or(o.Address, "127.0.0.1"), strconv.Itoa(o.Port)))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// await waits until it answers, if only with a refusal.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			return res.Body.Close()
		}
		select {
		case <-s.ended:
			return errors.New("it ended at once; see its log")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends it.
func (s *Server) Stop() {
	_ = s.server.Process.Kill() // gone already is fine
	<-s.ended
}
