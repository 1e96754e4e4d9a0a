package child

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is the parent that TestParentKilled kills.
func TestMain(m *testing.M) {
	if os.Getenv("CHILD_PARENT") == "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/usr/bin/sleep", "60")
	ended, err := Start(cmd, syscall.SIGKILL)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(strconv.Itoa(cmd.Process.Pid) + "\n")
	<-ended
}

func TestParentKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "CHILD_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	stat := "/proc/" + strings.TrimSpace(line) + "/stat"
	if before, err := os.ReadFile(stat); err != nil || strings.Contains(string(before), ") Z ") {
		t.Fatalf("it does not run: %s, %v", before, err)
	}
	time.Sleep(100 * time.Millisecond) // threads of a runtime that has nothing to do come and go
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		after, err := os.ReadFile(stat)
		if err != nil || strings.Contains(string(after), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it outlives its parent: %s", after)
		}
	}
}

func TestEnded(t *testing.T) {
	ended, err := Start(exec.Command("/usr/bin/true"), syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the end was not told")
	}
	if _, err := Start(exec.Command("/nowhere"), syscall.SIGKILL); err == nil {
		t.Error("what is not there was started")
	}
}
