package main

import (
	"context"

	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"github.com/spf13/cobra"
)

func (p *program) siteEvents() *cobra.Command {
	var most int32
	cmd := p.organizationFlag(&cobra.Command{
		Use:               "events NAME",
		Short:             "List what happened to a site, newest first: changes, backups, drills, restores, certificates, outages",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Sites.ListSiteEvents(ctx, &sitev1.ListSiteEventsRequest{OrganizationId: organization, SiteId: id, PageSize: most})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, e := range got.GetEvents() {
				rows = append(rows, []string{
					at(e.GetTime()), short(e.GetKind(), "EVENT_KIND_"), short(e.GetOutcome(), "EVENT_OUTCOME_"), at(e.GetEndTime()), e.GetSubject(), e.GetProblem(), e.GetTaskId(),
				})
			}
			return p.print(list(got.GetEvents()), column(rows, 0), func() error {
				return printTable(p.out, []string{"BEGAN", "WHAT", "OUTCOME", "ENDED", "OF", "PROBLEM", "TASK"}, rows)
			})
		}),
	})
	cmd.Flags().Int32Var(&most, "last", 50, "how many, up to 500")
	return cmd
}
