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
	trail := &cobra.Command{Use: "audit", Short: "The history of who did what", Args: noArguments, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	trail.AddCommand(configured("verify", "Check that no audit event was changed, taken out or cut off",
		`Verify reads all events and names, for each organization whose history is not as it was recorded, the first event that
is wrong; it then exits with 1. It needs the key in DATA-DIR/pki and compares with DATA-DIR/audit-heads, in which
chomd serve writes down every minute how far each history goes. It can run beside chomd serve.

An older database that was put in place on purpose, such as a backup, lacks events that audit-heads knows of: move that
file away then, and chomd serve begins another.`,
		func(ctx context.Context, c config) error { return verifyAudit(ctx, c, out) }))
	sealed := &cobra.Command{Use: "secrets", Short: "The secrets in the database, and their keys", Args: noArguments, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	sealed.AddCommand(
		configured("rotate", "Replace the key that seals secrets by a new one",
			`Rotate adds a key to the file and seals every secret in the database anew with it, while chomd serve runs: that one
notices the new key by itself. It goes on with a rotation that did not come to its end. The former key stays in the file until
chomd secrets prune-keys removes it. Copy the file to where its copies lie.

Where several chomd serve share a database, each with a copy of the file: run prepare-key, copy the file to all of
them, run rotate, and copy the file once more. Where the keys come from systemd's credentials or from a command, add the
new key there, restart chomd serve, and run rotate: it makes none then.`,
			func(ctx context.Context, c config) error { return rotateSecrets(ctx, c, out, c.logger(errw)) }),
		configured("prepare-key", "Add a key that seals nothing yet", "Prepare-key adds a key to the file that opens secrets, but seals none until rotate is run.",
			func(ctx context.Context, c config) error { return prepareKey(ctx, c, out, c.logger(errw)) }),
		configured("check", "Open every secret in the database", "Check says how many secrets each key has sealed, and exits with 1 if there is one that does not open.",
			func(ctx context.Context, c config) error { return checkSecrets(ctx, c, out, c.logger(errw)) }),
		configured("prune-keys", "Remove the keys that seal nothing any more",
			`Prune-keys opens every secret in the database, and removes from the file all keys but the newest if none is needed.
Run it ten minutes after rotate or later. Older backups of the database cannot be opened without the keys that it
removes: keep a copy of the file with each.`,
			func(ctx context.Context, c config) error { return pruneKeys(ctx, c, out, c.logger(errw)) }),
	)
	root.AddCommand(
		configured("serve", "Run the control plane",
			`Serve brings the database to this release's schema, opens the people's and the agents' listener and works
until it is told to stop (SIGTERM or SIGINT); then it tells the agents to come back and ends within 5 seconds.

At its first start it prints a one-time secret with which chom login makes the first operator.
`+issuersHelp,
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
		trail,
		sealed,
		keysCommand(configured, out),
		mailCommand(out),
	)
	root.AddCommand(backupCommands(configured, out, errw)...)
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

func (c *config) pkiDir() string    { return filepath.Join(c.DataDir, "pki") }
func (c *config) headsFile() string { return filepath.Join(c.DataDir, "audit-heads") }

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
