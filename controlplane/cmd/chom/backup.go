package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
)

func (p *program) backupCommand() *cobra.Command {
	cmd := group("backup", "Backups: copies of sites that were read and checked, and putting them back", []string{"backups"},
		p.backupCreate(), p.backupList(), p.backupShow(), p.backupBrowse(), p.backupDownload(), p.backupExport(), p.backupCopy(), p.backupCancel(), p.backupRestore(), p.backupUndo(), p.backupRestores(),
		p.backupDrill(), p.backupDrills(), p.backupStatus(), p.policyCommand(), p.targetCommand())
	cmd.Long = `A backup holds a site's files and its database at one moment. It is ready once the control plane has read it where it is stored and
found in it what the site's host said; only then it can be restored.

A BACKUP is named by its id or its number, which chom backup list shows.`
	return cmd
}

func (p *program) backupCreate() *cobra.Command {
	return p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "create SITE",
		Short: "Make a backup of a site now",
		Long: `Create has the site's host make a backup while the site goes on, and waits until it was checked. A site has one under way at a
time.`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			made, err := c.Backups.CreateBackup(ctx, &backupv1.CreateBackupRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			b := made.GetBackup()
			if p.wait {
				if _, err := p.follow(ctx, c, &taskv1.Task{OrganizationId: organization, Id: b.GetTaskId()}, false); err != nil {
					return err
				}
				if b, err = p.awaitCheck(ctx, c, b); err != nil {
					return err
				}
			}
			if err := p.print(&backupv1.CreateBackupResponse{Backup: b}, []string{b.GetId()}, func() error { return p.printBackup(b) }); err != nil {
				return err
			}
			if b.GetState() == backupv1.State_STATE_FAILED {
				return &problem{code: exitTaskFailed, text: "the backup failed: " + plain(b.GetProblem()), next: "its host's steps and output: chom task show " + b.GetTaskId()}
			}
			return nil
		}),
	}))
}

// awaitCheck waits until the control plane has checked what was made.
func (p *program) awaitCheck(ctx context.Context, c *client, b *backupv1.Backup) (*backupv1.Backup, error) {
	said := false
	for {
		got, err := c.Backups.GetBackup(ctx, &backupv1.GetBackupRequest{OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId()})
		if err != nil {
			return nil, err
		}
		if b = got.GetBackup(); b.GetState() == backupv1.State_STATE_READY || b.GetState() == backupv1.State_STATE_FAILED {
			return b, nil
		}
		if !said && b.GetState() == backupv1.State_STATE_CHECKING {
			p.note("it is made; the control plane checks it")
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (p *program) backupList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "list SITE",
		Aliases:           []string{"ls"},
		Short:             "List a site's backups, newest first",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			all, size, err := c.allBackups(ctx, organization, id)
			if err != nil {
				return err
			}
			lie, err := c.targetName(ctx, organization, all...)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, b := range all {
				rows = append(rows, []string{
					b.GetId(), number(b), short(b.GetState(), "STATE_"), short(b.GetReason(), "REASON_"), at(cmp.Or(b.GetStartTime(), b.GetCreateTime())),
					bytesText(b.GetContents().GetFileBytes()), bytesText(b.GetContents().GetDumpBytes()), bytesText(b.GetAddedBytes()), lie,
					b.GetProblem(),
				})
			}
			return p.print(list(all), column(rows, 0), func() error {
				if err := printTable(p.out, []string{"ID", "NUMBER", "STATE", "REASON", "OF", "FILES", "DATABASE", "ADDED", "TARGET", "PROBLEM"}, rows); err != nil {
					return err
				}
				if size > 0 {
					p.note("All of them together take %s.", bytesText(size))
				}
				return nil
			})
		}),
	})
}

