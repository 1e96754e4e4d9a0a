package php

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func call(t *testing.T, script string, in, out any) error {
	t.Helper()
	return Call{
		Binary: "/usr/bin/php",
		Dir:    t.TempDir(),
		Script: "<?php\n" + script,
		Input:  in,
		Output: out,
		Limit:  20 * time.Second,
	}.Run(t.Context())
}

func TestRun(t *testing.T) {
	t.Run("carries any text in and out unchanged", func(t *testing.T) {
		for _, text := range []string{"", "plain", "\x00\n'\"\\<?php ?>", "Café \u2028", strings.Repeat("x", 1<<19)} {
			var out struct{ Text string }
			if err := call(t, `chom_output(['text' => chom_input()['text']]);`, map[string]string{"text": text}, &out); err != nil || out.Text != text {
				t.Errorf("%.20q came back as %.20q, %v", text, out.Text, err)
			}
		}
	})
	t.Run("does not mistake what is printed for the answer", func(t *testing.T) {
		var out struct{ A int }
		if err := call(t, `echo '{"a":1}'; fwrite(STDERR, '{"a":2}'); chom_output(['a' => 3]); echo 'x';`, nil, &out); err != nil || out.A != 3 {
			t.Errorf("a = %d, %v", out.A, err)
		}
	})
	t.Run("shows nothing of the input in arguments or environment", func(t *testing.T) {
		var out struct{ Seen string }
		script := `chom_input(); chom_output(['seen' => file_get_contents('/proc/self/cmdline') . file_get_contents('/proc/self/environ')]);`
		if err := call(t, script, "canary-8c1f", &out); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.Seen, "canary") || strings.Contains(out.Seen, "HOME") {
			t.Errorf("seen: %q", out.Seen)
		}
	})
	t.Run("tells what PHP said and at which line", func(t *testing.T) {
		err := call(t, "\n\nthrow new Exception('the reason');", nil, nil)
		if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), ":4") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("keeps only the end of endless output", func(t *testing.T) {
		err := call(t, `for ($i = 0; $i < 100000; $i++) echo "line $i\n"; exit(3);`, nil, nil)
		if err == nil || len(err.Error()) > 2*maxNoise || !strings.Contains(err.Error(), "line 99999") {
			t.Errorf("%d bytes of error", len(err.Error()))
		}
	})
	t.Run("refuses an answer that is too long, missing or no JSON", func(t *testing.T) {
		var out any
		for _, script := range []string{
			`chom_output(str_repeat('x', ` + strconv.Itoa(maxAnswer) + `));`,
			``,
			`$f = fopen('php://fd/4', 'w'); fwrite($f, '{');`,
		} {
			if err := call(t, script, nil, &out); err == nil {
				t.Errorf("%q: accepted %.20v", script, out)
			}
		}
	})
	t.Run("refuses a script without its tag", func(t *testing.T) {
		if err := (Call{Binary: "/usr/bin/php", Dir: "/", Script: "echo 1;", Limit: time.Second}).Run(t.Context()); err == nil {
			t.Error("accepted")
		}
	})
}

func TestRunEnds(t *testing.T) {
	t.Run("at its limit", func(t *testing.T) {
		began := time.Now()
		err := Call{Binary: "/usr/bin/php", Dir: "/", Script: "<?php while (true) sleep(1);", Limit: 300 * time.Millisecond}.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "longer than 300ms") || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
	t.Run("with its caller, children included", func(t *testing.T) {
		pids := filepath.Join(t.TempDir(), "pids")
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for {
				if content, err := os.ReadFile(pids); err == nil && strings.HasSuffix(string(content), "\n") {
					cancel()
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		script := `<?php $p = proc_open(['/bin/sleep', '1000'], [], $pipes);
			file_put_contents(chom_input(), getmypid() . ' ' . proc_get_status($p)['pid'] . "\n"); sleep(1000);`
		err := Call{Binary: "/usr/bin/php", Dir: "/", Script: script, Input: pids, Limit: time.Minute}.Run(ctx)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("err = %v", err)
		}
		content, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(content)) {
			if !gone(t, pid) {
				t.Errorf("process %s lives on", pid)
			}
		}
	})
}

// gone waits a moment for a killed process to disappear.
func gone(t *testing.T, pid string) bool {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if errors.Is(syscall.Kill(n, 0), syscall.ESRCH) || err != nil || strings.Contains(string(stat), ") Z ") {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
