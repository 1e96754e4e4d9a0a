package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
)

// SFTPConfig says where a directory of an SSH server is.
type SFTPConfig struct {
	// Address is HOST:PORT.
	Address string
	User    string
	// Directory is there already: absolute, or from where the user begins.
	Directory string
	// HostKey is the server's public key, as a line of authorized_keys has it. No other one is accepted.
	HostKey string
	// PrivateKey lets in, as ssh-keygen writes it, without a passphrase; or Password does.
	PrivateKey secret.Secret
	Password   secret.Secret
	// Called is how errors name it.
	Called string
	// Dialer reaches it.
	Dialer *outbound.Dialer
}

// SFTP keeps repositories in a directory of an SSH server. Each call has a connection for itself, so that one which is given up takes
// no other one with it.
type SFTP struct {
	config SFTPConfig
	client *ssh.ClientConfig
	slots  chan struct{} // holds a token for each connection that is used
	idle   chan *session // those that are not
	swept  atomic.Int64  // when sweep last ran, Unix seconds
	stall  time.Duration
}

const (
	// sessionsMax is how many connections there are at most: sshd begins to refuse at ten that have not signed in yet.
	sessionsMax = 8
	// idleMax is how many are kept.
	idleMax = 4
	// staleAfter is how old one may be that is used without a question: servers and those in between close what says nothing.
	staleAfter = 15 * time.Second
	// leftAfter is when nobody can be writing any more what has no name yet: objectFor, and a day for clocks that differ.
	leftAfter  = 25 * time.Hour
	sweepEvery = 24 * time.Hour
	// readAhead is how much is asked for at once: a server far away answers slowly, but many questions at a time.
	readAhead = 1 << 20
	// writesAtOnce are how many pieces of 32 KiB are on their way.
	writesAtOnce = 32
)

// session is a connection.
type session struct {
	conn net.Conn
	*sftp.Client
	used time.Time
	over <-chan struct{} // closed when the server has ended it
}

func (s *session) end() { _ = s.conn.Close() } // there is nobody to tell

// OpenSFTP prepares to speak to a server, and says nothing to it. It refuses keys that are none, with a fault of kind Invalid.
func OpenSFTP(c SFTPConfig) (*SFTP, error) {
	host, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.HostKey))
	if err != nil {
		return nil, fault.Invalid("sftp.host_key", "must be a public key like ssh-ed25519 AAAA...")
	}
	var method ssh.AuthMethod
	if password := c.Password.Reveal(); len(password) > 0 {
		method = ssh.Password(string(password))
	} else {
		signer, err := ssh.ParsePrivateKey(c.PrivateKey.Reveal())
		if err != nil {
			return nil, fault.Invalid("credentials.private_key", "must be a private key as ssh-keygen writes it, without a passphrase") // the cause may quote it
		}
		method = ssh.PublicKeys(signer)
	}
	return &SFTP{
		config: c, slots: make(chan struct{}, sessionsMax), idle: make(chan *session, idleMax), stall: stallFor,
		client: &ssh.ClientConfig{
			User: c.User, Auth: []ssh.AuthMethod{method}, HostKeyAlgorithms: algorithms(host.Type()),
			HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
				if !bytes.Equal(shown.Marshal(), host.Marshal()) {
					return errHostKey
				}
				return nil
			},
		},
	}, nil
}

var errHostKey = errors.New("the host key is another one")

// algorithms are those by which a server proves that it has a key.
func algorithms(key string) []string {
	if key == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{key}
}

// with has a call made with a connection of its own, which ends with the context.
func (s *SFTP) with(ctx context.Context, do func(c *session) error) error {
	c, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	err = do(c)
	if ctx.Err() != nil && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	leave(err)
	return err
}

