// Chom is the command line of CHOM: a client of the public API like any other.
//
// Results go to standard output, progress and errors to standard error. Exit codes are listed in exit.go.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
