package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"chom.dev/plugins/sdk"
)

// publish moves the staged entries into the document root and then removes the
// staging. Called again after a kill it moves what is left. Nothing that is
// already in the document root is replaced.
func publish(private, tree, public *os.Root) error {
	names, err := list(tree)
	if err != nil {
		return err
	}
	from, err := tree.Open(".")
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer from.Close()
	to, err := public.Open(".")
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer to.Close()
	for _, name := range inOrder(names) {
		err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), name, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			return sdk.Permanent(fmt.Errorf("publish: the document root already holds %q", name))
		}
		if err != nil {
			return fmt.Errorf("publish %s: %w", name, err)
		}
	}
	// The new names must be on the disk before the staging's end says so.
	if err := to.Sync(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := private.RemoveAll(stagingDir); err != nil {
		return fmt.Errorf("remove staging: %w", err)
	}
	return nil
}

// inOrder puts the configuration first, so that no published file ever finds
// itself unconfigured, and the front page last.
func inOrder(names []string) []string {
	const first, last = configFile, "index.php"
	names = slices.Sorted(slices.Values(names))
	rank := func(name string) int {
		switch name {
		case first:
			return 0
		case last:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	return names
}