// enter gives a connection until leave is called, with what came of it.
func (s *SFTP) enter(ctx context.Context) (c *session, leave func(err error), err error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if c, err = s.session(ctx); err != nil {
		<-s.slots
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, c.end)
	return c, func(err error) {
		defer func() { <-s.slots }()
		if !stop() || !answered(err) {
			c.end()
			return
		}
		c.used = time.Now()
		select {
		case s.idle <- c:
		default:
			c.end()
		}
	}, nil
}

// answered says whether a connection is whole after an error.
func answered(err error) bool {
	var status *sftp.StatusError
	_, isFault := fault.Of(err)
	return err == nil || isFault || errors.As(err, &status) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}

// session gives a connection that works, or makes one.
func (s *SFTP) session(ctx context.Context) (*session, error) {
	for {
		var c *session
		select {
		case c = <-s.idle:
		default:
			return s.dial(ctx)
		}
		select {
		case <-c.over:
			c.end()
			continue
		default:
		}
		if time.Since(c.used) < staleAfter {
			return c, nil
		}
		asking := time.AfterFunc(s.stall/6, c.end)
		_, err := c.Getwd()
		if asking.Stop() && err == nil {
			return c, nil
		}
		c.end()
	}
}

func (s *SFTP) dial(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	conn, err := s.config.Dialer.DialContext(ctx, "tcp", s.config.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c, err := s.shake(conn)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close() // there is one error already
		return nil, errors.Join(ctx.Err(), err)
	}
	if last, now := s.swept.Load(), time.Now().Unix(); now-last > int64(sweepEvery/time.Second) && s.swept.CompareAndSwap(last, now) {
		s.sweep(c)
	}
	return c, nil
}

func (s *SFTP) shake(conn net.Conn) (*session, error) {
	transport, channels, requests, err := ssh.NewClientConn(conn, s.config.Address, s.client)
	if err != nil {
		return nil, err
	}
	c, err := sftp.NewClient(ssh.NewClient(transport, channels, requests), sftp.UseConcurrentWrites(true))
	if err != nil {
		return nil, err
	}
	over := make(chan struct{})
	go func() {
		_ = c.Wait() // it ends with the connection, however that does
		close(over)
	}()
	return &session{conn, c, time.Now(), over}, nil
}

// sweep removes what writers that died have left. What can't be removed now, the next one removes.
func (s *SFTP) sweep(c *session) {
	left, err := c.ReadDir(s.at(unfinishedDir))
	if err != nil {
		return
	}
	for _, entry := range left {
		if time.Since(entry.ModTime()) > leftAfter {
			_ = removeAll(c, s.at(unfinishedDir, entry.Name()))
		}
	}
}

// at is a path in the directory.
func (s *SFTP) at(parts ...string) string {
	return path.Join(append([]string{s.config.Directory}, parts...)...)
}

// Put keeps an object.
func (s *SFTP) Put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) error {
	if err := checkPut(r, n, size); err != nil {
		return err
	}
	// The connection does not end with the caller, but goes on to remove what has come. The server of a body that stalls has as long as
	// the body before.
	alive, watch := watching(context.WithoutCancel(ctx), 2*s.stall)
	defer watch.end()
	checked := newVerified(n, size, &patient{ctx, body})
	err := s.with(alive, func(c *session) error { return s.put(c, r, n, checked, watch) })
	if failed := checked.failed(); failed != nil {
		err = failed // the body's fault, whatever the server made of it
	}
	if err != nil {
		return s.explain(fmt.Sprintf("keep %s of %s", n, r), watch.why(err))
	}
	return nil
}

