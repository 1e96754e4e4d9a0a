package site

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

const columns = selected + `
	FROM sites s` + around

const selected = `
	SELECT s.organization_id,
	       s.id,
	       s.handle,
	       s.server_id,
	       s.name,
	       s.desired,
	       s.served,
	       s.phase,
	       s.frozen,
	       o.state,
	       s.generation,
	       s.observed,
	       s.observed_generation,
	       s.problem,
	       s.failures,
	       s.again_at,
	       s.last_task_id,
	       COALESCE(t.state, ''),
	       s.created_at,
	       s.updated_at,
	       s.trashed_at,
	       s.purge_at,
	       s.tags,
	       COALESCE(s.backup_policy_id, ''),
	       s.policy_revision`

const around = `
	JOIN organizations o ON o.id = s.organization_id
	LEFT JOIN tasks t ON t.organization_id = s.organization_id AND t.id = s.last_task_id`

func scan(row interface{ Scan(...any) error }) (*Site, error) {
	var s Site
	var desired, observed []byte
	var phase, served, lastProblem, tags, policy string
	var frozen bool
	var generation, observedGeneration, created, updated int64
	var trashed, purge, again sql.NullInt64
	if err := row.Scan(&s.Organization, &s.ID, &s.Handle, &s.Server, &s.Name, &desired, &served, &phase, &frozen, &s.owner, &generation, &observed, &observedGeneration,
		&lastProblem, &s.failures, &again, &s.LastTask, &s.lastTaskState, &created, &updated, &trashed, &purge,
		&tags, &policy, &s.revision); err != nil {
		return nil, err
	}
	var err error
	if s.Wanted, s.certificates, err = parseDesired(desired); err != nil {
		return nil, fmt.Errorf("site %s: %w", s.ID, err)
	}
	if s.Served, err = splitNames(served); err != nil {
		return nil, fmt.Errorf("site %s: %w", s.ID, err)
	}
	s.Tags = strings.Fields(tags)
	if policy != "" {
		if s.Policy, err = contract.ParsePolicyID(policy); err != nil {
			return nil, fmt.Errorf("site %s: %w", s.ID, err)
		}
	}
	s.Wanted.Phase, s.Wanted.Frozen, s.Wanted.Generation = Phase(phase), frozen, uint64(generation)
	if observed != nil {
		var o sitev1.ObservedState
		if err := proto.Unmarshal(observed, &o); err != nil {
			return nil, fmt.Errorf("site %s: read observed state: %w", s.ID, err)
		}
		s.Observed = observedFrom(&o)
		s.Observed.Generation = uint64(observedGeneration)
	}
	s.CreatedAt, s.UpdatedAt = db.Time(created), db.Time(updated)
	s.TrashedAt, s.PurgeAt, s.againAt = db.NullTime(trashed), db.NullTime(purge), db.NullTime(again)
	if !s.againAt.IsZero() {
		lastProblem = task.TriedAgain(lastProblem, s.againAt)
	}
	s.State, s.Problem = derive(s.Wanted, s.Observed, progressOf(s.lastTaskState), lastProblem)
	return &s, nil
}

func progressOf(state task.State) progress {
	switch {
	case state == "" || state == task.Succeeded: // no task is known any more: what was measured decides
		return arrived
	case state.Ended():
		return broken
	}
	return onItsWay
}

