package main

import (
	"context"

	"github.com/spf13/cobra"
)

func (p *program) contextCommand() *cobra.Command {
	return group("context", "Contexts: the control planes that you are signed in to", []string{"contexts", "ctx"},
		p.contextList(), p.contextShow(), p.contextUse(), p.contextSet(), p.contextRename(), p.contextRemove())
}

// shownTarget is a context as it is printed: without its token.
type shownTarget struct {
	Name         string `json:"name"`
	Current      bool   `json:"current"`
	URL          string `json:"url"`
	CA           string `json:"ca,omitempty"`
	Organization string `json:"organization,omitempty"`
}

func (c *config) shown(name string) shownTarget {
	t := c.Contexts[name]
	return shownTarget{name, name == c.Current, t.URL, t.CA, t.Organization}
}

func (p *program) contextList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List contexts; the current one is marked",
		Args:    exactly(0),
		RunE: p.withConfig(func(_ context.Context, conf *config, _ []string) error {
			all := []shownTarget{}
			var rows [][]string
			for _, name := range conf.names() {
				c := conf.shown(name)
				all = append(all, c)
				mark := " "
				if c.Current {
					mark = "*"
				}
				rows = append(rows, []string{mark, c.Name, c.URL, c.Organization})
			}
			return p.print(all, conf.names(), func() error {
				return printTable(p.out, []string{" ", "NAME", "URL", "ORGANIZATION"}, rows)
			})
		}),
	}
}

func (p *program) contextShow() *cobra.Command {
	return p.ofContext(&cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a context, by default the current one; never its token",
		Args:  atMost(1),
		RunE: p.withConfig(func(_ context.Context, conf *config, args []string) error {
			name, _, err := conf.find(p.named(args))
			if err != nil {
				return err
			}
			c := conf.shown(name)
			return p.print(c, []string{c.Name}, func() error {
				return printFields(p.out, [][2]string{{"name", c.Name}, {"url", c.URL}, {"certificate authority", c.CA}, {"organization", c.Organization}})
			})
		}),
	})
}

func (p *program) contextUse() *cobra.Command {
	return p.ofContext(&cobra.Command{
		Use:   "use NAME",
		Short: "Make a context the one of commands that name none",
		Args:  exactly(1),
		RunE: p.withConfig(func(_ context.Context, conf *config, args []string) error {
			name, t, err := conf.find(args[0])
			if err != nil {
				return err
			}
			conf.Current = name
			p.note("Commands go to %s now.", plain(t.URL))
			return conf.save()
		}),
	})
}

func (p *program) contextSet() *cobra.Command {
	var organization string
	cmd := p.ofContext(&cobra.Command{
		Use:   "set [NAME] --organization ORGANIZATION",
		Short: "Choose the organization of commands that name none",
		Long:  "Set keeps the organization that commands of a context mean which name none; an empty one forgets it.",
		Example: `  chom context set --organization acme
  chom context set work --organization ''`,
		Args: atMost(1),
	})
	cmd.RunE = p.withConfig(func(ctx context.Context, conf *config, args []string) error {
		if !cmd.Flags().Changed("organization") {
			return usagef("--organization is needed")
		}
		name, t, err := conf.find(p.named(args))
		if err != nil {
			return err
		}
		if organization != "" {
			c, err := newClient(t, p.note)
			if err != nil {
				return err
			}
			p.organization = organization
			if _, err := p.organizationID(ctx, c); err != nil {
				return err
			}
		}
		t.Organization = organization
		conf.Contexts[name] = t
		return conf.save()
	})
	cmd.Flags().StringVar(&organization, "organization", "", "name or id of the organization")
	completeFlag(cmd, "organization", p.organizationNames)
	return cmd
}

func (p *program) contextRename() *cobra.Command {
	return p.ofContext(&cobra.Command{
		Use:   "rename NAME NEW-NAME",
		Short: "Give a context another name",
		Args:  exactly(2),
		RunE: p.withConfig(func(_ context.Context, conf *config, args []string) error {
			name, t, err := conf.find(args[0])
			if err != nil {
				return err
			}
			if err := checkContextName(args[1]); err != nil {
				return err
			}
			if _, taken := conf.Contexts[args[1]]; taken {
				return &problem{code: exitFailed, text: "there is a context with this name already"}
			}
			current := conf.Current
			conf.forget(name)
			conf.Contexts[args[1]] = t
			if conf.Current = current; current == name {
				conf.Current = args[1]
			}
			return conf.save()
		}),
	})
}

func (p *program) contextRemove() *cobra.Command {
	return p.ofContext(&cobra.Command{
		Use:   "rm NAME",
		Short: "Forget a context without ending its token",
		Long:  "Rm forgets a context. Its token works on until it expires: chom logout --context NAME ends it as well.",
		Args:  exactly(1),
		RunE: p.withConfig(func(_ context.Context, conf *config, args []string) error {
			name, _, err := conf.find(args[0])
			if err != nil {
				return err
			}
			conf.forget(name)
			return conf.save()
		}),
	})
}

// forget takes a context out; no other one becomes current by itself, since the next command would go where nobody sent it.
func (c *config) forget(name string) {
	delete(c.Contexts, name)
	if c.Current == name {
		c.Current = ""
	}
}

func (p *program) withConfig(do func(ctx context.Context, conf *config, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		conf, err := loadConfig(p.configFile)
		if err != nil {
			return err
		}
		return do(cmd.Context(), conf, args)
	}
}

// named is the context in the arguments, else the one that this run names; empty for the current one.
func (p *program) named(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return p.chosen()
}

// ofContext completes a command's first argument with the names of contexts.
func (p *program) ofContext(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = first(p.contextNames)
	return cmd
}
