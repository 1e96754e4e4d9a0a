package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// The two folders of a site's tree that its user may write. The tree itself
// belongs to root, so nobody can swap one of them for a link.
const (
	publicDir  = "public"  // what a document root is in or below
	privateDir = "private" // never served
)

// Public opens the folder for what visitors may reach. All work on files goes
// through such a root: names can't lead out of it.
func (s Site) Public() (*os.Root, error) { return os.OpenRoot(s.PublicPath()) }

// Private opens the folder for what visitors must never reach: staging, state,
// data of the application.
func (s Site) Private() (*os.Root, error) { return os.OpenRoot(s.PrivatePath()) }

// PublicPath is the absolute path behind Public, for programs that need one.
func (s Site) PublicPath() string { return filepath.Join(s.Tree, publicDir) }

// PrivatePath is the absolute path behind Private.
func (s Site) PrivatePath() string { return filepath.Join(s.Tree, privateDir) }

const (
	lockFile = ".chom-lock"
	// lockPause is how often a taken lock is tried again; who holds it is
	// usually a killed predecessor whose last breath takes milliseconds.
	lockPause = 20 * time.Millisecond
)

// Lock keeps a second process out of the site while it is being changed, until
// unlock is called or this process ends. It waits as long as the context
// allows: the lock may be held by a predecessor that is just being ended.
func (s Site) Lock(ctx context.Context) (unlock func(), err error) {
	private, err := s.Private()
	if err != nil {
		return nil, fmt.Errorf("lock site: %w", err)
	}
	defer private.Close()
	file, err := private.OpenFile(lockFile, os.O_CREATE|os.O_RDWR|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock site: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock site: %w", err)
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("lock site, which another process is changing: %w", ctx.Err())
		case <-time.After(lockPause):
		}
	}
}
