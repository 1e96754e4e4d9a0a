package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNiceSession runs itself in a session of its own, as another user.
func TestNiceSession(t *testing.T) {
	if os.Getenv("CHOM_TEST_SESSION") != "" {
		err := errors.Join(unix.Setpriority(unix.PRIO_PROCESS, 0, 19), NiceSession())
		text, read := os.ReadFile(sessionFile)
		fmt.Printf("session %s%v\n", text, errors.Join(err, read))
		return
	}
	if _, err := os.Stat(sessionFile); errors.Is(err, fs.ErrNotExist) {
		if err := NiceSession(); err != nil {
			t.Errorf("a kernel without it: %v", err)
		}
		return
	}
	program := t.TempDir() + "/session.test"
	self, err := os.ReadFile("/proc/self/exe")
	if err := errors.Join(err, os.WriteFile(program, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	for dir := program; dir != "/tmp"; dir = dir[:strings.LastIndexByte(dir, '/')] {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-test.run=^TestNiceSession$")
	cmd.Env, cmd.Dir = []string{"CHOM_TEST_SESSION=1"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " nice 19\n<nil>\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
