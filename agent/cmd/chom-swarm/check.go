package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chom.dev/agent/swarm/ledger"
)

// errBroken says that a ledger breaks a rule.
var errBroken = errors.New("the ledger breaks its rules")

func checkCommand() *cobra.Command {
	var ledgerFile, succeededFile string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Prove from a ledger that the agents did right; exit code 3 when they did not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var succeeded []string
			if succeededFile != "" {
				var err error
				if succeeded, err = lines(succeededFile); err != nil {
					return err
				}
			}
			f, err := os.Open(ledgerFile)
			if err != nil {
				return fmt.Errorf("read ledger: %w", err)
			}
			defer f.Close() // only read from
			sum, findings, err := ledger.Check(f, succeeded)
			if err != nil {
				return err
			}
			for _, finding := range findings {
				fmt.Fprintln(cmd.OutOrStdout(), finding)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d lines, %d agents, %d kills, %d attempts (%d resumed), %d effects, %d succeeded: %d findings\n",
				sum.Lines, sum.Agents, sum.Kills, sum.Attempts, sum.Resumed, sum.Effects, sum.Succeeded, len(findings))
			if len(findings) > 0 {
				return errBroken
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&ledgerFile, "ledger", "", "the ledger")
	cmd.Flags().StringVar(&succeededFile, "succeeded", "", "ids of the tasks that the control plane calls succeeded, a line each; leaves the comparison out when missing")
	if err := cmd.MarkFlagRequired("ledger"); err != nil {
		panic(err) // a flag of that name is above
	}
	return cmd
}

// lines reads ids. A file without any gives an empty list, which is not the
// same as none: then nothing may have succeeded.
func lines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read succeeded tasks: %w", err)
	}
	defer f.Close() // only read from
	out := []string{}
	in := bufio.NewScanner(f)
	for in.Scan() {
		if id := strings.TrimSpace(in.Text()); id != "" {
			out = append(out, id)
		}
	}
	return out, in.Err()
}
