package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"github.com/spf13/cobra"
)

func (p *program) backupDrill() *cobra.Command {
	return p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "drill SITE [BACKUP]",
		Short: "Restore a backup to a scratch place, to prove that it can be",
		Long: `Drill has the site's host restore a backup to a scratch place, import its database there, and ask for the home page and what the
site's backup policy names (chom backup policy update --drill-path); what came back
is compared with what was recorded when the backup was made, and removed. The site takes no part. BACKUP is the newest one that
is ready when it is left out.

Each site has a drill by itself every week, and who looks after the organization is mailed when one fails.`,
		Example: `  chom backup drill shop
  chom backup drill shop 12`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			var b *backupv1.Backup
			var err error
			if len(args) == 1 {
				b, err = p.newestReady(ctx, c, args[0])
			} else {
				b, err = p.namedBackup(ctx, c, args)
			}
			if err != nil {
				return err
			}
			made, err := c.Backups.DrillBackup(ctx, &backupv1.DrillBackupRequest{OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId()})
			if err != nil {
				return err
			}
			return p.finishDrill(ctx, c, made.GetDrill())
		}),
	}))
}

// newestReady is a site's newest backup that can be restored.
func (p *program) newestReady(ctx context.Context, c *client, site string) (*backupv1.Backup, error) {
	organization, id, err := p.siteID(ctx, c, site)
	if err != nil {
		return nil, err
	}
	all, _, err := c.allBackups(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.GetState() == backupv1.State_STATE_READY {
			return b, nil
		}
	}
	return nil, notFoundf("make one with: chom backup create "+plain(site), "there is no backup of %q that is ready", plain(site))
}

// finishDrill follows a drill if that is wanted and shows what it came to.
func (p *program) finishDrill(ctx context.Context, c *client, d *backupv1.Drill) error {
	if p.wait {
		if _, err := p.follow(ctx, c, &taskv1.Task{OrganizationId: d.GetOrganizationId(), Id: d.GetTaskId()}, false); err != nil {
			return err
		}
		all, err := c.Backups.ListDrills(ctx, &backupv1.ListDrillsRequest{OrganizationId: d.GetOrganizationId(), SiteId: d.GetSiteId()})
		if err != nil {
			return err
		}
		for _, now := range all.GetDrills() {
			if now.GetId() == d.GetId() {
				d = now
			}
		}
	}
	if err := p.print(&backupv1.DrillBackupResponse{Drill: d}, []string{d.GetId()}, func() error {
		return printFields(p.out, [][2]string{
			{"id", d.GetId()},
			{"state", short(d.GetState(), "DRILL_STATE_")},
			{"problem", d.GetProblem()},
			{"note", d.GetNote()},
			{"backup", d.GetBackupId()},
			{"asked for", at(d.GetCreateTime())},
			{"ended", at(d.GetEndTime())},
			{"took", took(d.GetEvidence())},
			{"files", restoredFiles(d.GetEvidence())},
			{"home page", homePage(d.GetEvidence())},
			{"task", d.GetTaskId()},
		})
	}); err != nil {
		return err
	}
	if d.GetState() == backupv1.DrillState_DRILL_STATE_FAILED {
		return &problem{code: exitTaskFailed, text: "the drill failed: " + plain(d.GetProblem()), next: "its host's steps and output: chom task show " + d.GetTaskId()}
	}
	return nil
}

func (p *program) backupDrills() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "drills SITE",
		Short:             "List a site's newest drills and what they came to",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			all, err := c.Backups.ListDrills(ctx, &backupv1.ListDrillsRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, d := range all.GetDrills() {
				rows = append(rows, []string{
					d.GetId(), short(d.GetState(), "DRILL_STATE_"), at(d.GetCreateTime()), took(d.GetEvidence()), restoredFiles(d.GetEvidence()), homePage(d.GetEvidence()),
					d.GetBackupId(), d.GetProblem(),
				})
			}
			return p.print(list(all.GetDrills()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "STATE", "ASKED FOR", "TOOK", "FILES", "HOME PAGE", "BACKUP", "PROBLEM"}, rows)
			})
		}),
	})
}

// took is how long a host needed for a drill.
func took(e *backupv1.Evidence) string {
	if e == nil {
		return ""
	}
	return e.GetEndTime().AsTime().Sub(e.GetStartTime().AsTime()).Round(time.Second).String()
}

func restoredFiles(e *backupv1.Evidence) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("%d, %s", e.GetFileCount(), cmp.Or(bytesText(e.GetFileBytes()), "empty"))
}

// homePage is how the restored site answered.
func homePage(e *backupv1.Evidence) string {
	if len(e.GetPages()) == 0 {
		return ""
	}
	home := e.GetPages()[0]
	return fmt.Sprintf("%d %s", home.GetHttpStatus(), cmp.Or(home.GetTitle(), home.GetProblem(), "without a title"))
}
