package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/agent/fail"
)

// TestKill kills the agent by SIGKILL at every point of an order's life. The
// next process must bring the order to its end, without having accepted it
// twice.
func TestKill(t *testing.T) {
	if err := os.MkdirAll(filepath.Dir(fail.File), 0o700); err != nil {
		t.Fatal(err)
	}
	killable := filepath.Join(t.TempDir(), "chom-agent")
	build := exec.Command("go", "build", "-tags", "failpoint", "-o", killable, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with failpoints: %v: %s", err, out)
	}
	for _, point := range []string{
		"task/noop/accept/before", "task/noop/accept/after",
		"task/noop/noop-1/before", "task/noop/noop-1/after",
		"task/noop/noop-2/before", "task/noop/noop-2/after",
		"task/noop/noop-3/before", "task/noop/noop-3/after",
		"task/noop/result/before", "task/noop/result/after",
	} {
		t.Run(point, func(t *testing.T) {
			p := install(t)
			p.program = killable
			p.enrol().start()
			p.until("it connects", func() bool { return p.hellos() > 0 })
			if err := os.WriteFile(fail.File, []byte(point), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(fail.File) })
			o := noop(3, 10*time.Millisecond)
			p.server.Offer(p.id, o)
			p.died(10 * time.Second)
			p.start()
			if point == "task/noop/accept/before" {
				p.server.Offer(p.id, o) // nobody has it: it is offered again
			}
			p.succeeds(o)
		})
	}
}
