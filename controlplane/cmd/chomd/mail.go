package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	notices "chom.dev/controlplane/notify"
)

// mailCommand shows what people are sent.
func mailCommand(out io.Writer) *cobra.Command {
	mails := &cobra.Command{
		Use: "mail", Short: "The mails that people are sent", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var html, text bool
	var publicURL string
	preview := &cobra.Command{
		Use:   "preview NAME",
		Short: "Print a mail with sample values",
		Long: `Preview prints a mail as people would get it, with sample values; it needs neither a configuration nor a database.
NAME is one of
  ` + strings.Join(notices.Templates(), "\n  "),
		Example: `  chomd mail preview invitation
  chomd mail preview invitation --html > invitation.html`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return wrongConfig{"chomd mail preview takes the name of one mail: " + strings.Join(notices.Templates(), ", ")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if html && text {
				return wrongConfig{"--html and --text exclude each other"}
			}
			shown, err := notices.Preview(args[0], publicURL, html)
			if err != nil {
				return wrongConfig{err.Error()}
			}
			_, err = fmt.Fprint(out, shown)
			return err
		},
	}
	preview.Flags().BoolVar(&html, "html", false, "print the part in HTML")
	preview.Flags().BoolVar(&text, "text", false, "print the subject and the part in plain text (the default)")
	preview.Flags().StringVar(&publicURL, "public-url", "https://chom.example.com", "URL that the links in it begin with")
	mails.AddCommand(preview)
	return mails
}
