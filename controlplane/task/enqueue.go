package task

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fail"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// The topics of db.Listen that this package wakes.
const (
	// TopicServer says that a server may have something to do or to stop; the
	// payload is the server's id.
	TopicServer = "server"
	// TopicFree says that a task of a server has ended, so that the next one may
	// begin where some wait for that (see Outbox); the payload is the server's id.
	TopicFree = "free"
	// TopicTask says that a task changed; the payload is the task's id.
	TopicTask = "task"
)

const (
	defaultTimeout  = 10 * time.Minute
	defaultDeadline = time.Hour
	// siteOpenMax is how many tasks may wait for one site: a caller who asks
	// faster than a host works gets an answer instead of a queue without end.
	siteOpenMax = 50
	// parametersMax leaves room in an order of 256 KiB for the rest of it.
	parametersMax = 250 << 10
	dayLong       = 24 * time.Hour // limit of Order.timeout
)

// New describes a task to be.
type New struct {
	Organization string // Platform for work on the server itself
	Server       string
	Site         string // empty for work on the server itself
	Kind         Kind
	// Parameters is the kind's own message of package orderv1: *Noop, *PrepareServer,
	// *ConvergeSite, *SiteLogin, *BackupSite, *RestoreSite, *UndoRestore or *DrillSite.
	Parameters proto.Message
	Generation uint64        // for ConvergeSite, else 0
	Timeout    time.Duration // longest run of one attempt; 0 means 10 minutes, at most a day
	Deadline   time.Time     // it ends by then; zero means an hour from now
	CreatedBy  string        // account; empty for the control plane itself
}

