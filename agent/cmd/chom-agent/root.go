package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// root is the command with all its verbs.
func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "chom-agent",
		Short:         "Agent of the CHOM fleet manager",
		SilenceUsage:  true,
		SilenceErrors: true, // main prints them
		Args:          cobra.NoArgs,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	flags := cmd.PersistentFlags()
	flags.String("config", defaultConfigFile, "configuration file")
	for _, s := range settings {
		flags.String(s.flag(), "", fmt.Sprintf("%s (default %q)", s.usage, s.value))
	}
	cmd.AddCommand(runCommand(), enrollCommand(), statusCommand(), resetCommand(), versionCommand())
	cmd.AddCommand(hiddenCommands()...)
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the agent's version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "chom-agent %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
