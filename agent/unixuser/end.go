package unixuser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// endWithin bounds the killing: SIGKILL works at once but on a process that is
// stuck in the kernel, and a fork bomb needs a few rounds.
const endWithin = 10 * time.Second

// End kills every process of a site's user, wherever it runs, and returns when
// none is left. Ending the site's slice first is the caller's: this is for
// what somebody started outside of it, a login or an administrator's "su",
// which would write behind the back of a removal and keep the user from going.
func End(ctx context.Context, uid int) error {
	if uid < MinUID {
		return fmt.Errorf("end processes: id %d is not for sites", uid)
	}
	ctx, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	for {
		left, err := kill(uid)
		if err != nil {
			return fmt.Errorf("end processes of user %d: %w", uid, err)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end processes of user %d: %d are left: %w", uid, left, ctx.Err())
		case <-time.After(5 * time.Millisecond): // they need a moment to go
		}
	}
}

// kill sends SIGKILL to the user's processes and says how many it found.
func kill(uid int) (found int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // not a process
		}
		// The handle comes first: should the number get a new owner before the
		// look below, the handle still stands for the old one, which is gone.
		p, err := os.FindProcess(pid)
		if err != nil {
			continue // gone
		}
		status, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err == nil && belongs(status, uid) {
			found++
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return found, err
			}
		}
		_ = p.Release() // a handle only
	}
	return found, nil
}

// belongs reads /proc/PID/status: whether one of the process's user ids is the
// wanted one, and it still lives. A zombie only waits for its parent.
func belongs(status []byte, uid int) bool {
	want, ours := []byte(strconv.Itoa(uid)), false
	for line := range bytes.Lines(status) {
		if state, found := bytes.CutPrefix(line, []byte("State:")); found && bytes.HasPrefix(bytes.TrimSpace(state), []byte("Z")) {
			return false
		}
		if ids, found := bytes.CutPrefix(line, []byte("Uid:")); found {
			ours = slices.ContainsFunc(bytes.Fields(ids), func(id []byte) bool { return bytes.Equal(id, want) })
		}
	}
	return ours
}
