package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"chom.dev/agent/swarm"
)

// powerCuts kills all agents at each SIGUSR1.
func powerCuts(ctx context.Context, s *swarm.Swarm) error {
	cuts := make(chan os.Signal, 1)
	signal.Notify(cuts, syscall.SIGUSR1)
	defer signal.Stop(cuts)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cuts:
			s.KillAll()
		}
	}
}
