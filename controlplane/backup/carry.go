package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"chom.dev/proto/contract"
)

// Walk implements Reader. The program's archive has neither parts of seconds nor all modes, and its list has no links: both have the
// same order, and are read side by side.
func (r *Repositories) Walk(ctx context.Context, of Repository, snapshot string, each func(f contract.Listed, link string, content io.Reader) error) error {
	both, ctx := errgroup.WithContext(ctx)
	listed := make(chan contract.Listed, 100)
	content, to := io.Pipe()
	both.Go(func() error {
		defer close(listed)
		return r.restic.List(ctx, of.place(), of.Key, snapshot, "", func(f contract.Listed) error {
			if f.Mode.Type() == fs.ModeIrregular { // no archive has those
				return nil
			}
			select {
			case listed <- f:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	both.Go(func() error {
		err := r.restic.Dump(ctx, of.place(), of.Key, snapshot, "/", to)
		_ = to.CloseWithError(err) // nil is its end
		return err
	})
	both.Go(func() error {
		err := sideBySide(tar.NewReader(content), listed, each)
		_ = content.CloseWithError(err) // who writes on hears it
		return err
	})
	return damage(both.Wait())
}

func sideBySide(archive *tar.Reader, listed <-chan contract.Listed, each func(f contract.Listed, link string, content io.Reader) error) error {
	for {
		h, err := archive.Next()
		f, more := <-listed
		switch {
		case errors.Is(err, io.EOF) && !more:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("what restic archives ends before %q", f.Path)
		case err != nil:
			return err
		case !more:
			return fmt.Errorf("restic archives %q, and does not list it", h.Name)
		}
		name := strings.Trim(h.Name, "/")
		if utf8.ValidString(name) && name != f.Path || h.FileInfo().Mode().Type() != f.Mode.Type() || f.Mode.IsRegular() && uint64(h.Size) != f.Size {
			return fmt.Errorf("restic archives %q where it lists %q", name, f.Path)
		}
		f.Path = name // of which a list replaces what is not UTF-8
		if err := each(f, h.Linkname, archive); err != nil {
			return err
		}
	}
}

// SaveFiles implements Reader.
func (r *Repositories) SaveFiles(ctx context.Context, of Repository, as contract.BackupID, dir string) (snapshot string, added uint64, err error) {
	saved, err := r.restic.SaveFiles(ctx, of.place(), of.Key, as, dir)
	return saved.ID, saved.Added, err
}

// SaveDump implements Reader.
func (r *Repositories) SaveDump(ctx context.Context, of Repository, as contract.BackupID, dump io.Reader) (snapshot string, added uint64, err error) {
	saved, err := r.restic.SaveDump(ctx, of.place(), of.Key, as, dump)
	return saved.ID, saved.Added, err
}
