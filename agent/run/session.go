package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sessionFile is where the kernel is told how nice a session is; see "The autogroup
// feature" of sched(7).
const sessionFile = "/proc/self/autogroup"

// NiceSession makes our session as nice as we are. On a host without cgroups for
// processor time, as a VPS that is a container may be, the kernel shares it among
// sessions: whatever is nice within its own yields to nobody outside of it. To be
// called by a program that is a unit of its own, whose session nobody else is in.
func NiceSession() error {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return fmt.Errorf("read how nice we are: %w", err)
	}
	nice := strconv.Itoa(20 - raw) // as the system call has it
	for range 20 {
		err = os.WriteFile(sessionFile, []byte(nice), 0)
		if !errors.Is(err, unix.EAGAIN) { // one session of all users in a tenth of a second
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // of a kernel that shares by something else
		return fmt.Errorf("make the session as nice as we are: %w", err)
	}
	return nil
}
