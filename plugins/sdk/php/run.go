// Package php runs an embedded PHP script with php-cli as the user of this
// process. It is the only place in a plugin that starts a program.
//
// The script is handed over as an anonymous file, its input as JSON on stdin,
// its answer comes back as JSON on a descriptor of its own: nothing of it
// appears among the arguments, in the environment or in the tree, and whatever
// an application prints while it loads can't be taken for the answer.
//
// The script sees the functions chom_input() and chom_output($value). It runs
// together with the customer's code when it loads the application, so its
// answer is as trustworthy as the customer.
package php

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxAnswer bounds the JSON that a script sends back.
	maxAnswer = 1 << 20
	// maxNoise is how much of what PHP prints is kept for an error text: its
	// end, where the fatal error stands.
	maxNoise = 2000
	// killGrace is how long a killed process's pipes are waited for.
	killGrace = 2 * time.Second
)

// Call is one run of a script.
type Call struct {
	Binary string        // absolute path of php-cli
	Dir    string        // absolute working directory
	Script string        // PHP source, beginning with its opening tag
	Input  any           // what chom_input() returns, by way of JSON
	Output any           // pointer for what chom_output() was given; nil to ignore it
	Limit  time.Duration // wall time; the context may end it sooner
}

// prelude follows the opening tag of every script, on the same line so that
// PHP's line numbers are the script's.
const (
	openingTag = "<?php"
	prelude    = ` ` +
		`function chom_input() { static $in = null; return $in ??= json_decode(stream_get_contents(STDIN), true, 64, JSON_THROW_ON_ERROR); } ` +
		`function chom_output($value) { $out = fopen('php://fd/4', 'w'); fwrite($out, json_encode($value, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE)); fclose($out); } `
)

// Run runs the script to its end. An error carries the end of what PHP
// printed. Every process that the script started and that stayed in its group
// is ended too.
func (c Call) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Limit, fmt.Errorf("php ran longer than %v", c.Limit))
	defer cancel()
	input, err := json.Marshal(c.Input)
	if err != nil {
		return fmt.Errorf("run php: encode input: %w", err)
	}
	body, tagged := strings.CutPrefix(c.Script, openingTag)
	if !tagged {
		return errors.New("run php: the script lacks its opening tag")
	}
	script, err := anonymousFile(openingTag + prelude + body)
	if err != nil {
		return fmt.Errorf("run php: %w", err)
	}
	defer script.Close()
	answer, noise, err := c.exec(ctx, input, script)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if noise != "" {
			return fmt.Errorf("run php: %w: %s", err, noise)
		}
		return fmt.Errorf("run php: %w", err)
	}
	if c.Output == nil {
		return nil
	}
	if len(answer) == 0 {
		return fmt.Errorf("run php: the script ended without an answer: %s", noise)
	}
	if err := json.Unmarshal(answer, c.Output); err != nil {
		return fmt.Errorf("run php: read answer: %w", err)
	}
	return nil
}

func (c Call) exec(ctx context.Context, input []byte, script *os.File) (answer []byte, noise string, err error) {
	answerRead, answerWrite, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	defer answerRead.Close()
	defer answerWrite.Close()

	var printed tail
	cmd := exec.CommandContext(ctx, c.Binary, c.arguments()...)
	cmd.Dir = c.Dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"}
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = &printed, &printed
	cmd.ExtraFiles = []*os.File{script, answerWrite} // descriptors 3 and 4
	cmd.WaitDelay = killGrace
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	// Pdeathsig fires when the starting thread ends, not the process: keep it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	answerWrite.Close()
	type result struct {
		answer []byte
		err    error
	}
	read := make(chan result, 1)
	go func() {
		answer, err := io.ReadAll(io.LimitReader(answerRead, maxAnswer+1))
		if err == nil && len(answer) > maxAnswer {
			err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
		}
		read <- result{answer, err}
	}()
	err = cmd.Wait()
	// What the script left running in its group goes with it; usually nothing
	// is left and the group is gone.
	if killErr := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); killErr != nil && !errors.Is(killErr, syscall.ESRCH) && err == nil {
		err = killErr
	}
	// A process that left the group may still hold the pipe: don't wait for it.
	if deadlineErr := answerRead.SetReadDeadline(time.Now().Add(killGrace)); deadlineErr != nil && err == nil {
		err = deadlineErr
	}
	got := <-read
	return got.answer, printed.String(), errors.Join(err, got.err)
}

func (c Call) arguments() []string {
	settings := []string{
		"display_errors=1", // to stdout, kept for the error text
		"html_errors=0",
		"log_errors=0",
		"error_reporting=" + strconv.Itoa(errorsWorthTelling),
		"memory_limit=256M",
		"max_execution_time=" + strconv.Itoa(int(c.Limit.Seconds())+1),
		"auto_prepend_file=",
		"auto_append_file=",
		"opcache.enable_cli=0",
	}
	var args []string
	for _, s := range settings {
		args = append(args, "-d", s)
	}
	return append(args, "-f", "/proc/self/fd/3")
}

// errorsWorthTelling is E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR |
// E_RECOVERABLE_ERROR | E_USER_ERROR: what ends a script.
const errorsWorthTelling = 1 | 4 | 16 | 64 | 4096 | 256

// anonymousFile holds the source in memory, without a name that anyone could
// reach before PHP does.
func anonymousFile(source string) (*os.File, error) {
	fd, err := unix.MemfdCreate("chom-script", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make anonymous file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "chom-script")
	if _, err := f.WriteString(source); err != nil {
		f.Close()
		return nil, fmt.Errorf("fill anonymous file: %w", err)
	}
	return f, nil
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-maxNoise):]...)
	if extra := len(t.kept) - maxNoise; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.kept)) }
