package site

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"chom.dev/agent/task"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

const (
	// ArchiveDir holds application archives, readable by everybody: they are
	// public, and site users unpack them.
	ArchiveDir = "/var/cache/chom-agent/archives"
	// maxArchive is far above any application that a plugin installs.
	maxArchive = 512 << 20
	// archiveTimeout bounds one download; a step is tried five times.
	archiveTimeout = 5 * time.Minute
	// keepArchives is how many releases stay: the present one, the one before,
	// and those of other site types.
	keepArchives = 6
)

// archives fetches application archives and keeps them by checksum. The URL is
// never trusted: what is kept has been hashed.
type archives struct {
	dir    string
	client *http.Client
	mu     sync.Mutex // one download at a time: sites of one release share it
}

func newArchives(dir string) *archives {
	return &archives{dir: dir, client: &http.Client{
		Timeout: archiveTimeout,
		Transport: &http.Transport{
			Proxy:                 nil, // the environment decides nothing here
			ResponseHeaderTimeout: 30 * time.Second,
		},
	}}
}

// path is where the archive with this checksum lies once it is there.
func (a *archives) path(sha256 []byte) string {
	return filepath.Join(a.dir, hex.EncodeToString(sha256)+".tar.gz")
}

// have tells whether the archive is there. Its content was checked when it was
// written, and the plugin hashes it again while it reads.
func (a *archives) have(want *sitev1.Archive) bool {
	info, err := os.Lstat(a.path(want.GetSha256()))
	return err == nil && info.Mode().IsRegular()
}

// fetch makes sure that the archive is there.
func (a *archives) fetch(ctx context.Context, want *sitev1.Archive, log *task.Log) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have(want) {
		return nil
	}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(a.dir, 0o755); err != nil { // our umask is 077, and site users read here
		return err
	}
	if err := a.prune(); err != nil {
		log.Printf("old archives stay: %v", err)
	}
	log.Printf("fetching %s", want.GetUrl())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, want.GetUrl(), nil)
	if err != nil {
		return task.Permanent(fmt.Errorf("archive %s: %w", want.GetVersion(), err))
	}
	res, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch archive %s: %w", want.GetVersion(), err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch archive %s: %s answers %s", want.GetVersion(), want.GetUrl(), res.Status)
	}
	return a.keep(want, res.Body)
}

// keep writes the body aside, and moves it into place once its checksum is right.
func (a *archives) keep(want *sitev1.Archive, body io.Reader) (err error) {
	f, err := os.CreateTemp(a.dir, ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(body, maxArchive+1))
	if err != nil {
		return fmt.Errorf("fetch archive %s: %w", want.GetVersion(), err)
	}
	if n > maxArchive {
		return task.Permanent(fmt.Errorf("archive %s is larger than %d bytes", want.GetVersion(), maxArchive))
	}
	if err := matches(sum, want); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), a.path(want.GetSha256()))
}

// matches is not permanent: a mirror may be in the middle of an update, and a
// broken line is healed by trying again.
func matches(sum hash.Hash, want *sitev1.Archive) error {
	if got := sum.Sum(nil); string(got) != string(want.GetSha256()) {
		return fmt.Errorf("archive %s has the checksum %x, not %x: nothing of it was used", want.GetVersion(), got, want.GetSha256())
	}
	return nil
}

// prune forgets the archives that were unused for longest, and broken downloads.
func (a *archives) prune() error {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return err
	}
	var errs []error
	type kept struct {
		name string
		at   time.Time
	}
	var whole []kept
	for _, e := range entries {
		info, err := e.Info()
		switch {
		case err != nil:
			continue // gone meanwhile
		case filepath.Ext(e.Name()) != ".gz":
			errs = append(errs, os.Remove(filepath.Join(a.dir, e.Name())))
		default:
			whole = append(whole, kept{e.Name(), info.ModTime()})
		}
	}
	for len(whole) >= keepArchives {
		oldest := 0
		for i, k := range whole {
			if k.at.Before(whole[oldest].at) {
				oldest = i
			}
		}
		errs = append(errs, os.Remove(filepath.Join(a.dir, whole[oldest].name)))
		whole = append(whole[:oldest], whole[oldest+1:]...)
	}
	return errors.Join(errs...)
}
