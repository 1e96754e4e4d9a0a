package unixuser

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// start runs a shell line as a user id in a session of its own.
func start(t *testing.T, uid uint32, line string) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: the claims are about owners")
	}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // the test may have ended it
		_ = cmd.Wait()
	})
	return cmd
}

func TestEnd(t *testing.T) {
	const uid = 23457
	t.Run("ends processes that start themselves again, and nobody else's", func(t *testing.T) {
		other := start(t, uid+1, "exec sleep 60")
		for range 3 {
			start(t, uid, "trap '' TERM HUP INT; while :; do (sleep 60 & sleep 60 & exit) & sleep 0.01; done")
		}
		time.Sleep(100 * time.Millisecond) // some generations
		if err := End(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
		if left, err := kill(uid); err != nil || left != 0 {
			t.Errorf("%d are left, %v", left, err)
		}
		if err := other.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("another user's process: %v", err)
		}
	})
	t.Run("a user without processes is fine", func(t *testing.T) {
		if err := End(t.Context(), uid+2); err != nil {
			t.Error(err)
		}
	})
	t.Run("a zombie doesn't count, it only waits for its parent", func(t *testing.T) {
		if belongs([]byte("Name:\tsh\nState:\tZ (zombie)\nUid:\t23457\t23457\t23457\t23457\n"), uid) {
			t.Error("it does")
		}
	})
	t.Run("one that changed its user counts by any of its ids", func(t *testing.T) {
		for ids, want := range map[string]bool{"0\t0\t23457\t0": true, "23457\t1\t1\t1": true, "1\t123457\t234570\t0": false} {
			if got := belongs([]byte("State:\tS (sleeping)\nUid:\t"+ids+"\n"), uid); got != want {
				t.Errorf("%q: %v", ids, got)
			}
		}
	})
	t.Run("never touches what is not a site's", func(t *testing.T) {
		for _, id := range []int{-1, 0, 33, 1000, MinUID - 1} {
			if err := End(t.Context(), id); err == nil {
				t.Errorf("id %d passed", id)
			}
		}
	})
}
