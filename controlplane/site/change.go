package site

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// Change says what to change of a site; nil leaves a part as it is.
type Change struct {
	Domains   []string           // the whole new list; a name that leaves it leaves the redirects too
	Redirects []string           // the whole new list
	HTTPS     *HTTPS             // the whole new options
	Settings  map[string]string  // merged over the present ones
	Limits    *Limits            // the whole new limits
	Tags      *[]string          // the whole new list
	Policy    *contract.PolicyID // the zero value lets its tags choose
	ETag      string             // what the caller saw: the change is for nothing else; empty for any
}

// Update changes what is wanted of a site. Where its host has nothing to learn from that, there is no task. Errors: ErrNotFound,
// ErrInTrash, ErrChanged, ErrNoPolicy, organization.ErrClosing, a fault of kind Invalid that names the field, a Conflict that names
// the domain which another site has.
func (s *Sites) Update(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, change Change) (*Site, task.Task, error) {
	carryOut := s.carryOut
	if change.labels() {
		carryOut = s.relabel
	}
	return s.change(ctx, organization, id, "site.update", carryOut, func(tx *db.Tx, site *Site) (string, error) {
		if err := changeable(site); err != nil {
			return "", err
		}
		if change.ETag != "" && change.ETag != site.ETag() {
			return "", ErrChanged
		}
		var what []string
		if change.Domains != nil {
			wanted, err := parseDomains(change.Domains)
			if err != nil {
				return "", err
			}
			if err := s.replaceDomains(ctx, tx, site, wanted); err != nil {
				return "", err
			}
			site.Wanted.Redirects = among(site.Wanted.Redirects, wanted[1:])
			what = append(what, "domains: "+joinNames(wanted))
		}
		if change.Redirects != nil {
			redirects, err := parseRedirects(change.Redirects, site.Wanted.Domains)
			if err != nil {
				return "", err
			}
			site.Wanted.Redirects = redirects
			what = append(what, "redirects: "+cmp.Or(joinNames(redirects), "none"))
		}
		if change.HTTPS != nil {
			if err := change.HTTPS.check(); err != nil {
				return "", err
			}
			site.Wanted.HTTPS = *change.HTTPS
			what = append(what, "https")
		}
		if change.Settings != nil {
			kind, err := parseType(site.Wanted.Type.String())
			if err != nil {
				return "", err
			}
			merged, err := kind.mergeSettings(site.Wanted.Settings, change.Settings)
			if err != nil {
				return "", err
			}
			site.Wanted.Settings = merged
			what = append(what, "settings")
		}
		if change.Limits != nil {
			if err := change.Limits.check(); err != nil {
				return "", err
			}
			site.Wanted.Limits = *change.Limits
			what = append(what, "limits")
		}
		if change.Tags != nil {
			tags, err := ParseTags(*change.Tags)
			if err != nil {
				return "", err
			}
			site.Tags = tags
			what = append(what, "tags: "+cmp.Or(strings.Join(tags, " "), "none"))
		}
		if change.Policy != nil {
			site.Policy = *change.Policy
			if err := s.mayChoose(ctx, tx, site); err != nil {
				return "", err
			}
			what = append(what, "backup policy: "+cmp.Or(site.Policy.String(), "as its tags say"))
		}
		if len(what) == 0 {
			return "", fault.Invalid("update_mask", "must name at least one of: "+strings.Join(parts, ", "))
		}
		return strings.Join(what, ", "), nil
	})
}

// labels says whether nothing is changed but what a site's host learns only if another schedule follows.
func (c Change) labels() bool {
	return c.Domains == nil && c.Redirects == nil && c.HTTPS == nil && c.Settings == nil && c.Limits == nil
}

// Suspend stops a site; visitors get a 503 page. On a suspended site it tries again what the host did not do.
func (s *Sites) Suspend(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, task.Task, error) {
	return s.change(ctx, organization, id, "site.suspend", s.carryOut, func(_ *db.Tx, site *Site) (string, error) {
		if err := living(site); err != nil {
			return "", err
		}
		site.Wanted.Phase = Suspended
		return "", nil
	})
}

// Resume serves a suspended site again. On one that is not suspended it tries again what the host did not do.
func (s *Sites) Resume(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, task.Task, error) {
	return s.change(ctx, organization, id, "site.resume", s.carryOut, func(_ *db.Tx, site *Site) (string, error) {
		if err := changeable(site); err != nil {
			return "", err
		}
		site.Wanted.Phase = Active
		return "", nil
	})
}