// allBackups are a site's backups, newest first, and the bytes that they take together.
func (c *client) allBackups(ctx context.Context, organization, site string) ([]*backupv1.Backup, uint64, error) {
	var size uint64
	all, err := pages(func(token string) ([]*backupv1.Backup, string, error) {
		page, err := c.Backups.ListBackups(ctx, &backupv1.ListBackupsRequest{OrganizationId: organization, SiteId: site, PageSize: largestPage, PageToken: token})
		size = page.GetRepositoryBytes()
		return page.GetBackups(), page.GetNextPageToken(), err
	})
	return all, size, err
}

// number is that of a backup that is ready.
func number(b *backupv1.Backup) string {
	if b.GetSequence() == 0 {
		return ""
	}
	return strconv.FormatUint(b.GetSequence(), 10)
}

// namedBackup is the backup that the first two arguments name: of a site, by its id or its number.
func (p *program) namedBackup(ctx context.Context, c *client, args []string) (*backupv1.Backup, error) {
	organization, site, err := p.siteID(ctx, c, args[0])
	if err != nil {
		return nil, err
	}
	named := args[1]
	if uuid.Validate(named) != nil {
		all, _, err := c.allBackups(ctx, organization, site)
		if err != nil {
			return nil, err
		}
		found, err := only(all, "backup", named, "chom backup list SITE", (*backupv1.Backup).GetId, number)
		if err != nil {
			return nil, err
		}
		named = found.GetId()
	}
	got, err := c.Backups.GetBackup(ctx, &backupv1.GetBackupRequest{OrganizationId: organization, SiteId: site, BackupId: named})
	return got.GetBackup(), err
}

func (p *program) backupShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "show SITE BACKUP",
		Short:             "Show a backup and what is in it",
		Args:              exactly(2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			return p.print(b, []string{b.GetId()}, func() error { return p.printBackup(b) })
		}),
	})
}

// unkeptLinks names those of which no restore is sure.
func unkeptLinks(contents *backupv1.Contents) string {
	text := strings.Join(contents.GetUnkeptLinks(), ", ")
	if more := contents.GetUnkeptLinkCount() - uint64(len(contents.GetUnkeptLinks())); contents.GetUnkeptLinkCount() > 0 && more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (p *program) printBackup(b *backupv1.Backup) error {
	contents := b.GetContents()
	files, database := "", ""
	if contents != nil {
		files = fmt.Sprintf("%d files, directories and links, %s", contents.GetFileCount(), cmp.Or(bytesText(contents.GetFileBytes()), "empty"))
	}
	if contents.GetDatabaseSnapshot() != "" {
		database = fmt.Sprintf("%d tables, %s", len(contents.GetTables()), bytesText(contents.GetDumpBytes()))
	}
	if err := printFields(p.out, [][2]string{
		{"id", b.GetId()},
		{"number", number(b)},
		{"state", short(b.GetState(), "STATE_")},
		{"problem", b.GetProblem()},
		{"reason", short(b.GetReason(), "REASON_")},
		{"copied from", b.GetSourceBackupId()},
		{"of the site", b.GetSourceSiteId()},
		{"asked for", at(b.GetCreateTime())},
		{"of", at(b.GetStartTime())},
		{"read until", at(b.GetEndTime())},
		{"checked", at(b.GetCheckTime())},
		{"files", files},
		{"database", database},
		{"may come back as other links", unkeptLinks(contents)},
		{"added", bytesText(b.GetAddedBytes())},
		{"target", b.GetTargetId()},
		{"home page", contents.GetPageTitle()},
		{"files snapshot", contents.GetFilesSnapshot()},
		{"database snapshot", contents.GetDatabaseSnapshot()},
		{"task", b.GetTaskId()},
	}); err != nil || len(contents.GetTables()) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	var rows [][]string
	for _, table := range contents.GetTables() {
		rows = append(rows, []string{table.GetName(), strconv.FormatUint(table.GetRows(), 10)})
	}
	return printTable(p.out, []string{"TABLE", "ROWS"}, rows)
}

func (p *program) backupBrowse() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "browse SITE BACKUP [PATH]",
		Short:             "List a directory of a backup",
		Long:              "Browse lists what is in a directory of a backup. PATH begins at the site's own top, which holds public and private, and is that when it is left out.",
		Example:           `  chom backup browse shop 12 /public/wp-content/uploads`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			dir := strings.TrimSuffix(append(args, "")[2], "/")
			all, err := pages(func(token string) ([]*backupv1.BackupFile, string, error) {
				page, err := c.Backups.BrowseBackup(ctx, &backupv1.BrowseBackupRequest{
					OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId(), Path: dir, PageSize: largestPage, PageToken: token,
				})
				return page.GetFiles(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, f := range all {
				size := ""
				if f.GetType() == backupv1.BackupFile_TYPE_FILE {
					size = cmp.Or(bytesText(f.GetSize()), "0 B")
				}
				rows = append(rows, []string{f.GetName(), short(f.GetType(), "TYPE_"), size, fmt.Sprintf("%04o", f.GetMode()), at(f.GetModifyTime())})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "TYPE", "SIZE", "MODE", "CHANGED"}, rows)
			})
		}),
	})
}

