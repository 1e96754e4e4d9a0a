package host

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// socketDir is the one folder outside the site's tree where a plugin may make
// something: its socket. It is writable until the handshake and closed then.
//
//	/run/chom-plugin            root 0711
//	  <handle>                  root:s-<handle> 0710: entered, not listed
//	    <random>                root:s-<handle> 0770, after the handshake 0710
//	      plugin123456          the socket, made by the plugin
type socketDir struct {
	path   string
	uid    int
	socket *os.File // O_PATH, pins the socket that was checked
}

func makeSocketDir(runtimeDir string, user User) (*socketDir, error) {
	shared := filepath.Join(runtimeDir, user.Handle.String())
	own := filepath.Join(shared, rand.Text())
	for _, d := range []struct {
		path string
		mode fs.FileMode
		gid  int
	}{{runtimeDir, 0o711, 0}, {shared, 0o710, user.GID}, {own, 0o770, user.GID}} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make plugin's socket folder: %w", err)
		}
		// All three are root's, in root's folders: nobody can swap them.
		if err := os.Chown(d.path, 0, d.gid); err != nil {
			return nil, fmt.Errorf("make plugin's socket folder: %w", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // Mkdir's mode went through the umask
			return nil, fmt.Errorf("make plugin's socket folder: %w", err)
		}
	}
	return &socketDir{path: own, uid: user.UID}, nil
}

// socketName is how go-plugin names its socket.
var socketName = regexp.MustCompile(`^plugin[0-9]{1,20}$`)

// resolve turns the address that the plugin printed into one that leads to
// exactly the inode that is checked here: a socket, in the right folder, made
// by the site's user. A link that the user puts there later changes nothing.
func (d *socketDir) resolve(address string) (string, error) {
	if filepath.Dir(address) != d.path || !socketName.MatchString(filepath.Base(address)) {
		return "", errors.New("the plugin names a socket outside its folder")
	}
	fd, err := unix.Open(address, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open plugin's socket: %w", err)
	}
	d.socket = os.NewFile(uintptr(fd), address)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", fmt.Errorf("look at plugin's socket: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK || int(stat.Uid) != d.uid {
		return "", errors.New("what the plugin names is not a socket of the site's user")
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

// seal closes the folder to new entries.
func (d *socketDir) seal(logger *slog.Logger) {
	if err := os.Chmod(d.path, 0o710); err != nil {
		logger.Warn("plugin's socket folder stays writable", "dir", d.path, "err", err)
	}
}

// removeStale takes away what sessions of an agent that was killed left in
// runtimeDir: folders of sockets, and go-plugin's own. Their plugins have ended,
// or will in a moment: their standard input is closed.
func removeStale(runtimeDir string, logger *slog.Logger) {
	entries, err := os.ReadDir(runtimeDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logger.Warn("folders of former plugins could not be removed", "dir", runtimeDir, "err", err)
	}
	for _, e := range entries {
		path := filepath.Join(runtimeDir, e.Name())
		sessions, err := os.ReadDir(path)
		if err != nil {
			logger.Warn("folder of a former plugin could not be removed", "dir", path, "err", err)
			continue
		}
		for _, s := range sessions { // removing the last one removes the site's too
			(&socketDir{path: filepath.Join(path, s.Name())}).remove(logger)
		}
		_ = unix.Rmdir(path) // where there was none, and for go-plugin's folder, which is flat and empty
	}
}

// remove takes away the folder, and what lies in it as far as it is flat. It
// never descends: root doesn't walk what a tenant may have built in the moment
// before the folder was sealed.
func (d *socketDir) remove(logger *slog.Logger) {
	if d.socket != nil {
		d.socket.Close()
	}
	d.seal(logger)
	dir, err := os.Open(d.path)
	if err != nil {
		logger.Warn("plugin's socket folder could not be removed", "dir", d.path, "err", err)
		return
	}
	defer dir.Close()
	const enough = 16 // an honest plugin leaves none
	// Whatever can't be read or removed here makes the Rmdir below fail, which
	// says all there is to say.
	names, _ := dir.Readdirnames(enough)
	for _, name := range names {
		_ = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err := unix.Rmdir(d.path); err != nil {
		logger.Warn("plugin's socket folder could not be removed", "dir", d.path, "err", err)
		return
	}
	// The folder of the site goes too unless another session needs it.
	_ = unix.Rmdir(filepath.Dir(d.path))
}
