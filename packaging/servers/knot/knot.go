// Package knot starts real name servers for tests and labs: Knot DNS, whose zones
// change by dynamic updates (RFC 2136), as a customer's would by hand. Everything
// one was told is gone when it ends.
package knot

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"chom.dev/servers/child"
)

// Options say how a server is.
type Options struct {
	Dir     string    // its files; must be there
	Address string    // HOST:PORT to listen at, by UDP and TCP; empty is a free port of 127.0.0.1
	Zones   []string  // with nothing but their SOA and NS; a zone before those below it
	Log     io.Writer // what it prints; nil is nowhere
}

// Server is one that runs. Whoever asks from its own address may update its zones;
// reading one as a whole takes the key.
type Server struct {
	Address string // HOST:PORT
	// KeyName and Key, in base64, may read and update from anywhere (TSIG, hmac-sha256).
	KeyName, Key string

	zones  []string
	server *exec.Cmd
	ended  <-chan struct{}
}

// Start starts a server and returns when it answers. Stop it, always.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start knot: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{Address: o.Address, KeyName: "chom.key", Key: base64.StdEncoding.EncodeToString([]byte(rand.Text())), zones: o.Zones}
	var err error
	if s.Address == "" {
		if s.Address, err = free(); err != nil {
			return nil, err
		}
	}
	if err := s.configure(o.Dir); err != nil {
		return nil, err
	}
	s.server = exec.Command("/usr/sbin/knotd", "--config", filepath.Join(o.Dir, "knot.conf"))
	s.server.Stdout, s.server.Stderr = o.Log, o.Log
	if s.ended, err = child.Start(s.server, syscall.SIGKILL); err != nil {
		return nil, err
	}
	if err := s.answers(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// configure writes the configuration and the zones.
func (s *Server) configure(dir string) error {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`
server:
    listen: %[1]s@%[2]s
    rundir: %[3]q
database:
    storage: %[3]q
key:
  - id: %[4]s
    algorithm: hmac-sha256
    secret: %[5]s
acl:
  - id: here
    address: %[1]s
    action: update
  - id: signed
    key: %[4]s
    action: [update, transfer]
zone:
`, host, port, dir, s.KeyName, s.Key)
	for _, zone := range s.zones {
		// Nothing is remembered for longer than a second, be it there or not.
		records := fmt.Sprintf("%[1]s. 1 SOA ns.%[1]s. root.%[1]s. 1 60 60 60 1\n%[1]s. 1 NS ns.%[1]s.\nns.%[1]s. 1 A %[2]s\n", zone, host)
		if err := os.WriteFile(filepath.Join(dir, zone+".zone"), []byte(records), 0o600); err != nil {
			return err
		}
		config += fmt.Sprintf("  - domain: %[1]s\n    storage: %[2]q\n    file: %[1]s.zone\n    acl: [signed, here]\n", zone, dir)
	}
	return os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(config), 0o600)
}

// answers waits until the last of its zones is served.
func (s *Server) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Address)
	}}
	for {
		_, err := resolver.LookupNS(ctx, s.zones[len(s.zones)-1]+".")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-s.ended:
			return errors.New("it ended at once; see its log")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		}
	}
}

// Set makes a record the only one of its name and type.
func (s *Server) Set(ctx context.Context, name, kind, value string) error {
	return s.Update(ctx, s.zone(name), fmt.Sprintf("del %s. %s", name, kind), fmt.Sprintf("add %s. 1 %s %s", name, kind, value))
}

// Delete removes a name's records of a type.
func (s *Server) Delete(ctx context.Context, name, kind string) error {
	return s.Update(ctx, s.zone(name), fmt.Sprintf("del %s. %s", name, kind))
}

// zone is the zone that a name stands in.
func (s *Server) zone(name string) (zone string) {
	for _, z := range s.zones {
		if name == z || strings.HasSuffix(name, "."+z) {
			zone = z // the last one is the nearest
		}
	}
	return zone
}

// Update runs commands of knsupdate in a zone, all of them or none.
func (s *Server) Update(ctx context.Context, zone string, commands ...string) error {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		return err
	}
	update := exec.CommandContext(ctx, "/usr/bin/knsupdate")
	update.Stdin = strings.NewReader(fmt.Sprintf("server %s %s\nlocal %s\nzone %s.\n%s\nsend\nquit\n", host, port, host, zone, strings.Join(commands, "\n")))
	if out, err := update.CombinedOutput(); err != nil || strings.Contains(string(out), "error") {
		return fmt.Errorf("knsupdate: %w: %s", err, out)
	}
	return nil
}

// Stop ends it.
func (s *Server) Stop() {
	_ = s.server.Process.Kill() // gone already is fine
	<-s.ended
}

// free finds a port that nobody listens at.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