func (s *SFTP) put(c *session, r Repository, n Name, checked *verified, watch *watch) (err error) {
	unfinished := s.at(unfinishedDir, uuid.NewString())
	f, err := c.Create(unfinished)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.Mkdir(s.at(unfinishedDir)); errors.Is(err, fs.ErrNotExist) {
			return s.missing(err)
		}
		f, err = c.Create(unfinished) // somebody else may have made the directory
	}
	if err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			_ = c.Remove(unfinished) // else sweep does
		}
	}()
	_, err = f.ReadFromWithConcurrency(&watched{checked, watch}, writesAtOnce)
	if err == nil {
		err = checked.result()
	}
	if _, can := c.HasExtension("fsync@openssh.com"); can && err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	watch.moves()
	at := s.at(r.String(), n.path())
	// Plain SFTP renames to no name that is there.
	if err = c.Rename(unfinished, at); errors.Is(err, fs.ErrNotExist) {
		if err := c.MkdirAll(path.Dir(at)); err != nil {
			return err
		}
		err = c.Rename(unfinished, at)
	}
	if err == nil {
		kept = true
		return nil
	}
	if _, missing := c.Stat(at); missing != nil {
		return err
	}
	return s.same(c, at, checked, watch)
}

// same says ErrDiffers where the object at a path is not what was read.
func (s *SFTP) same(c *session, at string, checked *verified, watch *watch) error {
	f, err := c.Open(at)
	if err != nil {
		return err
	}
	same, err := checked.sameAs(&watched{f, watch})
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if !same {
		return ErrDiffers
	}
	return nil
}

// Get reads an object.
func (s *SFTP) Get(ctx context.Context, r Repository, n Name, offset, length int64) (*Part, error) {
	if err := check(r, n); err != nil {
		return nil, err
	}
	ctx, watch := watching(ctx, s.stall)
	p, err := s.get(ctx, r, n, offset, length, watch)
	if err != nil {
		err = watch.why(err)
		watch.end()
		return nil, s.explain(fmt.Sprintf("read %s of %s", n, r), err)
	}
	return p, nil
}

func (s *SFTP) get(ctx context.Context, r Repository, n Name, offset, length int64, watch *watch) (*Part, error) {
	c, leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	f, err := c.Open(s.at(r.String(), n.path()))
	if err != nil {
		leave(err)
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		length, err = part(offset, length, info.Size())
	}
	if err != nil {
		_ = f.Close() // it was only read
		leave(err)
		return nil, err
	}
	body := bufio.NewReaderSize(io.NewSectionReader(f, offset, length), readAhead)
	return &Part{&reading{&borrowed{body, f, leave, nil}, watch, s.config.Called}, length, info.Size()}, nil
}

// borrowed is a file that is read, whose connection goes back when it is closed.
type borrowed struct {
	io.Reader
	file  *sftp.File
	leave func(err error)
	err   error
}

func (b *borrowed) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

func (b *borrowed) Close() error {
	if b.err == nil {
		b.err = b.file.Close()
	}
	b.leave(b.err)
	return nil // what was read is read
}

// Stat is how large an object is.
func (s *SFTP) Stat(ctx context.Context, r Repository, n Name) (size int64, err error) {
	if err := check(r, n); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	err = s.with(ctx, func(c *session) error {
		info, err := c.Stat(s.at(r.String(), n.path()))
		if err == nil {
			size = info.Size()
		}
		return err
	})
	if err != nil {
		return 0, s.explain(fmt.Sprintf("look for %s of %s", n, r), err)
	}
	return size, nil
}

// List gives the objects of a kind.
func (s *SFTP) List(ctx context.Context, r Repository, kind Kind) ([]Object, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	found := []Object{}
	err := s.walk(ctx, r, kind.String(), func(at string, size int64) {
		if n, ok := nameAt(kind, at); ok {
			found = append(found, Object{n, size})
		}
	})
	if err != nil {
		return nil, s.explain(fmt.Sprintf("list %s of %s", kind, r), err)
	}
	slices.SortFunc(found, byName)
	return found, nil
}

