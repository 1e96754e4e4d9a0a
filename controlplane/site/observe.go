package site

import (
	"context"
	"fmt"

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
	if len(seen) == 0 {
		return nil
	}
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		for _, o := range seen {
			if err := store(ctx, tx, server, o); err != nil {
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

// store writes a measurement, if the site is on the server that measured it. Both are in the statement, so that no server
// speaks of another one's sites.
func store(ctx context.Context, tx *db.Tx, server contract.ServerID, o *sitev1.ObservedState) error {
	if o.GetGeneration() > maxGeneration {
		return nil
	}
	text, err := proto.Marshal(o)
	if err != nil {
		return fmt.Errorf("store measurement: %w", err)
	}
	_, err = tx.Exec(ctx, `
		UPDATE sites
		SET observed = $1,
		    observed_generation = $2
		WHERE id = $3
		  AND server_id = $4
		  AND observed_generation <= $2`,
		text, int64(o.GetGeneration()), o.GetSiteId(), server)
	if err != nil {
		return fmt.Errorf("store measurement: %w", err)
	}
	return nil
}

// Hold compares what a host holds, as its agent says when it connects, with what is wanted of it. Sites of which it holds less,
// and for which no task is open, are ordered again. Of sites of which it holds more than is wanted, nothing follows but the
// problem that is shown: which side is right is for a person to say. It returns the sites that were ordered again.
func (s *Sites) Hold(ctx context.Context, server contract.ServerID, holdings []*sitev1.ObservedState) ([]contract.SiteID, error) {
	held := map[string]uint64{}
	for _, o := range holdings {
		held[o.GetSiteId()] = o.GetGeneration()
	}
	if err := s.Observe(ctx, server, holdings); err != nil {
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

// Ended is what follows from the end of a task that converged a site, in the transaction of that end: what was measured is
// stored, a site that was to be absent, and is, is gone with its names, and for one that failed the next try is set. Package
// task calls it (task.OnEnd).
func Ended(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
	server, err := contract.ParseServerID(t.Server)
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	if o := result.GetObserved(); o != nil && o.GetSiteId() == t.Site {
		if err := store(ctx, tx, server, o); err != nil {
			return err
		}
	}
	if t.State == task.Succeeded {
		gone, err := forget(ctx, tx, t, result)
		if gone || err != nil {
			return err
		}
	}
	if t.State != task.Succeeded {
		if err = failed(ctx, tx, t, result); err == nil {
			err = publishFailure(ctx, tx, t)
		}
	} else {
		_, err = tx.Exec(ctx, `
			UPDATE sites
			SET problem = '',
			    failures = 0,
			    again_at = NULL
			WHERE organization_id = $1
			  AND id = $2
			  AND last_task_id = $3`,
			t.Organization, t.Site, t.ID)
	}
	if err != nil {
		return fmt.Errorf("end of task %s: %w", t.ID, err)
	}
	return nil
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
