package php

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
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
	body, err := ask(ctx, nginx.Socket(h), uid, PingParams())
	if err != nil {
		return "", fmt.Errorf("ping php of %s: %w", h, err)
	}
	return body, nil
}

// PingParams are those of a request that a pool answers by itself.
func PingParams() map[string]string {
	return map[string]string{
		"SCRIPT_NAME":     pingPath,
		"SCRIPT_FILENAME": pingPath,
		"REQUEST_METHOD":  "GET",
		"REQUEST_URI":     pingPath,
		"SERVER_PROTOCOL": "HTTP/1.1",
		"QUERY_STRING":    "",
	}
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

	getRecords = 1 << 20 // of a page: gigabytes
	getKept    = 1 << 20 // bytes of it that are looked at
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
	if _, err := conn.Write(request(env)); err != nil {
		return "", err
	}
	var answer strings.Builder
	if err := readAnswer(conn, &answer, maxRecords); err != nil {
		return "", err
	}
	header, body, found := strings.Cut(answer.String(), "\r\n\r\n")
	if !found {
		return "", errors.New("answer has no header")
	}
	if status, ok := strings.CutPrefix(header, "Status: "); ok && !strings.HasPrefix(status, "200") {
		return "", fmt.Errorf("answer has status %.3q", status)
	}
	return body, nil
}

// visitWithin bounds a visit of which nobody needs the end.
const visitWithin = 10 * time.Second

// Visit asks the site's master for the home page, as nginx does for a visitor by
// that name, so that the next one need not wait until PHP has read the site's code.
func Visit(ctx context.Context, h contract.Handle, host string, https bool) error {
	shell := run.SitesDir + "/" + h.String()
	uid, err := groupID(shell)
	if err != nil {
		return fmt.Errorf("visit %s: %w", h, err)
	}
	at := &url.URL{Scheme: "http", Host: host, Path: "/"}
	if https {
		at.Scheme = "https"
	}
	if err := visit(ctx, nginx.Socket(h), uid, PageParams(shell+"/public", "index.php", host, "chom-agent", at)); err != nil {
		return fmt.Errorf("visit %s: %w", h, err)
	}
	return nil
}

func visit(ctx context.Context, socket string, uid int, env map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, visitWithin)
	defer cancel()
	conn, err := dial(ctx, socket, uid)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is written that Close could report
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request(env)); err != nil {
		return err
	}
	return readAnswer(conn, io.Discard, getRecords)
}

// PageParams are what nginx tells of a request by GET (package nginx) that a script
// in the document root answers.
func PageParams(public, script, host, visitor string, at *url.URL) map[string]string {
	p := map[string]string{
		"SCRIPT_FILENAME": public + "/" + script, "SCRIPT_NAME": "/" + script, "DOCUMENT_ROOT": public, "DOCUMENT_URI": "/" + script,
		"QUERY_STRING": at.RawQuery, "REQUEST_METHOD": http.MethodGet, "REQUEST_URI": at.RequestURI(), "REQUEST_SCHEME": at.Scheme,
		"HTTP_HOST": host, "HTTP_USER_AGENT": visitor, "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "nginx",
		"SERVER_NAME": host, "SERVER_ADDR": "127.0.0.1", "SERVER_PORT": "80", "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "1024",
		"GATEWAY_INTERFACE": "CGI/1.1", "REDIRECT_STATUS": "200", "CONTENT_LENGTH": "", "CONTENT_TYPE": "",
	}
	if at.Scheme == "https" {
		p["HTTPS"], p["SERVER_PORT"] = "on", "443"
	}
	return p
}

// Page is what a master answers.
type Page struct {
	Status   int
	Location string // of a redirect
	Body     []byte // its beginning
	Bytes    uint64 // of all of the body
}

// Get asks a master at a socket for a page, by GET and as the params say. It is for
// who runs as the site's user: it takes any socket for the site's.
func Get(ctx context.Context, socket string, env map[string]string) (Page, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return Page{}, err
	}
	defer func() { _ = conn.Close() }() // nothing is written that Close could report
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request(env)); err != nil {
		return Page{}, err
	}
	var answer beginning
	if err := readAnswer(conn, &answer, getRecords); err != nil {
		return Page{}, errors.Join(err, ctx.Err())
	}
	kept, body, found := bytes.Cut(answer.kept, []byte("\r\n\r\n"))
	if !found {
		return Page{}, errors.New("answer has no header")
	}
	p := Page{Status: http.StatusOK, Body: body, Bytes: answer.all - uint64(len(kept)) - 4}
	header, err := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(kept), strings.NewReader("\r\n\r\n")))).ReadMIMEHeader()
	if err != nil {
		return Page{}, fmt.Errorf("answer has no header: %w", err)
	}
	p.Location = header.Get("Location")
	if status := header.Get("Status"); status != "" {
		code, _, _ := strings.Cut(status, " ")
		if p.Status, err = strconv.Atoi(code); err != nil || p.Status < 100 || p.Status > 999 {
			return Page{}, fmt.Errorf("answer has status %.20q", status)
		}
	}
	return p, nil
}

// beginning keeps the first bytes that are written, and counts all.
type beginning struct {
	kept []byte
	all  uint64
}

func (b *beginning) Write(p []byte) (int, error) {
	b.all += uint64(len(p))
	b.kept = append(b.kept, p[:min(len(p), getKept-len(b.kept))]...)
	return len(p), nil
}

// request is one without a body.
func request(env map[string]string) []byte {
	var out, pairs bytes.Buffer
	record(&out, beginRequest, []byte{0, responder, 0, 0, 0, 0, 0, 0})
	for k, v := range env {
		length(&pairs, len(k))
		length(&pairs, len(v))
		pairs.WriteString(k + v)
	}
	record(&out, params, pairs.Bytes()) // all of ours are far below 64 kB
	record(&out, params, nil)
	record(&out, stdin, nil)
	return out.Bytes()
}

func length(w *bytes.Buffer, n int) {
	const short = 128
	if n < short {
		w.WriteByte(byte(n))
		return
	}
	long := make([]byte, 4)
	binary.BigEndian.PutUint32(long, uint32(n)|1<<31)
	w.Write(long)
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
func readAnswer(r io.Reader, out io.Writer, most int) error {
	for range most {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return err
		}
		if h[0] != version1 {
			return errors.New("not a FastCGI answer")
		}
		content := make([]byte, int(binary.BigEndian.Uint16(h[4:6]))+int(h[6]))
		if _, err := io.ReadFull(r, content); err != nil {
			return err
		}
		switch h[1] {
		case stdout:
			if _, err := out.Write(content[:len(content)-int(h[6])]); err != nil {
				return err
			}
		case stderr:
		case endRequest:
			return nil
		default:
			return fmt.Errorf("unexpected FastCGI record %d", h[1])
		}
	}
	return errors.New("answer is too long")
}