func (p *program) backupDownload() *cobra.Command {
	var to string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "download SITE BACKUP [PATH]",
		Short: "Get a file, a directory or the database out of a backup",
		Long: `Download writes a file of a backup, a directory as a tar archive, or, where PATH is left out, the dump of its database. PATH begins
at the site's own top, which holds public and private.`,
		Example: `  chom backup download shop 12 /public/wp-config.php --to wp-config.php
  chom backup download shop 12 /public/wp-content/uploads --to uploads.tar
  chom backup download shop 12 --to database.sql`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(to); to != "" && !errors.Is(err, fs.ErrNotExist) {
				return usagef("%s is there already", to)
			}
			stream, err := c.Backups.DownloadBackup(ctx, &backupv1.DownloadBackupRequest{
				OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId(), Path: strings.TrimSuffix(append(args, "")[2], "/"),
			})
			if err != nil {
				return err
			}
			defer stream.Close() //nolint:errcheck // it was read to its end, or broke
			return writeWhole(to, p.out, stream)
		}),
	})
	cmd.Flags().StringVar(&to, "to", "", "file to write, which must not be there yet (default standard output)")
	return cmd
}

// writeWhole writes a download to a file, which is there only once it is whole, or to out.
func writeWhole(to string, out io.Writer, stream *connect.ServerStreamForClient[backupv1.DownloadBackupResponse]) (err error) {
	if to != "" {
		f, broken := os.OpenFile(to+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if broken != nil {
			return broken
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				err = errors.Join(err, os.Remove(f.Name()))
				return
			}
			err = os.Rename(f.Name(), to)
		}()
		out = f
	}
	for stream.Receive() {
		if _, err := out.Write(stream.Msg().GetData()); err != nil {
			return err
		}
	}
	return stream.Err()
}

