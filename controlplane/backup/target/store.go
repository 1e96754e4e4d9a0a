package target

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Store is all stores as one: each repository lies where its row says, and one without a row in the platform's own. What a target
// says of itself is told with what to do about it, and noted.
func (t *Targets) Store() store.Store { return &routed{t} }

type routed struct{ targets *Targets }

// opened is a target that is spoken to, as it is in one version.
type opened struct {
	store.Store
	target Target

	mu    sync.Mutex
	noted time.Time // when problem was written down last
}

// noteEvery is how often the same is written down of a target again: another process may have noted something else.
const noteEvery = 5 * time.Minute

// of finds where a repository lies; nil is the platform's own store.
func (t *Targets) of(ctx context.Context, r store.Repository) (*opened, error) {
	var id contract.TargetID
	var version int64
	err := t.db.Reader().QueryRow(ctx, `
		SELECT t.id,
		       t.version
		FROM repositories r
		JOIN backup_targets t ON t.organization_id = r.organization_id AND t.id = r.target_id
		WHERE r.organization_id = $1
		  AND r.site_id = $2`, r.Organization.String(), r.Site.String()).Scan(&id, &version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look where repository %s lies: %w", r, err)
	}
	t.mu.Lock()
	known := t.opened[id]
	t.mu.Unlock()
	if known != nil && known.target.version == version {
		return known, nil
	}
	found, err := t.Get(ctx, r.Organization, id)
	if err != nil {
		return nil, err
	}
	credentials, err := t.open(found)
	if err != nil {
		return nil, fmt.Errorf("open backup target %s: %w", id, err)
	}
	s, err := t.dial(found, credentials)
	if err != nil {
		return nil, fmt.Errorf("open backup target %s: %w", id, err)
	}
	now := &opened{Store: s, target: found}
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.opened[id]; known != nil && known.target.version == found.version {
		return known, nil // somebody else was faster
	}
	t.opened[id] = now
	return now, nil
}

// call does something where a repository lies.
func (s *routed) call(ctx context.Context, r store.Repository, do func(store.Store) error) error {
	at, err := s.targets.of(ctx, r)
	if err != nil {
		return err
	}
	if at == nil {
		return do(s.targets.config.Own)
	}
	err = at.told(do(at.Store))
	s.targets.used(ctx, at, err)
	return err
}

// told adds to an error that is the target's own what to do about it.
func (o *opened) told(err error) error {
	f, isFault := fault.Of(err)
	if !isFault || f.Kind() != fault.KindUnavailable {
		return err
	}
	return fault.Unavailable(f.Error()+". "+advice(o.target), f.RetryAfter(), err)
}

// used notes how the use of a target went, if that is news.
func (t *Targets) used(ctx context.Context, o *opened, err error) {
	problem := ""
	switch f, isFault := fault.Of(err); {
	case isFault && f.Kind() == fault.KindUnavailable:
		problem = f.Error()
	case isFault || err == nil: // it has answered
	default:
		return // somebody has hung up, or it is ours
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if problem == o.target.Problem && now.Sub(o.noted).Abs() < noteEvery {
		return
	}
	noted := o.target
	noted.Problem, noted.CheckedAt = problem, db.Time(db.Micros(now))
	if err := t.note(context.WithoutCancel(ctx), noted); err != nil {
		t.log.WarnContext(ctx, "how a backup target works can't be written down", "target", o.target.ID, "err", err)
		return
	}
	if problem != o.target.Problem {
		t.log.InfoContext(ctx, "a backup target works otherwise than before", "target", o.target.ID, "problem", problem)
	}
	o.target.Problem, o.noted = problem, now
}

// Put implements store.Store.
func (s *routed) Put(ctx context.Context, r store.Repository, n store.Name, size int64, body io.Reader) error {
	return s.call(ctx, r, func(at store.Store) error { return at.Put(ctx, r, n, size, body) })
}

// Get implements store.Store.
func (s *routed) Get(ctx context.Context, r store.Repository, n store.Name, offset, length int64) (part *store.Part, err error) {
	err = s.call(ctx, r, func(at store.Store) error {
		part, err = at.Get(ctx, r, n, offset, length)
		return err
	})
	return part, err
}

// Stat implements store.Store.
func (s *routed) Stat(ctx context.Context, r store.Repository, n store.Name) (size int64, err error) {
	err = s.call(ctx, r, func(at store.Store) error {
		size, err = at.Stat(ctx, r, n)
		return err
	})
	return size, err
}

// List implements store.Store.
func (s *routed) List(ctx context.Context, r store.Repository, kind store.Kind) (found []store.Object, err error) {
	err = s.call(ctx, r, func(at store.Store) error {
		found, err = at.List(ctx, r, kind)
		return err
	})
	return found, err
}

// Delete implements store.Store.
func (s *routed) Delete(ctx context.Context, r store.Repository, n store.Name) error {
	return s.call(ctx, r, func(at store.Store) error { return at.Delete(ctx, r, n) })
}

// Remove implements store.Store. Of a repository that lies in a target there may be something in the platform's own store too: a
// backup that failed there, before there was any.
func (s *routed) Remove(ctx context.Context, r store.Repository) error {
	if err := s.call(ctx, r, func(at store.Store) error { return at.Remove(ctx, r) }); err != nil {
		return err
	}
	return s.targets.config.Own.Remove(ctx, r)
}

// Usage implements store.Store.
func (s *routed) Usage(ctx context.Context, r store.Repository) (size int64, err error) {
	err = s.call(ctx, r, func(at store.Store) error {
		size, err = at.Usage(ctx, r)
		return err
	})
	return size, err
}
