package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand writes the manual pages that the package brings along.
func (p *program) manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:    "gen-man DIR",
		Short:  "Write a manual page for each command into a folder",
		Hidden: true,
		Args:   exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			root.DisableAutoGenTag = true // the same sources make the same pages
			return doc.GenManTree(root, &doc.GenManHeader{Title: "CHOM", Section: "1", Source: "CHOM " + version, Manual: "CHOM"}, args[0])
		},
	}
}
