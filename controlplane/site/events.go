package site

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/page"
	"chom.dev/proto/contract"
)

// EventKind is what happened to a site.
type EventKind string

// Kinds of events.
const (
	EventChange          EventKind = "change"
	EventBackup          EventKind = "backup"
	EventDrill           EventKind = "drill"
	EventRestore         EventKind = "restore"
	EventCertificate     EventKind = "certificate"
	EventCertificateLost EventKind = "certificate_lost"
	EventDown            EventKind = "down"
)

// EventOutcome is what it came to.
type EventOutcome string

// Outcomes.
const (
	EventRunning EventOutcome = "running"
	EventDone    EventOutcome = "done"
	EventFailed  EventOutcome = "failed"
)

// Event is something that happened to a site.
type Event struct {
	Kind    EventKind
	ID      string // of the task, backup, drill, restore or outage; empty for certificates
	Began   time.Time
	Ended   time.Time // zero while it lasts, and where there is no length
	Outcome EventOutcome
	Subject string // why a backup was made, or the name of a certificate
	Problem string
	TaskID  string // empty where there is none
}

// happened reads what the nouns' own tables tell of a site; nothing is written twice for it. What these forget (tasks after a while)
// is not here either.
const happened = `
	SELECT kind,
	       id,
	       began_at,
	       ended_at,
	       outcome,
	       subject,
	       problem,
	       task_id
	FROM (
	    SELECT 'change' AS kind,
	           id,
	           created_at AS began_at,
	           ended_at,
	           CASE WHEN state = 'succeeded' THEN 'done' WHEN state IN ('failed', 'canceled', 'timed_out') THEN 'failed' ELSE 'running' END AS outcome,
	           '' AS subject,
	           CASE WHEN state = 'succeeded' THEN '' WHEN error = '' AND state IN ('canceled', 'timed_out') THEN state ELSE error END AS problem,
	           id AS task_id
	    FROM tasks
	    WHERE organization_id = $1
	      AND site_id = $2
	      AND kind = 'converge_site'
	    UNION ALL
	    SELECT 'backup',
	           id,
	           created_at,
	           checked_at,
	           CASE WHEN state = 'ready' THEN 'done' WHEN state = 'failed' THEN 'failed' ELSE 'running' END,
	           reason,
	           problem,
	           task_id
	    FROM backups
	    WHERE organization_id = $1
	      AND site_id = $2
	    UNION ALL
	    SELECT 'drill',
	           id,
	           created_at,
	           ended_at,
	           CASE WHEN state = 'passed' THEN 'done' ELSE state END,
	           '',
	           problem,
	           task_id
	    FROM drills
	    WHERE organization_id = $1
	      AND site_id = $2
	    UNION ALL
	    SELECT 'restore',
	           id,
	           created_at,
	           ended_at,
	           CASE WHEN state IN ('done', 'failed') THEN state ELSE 'running' END,
	           CASE WHEN undone THEN 'undone' ELSE '' END,
	           problem,
	           task_id
	    FROM restores
	    WHERE organization_id = $1
	      AND site_id = $2
	    UNION ALL
	    SELECT 'certificate',
	           '',
	           begins_at,
	           NULL,
	           'done',
	           name,
	           '',
	           ''
	    FROM certificates
	    WHERE organization_id = $1
	      AND site_id = $2
	      AND begins_at > 0
	    UNION ALL
	    SELECT 'certificate_lost',
	           '',
	           lost_at,
	           NULL,
	           'failed',
	           name,
	           'it is not served with a valid certificate any more',
	           ''
	    FROM certificates
	    WHERE organization_id = $1
	      AND site_id = $2
	      AND lost_at IS NOT NULL
	    UNION ALL
	    SELECT 'down',
	           id,
	           began_at,
	           ended_at,
	           CASE WHEN ended_at IS NULL THEN 'running' ELSE 'done' END,
	           '',
	           problem,
	           ''
	    FROM site_outages
	    WHERE organization_id = $1
	      AND site_id = $2
	) AS events
	WHERE began_at <= $3
	ORDER BY began_at DESC, kind, id, subject
	LIMIT $4 OFFSET $5`

// cursor is how far a page went: the moment of its last event, and how many of that moment it and those before it had.
type cursor struct {
	at   int64 // microseconds
	seen int64
}

// latest is before no event.
var latest = cursor{at: 1<<63 - 1}

func (c cursor) position() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(c.at)), uint64(c.seen))
}

func cursorOf(position []byte) (cursor, error) {
	if position == nil {
		return latest, nil
	}
	if len(position) != 16 {
		return cursor{}, errCursor
	}
	c := cursor{at: int64(binary.BigEndian.Uint64(position)), seen: int64(binary.BigEndian.Uint64(position[8:]))}
	if c.seen < 0 || c.seen > maxAlike {
		return cursor{}, errCursor
	}
	return c, nil
}

// maxAlike is more than can happen to a site in one microsecond: all its names get a certificate.
const maxAlike = 10_000

var errCursor = fault.Invalid("page_token", "must be the next_page_token of the page before")

// Events returns a page of what happened to a site, newest first, and the token of the next page.
func (s *Sites) Events(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, size int32, token string) ([]Event, string, error) {
	limit, err := page.Size(size)
	if err != nil {
		return nil, "", err
	}
	query := page.Query{"site events", organization.String(), id.String()}
	position, err := query.AfterPosition(token)
	if err != nil {
		return nil, "", err
	}
	from, err := cursorOf(position)
	if err != nil {
		return nil, "", err
	}
	if _, err := s.Get(ctx, organization, id); err != nil {
		return nil, "", err
	}
	rows, err := s.db.Reader().Query(ctx, happened, organization, id, from.at, limit+1, from.seen)
	if err != nil {
		return nil, "", fmt.Errorf("list events of site %s: %w", id, err)
	}
	defer rows.Close()
	var all []Event
	for rows.Next() {
		var e Event
		var began int64
		var ended sql.NullInt64
		if err := rows.Scan(&e.Kind, &e.ID, &began, &ended, &e.Outcome, &e.Subject, &e.Problem, &e.TaskID); err != nil {
			return nil, "", fmt.Errorf("list events of site %s: %w", id, err)
		}
		e.Began, e.Ended = db.Time(began), db.NullTime(ended)
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, "", fmt.Errorf("list events of site %s: %w", id, err)
	}
	if len(all) <= limit {
		return all, "", nil
	}
	all = all[:limit]
	return all, query.TokenAt(from.after(all).position()), nil
}

// after is the cursor behind a page that began at c.
func (c cursor) after(shown []Event) cursor {
	last := db.Micros(shown[len(shown)-1].Began)
	next := cursor{at: last}
	if last == c.at {
		next.seen = c.seen
	}
	for _, e := range shown {
		if db.Micros(e.Began) == last {
			next.seen++
		}
	}
	return next
}
