package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Every container runs in a cgroup of its own: two of them started from one
// cgroup would share it, and with it any limit; and whatever a container leaves
// running can be killed as a whole.

// cgroupRoot is where the machine mounts cgroup v2, alone or beside v1.
func cgroupRoot() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if sep := slices.Index(fields, "-"); sep > 4 && len(fields) > sep+1 && fields[sep+1] == "cgroup2" {
			return fields[4], nil
		}
	}
	return "", errors.New("cgroup v2 is not mounted on this machine")
}

// createCgroup makes the named cgroup anew and opens it for starting a process in it.
func createCgroup(ctx context.Context, name string) (*os.File, error) {
	if err := removeCgroup(ctx, name); err != nil {
		return nil, err
	}
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// removeCgroup kills all that runs in the named cgroup and removes it; an
// absent one is no error.
func removeCgroup(ctx context.Context, name string) error {
	root, err := cgroupRoot()
	if err != nil {
		return err
	}
	path := filepath.Join(root, name)
	err = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // killed processes leave within milliseconds
	defer cancel()
	var last error
	err = poll(ctx, 20*time.Millisecond, func() (bool, error) {
		last = removeEmptyCgroups(path)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("remove cgroup %s: %w", name, errors.Join(err, last))
	}
	return nil
}

// removeEmptyCgroups removes a tree of cgroups from the leaves up.
func removeEmptyCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeEmptyCgroups(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}
