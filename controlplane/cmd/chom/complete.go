package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// names are what a shell offers for a word: names, each with what they are after a tab. There are none when something fails: a shell
// that completes shows no errors.
type names func(cmd *cobra.Command) []string

// completeWithin is longer than a list takes, and shorter than a person waits for a shell.
const completeWithin = 3 * time.Second

func (p *program) contextNames(*cobra.Command) []string {
	conf, err := loadConfig(p.configFile)
	if err != nil {
		return nil
	}
	var all []string
	for _, name := range conf.names() {
		all = append(all, cobra.CompletionWithDesc(name, conf.Contexts[name].URL))
	}
	return all
}

func (p *program) organizationNames(cmd *cobra.Command) []string {
	return p.remoteNames(cmd, func(ctx context.Context, c *client) ([]string, error) {
		all, err := c.allOrganizations(ctx)
		var names []string
		for _, o := range all {
			names = append(names, cobra.CompletionWithDesc(o.GetName(), plain(o.GetOwnerEmail())))
		}
		return names, err
	})
}

func (p *program) serverNames(cmd *cobra.Command) []string {
	return p.remoteNames(cmd, func(ctx context.Context, c *client) ([]string, error) {
		all, err := c.allServers(ctx)
		var names []string
		for _, s := range all {
			names = append(names, cobra.CompletionWithDesc(s.GetName(), short(s.GetState(), "STATE_")))
		}
		return names, err
	})
}

func (p *program) siteNames(cmd *cobra.Command) []string {
	return p.remoteNames(cmd, func(ctx context.Context, c *client) ([]string, error) {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return nil, err
		}
		all, err := c.allSites(ctx, organization, true)
		var names []string
		for _, s := range all {
			names = append(names, cobra.CompletionWithDesc(s.GetName(), short(s.GetState(), "STATE_")+" "+plain(s.GetUrl())))
		}
		return names, err
	})
}

func (p *program) remoteNames(cmd *cobra.Command, ask func(ctx context.Context, c *client) ([]string, error)) []string {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
	defer cancel()
	p.quiet = true // what waits says so on the terminal that is being typed on
	c, err := p.connect()
	if err != nil {
		return nil
	}
	all, err := ask(ctx, c)
	if err != nil {
		return nil
	}
	return all
}

// fixed are names that are always the same.
func fixed(all ...string) names { return func(*cobra.Command) []string { return all } }

// first completes the first argument of a command.
func first(of names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of(cmd), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a command's flag.
func completeFlag(cmd *cobra.Command, flag string, of names) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return of(cmd), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
}