// load finds one site of an organization.
func load(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	found, err := scan(q.QueryRow(ctx, columns+` WHERE s.organization_id = $1 AND s.id = $2`, organization, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read site: %w", err)
	}
	return found, nil
}

// lock finds one site and keeps others from changing it until the transaction ends. All changes decide from what it gives, so
// that ReadCommitted is enough for them.
func lock(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	n, err := tx.Exec(ctx, `
		UPDATE sites
		SET updated_at = updated_at
		WHERE organization_id = $1
		  AND id = $2`,
		organization, id)
	if err != nil {
		return nil, fmt.Errorf("lock site: %w", err)
	}
	if n == 0 {
		return nil, ErrNotFound
	}
	return load(ctx, tx, organization, id)
}

// Load finds one site of an organization, or ErrNotFound.
func Load(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	return load(ctx, q, organization, id)
}

// Lock is lock for nouns that keep something of a site: they change it one after the other, and not while it leaves.
func Lock(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	return lock(ctx, tx, organization, id)
}

func scanAll(rows *sql.Rows) ([]*Site, error) {
	defer rows.Close()
	var all []*Site
	for rows.Next() {
		s, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

func insert(ctx context.Context, tx *db.Tx, s *Site, requestID string, requestHash []byte) error {
	desired, err := proto.Marshal(s.desired())
	if err != nil {
		return fmt.Errorf("insert site: %w", err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO sites (
			organization_id, id, handle, server_id, name, type, request_id, request_hash,
			desired, served, phase, frozen, generation, observed_generation, problem, last_task_id, created_at, updated_at, pending,
			tags, backup_policy_id, policy_revision)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $13, $10, FALSE, $11, 0, '', '', $12, $12, $14, $15, $16, $17)`,
		s.Organization, s.ID, s.Handle, s.Server, s.Name, s.Wanted.Type,
		sql.NullString{String: requestID, Valid: requestID != ""}, requestHash,
		desired, string(s.Wanted.Phase), int64(s.Wanted.Generation), db.Micros(s.CreatedAt), joinNames(s.Served), len(s.Pending()) > 0,
		strings.Join(s.Tags, " "), nullPolicy(s.Policy), s.revision); err != nil {
		return fmt.Errorf("insert site: %w", err)
	}
	return nil
}

// update writes what is wanted and the task that carries it out, which takes the place of the next try.
func update(ctx context.Context, tx *db.Tx, s *Site) error {
	desired, err := proto.Marshal(s.desired())
	if err != nil {
		return fmt.Errorf("update site %s: %w", s.ID, err)
	}
	n, err := tx.Exec(ctx, `
		UPDATE sites
		SET desired = $3,
		    phase = $4,
		    frozen = $5,
		    generation = $6,
		    problem = '',
		    failures = $11,
		    served = $12,
		    pending = $13,
		    again_at = NULL,
		    last_task_id = $7,
		    updated_at = $8,
		    trashed_at = $9,
		    purge_at = $10,
		    tags = $14,
		    backup_policy_id = $15,
		    policy_revision = $16
		WHERE organization_id = $1
		  AND id = $2`,
		s.Organization, s.ID, desired, string(s.Wanted.Phase), s.Wanted.Frozen, int64(s.Wanted.Generation), s.LastTask,
		db.Micros(s.UpdatedAt), db.NullMicros(s.TrashedAt), db.NullMicros(s.PurgeAt), s.failures, joinNames(s.Served), len(s.Pending()) > 0,
		strings.Join(s.Tags, " "), nullPolicy(s.Policy), s.revision)
	if err != nil {
		return fmt.Errorf("update site %s: %w", s.ID, err)
	}
	if n == 0 {
		return ErrNotFound
	}
	return nil
}

// label writes what its host need not know of a site.
func label(ctx context.Context, tx *db.Tx, s *Site) error {
	if _, err := tx.Exec(ctx, `
		UPDATE sites
		SET tags = $3,
		    backup_policy_id = $4,
		    policy_revision = $5,
		    updated_at = $6
		WHERE organization_id = $1
		  AND id = $2`,
		s.Organization, s.ID, strings.Join(s.Tags, " "), nullPolicy(s.Policy), s.revision, db.Micros(s.UpdatedAt)); err != nil {
		return fmt.Errorf("label site %s: %w", s.ID, err)
	}
	return nil
}

func nullPolicy(id contract.PolicyID) sql.NullString {
	return sql.NullString{String: id.String(), Valid: !id.IsZero()}
}
