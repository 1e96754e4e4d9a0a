package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// maxGeneration is beyond what counting gives. An agent that claims more is broken or lies, and must not push the
// numbers to where they run out.
const maxGeneration = 1 << 53

// Observe takes in what the agent of a server measured of sites. What it says of sites that are not on that server is
// ignored, as is what is older than what it said before.
func (s *Sites) Observe(ctx context.Context, server contract.ServerID, seen []*sitev1.ObservedState) error {
	return s.observe(ctx, server, seen, s.config.Measured)
}

func (s *Sites) observe(ctx context.Context, server contract.ServerID, seen []*sitev1.ObservedState, measured Measured) error {
	if len(seen) == 0 {
		return nil
	}
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		for _, o := range seen {
			if err := store(ctx, tx, server, o, measured); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("observe sites of server %s: %w", server, err)
	}
	return nil
}

// Measured takes in what a host measured of a site's certificates, in the transaction that stores the measurement. What it is
// given is data, not a right.
type Measured func(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, at time.Time, seen []*sitev1.ObservedCertificate) error

// store writes a measurement, if the site is on the server that measured it. Both are in the statement, so that no server
// speaks of another one's sites.
func store(ctx context.Context, tx *db.Tx, server contract.ServerID, o *sitev1.ObservedState, measured Measured) error {
	if o.GetGeneration() > maxGeneration {
		return nil
	}
	text, err := proto.Marshal(o)
	if err != nil {
		return fmt.Errorf("store measurement: %w", err)
	}
	var organization contract.OrganizationID
	var site contract.SiteID
	var wanted Wanted
	var generation int64
	err = tx.QueryRow(ctx, `
		UPDATE sites
		SET observed = $1,
		    observed_generation = $2
		WHERE id = $3
		  AND server_id = $4
		  AND observed_generation <= $2
		RETURNING organization_id, id, phase, frozen, generation`,
		text, int64(o.GetGeneration()), o.GetSiteId(), server).Scan(&organization, &site, &wanted.Phase, &wanted.Frozen, &generation)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store measurement: %w", err)
	}
	wanted.Generation = uint64(generation)
	if problem, says := outage(wanted, o); says {
		if err := noteOutage(ctx, tx, organization, site, problem, time.Now()); err != nil {
			return err
		}
	}
	if measured == nil || len(o.GetCertificates()) == 0 {
		return nil
	}
	return measured(ctx, tx, organization, site, timeOf(o.GetObserveTime()), o.GetCertificates())
}