func (p *program) backupRestore() *cobra.Command {
	var yes, files, database, without bool
	var tables []string
	var to elsewhere
	cmd := p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "restore SITE BACKUP",
		Short: "Put a backup back into its site, or into another one",
		Long: `Restore makes a backup of the site as it is, and waits until that was checked. Then it reads and checks the backup while the site
goes on. Visitors see a 503 page for the moment in which the site is switched: all that is asked for is restored, or nothing. What is
replaced is kept for a day: chom backup undo SITE brings it back.

Of single tables the rows and columns are restored; the site's views, triggers and routines stay as they are.

With --to-site or --to-new it is copied to another site, and restored there; SITE itself takes no part. The other site keeps its own
name, title and database. A WordPress gets new keys, so that nobody is logged in, and its address is replaced in all texts of the
database; posts keep their GUIDs, and what files hold of the address stays. The database alone brings its texts as they are.`,
		Example: `  chom backup restore shop 12
  chom backup restore shop 12 --database-only
  chom backup restore shop 12 --table wp_posts --table wp_postmeta
  chom backup restore shop 12 --to-site staging
  chom backup restore shop 12 --to-new shop2 --server web2 --domain shop2.example.com`,
		Args:              exactly(2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			if files && database {
				return usagef("--files-only and --database-only: one of both")
			}
			if files && len(tables) > 0 {
				return usagef("--files-only and --table: one of both")
			}
			if err := to.check(p.wait); err != nil {
				return err
			}
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			what := "the files and the database"
			switch {
			case len(tables) > 0:
				what = "the tables " + plain(strings.Join(tables, ", "))
			case files:
				what = "the files"
			case database:
				what = "the database"
			}
			of, by := args[0], "those of "
			if to.site != "" {
				of, by = to.site, "those that the site "+plain(args[0])+" had at "
			}
			question := fmt.Sprintf("This replaces %s of the site %s by %s%s", what, plain(of), by, at(cmp.Or(b.GetStartTime(), b.GetCreateTime())))
			if to.create == "" { // a new site has nothing to lose
				if err := p.confirm(yes, question, of); err != nil {
					return err
				}
			}
			ask := &backupv1.RestoreBackupRequest{
				OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId(), FilesOnly: files, DatabaseOnly: database,
				Tables: tables, WithoutBackup: without,
			}
			if to.wanted() {
				return to.restore(ctx, p, c, b, ask)
			}
			made, err := c.Backups.RestoreBackup(ctx, ask)
			if err != nil {
				return err
			}
			return p.finishRestore(ctx, c, made.GetRestore())
		}),
	}))
	cmd.Flags().BoolVar(&files, "files-only", false, "restore the files; the database stays as it is")
	cmd.Flags().BoolVar(&database, "database-only", false, "restore the database; the files stay as they are")
	cmd.Flags().StringArrayVar(&tables, "table", nil, "restore this table of the database; everything else stays as it is (may be repeated)")
	to.flags(p, cmd)
	cmd.Flags().BoolVar(&without, "without-backup", false, "make no backup of what is replaced; it can be undone for a day all the same")
	return yesFlag(cmd, &yes)
}

func (p *program) backupUndo() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "undo SITE",
		Short: "Give a site back what its newest restore replaced",
		Long: `Undo works within a day of the restore. What was restored is kept in its place: a second undo brings that back. What visitors and
editors changed since is not in what comes back.`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			all, err := c.Backups.ListRestores(ctx, &backupv1.ListRestoresRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			var newest *backupv1.Restore
			for _, r := range all.GetRestores() {
				if r.GetUndoUntil() != nil {
					newest = r
					break
				}
			}
			if newest == nil {
				return notFoundf("see them with: chom backup restores "+plain(args[0]), "there is no restore of %q that could be undone", plain(args[0]))
			}
			back := "had before it was restored at " + at(newest.GetEndTime())
			if newest.GetUndone() {
				back = "had after it was restored at " + at(newest.GetEndTime())
			}
			if err := p.confirm(yes, fmt.Sprintf("This gives the site %s back what it %s", plain(args[0]), back), args[0]); err != nil {
				return err
			}
			undoing, err := c.Backups.UndoRestore(ctx, &backupv1.UndoRestoreRequest{OrganizationId: organization, SiteId: id, RestoreId: newest.GetId()})
			if err != nil {
				return err
			}
			return p.finishRestore(ctx, c, undoing.GetRestore())
		}),
	})), &yes)
}

