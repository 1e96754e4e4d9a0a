package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

func (p *program) backupStatus() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "status SITE",
		Short:             "Show how well a site is backed up",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
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
}

func (p *program) printBackupStatus(s *backupv1.Status) error {
	every := "none is made by itself"
	if interval := s.GetPolicy().GetInterval().AsDuration(); interval > 0 {
		every = "every " + interval.String()
	}
	r := s.GetPolicy().GetRetention()
	return printFields(p.out, [][2]string{
		{"problem", s.GetProblem()},
		{"policy", cmp.Or(s.GetPolicy().GetName(), "the platform's own")},
		{"made", every},
		{"kept", fmt.Sprintf("%d hourly, %d daily, %d weekly, %d monthly", r.GetHourly(), r.GetDaily(), r.GetWeekly(), r.GetMonthly())},
		{"next", at(s.GetNextBackupTime())},
		{"last", backupAt(s.GetLastBackup())},
		{"last failure", backupAt(s.GetLastFailure())},
		{"last drill", drillAt(s.GetLastDrill())},
		{"last proven restore", at(s.GetLastProven().GetEndTime())},
		{"all read and intact", at(s.GetVerifyTime())},
		{"repository", bytesText(s.GetRepositoryBytes())},
	})
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
