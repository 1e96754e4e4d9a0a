// Package s3 starts real S3 servers for tests and labs: versitygw over a directory (the tool "versitygw" of
// packaging/setup/tools.sh). What is in the directory outlives it.
package s3

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
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
	TLS       bool      // with a certificate that Server.Roots trust
	Log       io.Writer // what it prints; nil is nowhere
}

// Server is one that runs.
type Server struct {
	Endpoint  string // http://host:port, or https
	AccessKey string
	SecretKey string
	Roots     *x509.CertPool // that trust its certificate; nil without TLS

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
	options := []string{"--port", listen, "--quiet"}
	if o.TLS {
		certificate, key := filepath.Join(o.Dir, "tls.crt"), filepath.Join(o.Dir, "tls.key")
		if s.Roots, err = issue(certificate, key, listen); err != nil {
			return nil, fmt.Errorf("make its certificate: %w", err)
		}
		s.Endpoint = "https://" + listen
		options = append(options, "--cert", certificate, "--key", key)
	}
	// Attributes beside the files: not every file system of a test has its own.
	s.server = exec.Command(program, append(options, "posix", "--sidecar", attributes, objects)...)
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

// issue writes a certificate that signs itself, for the host of an address, and its key, unless they are there.
func issue(certificate, key, address string) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if text, err := os.ReadFile(certificate); err == nil {
		roots.AppendCertsFromPEM(text)
		return roots, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(host)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(text)
	return roots, errors.Join(
		os.WriteFile(certificate, text, 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}

// await waits until it answers, if only with a refusal.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.Roots}, DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
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
