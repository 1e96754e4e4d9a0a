package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/telemetry"
)

// maxTokenFile bounds what is read in search of a token.
const maxTokenFile = 4 << 10

func enrollCommand() *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Give this host an identity, with a join token from a file or standard input",
		Long: `Give this host an identity, with a join token from a file or standard input.

After a failure it can be repeated with the same token on the same host, until the token expires.
A host that is enrolled already stays what it is.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, os.Environ())
			if err != nil {
				return err
			}
			return enroll(cmd, cfg, tokenFile)
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "-", `file that holds the token, "-" for standard input`)
	return cmd
}

func enroll(cmd *cobra.Command, cfg *config, tokenFile string) error {
	store, err := identity.NewStore(cfg.identityDir())
	if err != nil {
		return err
	}
	if id, err := store.Current(); err == nil {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "this host is server %s already; the token was not used\n", id.Server)
		return err
	} else if !errors.Is(err, identity.ErrNone) {
		return err
	}
	if cfg.Server == "" {
		return errors.New("no server is configured: give --server host:port")
	}
	token, err := readToken(cmd.InOrStdin(), tokenFile)
	if err != nil {
		return err
	}
	log := cfg.logger(cmd.ErrOrStderr())
	facts := telemetry.NewHost(version, sitesDir, nil, log).Facts(cmd.Context())
	id, err := link.Enroll(cmd.Context(), store, cfg.Server, token, facts, log)
	if err != nil {
		return err
	}
	if err := keepServer(cfg); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "this host is server %s now\n", id.Server)
	return err
}

func readToken(stdin io.Reader, file string) (identity.Token, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return identity.Token{}, fmt.Errorf("read token: %w", err)
		}
		defer f.Close() // only read from
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxTokenFile))
	if err != nil {
		return identity.Token{}, fmt.Errorf("read token: %w", err)
	}
	return identity.ParseToken(string(text))
}

// keepServer writes the address into the configuration, if there is none yet:
// "run" needs it.
func keepServer(cfg *config) error {
	if _, err := os.Stat(cfg.file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(cfg.file), 0o755); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(cfg.file, []byte("server: "+cfg.Server+"\n"), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func resetCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset-identity",
		Short: "Forget who this host is, so that it can be enrolled as another server",
		Long: `Forget who this host is, so that it can be enrolled as another server.

The agent must be stopped. The journal is put aside; sites on this host are neither touched nor known any more.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, os.Environ())
			if err != nil {
				return err
			}
			if !yes {
				if err := ask(cmd); err != nil {
					return err
				}
			}
			return reset(cmd.OutOrStdout(), cfg)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return cmd
}

func ask(cmd *cobra.Command) error {
	fmt.Fprint(cmd.ErrOrStderr(), "This host will stop being the server it is, for good. Type yes to go on: ")
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func reset(out io.Writer, cfg *config) error {
	aside, err := journal.Retire(cfg.journalFile())
	if errors.Is(err, journal.ErrInUse) {
		return errors.New("the agent runs; stop it first: systemctl stop chom-agent")
	}
	if err != nil {
		return err
	}
	store, err := identity.NewStore(cfg.identityDir())
	if err != nil {
		return err
	}
	if err := store.Reset(); err != nil {
		return err
	}
	if aside != "" {
		fmt.Fprintln(out, "the former journal is kept in", aside)
	}
	_, err = fmt.Fprintln(out, "this host has no identity now")
	return err
}
