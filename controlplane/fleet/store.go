package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/page"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

const columns = `
	SELECT s.id,
	       s.name,
	       s.tenancy,
	       COALESCE(s.organization_id, ''),
	       s.state,
	       s.problem,
	       s.created_at,
	       l.last_seen_at,
	       s.facts,
	       s.prepared,
	       s.prepare_task_id,
	       s.prepare_problem,
	       s.prepare_again_at,
	       s.certificate_expires_at,
	       s.recoveries,
	       s.readmit_until,
	       s.epoch,
	       (SELECT COUNT(*) FROM sites WHERE sites.server_id = s.id)
	FROM servers s
	JOIN server_links l ON l.server_id = s.id`

func scan(row interface{ Scan(...any) error }, now time.Time) (Server, error) {
	var s Server
	var organization, tenancy, state string
	var created, recoveries, epoch int64
	var seen, again, expires, readmit sql.NullInt64
	var facts []byte
	var unprepared string
	if err := row.Scan(&s.ID, &s.Name, &tenancy, &organization, &state, &s.Problem, &created, &seen, &facts, &s.Prepared,
		&s.PrepareTaskID, &unprepared, &again, &expires, &recoveries, &readmit, &epoch, &s.Sites); err != nil {
		return Server{}, err
	}
	var err error
	if organization != "" {
		if s.Organization, err = contract.ParseOrganizationID(organization); err != nil {
			return Server{}, fmt.Errorf("server %s: %w", s.ID, err)
		}
	}
	said, err := parseFacts(facts)
	if err != nil {
		return Server{}, fmt.Errorf("server %s: %w", s.ID, err)
	}
	if seen.Valid {
		s.Facts = &said // which may be empty
	}
	s.Tenancy, s.State, s.Epoch = Tenancy(tenancy), State(state), uint64(epoch)
	s.CreatedAt, s.LastSeenAt, s.CertificateExpiresAt = db.Time(created), db.NullTime(seen), db.NullTime(expires)
	s.Online = online(s.State, s.LastSeenAt, now)
	if s.Problem == "" && s.State.speaks() && now.After(s.CertificateExpiresAt) && !mayRecover(recoveries, db.NullTime(readmit), now) {
		s.Problem = ErrRecoveries.Error()
	}
	if s.Problem == "" && unprepared != "" && s.State.speaks() {
		s.Problem = "it could not be prepared: " + unprepared
		if again.Valid {
			s.Problem = task.TriedAgain(s.Problem, db.NullTime(again))
		}
	}
	return s, nil
}

// online says whether a server that was last heard of at seen counts as there. The clocks of replicas differ, so seen may be
// ahead, but not by more than it counts for: that was a clock which has been set back since.
func online(state State, seen, now time.Time) bool {
	return state.speaks() && !seen.IsZero() && now.Sub(seen).Abs() <= OnlineFor
}

// Get returns one server, also a removed one.
func (f *Fleet) Get(ctx context.Context, id contract.ServerID) (Server, error) {
	return get(ctx, f.db.Reader(), id)
}

func get(ctx context.Context, q db.Querier, id contract.ServerID) (Server, error) {
	s, err := scan(q.QueryRow(ctx, columns+` WHERE s.id = $1`, id), time.Now())
	if errors.Is(err, sql.ErrNoRows) {
		return Server{}, ErrNotFound
	}
	if err != nil {
		return Server{}, fmt.Errorf("get server: %w", err)
	}
	return s, nil
}

// ByName returns the server with a name; a removed one has none.
func (f *Fleet) ByName(ctx context.Context, name string) (Server, error) {
	s, err := scan(f.db.Reader().QueryRow(ctx, columns+` WHERE s.name = $1 AND s.state <> 'removed'`, name), time.Now())
	if errors.Is(err, sql.ErrNoRows) {
		return Server{}, ErrNotFound
	}
	if err != nil {
		return Server{}, fmt.Errorf("get server by name: %w", err)
	}
	return s, nil
}

// List returns a page of the servers in one of the states, oldest first, and the token of the next page. No state stands for
// all but Removed.
func (f *Fleet) List(ctx context.Context, size int32, token string, states ...State) ([]Server, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	wanted := page.Words(states)
	query := page.Query{"servers", wanted}
	after, err := query.After(token)
	if err != nil {
		return nil, "", err
	}
	rows, err := f.db.Reader().Query(ctx, columns+`
		WHERE s.id > $1
		  AND ($2 = '' AND s.state <> 'removed' OR $2 LIKE '% ' || s.state || ' %')
		ORDER BY s.id
		LIMIT $3`,
		after, wanted, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list servers: %w", err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return nil, "", fmt.Errorf("list servers: %w", err)
	}
	next := query.Next(len(all), limit, func() string { return all[limit-1].ID.String() })
	return all[:min(len(all), limit)], next, nil
}

func scanAll(rows *sql.Rows) ([]Server, error) {
	defer rows.Close()
	now := time.Now()
	var all []Server
	for rows.Next() {
		s, err := scan(rows, now)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
