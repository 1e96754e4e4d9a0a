package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/archive"
)

func (p *program) backupExport() *cobra.Command {
	var to string
	var database bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "export SITE BACKUP",
		Short: "Take a whole site with you: an archive that another control plane imports",
		Long: `Export writes all of a backup to one file: the site's files with their modes, times and links, and the dump of its database. Another
site, of this or another control plane, takes it with chom site import. The file is a tar archive compressed by zstd, which tar reads
too: chom-site.json says what it is of, files/ holds public and private, database.sql is the dump, and chom-end.json, the last one, is
a checksum over all of it. Owners and extended attributes are not in it. It holds the site's passwords, as the site's own files do.

The control plane makes it while it is sent. The file has its name only once it is whole and its checksum was found right.

With --database only the dump is written, compressed by zstd, or as plain SQL where the name ends with .sql.`,
		Example: `  chom backup export shop 12
  chom backup export shop 12 -o shop.tar.zst
  chom backup export shop 12 --database -o shop.sql`,
		Args:              exactly(2),
		ValidArgsFunction: first(p.siteNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			b, err := p.namedBackup(ctx, c, args)
			if err != nil {
				return err
			}
			what, ending := backupv1.ExportBackupRequest_EXPORT_SITE, ".tar.zst"
			if database {
				what, ending = backupv1.ExportBackupRequest_EXPORT_DATABASE, ".sql.zst"
			}
			name := to
			if name == "" {
				name = filepath.Base(plain(args[0])) + "-" + b.GetStartTime().AsTime().UTC().Format("20060102-1504") + ending
			}
			if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				return usagef("%s is there already", name)
			}
			stream, err := c.Backups.ExportBackup(ctx, &backupv1.ExportBackupRequest{
				OrganizationId: b.GetOrganizationId(), SiteId: b.GetSiteId(), BackupId: b.GetId(), Export: what,
			})
			if err != nil {
				return err
			}
			defer stream.Close() //nolint:errcheck // it was read to its end, or broke
			var check func(io.Reader, io.Writer) error
			switch {
			case !database:
				check = func(r io.Reader, _ io.Writer) error {
					_, err := archive.Verify(ctx, r, archive.DefaultLimits())
					return err
				}
			case strings.HasSuffix(name, ".sql"):
				check = unpacked
			default:
				check = func(r io.Reader, _ io.Writer) error { return unpacked(r, io.Discard) }
			}
			n, err := p.export(name, strings.HasSuffix(name, ".sql") && database, stream, check)
			if err != nil {
				return err
			}
			return p.print(map[string]any{"file": name, "bytes": n}, []string{name}, func() error {
				p.note("%s: %s, and whole.", name, bytesText(uint64(n)))
				return nil
			})
		}),
	})
	cmd.Flags().StringVarP(&to, "output", "o", "", "file to write, which must not be there yet (default SITE-YYYYMMDD-HHMM.tar.zst, or .sql.zst)")
	cmd.Flags().BoolVar(&database, "database", false, "write the dump of the database alone")
	return cmd
}

// unpacked reads what zstd has compressed, to its end.
func unpacked(from io.Reader, to io.Writer) error {
	r, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(to, r)
	return err
}

// export writes what comes to a file, while check reads it too, and gives the file its name only where both succeed. Where check writes
// the file itself, it does so in the place of what comes.
func (p *program) export(name string, itself bool, stream *connect.ServerStreamForClient[backupv1.ExportBackupResponse], check func(io.Reader, io.Writer) error) (n int64, err error) {
	f, err := os.OpenFile(name+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), name)
			return
		}
		err = errors.Join(err, os.Remove(f.Name()))
	}()
	read, write := io.Pipe()
	var both errgroup.Group
	both.Go(func() error {
		err := check(read, f)
		_ = read.CloseWithError(err) // who writes on hears it
		return err
	})
	both.Go(func() error {
		err := p.received(stream, func(b []byte) error {
			n += int64(len(b))
			_, err := write.Write(b)
			if err == nil && !itself {
				_, err = f.Write(b)
			}
			return err
		})
		_ = write.CloseWithError(err) // nil is its end
		return err
	})
	if err := both.Wait(); err != nil {
		return 0, err
	}
	return n, f.Sync()
}

func (p *program) received(stream *connect.ServerStreamForClient[backupv1.ExportBackupResponse], each func([]byte) error) error {
	var n uint64
	told := time.Now()
	for stream.Receive() {
		n += uint64(len(stream.Msg().GetData()))
		if time.Since(told) > tellEvery {
			told = time.Now()
			p.note("%s have come", bytesText(n))
		}
		if err := each(stream.Msg().GetData()); err != nil {
			return errors.Join(stream.Err(), err)
		}
	}
	return stream.Err()
}
