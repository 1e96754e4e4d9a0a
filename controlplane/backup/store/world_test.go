package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
	"chom.dev/servers/s3"
	"chom.dev/servers/sshd"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newRepository() store.Repository {
	return store.Repository{Organization: contract.NewOrganizationID(), Site: contract.NewSiteID()}
}

// content is some, and its name.
func content(seed uint64, size int) ([]byte, string) {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b) // it never fails
	sum := sha256.Sum256(b)
	return b, hex.EncodeToString(sum[:])
}

func name(t testing.TB, kind store.Kind, text string) store.Name {
	t.Helper()
	n, err := store.ParseName(kind, text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// shelf is a store of any kind, and where its files lie.
type shelf struct {
	store.Store
	dir  string
	s3   *s3.Server
	sshd *sshd.Server
}

// files are all files that there are, objects or not.
func (s shelf) files(t testing.TB) (found []string) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			found = append(found, strings.TrimPrefix(path, s.dir+"/"))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func disk(t testing.TB) shelf {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backups")
	d, err := store.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return shelf{Store: d, dir: dir}
}

func startS3(t testing.TB, dir string, port int) *s3.Server {
	t.Helper()
	server, err := s3.Start(t.Context(), s3.Options{Dir: dir, Port: port, Buckets: []string{"backups"}, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	return server
}

func bucket(t testing.TB) shelf {
	t.Helper()
	dir := t.TempDir()
	server := startS3(t, dir, 0)
	return shelf{Store: openS3(t, server.Endpoint, server.SecretKey), dir: filepath.Join(dir, "objects", "backups"), s3: server}
}

func openS3(t testing.TB, endpoint, key string) *store.S3 {
	t.Helper()
	s, err := store.OpenS3(store.S3Config{Endpoint: endpoint, Bucket: "backups", Prefix: "chom", AccessKey: "access", SecretKey: secret.New([]byte(key))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// directory is one of an SSH server.
func directory(t testing.TB) shelf {
	t.Helper()
	server, err := sshd.Start(t.Context(), t.TempDir(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	dir := t.TempDir()
	return shelf{Store: openSFTP(t, server, dir), dir: dir, sshd: server}
}

func openSFTP(t testing.TB, server *sshd.Server, dir string) *store.SFTP {
	t.Helper()
	s, err := store.OpenSFTP(sftpConfig(server, dir))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sftpConfig(server *sshd.Server, dir string) store.SFTPConfig {
	return store.SFTPConfig{
		Address: net.JoinHostPort(server.Host, strconv.Itoa(server.Port)), User: server.User, Directory: dir, HostKey: server.HostKey,
		PrivateKey: secret.New([]byte(server.Keys[0])), Called: "the directory", Dialer: outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8"))),
	}
}

// each runs a test over all stores.
func each(t *testing.T, test func(t *testing.T, s shelf)) {
	t.Run("disk", func(t *testing.T) { test(t, disk(t)) })
	t.Run("s3", func(t *testing.T) { test(t, bucket(t)) })
	t.Run("sftp", func(t *testing.T) { test(t, directory(t)) })
}

// site is one site's repository and how it is reached.
type site struct {
	repository store.Repository
	server     *store.Server
	url        string // ends in a slash
}

func serve(t testing.TB, s store.Store, rights store.Rights, ledger store.Ledger) *site {
	t.Helper()
	one := &site{repository: newRepository(), server: store.NewServer(s, ledger, slog.New(slog.NewTextHandler(t.Output(), nil)))}
	one.url = one.open(t, rights)
	return one
}

// open reaches the same repository with other rights.
func (s *site) open(t testing.TB, rights store.Rights) string {
	t.Helper()
	door := httptest.NewServer(s.server.Handler(s.repository, rights))
	t.Cleanup(door.Close)
	return door.URL + "/"
}

// ask makes a call and gives its status and its words.
func ask(t testing.TB, method, url string, body io.Reader, header ...string) (int, string) {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), method, url, body))
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(text)
}

// restic runs the program for a repository of a test.
func restic(t testing.TB, within time.Duration, url string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/restic", append([]string{"--no-cache", "--repo", "rest:" + url}, args...)...)
	cmd.Env = []string{"RESTIC_PASSWORD=of a test"}
	cmd.Dir = t.TempDir()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func mustRestic(t testing.TB, url string, args ...string) string {
	t.Helper()
	out, err := restic(t, 2*time.Minute, url, args...)
	if err != nil {
		t.Fatalf("restic %v: %v\n%s", args, err, out)
	}
	return out
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// tree makes files to back up.
func tree(t testing.TB, size int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 40 {
		b, text := content(uint64(i), size)
		sub := filepath.Join(dir, text[:2])
		if err := errors.Join(os.MkdirAll(sub, 0o700), os.WriteFile(filepath.Join(sub, text[2:10]), b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
