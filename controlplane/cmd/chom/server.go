package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func (p *program) serverCommand() *cobra.Command {
	return group("server", "Servers: the fleet that websites run on", []string{"servers"},
		p.serverAdd(), p.serverToken(), p.serverWait(), p.serverList(), p.serverShow(), p.serverSites(), p.serverTasks(),
		p.serverChange("drain NAME", "Keep new sites away from a server", "Drain keeps new sites away; those on the server stay and are served.",
			func(ctx context.Context, c *client, id string) (*fleetv1.Server, error) {
				answer, err := c.Servers.DrainServer(ctx, &fleetv1.DrainServerRequest{ServerId: id})
				return answer.GetServer(), err
			}),
		p.serverChange("undrain NAME", "Let a drained server take new sites again", "",
			func(ctx context.Context, c *client, id string) (*fleetv1.Server, error) {
				answer, err := c.Servers.UndrainServer(ctx, &fleetv1.UndrainServerRequest{ServerId: id})
				return answer.GetServer(), err
			}),
		p.serverChange("readmit NAME", "Let a quarantined server connect again",
			"Readmit lets a server connect again that was locked out, because its identity was seen on two hosts or because its\ncertificate ran out too often. Make sure that only one host has its identity: on the other one, run\nchom-agent reset-identity.",
			func(ctx context.Context, c *client, id string) (*fleetv1.Server, error) {
				answer, err := c.Servers.ReadmitServer(ctx, &fleetv1.ReadmitServerRequest{ServerId: id})
				return answer.GetServer(), err
			}),
		p.serverRemove(), p.serverPing(), p.serverPrepare())
}

func (p *program) serverAdd() *cobra.Command {
	var dedicated string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a server and print the line to paste on it",
		Long: `Add makes a server and prints one line. Paste that line on a fresh Debian 12 or 13 as root, or as a user who may
sudo: it installs the agent, which enrols, connects and prepares the server for websites. The line works once
and for 30 minutes; chom server token NAME makes another.

Add follows the server until it is ready for sites; with --wait=false it only prints the line.`,
		Example: `  chom server add web1
  chom server add web2 --dedicated acme
  chom server add web3 --wait=false -o json | jq -r .join_token.install_command`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			request := &fleetv1.CreateServerRequest{Name: args[0], Tenancy: fleetv1.Tenancy_TENANCY_SHARED}
			if dedicated != "" {
				p.organization = dedicated
				organization, err := p.organizationID(ctx, c)
				if err != nil {
					return err
				}
				request.Tenancy, request.OrganizationId = fleetv1.Tenancy_TENANCY_DEDICATED, organization
			}
			made, err := c.Servers.CreateServer(ctx, request)
			if err != nil {
				return err
			}
			if !p.wait {
				return p.printToken(made, made.GetJoinToken())
			}
			p.noteToken(made.GetJoinToken())
			return p.awaitServer(ctx, c, made.GetServer().GetId(), made.GetJoinToken().GetExpireTime().AsTime())
		}),
	}
	cmd.Flags().StringVar(&dedicated, "dedicated", "", "name or id of the only organization that may have sites on it")
	completeFlag(cmd, "dedicated", p.organizationNames)
	return p.waitFlag(cmd)
}

// printToken prints the line to paste, or the token where there is no line. With --quiet it is printed as well: it is all that was
// asked for.
func (p *program) printToken(value any, t *fleetv1.JoinToken) error {
	line, about := t.GetInstallCommand(), "Paste this line on the server, before "+at(t.GetExpireTime())+":"
	if line == "" {
		line, about = t.GetToken(), noPackages
	}
	return p.print(value, []string{line}, func() error {
		p.note("%s", about)
		_, err := fmt.Fprintln(p.out, line)
		return err
	})
}

// noteToken shows the line where progress goes: with --wait, standard output is for the server that comes of it.
func (p *program) noteToken(t *fleetv1.JoinToken) {
	if t.GetInstallCommand() == "" {
		p.say("%s\n\n%s\n", noPackages, t.GetToken())
		return
	}
	p.say("Paste this line on the server, before %s:\n\n%s\n", at(t.GetExpireTime()), t.GetInstallCommand())
}

