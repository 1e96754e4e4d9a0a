package fleet

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Candidate is what a decision about a place needs to know of a server.
type Candidate struct {
	ID           contract.ServerID
	Tenancy      Tenancy
	Organization contract.OrganizationID // zero for a shared one
	State        State
	Online       bool
	Prepared     bool
	Findings     int
	Sites        int
}

// obstacle is why a server takes no new site. The order is that of a server's life, and of the words in Choose's error.
type obstacle uint8

const (
	none obstacle = iota
	notEnrolled
	notPrepared
	offline
	unfit
	draining
	quarantined
	removed
)

var obstacleWords = [...]string{
	notEnrolled: "has not enrolled yet (paste the line of its join token on it)",
	notPrepared: "is not prepared yet (wait for its task, or prepare it again)",
	offline:     "is offline (look after the host, or wait)",
	unfit:       "has findings (see the server's facts and repair the host)",
	draining:    "is draining (undrain it)",
	quarantined: "is quarantined (see its problem and enrol it anew)",
	removed:     "was removed",
}

// passes says whether an obstacle goes away without anybody's doing.
func (o obstacle) passes() bool { return o == notPrepared || o == offline }

func (c Candidate) obstacle() obstacle {
	switch c.State {
	case Pending:
		return notEnrolled
	case Active:
	case Draining:
		return draining
	case Quarantined:
		return quarantined
	default:
		return removed
	}
	switch {
	case !c.Online:
		return offline
	case c.Findings > 0:
		return unfit
	case !c.Prepared:
		return notPrepared
	}
	return none
}

// open says whether an organization may have sites on a server. For anybody else it does not exist.
func (c Candidate) open(organization contract.OrganizationID) bool {
	return c.Tenancy == Shared || c.Organization == organization
}

// Choose picks the server for a new site of an organization: fit, with the fewest sites, the oldest of these. An organization
// that has servers of its own gets a place on these only; a shared one must be asked for by name. The error says
// what stands in the way and what to do.
func Choose(candidates []Candidate, organization contract.OrganizationID) (contract.ServerID, error) {
	var mine []Candidate
	for _, c := range candidates {
		if c.open(organization) && c.State != Removed {
			mine = append(mine, c)
		}
	}
	if slices.ContainsFunc(mine, func(c Candidate) bool { return c.Tenancy == Dedicated }) {
		mine = slices.DeleteFunc(mine, func(c Candidate) bool { return c.Tenancy == Shared })
	}
	var obstacles [len(obstacleWords)]int
	var best *Candidate
	for i := range mine {
		c := &mine[i]
		if o := c.obstacle(); o != none {
			obstacles[o]++
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(c.Sites, best.Sites), cmp.Compare(c.ID.String(), best.ID.String())) < 0 {
			best = c
		}
	}
	if best == nil {
		return contract.ServerID{}, noPlace(obstacles[:])
	}
	return best.ID, nil
}

// noPlace says what is wrong with the servers, without naming them: not everybody who makes sites may know them.
func noPlace(obstacles []int) error {
	var words []string
	passes := false
	for o, n := range obstacles {
		switch n {
		case 0:
			continue
		case 1:
			words = append(words, "one "+obstacleWords[o])
		default:
			words = append(words, fmt.Sprintf("%d: each %s", n, obstacleWords[o]))
		}
		passes = passes || obstacle(o).passes()
	}
	if len(words) == 0 {
		return fault.Conflict("there is no server for the site: create one and paste its line on a host")
	}
	text := "no server can take the site now: " + strings.Join(words, "; ")
	if passes {
		return fault.Unavailable(text, placeAgain, nil)
	}
	return fault.Conflict(text)
}

// placeAgain is when asking again makes sense: servers come online within seconds and are prepared within minutes.
const placeAgain = 10 * time.Second

const candidateColumns = `
	SELECT s.id,
	       s.tenancy,
	       COALESCE(s.organization_id, ''),
	       s.state,
	       l.last_seen_at,
	       s.facts,
	       s.prepared,
	       (SELECT COUNT(*) FROM sites WHERE sites.server_id = s.id)
	FROM servers s
	JOIN server_links l ON l.server_id = s.id`

func scanCandidate(row interface{ Scan(...any) error }, now time.Time) (Candidate, error) {
	var c Candidate
	var tenancy, organization, state string
	var seen sql.NullInt64
	var raw []byte
	if err := row.Scan(&c.ID, &tenancy, &organization, &state, &seen, &raw, &c.Prepared, &c.Sites); err != nil {
		return Candidate{}, err
	}
	var err error
	if organization != "" {
		if c.Organization, err = contract.ParseOrganizationID(organization); err != nil {
			return Candidate{}, fmt.Errorf("server %s: %w", c.ID, err)
		}
	}
	facts, err := parseFacts(raw)
	if err != nil {
		return Candidate{}, fmt.Errorf("server %s: %w", c.ID, err)
	}
	c.Findings = len(facts.Findings)
	c.Tenancy, c.State = Tenancy(tenancy), State(state)
	c.Online = online(c.State, db.NullTime(seen), now)
	return c, nil
}

// Place gives the server for a new site: the one that was asked for, where it may and can take the site, or the best
// of all where asked is zero. It belongs into the transaction that inserts the site, which must be serializable.
//
// It says ErrNotFound for a server that the organization may not know, else fault.Conflict or, where waiting helps,
// fault.Unavailable, with what stands in the way.
func Place(ctx context.Context, q db.Querier, organization contract.OrganizationID, asked contract.ServerID) (contract.ServerID, error) {
	now := time.Now()
	if !asked.IsZero() {
		if err := check(ctx, q, asked, organization, now); err != nil {
			return contract.ServerID{}, err
		}
		return asked, nil
	}
	candidates, err := candidates(ctx, q, organization, now)
	if err != nil {
		return contract.ServerID{}, fmt.Errorf("place site: %w", err)
	}
	return Choose(candidates, organization)
}

func candidates(ctx context.Context, q db.Querier, organization contract.OrganizationID, now time.Time) ([]Candidate, error) {
	rows, err := q.Query(ctx, candidateColumns+`
		WHERE s.state <> 'removed'
		  AND (s.tenancy = 'shared' OR s.organization_id = $1)`,
		organization)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Candidate
	for rows.Next() {
		c, err := scanCandidate(rows, now)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

// check says whether a server that was asked for takes a new site of an organization.
func check(ctx context.Context, q db.Querier, server contract.ServerID, organization contract.OrganizationID, now time.Time) error {
	c, err := scanCandidate(q.QueryRow(ctx, candidateColumns+` WHERE s.id = $1`, server), now)
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("check server %s: %w", server, err)
	}
	return c.check(organization)
}

func (c Candidate) check(organization contract.OrganizationID) error {
	if !c.open(organization) || c.State == Removed {
		return ErrNotFound
	}
	o := c.obstacle()
	switch {
	case o == none:
		return nil
	case o.passes():
		return fault.Unavailable("the server "+obstacleWords[o], placeAgain, nil)
	}
	return fault.Conflict("the server " + obstacleWords[o])
}
