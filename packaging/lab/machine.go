package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// searchPath is where programs are looked for, on the machine and in guests.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tools are the programs the lab runs on the machine, and the packages that hold them.
var tools = map[string]string{
	"/usr/sbin/debootstrap":   "debootstrap",
	"/usr/bin/systemd-nspawn": "systemd-container",
	"/usr/sbin/nft":           "nftables",
	"/sbin/ip":                "iproute2",
	"/usr/bin/nsenter":        "util-linux",
	"/usr/bin/cp":             "coreutils",
	"/usr/bin/dpkg-deb":       "dpkg",
}

// machineFit says why no lab can run here, or nil.
func machineFit() error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root: it makes bridges, mounts and namespaces")
	}
	var errs []error
	for path, pkg := range tools {
		if _, err := os.Stat(path); err != nil {
			errs = append(errs, fmt.Errorf("%s is missing: apt-get install %s, or run packaging/setup/deps.sh", path, pkg))
		}
	}
	return errors.Join(errs...)
}

// environment is all that a program started by the lab inherits.
func environment(extra ...string) []string {
	return append([]string{"PATH=" + searchPath, "LANG=C.UTF-8", "HOME=/root"}, extra...)
}

// onMachine runs a program on the machine and returns its standard output. A
// failure carries the program's own words.
func onMachine(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	cmd := command(ctx, argv...)
	cmd.Stdin = stdin
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLines(errOut.String(), 10))
	}
	return out.Bytes(), nil
}

// logged runs a long program on the machine with all its output in the log file.
func logged(ctx context.Context, logPath string, argv ...string) error {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "== %s\n", strings.Join(argv, " "))
	cmd := command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(logPath) // only decorates the error below
		return fmt.Errorf("%s: %w; the end of %s:\n%s", argv[0], err, logPath, lastLines(string(said), 15))
	}
	return nil
}

// command prepares a program that dies with its children when ctx ends.
func command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		if errors.Is(err, unix.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipes open
	return cmd
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