const noPackages = "There is no line to paste: chomd has no agent packages (its --packages-dir). An agent that is installed already can enrol with this join token:"

func (p *program) serverToken() *cobra.Command {
	return &cobra.Command{
		Use:               "token NAME",
		Short:             "Print a new line to paste, for a server that has not enrolled",
		Long:              "Token makes a new line to paste when the former one has expired, was used up, or the host was lost. The former one is dead.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			made, err := c.Servers.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{ServerId: id})
			if err != nil {
				return err
			}
			return p.printToken(made.GetJoinToken(), made.GetJoinToken())
		}),
	}
}

func (p *program) serverList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List servers",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, err := c.allServers(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range all {
				link := "offline"
				if s.GetOnline() {
					link = "online"
				}
				prepared := "no"
				if s.GetFacts().GetPrepared() {
					prepared = "yes"
				}
				rows = append(rows, []string{
					s.GetName(), short(s.GetState(), "STATE_"), link, since(s.GetLastSeenTime(), time.Now()), prepared,
					fmt.Sprint(s.GetSiteCount()), s.GetFacts().GetOs(), s.GetId(),
				})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "STATE", "LINK", "SEEN", "PREPARED", "SITES", "SYSTEM", "ID"}, rows)
			})
		}),
	}
}

func (p *program) serverShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a server and what its agent says of it",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			got, err := c.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: id})
			if err != nil {
				return err
			}
			return p.showServer(got.GetServer(), []string{got.GetServer().GetName()})
		}),
	}
}

func (p *program) serverSites() *cobra.Command {
	return &cobra.Command{
		Use:               "sites NAME",
		Short:             "List the sites that a server holds, whosever they are",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			all, err := pages(func(token string) ([]*fleetv1.ServerSite, string, error) {
				page, err := c.Servers.ListServerSites(ctx, &fleetv1.ListServerSitesRequest{ServerId: id, PageSize: largestPage, PageToken: token})
				return page.GetSites(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range all {
				rows = append(rows, []string{s.GetName(), s.GetOrganizationName(), short(s.GetState(), "STATE_"), s.GetType(), s.GetDomain(), s.GetSiteId()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "ORGANIZATION", "STATE", "TYPE", "DOMAIN", "ID"}, rows)
			})
		}),
	}
}

func (p *program) serverTasks() *cobra.Command {
	var limit int32
	cmd := &cobra.Command{
		Use:   "tasks NAME",
		Short: "List what a server's agent was asked, whosever it is, newest first",
		Long: `Tasks shows the newest tasks on a server: those about sites, of whatever organization, and work on the server
itself. It is for operators; members see what is theirs of it with chom task list --server.`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			page, err := c.Servers.ListServerTasks(ctx, &fleetv1.ListServerTasksRequest{ServerId: id, PageSize: limit})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range page.GetTasks() {
				t := one.GetTask()
				rows = append(rows, []string{
					t.GetId(), short(t.GetKind(), "KIND_"), short(t.GetState(), "STATE_"), one.GetOrganizationName(), one.GetSiteName(),
					at(t.GetCreateTime()), at(t.GetEndTime()), t.GetError(),
				})
			}
			return p.print(list(page.GetTasks()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "KIND", "STATE", "ORGANIZATION", "SITE", "ASKED", "ENDED", "ERROR"}, rows)
			})
		}),
	}
	cmd.Flags().Int32Var(&limit, "limit", 50, "most tasks to show, up to 500")
	return cmd
}

func (p *program) serverChange(use, summary, details string, change func(context.Context, *client, string) (*fleetv1.Server, error)) *cobra.Command {
	return &cobra.Command{
		Use:               use,
		Short:             summary,
		Long:              details,
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			s, err := change(ctx, c, id)
			if err != nil {
				return err
			}
			return p.showServer(s, nil)
		}),
	}
}

