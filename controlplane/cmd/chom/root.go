package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	context      string // the context that --context names, may be empty
	format       string // table, json or yaml
	quiet        bool
	organization string // name or id, may be empty
	home         string // the same of the context, for commands that name none
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

Which control plane: that of --context, else CHOM_URL with CHOM_TOKEN, else the context of CHOM_CONTEXT, else
the one that chom context use chose. In CI, set CHOM_URL and CHOM_TOKEN: nothing is read from a file then. Every
program of the same job can read its environment, so give it a token that reaches no further than it must.

` + exitCodesHelp,
		Example: `  chom login --url https://chom.example.com
  chom server add web1
  chom organization create acme
  chom site create blog --type wordpress --domain blog.acme.example --title "Anna's blog" --admin-email anna@acme.example
  chom site login blog`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          onlyCommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if !slices.Contains(formats, p.format) {
				return usagef("-o must be %s or %s", strings.Join(formats[:len(formats)-1], ", "), formats[len(formats)-1])
			}
			if p.quiet && p.format != "table" {
				return usagef("--quiet and -o %s exclude each other", p.format)
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&p.configFile, "config", "", "file that keeps the contexts (default ~/.config/chom/config.json)")
	flags.StringVar(&p.context, "context", "", "the control plane to talk to, by the name it has in chom context list")
	flags.StringVarP(&p.format, "output", "o", "table", "how to print results: table, json or yaml")
	flags.BoolVarP(&p.quiet, "quiet", "q", false, "print only names or ids, and nothing for a change that went well")
	completeFlag(root, "context", p.contextNames)
	completeFlag(root, "output", fixed(formats...))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%s", err) })
	root.AddCommand(
		p.loginCommand(), p.logoutCommand(), p.whoamiCommand(), p.contextCommand(),
		p.organizationCommand(), p.memberCommand(), p.invitationCommand(), p.serverCommand(), p.siteCommand(), p.domainCommand(), p.certificateCommand(), p.backupCommand(), p.metricsCommand(), p.taskCommand(),
		p.accountCommand(), p.sessionCommand(), p.secondFactorCommand(), p.tokenCommand(), p.impersonationCommand(),
		p.webhookCommand(), p.auditCommand(), p.mailCommand(),
		p.apiCommand(), p.versionCommand(), p.manCommand(root),
	)
	return root
}

// formats are the ways to print a result.
var formats = []string{"table", "json", "yaml"}

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
		Args:    onlyCommands,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// onlyCommands refuses a word that is none of a group's commands.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	path := strings.TrimPrefix(cmd.CommandPath()+" "+plain(args[0]), "chom ")
	cmd.SuggestionsMinimumDistance = 2
	return &problem{code: exitUsage, text: fmt.Sprintf("there is no command %q", path), next: didYouMean(cmd.SuggestionsFor(args[0])) + "see them with: " + cmd.CommandPath() + " --help"}
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
		c, err := p.connect()
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, args)
	}
}

// connect is the client of the control plane that this run means.
func (p *program) connect() (*client, error) {
	t, err := p.target()
	if err != nil {
		return nil, err
	}
	p.home = t.Organization
	return newClient(t, p.note)
}

// waitFlag adds --wait to a command that changes something.
func (p *program) waitFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&p.wait, "wait", true, "follow the change until its host has carried it out")
	return cmd
}

func (p *program) organizationFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&p.organization, "organization", "", "name or id of the organization; needed where there are several and the context names none")
	completeFlag(cmd, "organization", p.organizationNames)
	return cmd
}

// note tells a person what goes on, unless they asked for quiet. It never goes to standard output.
func (p *program) note(format string, args ...any) {
	if !p.quiet {
		p.say(format, args...)
	}
}

// say tells a person what they must know.
func (p *program) say(format string, args ...any) { fmt.Fprintf(p.err, format+"\n", args...) }

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

// atMost is the most arguments that a command takes.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("usage: %s", cmd.UseLine())
		}
		return nil
	}
}