// keepCertificates gives holdings the certificates that were measured before: a Hello does not say them, and they are not gone.
func (s *Sites) keepCertificates(ctx context.Context, server contract.ServerID, holdings []*sitev1.ObservedState) ([]*sitev1.ObservedState, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT id,
		       observed
		FROM sites
		WHERE server_id = $1
		  AND observed IS NOT NULL`,
		server)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	former := map[string][]*sitev1.ObservedCertificate{}
	for rows.Next() {
		var id string
		var observed []byte
		if err := rows.Scan(&id, &observed); err != nil {
			return nil, err
		}
		var o sitev1.ObservedState
		if err := proto.Unmarshal(observed, &o); err != nil {
			return nil, fmt.Errorf("site %s: read observed state: %w", id, err)
		}
		former[id] = o.GetCertificates()
	}
	kept := make([]*sitev1.ObservedState, len(holdings))
	for i, o := range holdings {
		if kept[i] = o; len(o.GetCertificates()) == 0 && len(former[o.GetSiteId()]) > 0 {
			kept[i] = proto.CloneOf(o)
			kept[i].Certificates = former[o.GetSiteId()]
		}
	}
	return kept, rows.Err()
}

// Hold compares what a host holds, as its agent says when it connects, with what is wanted of it. Sites of which it holds less,
// and for which no task is open, are ordered again. Of sites of which it holds more than is wanted, nothing follows but the
// problem that is shown: which side is right is for a person to say. It returns the sites that were ordered again.
func (s *Sites) Hold(ctx context.Context, server contract.ServerID, holdings []*sitev1.ObservedState) ([]contract.SiteID, error) {
	held := map[string]uint64{}
	for _, o := range holdings {
		held[o.GetSiteId()] = o.GetGeneration()
	}
	kept, err := s.keepCertificates(ctx, server, holdings)
	if err != nil {
		return nil, fmt.Errorf("read what was measured on server %s: %w", server, err)
	}
	if err := s.observe(ctx, server, kept, nil); err != nil {
		return nil, err
	}
	behind, err := s.behind(ctx, server, held)
	if err != nil {
		return nil, fmt.Errorf("compare sites of server %s: %w", server, err)
	}
	var ordered []contract.SiteID
	for _, b := range behind {
		again, err := s.again(ctx, b, func(site *Site) bool { return held[b.site.String()] < site.Wanted.Generation })
		if err != nil {
			return ordered, fmt.Errorf("order site %s again: %w", b.site, err)
		}
		if again {
			ordered = append(ordered, b.site)
		}
	}
	for _, id := range ordered {
		s.log.InfoContext(ctx, "the host holds less than is wanted; ordered again", "server", server, "site", id)
	}
	return ordered, nil
}

// behind is the sites of a server of which it holds less than is wanted.
func (s *Sites) behind(ctx context.Context, server contract.ServerID, held map[string]uint64) ([]place, error) {
	rows, err := s.db.Reader().Query(ctx, `
		SELECT organization_id,
		       id,
		       generation
		FROM sites
		WHERE server_id = $1`,
		server)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var behind []place
	for rows.Next() {
		var p place
		var generation int64
		if err := rows.Scan(&p.organization, &p.site, &generation); err != nil {
			return nil, err
		}
		if held[p.site.String()] < uint64(generation) {
			behind = append(behind, p)
		}
	}
	return behind, rows.Err()
}

// Ended is EndedWith without anybody who takes in certificates.
func Ended(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	return EndedWith(nil)(ctx, tx, t, result)
}

// EndedWith gives what follows from the end of a task that converged a site, in the transaction of that end: what was measured is
// stored, a site that was to be absent, and is, is gone with its names, and for one that failed the next try is set. Package
// task calls it (task.OnEnd).
func EndedWith(measured Measured) func(context.Context, *db.Tx, task.Task, *orderv1.Result) error {
	return func(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
		if err := ended(ctx, tx, t, result, measured); err != nil {
			return fmt.Errorf("end of task %s: %w", t.ID, err)
		}
		return nil
	}
}

func ended(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result, measured Measured) error {
	server, err := contract.ParseServerID(t.Server)
	if err != nil {
		return err
	}
	if o := result.GetObserved(); o != nil && o.GetSiteId() == t.Site {
		if err := store(ctx, tx, server, o, measured); err != nil {
			return err
		}
	}
	if t.State != task.Succeeded {
		if err := failed(ctx, tx, t, result); err != nil {
			return err
		}
		return publishFailure(ctx, tx, t)
	}
	gone, err := forget(ctx, tx, t, result)
	if gone || err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE sites
		SET problem = '',
		    failures = 0,
		    again_at = NULL
		WHERE organization_id = $1
		  AND id = $2
		  AND last_task_id = $3`,
		t.Organization, t.Site, t.ID)
	return err
}

// forget deletes the row of a site that was wanted absent, once its host says that it is; its name and its domains are free
// then. What was done with it stays in the tasks and in the audit.
func forget(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) (bool, error) {
	if o := result.GetObserved(); o != nil && o.GetPhase() != sitev1.Phase_PHASE_ABSENT {
		return false, nil
	}
	gone, err := tx.Exec(ctx, `
		UPDATE sites
		SET purge_at = NULL
		WHERE organization_id = $1
		  AND id = $2
		  AND phase = 'absent'
		  AND generation <= $3`,
		t.Organization, t.Site, int64(t.Generation))
	if err != nil || gone == 0 {
		return false, err
	}
	for _, statement := range []string{
		`DELETE FROM domains WHERE organization_id = $1 AND site_id = $2`,
		`DELETE FROM sites WHERE organization_id = $1 AND id = $2`,
	} {
		if _, err := tx.Exec(ctx, statement, t.Organization, t.Site); err != nil {
			return false, fmt.Errorf("forget site %s: %w", t.Site, err)
		}
	}
	return true, audit.Record(ctx, tx, audit.Event{Organization: t.Organization, Action: "site.forget", Object: t.Site})
}
