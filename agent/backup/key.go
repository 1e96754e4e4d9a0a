package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// key gives the key of a site's repository: the one on disk, or the control
// plane's, which never gives another for the same site.
func (m *Manager) key(ctx context.Context, site task.Site) (string, error) {
	if site.Handle.IsZero() || site.ID.IsZero() {
		return "", errors.New("this host does not know the site")
	}
	path := filepath.Join(m.dir(site.Handle), "key")
	text, err := os.ReadFile(path)
	if err == nil {
		if key := strings.TrimSpace(string(text)); keyPattern.MatchString(key) {
			return key, nil
		}
		m.cfg.Log.Warn("a key on disk is none, and is asked for anew", "site", site.ID)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the repository's key: %w", err)
	}
	res, err := m.cfg.Broker.FetchRepositoryKey(ctx, &linkv1.FetchRepositoryKeyRequest{SiteId: site.ID.String()})
	if err != nil {
		return "", fmt.Errorf("ask for the repository's key: %w", err)
	}
	if !keyPattern.MatchString(res.GetKey()) {
		return "", errors.New("the control plane sent a key that is none")
	}
	if err := m.write(path, []byte(res.GetKey()+"\n")); err != nil {
		return "", fmt.Errorf("keep the repository's key: %w", err)
	}
	return res.GetKey(), nil
}

// dir is where a site's files are.
func (m *Manager) dir(h contract.Handle) string { return filepath.Join(m.cfg.Dir, h.String()) }

// write replaces a file that only root reads.
func (m *Manager) write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_, err := atomicfile.Write(path, text, 0o600, os.Getegid())
	return err
}