// Delete puts a site into the trash, where it keeps its names. On one that is there already it tries again what the host did
// not do; its time does not begin anew.
func (s *Sites) Delete(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, task.Task, error) {
	return s.change(ctx, organization, id, "site.delete", s.carryOut, func(_ *db.Tx, site *Site) (string, error) {
		switch site.Wanted.Phase {
		case Absent:
			return "", ErrPurging
		case Active, Suspended:
			site.Wanted.Phase = Trashed
			site.TrashedAt = db.Time(db.Micros(time.Now()))
			site.PurgeAt = site.TrashedAt.Add(s.config.TrashPeriod)
		}
		return "restorable until " + site.PurgeAt.Format(time.RFC3339), nil
	})
}

// Restore takes a site out of the trash and serves it again.
func (s *Sites) Restore(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, task.Task, error) {
	return s.change(ctx, organization, id, "site.restore", s.carryOut, func(_ *db.Tx, site *Site) (string, error) {
		switch site.Wanted.Phase {
		case Absent:
			return "", ErrPurging
		case Active, Suspended:
			return "", ErrNotInTrash
		}
		if err := open(site); err != nil {
			return "", err
		}
		site.Wanted.Phase = Active
		site.TrashedAt, site.PurgeAt = time.Time{}, time.Time{}
		return "", nil
	})
}

// living refuses a site that was deleted.
func living(site *Site) error {
	switch site.Wanted.Phase {
	case Absent:
		return ErrPurging
	case Trashed:
		return ErrInTrash
	}
	return nil
}

// gone says that it was deleted, restorable or not.
func (s *Site) gone() bool { return living(s) != nil }

// changeable refuses a site that is not living or not open.
func changeable(site *Site) error {
	if err := living(site); err != nil {
		return err
	}
	return open(site)
}

// open refuses a site whose organization is closing: nobody wakes it before that is reopened.
func open(site *Site) error {
	if site.owner != organization.Active {
		return organization.ErrClosing
	}
	return nil
}

// change is the way of all changes: read, decide, number, write, order, record, in one transaction. decide alters the site
// and says in words what it did; carryOut writes it, and gives the task that it ordered, if any.
func (s *Sites) change(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, action string,
	carryOut func(context.Context, *db.Tx, *Site) (task.Task, error), decide func(*db.Tx, *Site) (string, error),
) (*Site, task.Task, error) {
	var changed *Site
	var ordered task.Task
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		site.UpdatedAt = db.Time(db.Micros(time.Now()))
		detail, err := decide(tx, site)
		if err != nil {
			return err
		}
		if ordered, err = carryOut(ctx, tx, site); err != nil {
			return err
		}
		changed = site
		if err := publish(ctx, tx, site, action); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: organization.String(), Action: action, Object: id.String(), Detail: detail,
		})
	}, db.ReadCommitted())
	if err != nil {
		return nil, task.Task{}, fmt.Errorf("%s %s: %w", strings.Replace(action, "site.", "", 1)+" site", id, err)
	}
	return changed, ordered, nil
}

// carryOut gives what is wanted of a site a number, and has its host do it.
func (s *Sites) carryOut(ctx context.Context, tx *db.Tx, site *Site) (task.Task, error) {
	if err := s.renew(ctx, tx, site); err != nil {
		return task.Task{}, err
	}
	return s.converge(ctx, tx, site)
}

// converge writes what is wanted of a site and the task that brings its host there. A newer task of a site ends those that
// still wait; the one that runs goes on.
func (s *Sites) converge(ctx context.Context, tx *db.Tx, site *Site) (task.Task, error) {
	ordered, err := task.Enqueue(ctx, tx, task.New{
		Organization: site.Organization.String(),
		Server:       site.Server.String(),
		Site:         site.ID.String(),
		Kind:         task.ConvergeSite,
		Parameters:   site.order(),
		Generation:   site.Wanted.Generation,
		CreatedBy:    audit.ActorOf(ctx).Account(),
	})
	if err != nil {
		return task.Task{}, err
	}
	site.LastTask, site.lastTaskState = ordered.ID, ordered.State
	site.State, site.Problem = derive(site.Wanted, site.Observed, progressOf(ordered.State), "")
	if err := s.settle(ctx, tx, site); err != nil {
		return task.Task{}, err
	}
	return ordered, update(ctx, tx, site)
}

// parts are what an update mask may name.
var parts = []string{"domains", "redirect_domains", "https", "settings", "limits", "tags", "backup_policy_id"}

// CheckMask refuses an update mask that names what cannot be changed, nothing, or a thing twice.
func CheckMask(paths []string) error {
	rule := "must name each of these at most once, and at least one: " + strings.Join(parts, ", ")
	if len(paths) == 0 || len(paths) > len(parts) {
		return fault.Invalid("update_mask", rule)
	}
	for i, path := range paths {
		if !slices.Contains(parts, path) || slices.Contains(paths[:i], path) {
			return fault.Invalid("update_mask", rule)
		}
	}
	return nil
}
