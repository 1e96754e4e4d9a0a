package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
)

func (p *program) backupStatus() *cobra.Command {
	var attention bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:               "status [SITE]",
		Short:             "Show how well a site is backed up, or all of them in short",
		Args:              atMost(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if len(args) == 0 {
				return p.printBackupStatuses(ctx, c, attention)
			}
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			answer, err := c.Backups.GetBackupStatus(ctx, &backupv1.GetBackupStatusRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			s := answer.GetStatus()
			return p.print(s, []string{s.GetLastBackup().GetId()}, func() error { return p.printBackupStatus(s) })
		}),
	})
	cmd.Flags().BoolVar(&attention, "attention", false, "of all sites, only those that need somebody")
	return cmd
}

// printBackupStatuses prints a line for each site.
func (p *program) printBackupStatuses(ctx context.Context, c *client, attention bool) error {
	organization, err := p.organizationID(ctx, c)
	if err != nil {
		return err
	}
	all, err := pages(func(token string) ([]*backupv1.SiteStatus, string, error) {
		page, err := c.Backups.ListBackupStatuses(ctx, &backupv1.ListBackupStatusesRequest{
			OrganizationId: organization, PageSize: largestPage, PageToken: token, AttentionOnly: attention,
		})
		return page.GetStatuses(), page.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{
			s.GetSiteName(), short(s.GetStanding(), "STANDING_"), at(s.GetLastBackupTime()), short(s.GetProof(), "PROOF_"), at(s.GetLastProvenTime()), s.GetProblem(),
		})
	}
	return p.print(list(all), column(rows, 0), func() error {
		return printTable(p.out, []string{"SITE", "BACKUPS", "LAST", "RESTORE", "PROVEN", "PROBLEM"}, rows)
	})
}

func (p *program) printBackupStatus(s *backupv1.Status) error {
	every := "none is made by itself"
	if interval := s.GetPolicy().GetInterval().AsDuration(); interval > 0 {
		every = "every " + interval.String()
	}
	r := s.GetPolicy().GetRetention()
	return printFields(p.out, [][2]string{
		{"problem", s.GetProblem()},
		{"policy", policyText(s)},
		{"made", every},
		{"kept", fmt.Sprintf("%d hourly, %d daily, %d weekly, %d monthly", r.GetHourly(), r.GetDaily(), r.GetWeekly(), r.GetMonthly())},
		{"next", at(s.GetNextBackupTime())},
		{"last", backupAt(s.GetLastBackup())},
		{"last failure", backupAt(s.GetLastFailure())},
		{"last drill", drillAt(s.GetLastDrill())},
		{"last proven restore", at(s.GetLastProven().GetEndTime())},
		{"all read and intact", at(s.GetVerifyTime())},
		{"repository", bytesText(s.GetRepositoryBytes())},
		{"organization", usedText(s.GetOrganizationBytes(), s.GetQuota())},
	})
}

func policyText(s *backupv1.Status) string {
	return cmp.Or(s.GetPolicy().GetName(), "the platform's own")
}

// backupsText says on one line how well a site is backed up.
func backupsText(s *backupv1.Status) string {
	text := "none yet"
	if last := s.GetLastBackup(); last != nil {
		text = "last good one " + at(last.GetCreateTime())
	}
	if proven := s.GetLastProven(); proven != nil {
		text += ", last proven " + at(proven.GetEndTime())
	}
	if next := s.GetNextBackupTime(); next != nil {
		text += ", next due " + at(next)
	}
	if s.GetProblem() != "" {
		text += "; problem: " + s.GetProblem()
	}
	return text
}

// usedText says how much of a quota is used.
func usedText(used uint64, quota *organizationv1.Quota) string {
	text := cmp.Or(bytesText(used), "0 B")
	if most := quota.GetBackupBytes(); most > 0 {
		return fmt.Sprintf("%s of %s", text, bytesText(most))
	}
	return text + ", without a limit"
}

// drillAt is when a drill was asked for, and what it came to.
func drillAt(d *backupv1.Drill) string {
	if d == nil {
		return ""
	}
	return strings.TrimSuffix(at(d.GetCreateTime())+" "+short(d.GetState(), "DRILL_STATE_")+": "+d.GetProblem(), ": ")
}

// backupAt names a backup, and when it was asked for.
func backupAt(b *backupv1.Backup) string {
	if b == nil {
		return ""
	}
	return strings.TrimSpace(at(b.GetCreateTime()) + " " + b.GetId())
}