// walk gives all files of a repository at or below a path. What vanishes meanwhile was not there.
func (s *SFTP) walk(ctx context.Context, r Repository, below string, each func(at string, size int64)) error {
	ctx, cancel := context.WithTimeout(ctx, listFor)
	defer cancel()
	ctx, watch := watching(ctx, s.stall)
	defer watch.end()
	top := s.at(r.String())
	var down func(c *session, at string) error
	down = func(c *session, at string) error {
		entries, err := c.ReadDirContext(ctx, at)
		watch.moves()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, entry := range entries {
			within := path.Join(at, entry.Name())
			switch {
			case entry.IsDir():
				if err := down(c, within); err != nil {
					return err
				}
			case entry.Mode().IsRegular():
				each(strings.TrimPrefix(within, top+"/"), entry.Size())
			}
		}
		return nil
	}
	err := s.with(ctx, func(c *session) error {
		info, err := c.Stat(path.Join(top, below))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case info.IsDir():
			return down(c, path.Join(top, below))
		}
		each(below, info.Size())
		return nil
	})
	return watch.why(err)
}

// Delete removes an object.
func (s *SFTP) Delete(ctx context.Context, r Repository, n Name) error {
	if err := check(r, n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	err := s.with(ctx, func(c *session) error { return c.Remove(s.at(r.String(), n.path())) })
	if err != nil {
		return s.explain(fmt.Sprintf("delete %s of %s", n, r), err)
	}
	return nil
}

// Remove removes a repository: first all of it at once from its place.
func (s *SFTP) Remove(ctx context.Context, r Repository) error {
	if err := r.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, listFor)
	defer cancel()
	err := s.with(ctx, func(c *session) error {
		if _, err := c.Stat(s.at(r.String())); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		gone := s.at(unfinishedDir, uuid.NewString())
		if err := c.Rename(s.at(r.String()), gone); err != nil {
			return err
		}
		return removeAll(c, gone)
	})
	if err != nil {
		return s.explain(fmt.Sprintf("remove the repository %s", r), err)
	}
	return nil
}

// removeAll removes a file, or a directory with all that is in it.
func removeAll(c *session, at string) error {
	entries, err := c.ReadDir(at)
	if err != nil {
		return c.Remove(at)
	}
	for _, entry := range entries {
		within := path.Join(at, entry.Name())
		if entry.IsDir() {
			err = removeAll(c, within)
		} else {
			err = c.Remove(within)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return c.RemoveDirectory(at)
}

// Usage is how many bytes a repository's objects have.
func (s *SFTP) Usage(ctx context.Context, r Repository) (int64, error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	var sum int64
	if err := s.walk(ctx, r, ".", func(_ string, size int64) { sum += size }); err != nil {
		return 0, s.explain(fmt.Sprintf("measure %s", r), err)
	}
	return sum, nil
}

func (s *SFTP) missing(err error) error {
	return fault.Unavailable(s.config.Called+" is not there", time.Minute, err)
}

// explain gives an error of the server the words of a store. What the server said is for the log; it has no credentials in it.
func (s *SFTP) explain(what string, err error) error {
	cause := fmt.Errorf("%s: %w", what, err)
	var status *sftp.StatusError
	if _, isFault := fault.Of(err); isFault {
		return cause
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case errors.Is(err, context.Canceled):
		return cause
	case errors.Is(err, errHostKey):
		return fault.Unavailable(s.config.Called+" shows another host key than it should: somebody may stand in between", time.Minute, cause)
	case strings.Contains(err.Error(), "unable to authenticate"): // package ssh has no value for it
		return fault.Unavailable(s.config.Called+" refuses the control plane's credentials", time.Minute, cause)
	case errors.Is(err, fs.ErrPermission):
		return fault.Unavailable(s.config.Called+" does not let the control plane work in it", time.Minute, cause)
	case errors.As(err, &status):
		return fault.Unavailable(s.config.Called+" does not do what it is asked: it may be full", 10*time.Second, cause)
	}
	return fault.Unavailable(s.config.Called+" does not answer: "+outbound.Explain(err), 10*time.Second, cause)
}
