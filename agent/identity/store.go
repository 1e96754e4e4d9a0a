package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"chom.dev/agent/atomicfile"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Files of a Store.
const (
	fileEnrolling = "enrolling.key" // no .pem: what is in here is no identity yet
	fileCurrent   = "current.pem"
	fileNext      = "next.pem"
)

// PEM blocks in them, in this order, and a header of the first.
const (
	blockKey     = "PRIVATE KEY"
	blockCert    = "CERTIFICATE"
	blockRoot    = "CHOM ROOT CERTIFICATE"
	blockSigner  = "CHOM SIGNER KEY"
	headerServer = "Server-Id"
	headerEnrol  = "Enrollment-Id"
)

// ErrNone says that the host has not been enrolled.
var ErrNone = errors.New("this host has no identity; enrol it with: chom-agent enroll")

// Store is the directory that holds the identity. Safe for concurrent use.
type Store struct {
	dir string
	mu  sync.Mutex
}

// NewStore opens the directory and makes it when it is missing, for its owner
// alone.
func NewStore(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Enrolment is what must be the same in every try to enrol.
type Enrolment struct {
	ID  string // UUID
	Key *ecdsa.PrivateKey
}

// Begin gives the enrolment under way, or begins one; it is on disk when it
// returns. It refuses when the host has an identity.
func (s *Store) Begin() (*Enrolment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(s.path(fileCurrent)); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(errors.New("this host is enrolled already; to make it another server: chom-agent reset-identity"), err)
	}
	f, err := s.read(fileEnrolling)
	if err == nil {
		return &Enrolment{f.enrolment, f.key}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	e := &Enrolment{newUUID(), key}
	return e, s.write(fileEnrolling, contents{key: e.Key, enrolment: e.ID})
}

// Enrolled stores the answer and ends the enrolment.
func (s *Store) Enrolled(e *Enrolment, sent *linkv1.Identity) (*Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := parse(sent, e.Key)
	if err != nil {
		return nil, fmt.Errorf("store identity: %w", err)
	}
	if err := s.write(fileCurrent, contents{key: id.Key, server: id.Server, cert: id.Certificate, Trust: id.Trust}); err != nil {
		return nil, err
	}
	_, err = atomicfile.Remove(s.path(fileEnrolling))
	return id, err
}

// Current gives the identity in use, or ErrNone.
func (s *Store) Current() (*Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current()
}

func (s *Store) current() (*Identity, error) {
	f, err := s.read(fileCurrent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, err
	}
	if f.cert == nil {
		return nil, fmt.Errorf("identity in %s has no certificate", s.path(fileCurrent))
	}
	return f.identity(), nil
}

// Next gives the identity that is to take over, nil when there is none that
// has a certificate.
func (s *Store) Next() (*Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.read(fileNext)
	if errors.Is(err, fs.ErrNotExist) || err == nil && f.cert == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return f.identity(), nil
}

// NextKey gives the key of the renewal under way, or begins one; it is on disk
// when it returns.
func (s *Store) NextKey() (*ecdsa.PrivateKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.read(fileNext)
	if err == nil && f.cert == nil {
		return f.key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	return key, s.write(fileNext, contents{key: key})
}

// Renewed stores the certificate for the key of NextKey.
func (s *Store) Renewed(sent *linkv1.Identity) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	current, err := s.current()
	if err != nil {
		return err
	}
	f, err := s.read(fileNext)
	if err != nil {
		return err
	}
	id, err := parse(sent, f.key)
	if err != nil {
		return fmt.Errorf("store next identity: %w", err)
	}
	if id.Server != current.Server {
		return fmt.Errorf("store next identity: it is for server %s, this is %s", id.Server, current.Server)
	}
	return s.write(fileNext, contents{key: id.Key, server: id.Server, cert: id.Certificate, Trust: id.Trust})
}

// Promote puts the next identity in place of the current one: it has worked,
// and the former is refused from then on.
func (s *Store) Promote() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := atomicfile.Rename(s.path(fileNext), s.path(fileCurrent)); err != nil {
		return fmt.Errorf("promote next identity: %w", err)
	}
	return nil
}

// DropNext forgets a next identity that the control plane doesn't know.
func (s *Store) DropNext() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := atomicfile.Remove(s.path(fileNext))
	return err
}

// Believe changes whom the current identity trusts, if that is a change.
func (s *Store) Believe(t Trust) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.current()
	if err != nil || id.Same(t) {
		return err
	}
	return s.write(fileCurrent, contents{key: id.Key, server: id.Server, cert: id.Certificate, Trust: t})
}

// Reset forgets everything: the host is nobody until it is enrolled again.
func (s *Store) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, name := range []string{fileCurrent, fileNext, fileEnrolling} {
		_, err := atomicfile.Remove(s.path(name))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// contents of a file. Only the key is always there.
type contents struct {
	key       *ecdsa.PrivateKey
	enrolment string
	server    contract.ServerID
	cert      *x509.Certificate
	Trust
}

func (c contents) identity() *Identity {
	return &Identity{Server: c.server, Key: c.key, Certificate: c.cert, Trust: c.Trust}
}

func (s *Store) write(name string, c contents) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	key := &pem.Block{Type: blockKey, Bytes: der, Headers: map[string]string{}}
	if c.enrolment != "" {
		key.Headers[headerEnrol] = c.enrolment
	}
	if !c.server.IsZero() {
		key.Headers[headerServer] = c.server.String()
	}
	text := pem.EncodeToMemory(key)
	add := func(kind string, der []byte) {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if c.cert != nil {
		add(blockCert, c.cert.Raw)
	}
	for _, root := range c.Roots {
		add(blockRoot, root.Raw)
	}
	for _, signer := range c.Signers {
		add(blockSigner, signer)
	}
	_, err = atomicfile.Write(s.path(name), text, 0o600, os.Getegid())
	return err
}

func (s *Store) read(name string) (contents, error) {
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		return contents{}, fmt.Errorf("read identity: %w", err)
	}
	c, err := decode(text)
	if err != nil {
		return contents{}, fmt.Errorf("read identity %s: %w", s.path(name), err)
	}
	return c, nil
}

func decode(text []byte) (contents, error) {
	var c contents
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		var err error
		switch block.Type {
		case blockKey:
			err = c.decodeKey(block)
		case blockCert:
			c.cert, err = x509.ParseCertificate(block.Bytes)
		case blockRoot:
			var root *x509.Certificate
			root, err = x509.ParseCertificate(block.Bytes)
			c.Roots = append(c.Roots, root)
		case blockSigner:
			if len(block.Bytes) != ed25519.PublicKeySize {
				err = errors.New("signer's key has the wrong length")
			}
			c.Signers = append(c.Signers, block.Bytes)
		default:
			err = fmt.Errorf("block %q is unknown", block.Type)
		}
		if err != nil {
			return contents{}, err
		}
	}
	if c.key == nil {
		return contents{}, errors.New("it holds no key")
	}
	if c.cert != nil && (c.server.IsZero() || len(c.Roots) == 0 || len(c.Signers) == 0) {
		return contents{}, errors.New("it is incomplete")
	}
	return c, nil
}

func (c *contents) decodeKey(block *pem.Block) error {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the key is not an ECDSA key")
	}
	c.key = key
	c.enrolment = block.Headers[headerEnrol]
	if id := block.Headers[headerServer]; id != "" {
		c.server, err = contract.ParseServerID(id)
	}
	return err
}

// newUUID makes a random UUID (RFC 9562 version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// NewInstance makes the id of a process, for HelloRequest.
func NewInstance() string { return newUUID() }
