// Command chom-swarm loads a control plane with thousands of simulated agents
// and proves from their ledger that no task was lost, doubled or reordered.
// See package swarm for what is real in it and what is not.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chom-swarm:", err)
		if errors.Is(err, errBroken) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "chom-swarm",
		Short:         "Thousands of simulated agents, and the proof that they did right",
		SilenceUsage:  true,
		SilenceErrors: true, // main prints them
		Args:          cobra.NoArgs,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(runCommand(), checkCommand())
	return cmd
}
