package php

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"chom.dev/agent/nginx"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// Ping asks the site's master for its answer to a ping: the fingerprint of the
// configuration that it runs with. A worker has to be there to give it, so an
// answer means that requests are served.
func Ping(ctx context.Context, h contract.Handle) (string, error) {
	uid, err := groupID(run.SitesDir + "/" + h.String()) // user and group have one number
	if err != nil {
		return "", fmt.Errorf("ping php of %s: %w", h, err)
	}
	body, err := ask(ctx, nginx.Socket(h), uid, map[string]string{
		"SCRIPT_NAME":     pingPath,
		"SCRIPT_FILENAME": pingPath,
		"REQUEST_METHOD":  "GET",
		"REQUEST_URI":     pingPath,
		"SERVER_PROTOCOL": "HTTP/1.1",
		"QUERY_STRING":    "",
	})
	if err != nil {
		return "", fmt.Errorf("ping php of %s: %w", h, err)
	}
	return body, nil
}

// The part of FastCGI that one request without a body needs.
const (
	version1     = 1
	beginRequest = 1
	endRequest   = 3
	params       = 4
	stdin        = 5
	stdout       = 6
	stderr       = 7
	responder    = 1
	requestID    = 1

	askWithin  = 5 * time.Second
	maxRecords = 64 // an answer to a ping is one or two
)

// dial connects to a socket in a directory that its tenant can write to: the
// name is opened without following a link, and the listener must be the
// tenant's own process, else he could lead root to someone else's service.
func dial(ctx context.Context, socket string, uid int) (*net.UnixConn, error) {
	fd, err := unix.Open(socket, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", socket, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is written through it
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errors.New("not a socket")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close() // never used
		return nil, errors.New("not a unix socket")
	}
	if err := checkPeer(conn, uid); err != nil {
		_ = conn.Close() // never used
		return nil, err
	}
	return conn, nil
}

func checkPeer(conn *net.UnixConn, uid int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if int(cred.Uid) != uid {
		return fmt.Errorf("user %d listens, wanted %d", cred.Uid, uid)
	}
	return nil
}

// ask sends one request and gives the body of the answer.
func ask(ctx context.Context, socket string, uid int, env map[string]string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	conn, err := dial(ctx, socket, uid)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // nothing is written that Close could report
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	var out bytes.Buffer
	record(&out, beginRequest, []byte{0, responder, 0, 0, 0, 0, 0, 0})
	var pairs bytes.Buffer
	for k, v := range env {
		pairs.WriteByte(byte(len(k))) // all of ours are below 128 bytes
		pairs.WriteByte(byte(len(v)))
		pairs.WriteString(k + v)
	}
	record(&out, params, pairs.Bytes())
	record(&out, params, nil)
	record(&out, stdin, nil)
	if _, err := conn.Write(out.Bytes()); err != nil {
		return "", err
	}
	answer, err := readAnswer(conn)
	if err != nil {
		return "", err
	}
	header, body, found := strings.Cut(answer, "\r\n\r\n")
	if !found {
		return "", errors.New("answer has no header")
	}
	if status, ok := strings.CutPrefix(header, "Status: "); ok && !strings.HasPrefix(status, "200") {
		return "", fmt.Errorf("answer has status %.3q", status)
	}
	return body, nil
}

func record(w *bytes.Buffer, kind byte, content []byte) {
	w.Write([]byte{version1, kind, 0, requestID})
	length := make([]byte, 2)
	binary.BigEndian.PutUint16(length, uint16(len(content)))
	w.Write(length)
	w.Write([]byte{0, 0})
	w.Write(content)
}

// readAnswer collects standard output up to the end of the request. The other
// side is a tenant's process: nothing it sends is believed beyond its length.
func readAnswer(r io.Reader) (string, error) {
	var out strings.Builder
	for range maxRecords {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return "", err
		}
		if h[0] != version1 {
			return "", errors.New("not a FastCGI answer")
		}
		content := make([]byte, int(binary.BigEndian.Uint16(h[4:6]))+int(h[6]))
		if _, err := io.ReadFull(r, content); err != nil {
			return "", err
		}
		switch h[1] {
		case stdout:
			out.Write(content[:len(content)-int(h[6])])
		case stderr:
		case endRequest:
			return out.String(), nil
		default:
			return "", fmt.Errorf("unexpected FastCGI record %d", h[1])
		}
	}
	return "", errors.New("answer is too long")
}