func (p *program) serverRemove() *cobra.Command {
	var yes bool
	return yesFlag(p.serverChange("rm NAME", "Take an empty server out of the fleet",
		"Rm takes out a server that holds no site, not even one in the trash. Its agent is cut off within 2 seconds.",
		func(ctx context.Context, c *client, id string) (*fleetv1.Server, error) {
			got, err := c.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: id})
			if err != nil {
				return nil, err
			}
			name := got.GetServer().GetName()
			if err := p.confirm(yes, "This takes the server "+plain(name)+" out of the fleet", name); err != nil {
				return nil, err
			}
			answer, err := c.Servers.RemoveServer(ctx, &fleetv1.RemoveServerRequest{ServerId: id})
			return answer.GetServer(), err
		}), &yes)
}

func (p *program) serverPing() *cobra.Command {
	var steps uint32
	var each, within time.Duration
	cmd := &cobra.Command{
		Use:               "ping NAME",
		Short:             "Send a task that does nothing, to see whether tasks get through",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			ask := &fleetv1.PingServerRequest{ServerId: id, Steps: steps, StepDuration: durationpb.New(each)}
			if within != 0 {
				ask.Timeout = durationpb.New(within)
			}
			answer, err := c.Servers.PingServer(ctx, ask)
			if err != nil {
				return err
			}
			return p.finish(ctx, c, answer.GetTask())
		}),
	}
	cmd.Flags().Uint32Var(&steps, "steps", 1, "how many steps the task pretends, up to 100")
	cmd.Flags().DurationVar(&each, "step-duration", 0, "how long each of them takes, up to 60s")
	cmd.Flags().DurationVar(&within, "within", 0, "give the task up after so long, 1s to 1h (default an hour, of which its steps may take ten minutes)")
	return p.waitFlag(cmd)
}

func (p *program) serverPrepare() *cobra.Command {
	return p.waitFlag(&cobra.Command{
		Use:               "prepare NAME",
		Short:             "Install and configure the software that sites need, again",
		Long:              "Prepare installs and configures nginx, PHP and MariaDB. Enrolment does it by itself; doing it again repairs what was changed.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.serverNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			id, err := c.serverID(ctx, args[0])
			if err != nil {
				return err
			}
			answer, err := c.Servers.PrepareServer(ctx, &fleetv1.PrepareServerRequest{ServerId: id})
			if err != nil {
				return err
			}
			return p.finish(ctx, c, answer.GetTask())
		}),
	})
}

// finish follows a task if that is wanted, shows it, and fails if it did.
func (p *program) finish(ctx context.Context, c *client, task *taskv1.Task) error {
	if p.wait {
		var err error
		if task, err = p.follow(ctx, c, task, false); err != nil {
			return err
		}
	}
	if err := p.showTask(task, nil); err != nil {
		return err
	}
	if p.wait {
		return failure(task)
	}
	return nil
}

func (p *program) showServer(s *fleetv1.Server, names []string) error {
	return p.print(s, names, func() error { return p.printServer(s) })
}

func (p *program) printServer(s *fleetv1.Server) error {
	link := "offline"
	if s.GetOnline() {
		link = "online"
	}
	prepared := "no"
	if s.GetFacts().GetPrepared() {
		prepared = "yes"
	}
	f := s.GetFacts()
	return printFields(p.out, [][2]string{
		{"name", s.GetName()},
		{"id", s.GetId()},
		{"state", short(s.GetState(), "STATE_")},
		{"problem", s.GetProblem()},
		{"link", link},
		{"last seen", at(s.GetLastSeenTime())},
		{"tenancy", short(s.GetTenancy(), "TENANCY_")},
		{"organization", s.GetOrganizationId()},
		{"sites", fmt.Sprint(s.GetSiteCount())},
		{"prepared", prepared},
		{"host", f.GetHostname()},
		{"system", f.GetOs()},
		{"architecture", f.GetArch()},
		{"agent", f.GetAgentVersion()},
		{"memory", bytesText(f.GetMemoryBytes())},
		{"disk free", bytesText(f.GetDiskFreeBytes())},
		{"php", f.GetPhpVersion()},
		{"nginx", f.GetNginxVersion()},
		{"mariadb", f.GetMariadbVersion()},
		{"addresses", strings.Join(f.GetAddresses(), " ")},
		{"findings", strings.Join(f.GetFindings(), "; ")},
		{"certificate until", at(s.GetCertificateExpireTime())},
		{"created", at(s.GetCreateTime())},
	})
}