// finishRestore follows a restore, or its undoing, if that is wanted and shows what became of it.
func (p *program) finishRestore(ctx context.Context, c *client, r *backupv1.Restore) error {
	var broken error
	if p.wait {
		var err error
		if r, err = p.awaitBackupBefore(ctx, c, r); err != nil {
			return err
		}
		ended, err := p.follow(ctx, c, &taskv1.Task{OrganizationId: r.GetOrganizationId(), Id: r.GetTaskId()}, false)
		if err != nil {
			return err
		}
		broken = failure(ended)
		if r, err = sameRestore(ctx, c, r); err != nil {
			return err
		}
		if broken == nil && restoreState(r) == "failed" {
			broken = &problem{code: exitTaskFailed, text: "the restore failed: " + plain(r.GetProblem())}
		}
	}
	if err := p.print(&backupv1.RestoreBackupResponse{Restore: r}, nil, func() error {
		return printFields(p.out, [][2]string{
			{"id", r.GetId()},
			{"state", restoreState(r)},
			{"problem", r.GetProblem()},
			{"backup", r.GetBackupId()},
			{"what", restored(r)},
			{"backup before it", r.GetBeforeBackupId()},
			{"asked for", at(r.GetCreateTime())},
			{"restored", at(r.GetEndTime())},
			{"can be undone until", at(r.GetUndoUntil())},
			{"task", r.GetTaskId()},
		})
	}); err != nil {
		return err
	}
	return broken
}

// awaitBackupBefore waits for the backup that a restore is to follow, until the restore has a task of its own, or has failed.
func (p *program) awaitBackupBefore(ctx context.Context, c *client, r *backupv1.Restore) (*backupv1.Restore, error) {
	if r.GetBeforeBackupId() == "" || r.GetEndTime() != nil {
		return r, nil
	}
	p.note("a backup of the site as it is comes first: %s", r.GetBeforeBackupId())
	before := r.GetTaskId()
	if _, err := p.follow(ctx, c, &taskv1.Task{OrganizationId: r.GetOrganizationId(), Id: before}, false); err != nil {
		return nil, err
	}
	for {
		now, err := sameRestore(ctx, c, r)
		if err != nil || now.GetTaskId() != before || restoreState(now) != "running" {
			return now, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// sameRestore is a restore as it is now.
func sameRestore(ctx context.Context, c *client, r *backupv1.Restore) (*backupv1.Restore, error) {
	all, err := c.Backups.ListRestores(ctx, &backupv1.ListRestoresRequest{OrganizationId: r.GetOrganizationId(), SiteId: r.GetSiteId()})
	if err != nil {
		return nil, err
	}
	for _, now := range all.GetRestores() {
		if now.GetId() == r.GetId() {
			return now, nil
		}
	}
	return r, nil
}

func (p *program) backupRestores() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "restores SITE",
		Short:             "List a site's newest restores",
		Args:              exactly(1),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.siteID(ctx, c, args[0])
			if err != nil {
				return err
			}
			all, err := c.Backups.ListRestores(ctx, &backupv1.ListRestoresRequest{OrganizationId: organization, SiteId: id})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range all.GetRestores() {
				rows = append(rows, []string{r.GetId(), restoreState(r), restored(r), at(r.GetCreateTime()), at(r.GetUndoUntil()), r.GetBackupId(), r.GetProblem()})
			}
			return p.print(list(all.GetRestores()), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "STATE", "WHAT", "ASKED FOR", "UNDO UNTIL", "BACKUP", "PROBLEM"}, rows)
			})
		}),
	})
}

// restoreState is how far a restore is, as its fields say.
func restoreState(r *backupv1.Restore) string {
	switch {
	case r.GetUndone():
		return "undone"
	case r.GetEndTime() != nil:
		return "done"
	case r.GetProblem() != "":
		return "failed"
	}
	return "running"
}

func restored(r *backupv1.Restore) string {
	switch {
	case len(r.GetTables()) > 0:
		return "tables " + plain(strings.Join(r.GetTables(), ", "))
	case r.GetFiles() && r.GetDatabase():
		return "files and database"
	case r.GetDatabase():
		return "database"
	}
	return "files"
}
