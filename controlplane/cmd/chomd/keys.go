package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"chom.dev/controlplane/pki"
)

// keysCommand replaces keys that may have leaked; configured makes a command that reads the configuration first.
func keysCommand(configured func(use, summary, details string, do func(context.Context, config) error) *cobra.Command, out io.Writer) *cobra.Command {
	keys := &cobra.Command{
		Use: "pki", Short: "The private certificate authority and the signer of orders", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	rotate := func(what func(*pki.Authority) error, done string) func(context.Context, config) error {
		return func(_ context.Context, c config) error {
			authority, err := pki.Open(c.pkiDir())
			if err != nil {
				return err
			}
			if err := what(authority); err != nil {
				return err
			}
			_, err = fmt.Fprintln(out, done)
			return err
		}
	}
	keys.AddCommand(
		configured("rotate", "Replace the current root by the next one",
			`Rotate is for a root whose key may have leaked. Agents learn the new pair when they next connect; those that
stay away for longer than 30 days must enrol anew. Restart chomd afterwards. It refuses to run twice in 30 days.
Who has read the roots' keys has most likely read the signer's as well: rotate both.`,
			rotate(func(a *pki.Authority) error { return a.Rotate(time.Now()) },
				"The roots are rotated. Restart chomd; join tokens that were made before do not work any more.")),
		configured("rotate-signer", "Replace the key that signs orders",
			`Rotate-signer is for a key that may have leaked. Restart chomd afterwards, all replicas at once with copies of the
new file. Agents learn the new key when they connect again, before their next order; what waits for them is done.`,
			rotate((*pki.Authority).RotateSigner, "The signer is rotated. Restart chomd.")),
	)
	return keys
}
