package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"chom.dev/controlplane/db"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // command line or configuration
)

// run parses the arguments, does what they say and returns the exit code.
func run(ctx context.Context, args []string, out, errw io.Writer) int {
	root := &cobra.Command{
		Use:   "chomd",
		Short: "The control plane of CHOM",
		Long: `chomd is the control plane of CHOM: it decides which website lies on which server, gives orders to the agents
there, and answers people and their tools.

Configuration comes from flags, then the environment (CHOMD_ and the flag's name in capitals, for example
CHOMD_DATA_DIR), then a file in YAML whose keys are the flags' names (--config). Unknown keys are refused.`,
		Example: `  chomd serve --data-dir /var/lib/chomd --packages-dir /usr/share/chomd/packages \
      --people-listen 0.0.0.0:443 --people-cert cert.pem --people-key key.pem --public-url https://chom.example.com
  chomd validate --config /etc/chomd/config.yaml`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errw)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return wrongConfig{err.Error()} })
	root.CompletionOptions.HiddenDefaultCmd = true
	configured := func(use, summary, details string, do func(context.Context, config) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: summary, Long: details, Args: noArguments}
		configFlags(cmd.Flags())
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd.Flags(), os.Environ())
			if err != nil {
				return err
			}
			return do(cmd.Context(), c)
		}
		return cmd
	}
	root.AddCommand(
		configured("serve", "Run the control plane",
			`Serve brings the database to this release's schema, opens the people's and the agents' listener and works
until it is told to stop (SIGTERM or SIGINT); then it tells the agents to come back and ends within 5 seconds.

At its first start it prints a one-time secret with which chom login makes the first operator.`,
			func(ctx context.Context, c config) error { return serve(ctx, c, c.logger(errw), out) }),
		configured("migrate", "Bring the database to this release's schema", "Migrate only goes forward, and refuses a database that a newer release has changed.",
			func(ctx context.Context, c config) error {
				if err := c.makeDataDir(); err != nil {
					return err
				}
				d, err := db.Open(ctx, c.Database, db.WithLogger(c.logger(errw)))
				if err != nil {
					return err
				}
				defer d.Close() //nolint:errcheck // the migration's own error counts
				if err := db.Migrate(ctx, d); err != nil {
					return err
				}
				have, _, err := db.Version(ctx, d)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, "The database has schema version %d.\n", have)
				return err
			}),
		configured("validate", "Check the configuration", "Validate reads the configuration as serve would, and names every key that breaks a rule.",
			func(context.Context, config) error {
				_, err := fmt.Fprintln(out, "The configuration is valid.")
				return err
			}),
		&cobra.Command{Use: "version", Short: "Print the version", Args: noArguments, RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(out, "chomd", version)
			return err
		}},
		keysCommand(configured, out),
	)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(errw, "chomd:", err)
	var wrong wrongConfig
	if errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailed
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return wrongConfig{fmt.Sprintf("%s takes no argument", cmd.CommandPath())}
	}
	return nil
}

func (c *config) pkiDir() string { return filepath.Join(c.DataDir, "pki") }

// makeDataDir makes the folder of all secrets, for this process's user only.
func (c *config) makeDataDir() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chmod(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("keep others out of the data directory: %w", err)
	}
	return nil
}