// Enqueue adds a task to its server's queue in the caller's transaction, so
// that the change and the order that follows from it are one. Once that is
// committed the agent is woken. A CONVERGE_SITE ends those of the same site
// that still wait for an older generation; see the package comment.
//
// It fails with fault.NotFound when the server is unknown or removed and with
// fault.Conflict when too many tasks wait for the site.
func Enqueue(ctx context.Context, tx *db.Tx, n New) (Task, error) {
	t, parameters, err := n.task(time.Now())
	if err != nil {
		return Task{}, fmt.Errorf("enqueue %s: %w", n.Kind, err)
	}
	err = tx.QueryRow(ctx, `
		UPDATE servers
		SET task_sequence = task_sequence + 1
		WHERE id = $1
		AND state <> 'removed'
		RETURNING task_sequence`, t.Server).Scan(&t.sequence)
	if errors.Is(err, sql.ErrNoRows) {
		return Task{}, fault.NotFound("server")
	}
	if err != nil {
		return Task{}, fmt.Errorf("enqueue %s on server %s: %w", t.Kind, t.Server, err)
	}
	if t.Site != "" {
		if t.Kind == ConvergeSite {
			if err := supersede(ctx, tx, t); err != nil {
				return Task{}, fmt.Errorf("enqueue %s for site %s: %w", t.Kind, t.Site, err)
			}
		}
		var open int
		err := tx.QueryRow(ctx, `
			SELECT COUNT(*)
			FROM tasks
			WHERE server_id = $1
			AND site_id = $2
			AND state IN ('queued', 'offered', 'running', 'unknown')`, t.Server, t.Site).Scan(&open)
		if err != nil {
			return Task{}, fmt.Errorf("enqueue %s for site %s: %w", t.Kind, t.Site, err)
		}
		if open >= siteOpenMax {
			return Task{}, fault.Conflict("too many tasks wait for this site; wait for some of them to end")
		}
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO tasks (
			organization_id, id, server_id, site_id, kind, parameters, generation, seal, state, sequence, attempt, fence, step_count,
			event_sequence, log_sequence, log_bytes, timeout_us, not_before, deadline_at, error, created_by, created_at, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, 0, 0, 0, 0, 0, 0, $10, 0, $11, '', $12, $13, 1)`,
		t.Organization, t.ID, t.Server, t.Site, string(t.Kind), parameters, int64(t.Generation), tx.SealOrder(t.sealed(parameters)...), t.sequence,
		t.timeout.Microseconds(), db.Micros(t.Deadline), t.CreatedBy, db.Micros(t.Created))
	if err != nil {
		return Task{}, fmt.Errorf("enqueue %s on server %s: %w", t.Kind, t.Server, err)
	}
	tx.Notify(TopicServer, t.Server)
	fail.Point("task.queued.save")
	tx.AfterCommit(func() { fail.Point("task.queued.committed") })
	return t, nil
}

// task checks what a caller asks for; a mistake in it is a bug, not a fault.
func (n New) task(now time.Time) (Task, []byte, error) {
	if _, err := contract.ParseServerID(n.Server); err != nil {
		return Task{}, nil, err
	}
	if n.Organization == "" {
		n.Organization = Platform
	}
	if n.Organization != Platform {
		if _, err := contract.ParseOrganizationID(n.Organization); err != nil {
			return Task{}, nil, err
		}
	}
	aboutSite := n.Kind.aboutSite()
	if aboutSite != (n.Site != "") || aboutSite && n.Organization == Platform {
		return Task{}, nil, fmt.Errorf("site %q of organization %s does not fit the kind", n.Site, n.Organization)
	}
	if aboutSite {
		if _, err := contract.ParseSiteID(n.Site); err != nil {
			return Task{}, nil, err
		}
	}
	if (n.Kind == ConvergeSite) != (n.Generation != 0) {
		return Task{}, nil, fmt.Errorf("generation %d does not fit the kind", n.Generation)
	}
	if err := setKind(&orderv1.Order{}, n.Kind, n.Parameters); err != nil {
		return Task{}, nil, err
	}
	parameters, err := proto.MarshalOptions{Deterministic: true}.Marshal(n.Parameters)
	if err != nil {
		return Task{}, nil, err
	}
	if len(parameters) > parametersMax {
		return Task{}, nil, fault.Conflict("the order would be too large for an agent")
	}
	if parameters == nil {
		parameters = []byte{}
	}
	timeout := n.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	deadline := n.Deadline
	if deadline.IsZero() {
		deadline = now.Add(defaultDeadline)
	}
	if timeout < 0 || timeout > dayLong || !deadline.After(now) {
		return Task{}, nil, fmt.Errorf("timeout %s and deadline %s do not fit", timeout, deadline)
	}
	return Task{
		ID:           contract.NewTaskID().String(),
		Organization: n.Organization,
		Server:       n.Server,
		Site:         n.Site,
		Kind:         n.Kind,
		Generation:   n.Generation,
		State:        Queued,
		CreatedBy:    n.CreatedBy,
		Created:      db.Time(db.Micros(now)),
		Deadline:     db.Time(db.Micros(deadline)),
		timeout:      timeout,
		version:      1,
	}, parameters, nil
}

// sealed is what nobody may change once it was asked for.
func (t *Task) sealed(parameters []byte) [][]byte {
	return [][]byte{
		[]byte("task"), []byte(t.ID), []byte(t.Organization), []byte(t.Server), []byte(t.Site), []byte(t.Kind), parameters,
		strconv.AppendUint(nil, t.Generation, 10),
		strconv.AppendInt(nil, db.Micros(t.Deadline), 10),
		strconv.AppendInt(nil, t.timeout.Microseconds(), 10),
	}
}

// supersede ends the site's tasks that wait for an older generation.
func supersede(ctx context.Context, tx *db.Tx, t Task) error {
	rows, err := tx.Query(ctx, `
		UPDATE tasks
		SET state = 'canceled',
			error = $1,
			ended_at = $2,
			version = version + 1
		WHERE server_id = $3
		AND site_id = $4
		AND kind = 'converge_site'
		AND state = 'queued'
		AND generation < $5
		RETURNING id`,
		fmt.Sprintf("superseded by generation %d", t.Generation), db.Micros(t.Created), t.Server, t.Site, int64(t.Generation))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		tx.Notify(TopicTask, id)
	}
	return rows.Err()
}
