package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func (p *program) backupCopy() *cobra.Command {
	return p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "copy SITE BACKUP OTHER",
		Short: "Copy a backup into the list of another site",
		Long: `Copy brings a backup of SITE into the list of the site OTHER, which is of the same organization and type, and may be on another
server. OTHER itself does not change before chom backup restore OTHER. The copy is compared with what was signed; OTHER has no other
backup under way meanwhile.`,
		Example:           `  chom backup copy shop 12 staging`,
		Args:              exactly(3),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			_, to, err := p.siteID(ctx, c, args[2])
			if err != nil {
				return err
			}
			made, broken := p.copyBackup(ctx, c, b, to, p.wait)
			if made == nil {
				return broken
			}
			if err := p.print(&backupv1.CopyBackupResponse{Backup: made}, []string{made.GetId()}, func() error { return p.printBackup(made) }); err != nil {
				return err
			}
			return broken
		}),
	}))
}

// copyBackup copies a backup to another site, and waits until it is ready if that is wanted. It gives one that failed too, with why.
func (p *program) copyBackup(ctx context.Context, c *client, b *backupv1.Backup, to string, wait bool) (*backupv1.Backup, error) {
	made, err := c.Backups.CopyBackup(ctx, &backupv1.CopyBackupRequest{
		OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId(), ToSiteId: to,
	})
	if err != nil {
		return nil, err
	}
	there := made.GetBackup()
	if !wait {
		return there, nil
	}
	p.note("the control plane copies it: %s", there.GetId())
	if there, err = p.awaitCheck(ctx, c, there); err != nil {
		return nil, err
	}
	if there.GetState() == backupv1.State_STATE_FAILED {
		return there, &problem{code: exitTaskFailed, text: "the copy failed: " + plain(there.GetProblem())}
	}
	return there, nil
}

func (p *program) backupCancel() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "cancel SITE BACKUP",
		Short:             "Cancel a copy that is under way",
		Long:              "Cancel ends a backup that the control plane brings from elsewhere. One that the site's host makes is a task: chom task cancel.",
		Args:              exactly(2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			ended, err := c.Backups.CancelBackup(ctx, &backupv1.CancelBackupRequest{OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId()})
			if err != nil {
				return err
			}
			return p.print(ended, []string{ended.GetBackup().GetId()}, func() error { return p.printBackup(ended.GetBackup()) })
		}),
	})
}

// elsewhere is where a backup is restored to that is not its own site: one that is there, or a new one.
type elsewhere struct {
	site    string
	create  string
	server  string
	domains []string
}

func (e *elsewhere) flags(p *program, cmd *cobra.Command) {
	cmd.Flags().StringVar(&e.site, "to-site", "", "restore it to this other site, of the same type")
	cmd.Flags().StringVar(&e.create, "to-new", "", "restore it to a new site of this name, which is made with the settings, limits and tags that SITE has now")
	cmd.Flags().StringVar(&e.server, "server", "", "with --to-new: name or id of the server to hold it; left out, the fleet chooses")
	cmd.Flags().StringArrayVar(&e.domains, "domain", nil, "with --to-new: domain of the new site, the main one first (required, may be repeated)")
	completeFlag(cmd, "to-site", p.siteNames)
	completeFlag(cmd, "server", p.serverNames)
}

func (e *elsewhere) wanted() bool { return e.site != "" || e.create != "" }

// check refuses flags that do not go together.
func (e *elsewhere) check(wait bool) error {
	switch {
	case e.site != "" && e.create != "":
		return usagef("--to-site and --to-new: one of both")
	case e.create != "" && len(e.domains) == 0:
		return usagef("--to-new: name the new site's domain with --domain")
	case e.create == "" && (e.server != "" || len(e.domains) > 0):
		return usagef("--server and --domain are for --to-new")
	case e.wanted() && !wait:
		return usagef("--to-site and --to-new copy first, and wait for that: they don't go with --wait=false; see chom backup copy")
	}
	return nil
}

// prepare gives the id of the site that the backup is restored to. A new one is made, and waited for.
func (e *elsewhere) prepare(ctx context.Context, p *program, c *client, b *backupv1.Backup) (string, error) {
	if e.site != "" {
		_, id, err := p.siteID(ctx, c, e.site)
		return id, err
	}
	got, err := c.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId()})
	if err != nil {
		return "", err
	}
	like := got.GetSite()
	create := &sitev1.CreateSiteRequest{
		OrganizationId: b.GetOrganizationId(), Name: e.create, Type: like.GetType(), Domains: e.domains, Settings: like.GetSettings(), Limits: like.GetLimits(),
		Tags: like.GetTags(), BackupPolicyId: like.GetBackupPolicyId(),
	}
	if e.server != "" {
		if create.ServerId, err = c.serverID(ctx, e.server); err != nil {
			return "", err
		}
	}
	made, err := c.Sites.CreateSite(ctx, create)
	if err != nil {
		return "", err
	}
	p.note("the site %s is made first", plain(e.create))
	task, err := p.follow(ctx, c, made.GetTask(), false)
	if err != nil {
		return "", err
	}
	return made.GetSite().GetId(), failure(task)
}

// restore copies a backup to the other site and restores it there.
func (e *elsewhere) restore(ctx context.Context, p *program, c *client, b *backupv1.Backup, ask *backupv1.RestoreBackupRequest) error {
	if b.GetState() != backupv1.State_STATE_READY { // no site is made for nothing
		return &problem{code: exitFailed, text: "only a backup that is ready can be copied"}
	}
	to, err := e.prepare(ctx, p, c, b)
	if err != nil {
		return err
	}
	there, err := p.copyBackup(ctx, c, b, to, true)
	if err != nil {
		return err
	}
	ask.SiteId, ask.BackupId = there.GetSiteId(), there.GetId()
	ask.WithoutBackup = ask.GetWithoutBackup() || e.create != "" // of a new site there is nothing to keep
	p.note("%s has it as number %d, and restores it", plain(cmp.Or(e.site, e.create)), there.GetSequence())
	made, err := c.Backups.RestoreBackup(ctx, ask)
	if err != nil {
		return fmt.Errorf("the copy is there, and not restored: %w", err)
	}
	return p.finishRestore(ctx, c, made.GetRestore())
}
