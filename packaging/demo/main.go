// Command demo shows CHOM on this machine: it boots a VPS, starts a control
// plane, enrols the VPS by the line that a customer would paste, and creates
// a WordPress site on it. Everything it starts is recorded under .demo/, so that
// "demo down" removes it again.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: demo up|down")
	}
	tree, err := os.Getwd()
	if err != nil {
		return err
	}
	d := demo{
		state: filepath.Join(tree, ".demo"),
		bin:   filepath.Join(tree, "bin"),
		dist:  filepath.Join(tree, "dist"),
		say:   newTeller(os.Stdout),
	}
	switch args[0] {
	case "up":
		return d.up(ctx)
	case "down":
		return d.down(ctx)
	case "mirror": // the process that up leaves behind
		return d.mirror(ctx)
	}
	return fmt.Errorf("there is no %q: use up or down", args[0])
}
