package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

func (p *program) siteImport() *cobra.Command {
	var files, database string
	var strip uint32
	cmd := p.organizationFlag(p.waitFlag(&cobra.Command{
		Use:   "import SITE [ARCHIVE]",
		Short: "Bring a site from elsewhere into this one's backups",
		Long: `Import uploads an archive, and has a backup of SITE made of it: the site itself stays as it is until chom backup restore puts the backup
into its place, which can be undone for a day.

ARCHIVE is what chom backup export has written, on this or another control plane. A site from any other place comes as two files: a tar
archive of what its web server shows, given as --files, and a dump of its database, given as --database. Both may be compressed by gzip
or zstd. The content of the tar archive becomes the site's directory public; where it lies in a directory of its own, --strip 1 leaves
that out. On the other server:

  tar -C /var/www/shop -czf shop.tar.gz --hard-dereference .
  mariadb-dump --single-transaction --skip-triggers shop | gzip > shop.sql.gz

A dump holds tables alone: by mariadb-dump, mysqldump or wp db export, to its last line, "-- Dump completed". Views, triggers, routines
and statements for other databases are refused, and so are archives with devices, hard links, sparse files, links that lead out of
the site, or names that do. Whatever is refused is named, and nothing of it is kept.`,
		Example: `  chom site import shop shop-20260304-0506.tar.zst
  chom site import shop --files shop.tar.gz --database shop.sql.gz --strip 1`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			name := append(args, "")[1]
			switch {
			case (name == "") == (files == ""):
				return usagef("give an ARCHIVE that chom backup export has written, or --files: one of both")
			case name != "" && database != "":
				return usagef("--database goes with --files: an ARCHIVE of chom backup export holds its own")
			case name == "":
				name = files
			}
			archive, err := openUpload(name)
			if err != nil {
				return err
			}
			defer archive.file.Close()
			uploads := []*upload{archive}
			archive.part = backupv1.UploadImportRequest_PART_ARCHIVE
			request := &backupv1.CreateImportRequest{ArchiveBytes: archive.size, Strip: strip}
			if database != "" {
				dump, err := openUpload(database)
				if err != nil {
					return err
				}
				defer dump.file.Close()
				dump.part = backupv1.UploadImportRequest_PART_DATABASE
				request.DatabaseBytes, uploads = dump.size, append(uploads, dump)
			}
			if request.OrganizationId, request.SiteId, err = p.siteID(ctx, c, args[0]); err != nil {
				return err
			}
			made, err := c.Imports.CreateImport(ctx, request)
			if err != nil {
				return err
			}
			for _, u := range uploads {
				if err := p.upload(ctx, c, made.GetImport(), u); err != nil {
					return err
				}
			}
			begun, err := c.Imports.BeginImport(ctx, &backupv1.BeginImportRequest{
				OrganizationId: request.OrganizationId, SiteId: request.SiteId, ImportId: made.GetImport().GetId(),
			})
			if err != nil {
				return err
			}
			b := begun.GetBackup()
			if p.wait {
				p.note("all has come; the control plane makes a backup of it and checks that")
				if b, err = p.awaitCheck(ctx, c, b); err != nil {
					return err
				}
			}
			if err := p.print(&backupv1.BeginImportResponse{Backup: b}, []string{b.GetId()}, func() error { return p.printBackup(b) }); err != nil {
				return err
			}
			if b.GetState() == backupv1.State_STATE_FAILED {
				return &problem{code: exitTaskFailed, text: "the import failed: " + plain(b.GetProblem())}
			}
			if p.wait {
				p.note("Put it into the site's place: chom backup restore %s %s", plain(args[0]), number(b))
			}
			return nil
		}),
	}))
	cmd.Flags().StringVar(&files, "files", "", "tar archive of a site from any other place")
	cmd.Flags().StringVar(&database, "database", "", "dump of its database")
	cmd.Flags().Uint32Var(&strip, "strip", 0, "leave out so many leading directories of each name in --files")
	return cmd
}

// upload is a file that is sent.
type upload struct {
	file *os.File
	name string
	size uint64
	part backupv1.UploadImportRequest_Part
}

func openUpload(name string) (*upload, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		_ = f.Close() // it is of no use
		if err == nil {
			err = usagef("%s is no file with anything in it", name)
		}
		return nil, err
	}
	return &upload{file: f, name: name, size: uint64(info.Size())}, nil
}

// uploadTries is how often in a row a connection may break without a byte that came.
const uploadTries = 5

// upload sends a file, and goes on where it ended when the connection breaks.
func (p *program) upload(ctx context.Context, c *client, to *backupv1.Import, u *upload) error {
	var offset uint64
	for failed := 0; offset < u.size; {
		broken := p.send(ctx, c, to, u, offset)
		if broken != nil && connect.CodeOf(broken) != connect.CodeUnavailable {
			return fmt.Errorf("upload %s: %w", u.name, broken)
		}
		now, err := c.Imports.GetImport(ctx, &backupv1.GetImportRequest{OrganizationId: to.GetOrganizationId(), SiteId: to.GetSiteId(), ImportId: to.GetId()})
		if err != nil {
			return err
		}
		came := now.GetImport().GetArchive().GetReceivedBytes()
		if u.part == backupv1.UploadImportRequest_PART_DATABASE {
			came = now.GetImport().GetDatabase().GetReceivedBytes()
		}
		if failed++; came > offset {
			failed = 0
		}
		offset = came
		if broken == nil {
			continue
		}
		if failed >= uploadTries {
			return fmt.Errorf("upload %s: %w", u.name, broken)
		}
		p.note("%s; going on at %s", explain(broken).text, bytesText(offset))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(failed+1) * time.Second):
		}
	}
	return nil
}

// send sends a file from an offset on, as the body of one request.
func (p *program) send(ctx context.Context, c *client, to *backupv1.Import, u *upload, offset uint64) error {
	if _, err := u.file.Seek(int64(offset), io.SeekStart); err != nil {
		return err
	}
	left := u.size - offset
	query := url.Values{"part": {u.part.String()}, "offset": {strconv.FormatUint(offset, 10)}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprintf("%s/api/v1/organizations/%s/sites/%s/imports/%s?%s",
		c.base, to.GetOrganizationId(), to.GetSiteId(), to.GetId(), query.Encode()), &told{from: io.LimitReader(u.file, int64(left)), p: p, u: u, n: offset, at: time.Now()})
	if err != nil {
		return err
	}
	request.ContentLength = int64(left)
	request.Header.Set("Content-Type", "application/octet-stream")
	c.sign(request.Header)
	answer, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return connect.NewError(connect.CodeUnavailable, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	switch {
	case err != nil:
		return connect.NewError(connect.CodeUnavailable, err)
	case answer.StatusCode == http.StatusOK:
		return nil
	}
	var said struct{ Detail string }
	if err := json.Unmarshal(text, &said); err != nil || said.Detail == "" {
		said.Detail = answer.Status
	}
	code := connect.CodeFailedPrecondition
	if answer.StatusCode >= http.StatusInternalServerError {
		code = connect.CodeUnavailable
	}
	return connect.NewError(code, fmt.Errorf("%s", said.Detail))
}

// told tells now and then how much was sent.
type told struct {
	from io.Reader
	p    *program
	u    *upload
	n    uint64
	at   time.Time
}

func (t *told) Read(b []byte) (int, error) {
	n, err := t.from.Read(b)
	t.n += uint64(n)
	if time.Since(t.at) > tellEvery {
		t.at = time.Now()
		t.p.note("%s: %s of %s", t.u.name, bytesText(t.n), bytesText(t.u.size))
	}
	return n, err
}
