package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/task"
	"chom.dev/agent/tree"
	"chom.dev/proto/contract"
)

// ListTree is the helper that lists a site's files. It runs as the site's user.
func ListTree(ctx context.Context, dir string, out io.Writer) error {
	files, err := tree.Find(ctx, dir)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(files)
}

// DefineObjects is the helper that makes views, triggers and routines. It runs as
// the site's user, and says which are left.
func DefineObjects(ctx context.Context, in io.Reader, out io.Writer) error {
	var d mariadb.Definitions
	if err := json.NewDecoder(in).Decode(&d); err != nil {
		return fmt.Errorf("read definitions: %w", err)
	}
	left, err := mariadb.Define(ctx, d)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(left)
}

// forgetEvery is how late what a restore replaced may go.
const forgetEvery = time.Hour

// ForgetRestores removes what restores have left beside the sites once it can no
// longer be asked for, and what drills have that came to no end, until the context
// ends.
func (s *Sites) ForgetRestores(ctx context.Context, reg betweener, clock *clock.Clock) error {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		if err := s.forgetDrills(ctx, reg); err != nil && ctx.Err() == nil {
			s.log.Warn("what a drill left is not removed", "err", err)
		}
		if now, confirmed := clock.Now(); confirmed { // a wrong clock removes nothing
			if err := s.forgetRestores(ctx, reg, now); err != nil && ctx.Err() == nil {
				s.log.Warn("what a restore left is not removed", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *Sites) forgetRestores(ctx context.Context, reg betweener, now time.Time) error {
	handles, err := s.restores.all()
	if err != nil || len(handles) == 0 {
		return err
	}
	sites, err := reg.Sites()
	if err != nil {
		return err
	}
	ids := make(map[contract.Handle]contract.SiteID, len(sites))
	for _, site := range sites {
		ids[site.Handle] = site.ID
	}
	var errs []error
	for _, h := range handles {
		id, known := ids[h]
		if !known {
			continue // its removal takes it along
		}
		err := reg.Between(ctx, id, func(site task.Site) error { return s.restores.expire(ctx, site.Handle, now) })
		if err != nil {
			errs = append(errs, fmt.Errorf("site %s: %w", h, err))
		}
	}
	return errors.Join(errs...)
}

// expire discards what is due. The time begins when it is first asked: the host's
// own clock may have been wrong when the restore ended.
func (s *restores) expire(ctx context.Context, h contract.Handle, now time.Time) error {
	rec, err := s.load(h)
	switch {
	case err != nil, rec == nil, rec.State == restoreSwitching: // an order, or the next one, brings it to its end
		return err
	case rec.State == restoreDiscarding:
		return s.discard(ctx, h)
	case rec.Until.IsZero(): // of an attempt that was never taken back, too
		rec.Until = now.Add(keepReplaced)
		return s.store(h, rec)
	case now.Before(rec.Until):
		return nil
	}
	return s.discard(ctx, h)
}
