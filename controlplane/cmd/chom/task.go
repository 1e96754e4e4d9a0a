package main

import (
	"context"
	"strconv"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"github.com/spf13/cobra"
)

func (p *program) taskCommand() *cobra.Command {
	return group("task", "Tasks: what CHOM does on servers", []string{"tasks"},
		p.taskList(), p.taskShow(), p.taskWatch(), p.taskCancel())
}

func (p *program) taskList() *cobra.Command {
	var site, server string
	var onServers bool
	var limit int32
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List tasks, newest first",
		Long: `List shows the newest tasks of an organization. Work on servers themselves (preparing, pinging) belongs to no
organization: --on-servers shows it.`,
		Example: `  chom task list --site blog
  chom task list --on-servers --server web1`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			request := &taskv1.ListTasksRequest{OrganizationId: platform, PageSize: limit}
			var err error
			if onServers && site != "" {
				return usagef("--site and --on-servers exclude each other")
			}
			if site != "" {
				if request.OrganizationId, request.SiteId, err = p.siteID(ctx, c, site); err != nil {
					return err
				}
			} else if !onServers {
				if request.OrganizationId, err = p.organizationID(ctx, c); err != nil {
					return err
				}
			}
			if server != "" {
				if request.ServerId, err = c.serverID(ctx, server); err != nil {
					return err
				}
			}
			page, err := c.Tasks.ListTasks(ctx, request)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, t := range page.GetTasks() {
				rows = append(rows, []string{t.GetId(), short(t.GetKind(), "KIND_"), short(t.GetState(), "STATE_"), at(t.GetCreateTime()), at(t.GetEndTime()), t.GetError()})
			}
			return p.print(list(page.GetTasks()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "KIND", "STATE", "ASKED", "ENDED", "ERROR"}, rows)
			})
		}),
	}
	cmd.Flags().StringVar(&site, "site", "", "only tasks about this site")
	cmd.Flags().StringVar(&server, "server", "", "only tasks on this server")
	cmd.Flags().BoolVar(&onServers, "on-servers", false, "work on servers themselves instead of an organization's tasks")
	completeFlag(cmd, "site", p.siteNames)
	completeFlag(cmd, "server", p.serverNames)
	cmd.Flags().Int32Var(&limit, "limit", 50, "most tasks to show, up to 500")
	return p.organizationFlag(cmd)
}

func (p *program) taskShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "show ID",
		Short: "Show a task with its steps",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			task, err := p.findTask(ctx, c, args[0])
			if err != nil {
				return err
			}
			return p.showTask(task, []string{task.GetId()})
		}),
	})
}

func (p *program) taskWatch() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "watch ID",
		Short: "Follow a task's steps and output until it ends",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			task, err := p.findTask(ctx, c, args[0])
			if err != nil {
				return err
			}
			if task, err = p.follow(ctx, c, task, true); err != nil {
				return err
			}
			if err := p.showTask(task, nil); err != nil {
				return err
			}
			return failure(task)
		}),
	})
}

func (p *program) taskCancel() *cobra.Command {
	return p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "cancel ID",
		Short: "Ask a task to stop",
		Long:  "Cancel ends a task that has not begun at once. A running one stops between two steps; what is done stays done.",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			task, err := p.findTask(ctx, c, args[0])
			if err != nil {
				return err
			}
			answer, err := c.Tasks.CancelTask(ctx, &taskv1.CancelTaskRequest{OrganizationId: task.GetOrganizationId(), TaskId: task.GetId()})
			if err != nil {
				return err
			}
			task = answer.GetTask()
			if p.wait && !ended(task) {
				if task, err = p.follow(ctx, c, task, false); err != nil {
					return err
				}
			}
			return p.showTask(task, nil)
		}),
	}))
}

func (p *program) showTask(t *taskv1.Task, names []string) error {
	return p.print(t, names, func() error { return p.printTask(t) })
}

func (p *program) printTask(t *taskv1.Task) error {
	generation := ""
	if t.GetGeneration() > 0 {
		generation = strconv.FormatUint(t.GetGeneration(), 10)
	}
	err := printFields(p.out, [][2]string{
		{"id", t.GetId()},
		{"kind", short(t.GetKind(), "KIND_")},
		{"state", short(t.GetState(), "STATE_")},
		{"error", t.GetError()},
		{"server", t.GetServerId()},
		{"site", t.GetSiteId()},
		{"generation", generation},
		{"attempt", strconv.FormatUint(uint64(t.GetAttempt()), 10)},
		{"asked", at(t.GetCreateTime())},
		{"started", at(t.GetStartTime())},
		{"ended", at(t.GetEndTime())},
		{"deadline", at(t.GetDeadline())},
	})
	if err != nil {
		return err
	}
	for _, step := range t.GetSteps() {
		if _, err := p.out.Write([]byte(stepLine(step, "...") + "\n")); err != nil {
			return err
		}
	}
	return nil
}
