package main

import (
	"context"

	"github.com/spf13/cobra"

	"chom.dev/agent/task"
	"chom.dev/agent/telemetry"
)

// sitesDir holds all sites of the host.
const sitesDir = "/srv/chom/sites"

// handlers says who does which kind of order. A kind that is missing here is
// refused.
func handlers() map[task.Kind]task.Handler {
	return map[task.Kind]task.Handler{
		task.Noop: task.NoopHandler(),
	}
}

// software probes what the host has for sites.
func software(context.Context) telemetry.Software { return telemetry.Software{} }

// hiddenCommands are verbs that only the agent itself calls.
func hiddenCommands() []*cobra.Command { return nil }
