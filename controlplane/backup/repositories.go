package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"time"

	"chom.dev/controlplane/backup/restic"
	"chom.dev/controlplane/backup/store"
	"chom.dev/proto/contract"
)

// Repositories read what is in a store, by the restic program. They are a Reader.
type Repositories struct {
	store  store.Store
	restic *restic.Program
}

// NewRepositories finds the program, at a path or, where that is empty, in the usual places. It fails where there is none.
func NewRepositories(s store.Store, program string, log *slog.Logger) (*Repositories, error) {
	p, err := restic.New(program, s, log)
	if err != nil {
		return nil, err
	}
	return &Repositories{s, p}, nil
}

// Check implements Reader.
func (r *Repositories) Check(ctx context.Context, of Repository) error {
	return damage(r.restic.Check(ctx, of.place(), of.Key, ""))
}

// List implements Reader.
func (r *Repositories) List(ctx context.Context, of Repository, snapshot string) (*contract.Listing, error) {
	listing := new(contract.Listing)
	err := r.restic.List(ctx, of.place(), of.Key, snapshot, "", func(f contract.Listed) error {
		listing.Add(f)
		return nil
	})
	if err != nil {
		return nil, damage(err)
	}
	return listing, nil
}

// Browse implements Reader.
func (r *Repositories) Browse(ctx context.Context, of Repository, snapshot, dir string, each func(contract.Listed) error) error {
	there := dir == "/"
	err := r.restic.List(ctx, of.place(), of.Key, snapshot, dir, func(f contract.Listed) error {
		at := "/" + f.Path
		if at == dir {
			if !f.Mode.IsDir() {
				return ErrNoFile
			}
			there = true
			return nil
		}
		if path.Dir(at) != dir {
			return nil
		}
		return each(f)
	})
	if err == nil && !there {
		return ErrNoFile
	}
	return damage(err)
}

// Read implements Reader.
func (r *Repositories) Read(ctx context.Context, of Repository, snapshot, file string, to io.Writer) error {
	return damage(r.restic.Dump(ctx, of.place(), of.Key, snapshot, file, to))
}

// Init implements Reader.
func (r *Repositories) Init(ctx context.Context, of Repository) error {
	return r.restic.Init(ctx, of.place(), of.Key)
}

// Copy implements Reader. Snapshots have other ids there, and the same tree, which is a hash over all that is in it.
func (r *Repositories) Copy(ctx context.Context, from, to Repository, snapshots ...string) ([]string, error) {
	there, err := r.restic.Snapshots(ctx, from.place(), from.Key)
	if err != nil {
		return nil, err
	}
	trees := make([]string, len(snapshots))
	for i, id := range snapshots {
		at := slices.IndexFunc(there, func(s restic.Snapshot) bool { return s.ID == id })
		if at < 0 {
			return nil, damage(fmt.Errorf("copy %s: %w", id, restic.ErrNoSnapshot))
		}
		trees[i] = there[at].Tree
	}
	if err := r.restic.Copy(ctx, from.place(), from.Key, to.place(), to.Key, snapshots...); err != nil {
		return nil, damage(err)
	}
	if there, err = r.restic.Snapshots(ctx, to.place(), to.Key); err != nil {
		return nil, err
	}
	copies := make([]string, len(trees))
	for i, tree := range trees {
		at := slices.IndexFunc(there, func(s restic.Snapshot) bool { return s.Tree == tree })
		if at < 0 {
			return nil, damage(fmt.Errorf("copy %s: it is not there afterwards: %w", snapshots[i], restic.ErrNoSnapshot))
		}
		copies[i] = there[at].ID
	}
	return copies, nil
}

// PutManifest implements Reader. One that was signed by a former signer is replaced.
func (r *Repositories) PutManifest(ctx context.Context, of Repository, sequence uint64, manifest []byte) error {
	name, err := store.ManifestName(sequence)
	if err != nil {
		return err
	}
	put := func() error {
		return r.store.Put(ctx, of.place(), name, int64(len(manifest)), bytes.NewReader(manifest))
	}
	err = put()
	if errors.Is(err, store.ErrDiffers) {
		if err := r.store.Delete(ctx, of.place(), name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("replace manifest %d: %w", sequence, err)
		}
		err = put()
	}
	return err
}

// Verify implements Reader.
func (r *Repositories) Verify(ctx context.Context, of Repository, part, parts int) error {
	return damage(r.restic.Check(ctx, of.place(), of.Key, fmt.Sprintf("%d/%d", part, parts)))
}

// Snapshots implements Reader.
func (r *Repositories) Snapshots(ctx context.Context, of Repository) ([]string, error) {
	found, err := r.restic.Snapshots(ctx, of.place(), of.Key)
	ids := make([]string, len(found))
	for i, s := range found {
		ids[i] = s.ID
	}
	return ids, err
}

// Forget implements Reader.
func (r *Repositories) Forget(ctx context.Context, of Repository, snapshots []string, manifests []uint64) error {
	if err := r.restic.Unlock(ctx, of.place(), of.Key, time.Now()); err != nil {
		return err
	}
	if err := r.restic.Forget(ctx, of.place(), of.Key, snapshots...); err != nil {
		return busy(err)
	}
	for _, sequence := range manifests {
		name, err := store.ManifestName(sequence)
		if err != nil {
			return err
		}
		if err := r.store.Delete(ctx, of.place(), name); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("remove manifest %d: %w", sequence, err)
		}
	}
	return busy(r.restic.Prune(ctx, of.place(), of.Key))
}

// busy tells that a host works with the repository from what is wrong with it.
func busy(err error) error {
	if errors.Is(err, restic.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// Usage implements Reader.
func (r *Repositories) Usage(ctx context.Context, of Repository) (uint64, error) {
	n, err := r.store.Usage(ctx, of.place())
	return uint64(n), err
}

// Remove implements Reader.
func (r *Repositories) Remove(ctx context.Context, organization contract.OrganizationID, site contract.SiteID) error {
	return r.store.Remove(ctx, store.Repository{Organization: organization, Site: site})
}

func (r Repository) place() store.Repository {
	return store.Repository{Organization: r.Organization, Site: r.Site}
}

// damage tells what the repository is from what kept it from being read.
func damage(err error) error {
	if errors.Is(err, restic.ErrDamaged) || errors.Is(err, restic.ErrNoSnapshot) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
