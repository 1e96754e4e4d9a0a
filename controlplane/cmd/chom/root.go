package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// program is one run of the command: where it reads and writes, and what its global flags say.
type program struct {
	in       io.Reader
	out, err io.Writer

	configFile   string
	format       string // table or json
	organization string // name or id, may be empty
	wait         bool
	lines        *bufio.Reader // standard input, where secrets are read from it
}

// run parses the arguments, does what they say and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	p := &program{in: in, out: out, err: errw}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	return report(errw, root.ExecuteContext(ctx))
}

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "chom",
		Short: "Run websites on a fleet of servers",
		Long: `chom talks to a CHOM control plane: it adds servers to the fleet and puts websites on them.

A change answers when its host has carried it out and probed the result, showing each step on the way;
with --wait=false it answers as soon as the control plane has written it down.
Organizations, servers and sites are named by their name or their id.

` + exitCodesHelp,
		Example: `  chom login --url https://chom.example.com
  chom server add web1
  chom organization create acme
  chom site create blog --type wordpress --domain blog.acme.example --title "Anna's blog" --admin-email anna@acme.example
  chom site login blog`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", plain(args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if p.format != "table" && p.format != "json" {
				return usagef("-o must be table or json")
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&p.configFile, "config", "", "file that keeps the URL and token (default ~/.config/chom/config.json)")
	root.PersistentFlags().StringVarP(&p.format, "output", "o", "table", "how to print results: table or json")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%s", err) })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(p.loginCommand(), p.organizationCommand(), p.serverCommand(), p.siteCommand(), p.taskCommand(), p.versionCommand())
	root.AddCommand(p.accountCommand(), p.sessionCommand(), p.secondFactorCommand(), p.tokenCommand(), p.impersonationCommand(),
		p.memberCommand(), p.invitationCommand(), p.webhookCommand(), p.auditCommand(), p.mailCommand())
	return root
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this command",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.out, "chom", version)
			return err
		},
	}
}

// group is a command that only holds others.
func group(use, summary string, aliases []string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:     use,
		Short:   summary,
		Aliases: aliases,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q", cmd.CommandPath()+" "+plain(args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// exactly is the number of arguments that a command takes.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// action runs a command that needs the control plane.
func (p *program) action(do func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		path, err := configPath(p.configFile)
		if err != nil {
			return err
		}
		conf, err := loadConfig(path)
		if err != nil {
			return err
		}
		c, err := newClient(conf)
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}
}

// waitFlag adds --wait to a command that changes something.
func (p *program) waitFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&p.wait, "wait", true, "follow the change until its host has carried it out")
	return cmd
}

func (p *program) organizationFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&p.organization, "organization", "", "name or id of the organization; needed only where there are several")
	return cmd
}

func (p *program) json() bool { return p.format == "json" }

// note tells a person what goes on. It never goes to standard output.
func (p *program) note(format string, args ...any) { fmt.Fprintf(p.err, format+"\n", args...) }

// terminal reports whether progress may be redrawn in place.
func (p *program) terminal() bool {
	file, ok := p.err.(*os.File)
	return ok && isatty.IsTerminal(file.Fd()) && os.Getenv("TERM") != "dumb"
}

// person is the terminal at which somebody can be asked; nil when standard input is a pipe or a file.
func (p *program) person() *os.File {
	if file, ok := p.in.(*os.File); ok && isatty.IsTerminal(file.Fd()) {
		return file
	}
	return nil
}

// secret reads a line that nobody may see, and that must not be empty.
func (p *program) secret(prompt string) (string, error) {
	text, err := p.hidden(prompt)
	if err == nil && text == "" {
		err = &problem{code: exitUsage, text: "standard input holds no secret", next: "pipe it in, or run the command on a terminal to be asked for it"}
	}
	return text, err
}

// hidden reads a line that nobody may see: from a terminal without echo, or the next one of a pipe. It is empty at the end of one.
func (p *program) hidden(prompt string) (string, error) {
	if terminal := p.person(); terminal != nil {
		fmt.Fprint(p.err, prompt)
		line, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(p.err)
		if err != nil {
			return "", fmt.Errorf("read from the terminal: %w", err)
		}
		return strings.TrimSpace(string(line)), nil
	}
	if p.lines == nil {
		p.lines = bufio.NewReaderSize(p.in, maxSecret)
	}
	line, err := p.lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", usagef("a line of standard input is longer than %d bytes: that is no secret of CHOM", maxSecret)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	return strings.TrimSpace(string(line)), nil
}

const maxSecret = 1024 // bytes; a token has 60, a password 128 characters
