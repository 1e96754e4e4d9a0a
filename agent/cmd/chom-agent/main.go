// Command chom-agent runs on every server: it dials the control plane, does
// what it is ordered to, and reports. See package task for what that is.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chom-agent:", err)
		os.Exit(exitCode(err))
	}
}

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

func exitCode(err error) int {
	var c coded
	if errors.As(err, &c) {
		return c.code
	}
	return 1
}
