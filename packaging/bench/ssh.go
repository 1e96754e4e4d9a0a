package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"chom.dev/packaging/lab"
)

// pooledSSH is one connection to a host that stays open, with a session for
// each command: how a control plane without agents reaches its servers.
type pooledSSH struct {
	client *ssh.Client
	// sessions bounds those open at once: sshd's default MaxSessions.
	sessions chan struct{}
}

const maxSessions = 10

func dialSSH(ctx context.Context, l *lab.Lab, h *lab.Host) (*pooledSSH, error) {
	pem, err := os.ReadFile(l.SSHKey())
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(h.SSHHostKey()))
	if err != nil {
		return nil, fmt.Errorf("host key of %s: %w", h.Name(), err)
	}
	address := net.JoinHostPort(h.Addr().String(), "22")
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, &ssh.ClientConfig{
		User:            "root",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.FixedHostKey(known),
		Timeout:         10 * time.Second,
	})
	if err != nil {
		_ = conn.Close() // the handshake's error says it all
		return nil, fmt.Errorf("ssh to %s: %w", h.Name(), err)
	}
	return &pooledSSH{ssh.NewClient(c, channels, requests), make(chan struct{}, maxSessions)}, nil
}

// run runs one command in a session of its own.
func (p *pooledSSH) run(ctx context.Context, command string) error {
	select {
	case p.sessions <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.sessions }()
	s, err := p.session(ctx)
	if err != nil {
		return err
	}
	err = s.Run(command)
	_ = s.Close() // io.EOF after the command has ended
	if err != nil {
		return fmt.Errorf("%q over ssh: %w", command, err)
	}
	return nil
}

// session opens one. sshd counts a session until it has seen its end, a moment
// after the client has: it then refuses a new one, and is asked again.
func (p *pooledSSH) session(ctx context.Context) (*ssh.Session, error) {
	for {
		s, err := p.client.NewSession()
		if err == nil {
			return s, nil
		}
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			return nil, fmt.Errorf("open ssh session: %w", err)
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, errors.Join(err, refused)
		}
	}
}

func (p *pooledSSH) close() error { return p.client.Close() }

// server is the process id, on the host, of the sshd that serves the
// connection, which stays there while no command runs.
func (p *pooledSSH) server(ctx context.Context) (string, error) {
	s, err := p.session(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = s.Close() }() // io.EOF after the command has ended
	out, err := s.Output("echo $PPID")
	if err != nil {
		return "", fmt.Errorf("ask sshd: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
