package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// DrillState is where a drill is in its life.
type DrillState string

// States of a drill.
const (
	Drilling    DrillState = "running"
	DrillPassed DrillState = "passed"
	DrillFailed DrillState = "failed"
)

// Drill is a rehearsed restore: a backup restored to a scratch place, and compared with what is recorded of it.
type Drill struct {
	Organization contract.OrganizationID
	ID           contract.DrillID
	Site         contract.SiteID
	Backup       contract.BackupID
	State        DrillState
	Problem      string             // why it failed
	Note         string             // what is worth to know of one that passed
	TaskID       string             // empty where nothing was ordered
	Evidence     *backupv1.Evidence // what the host found; nil before, and where it said nothing. No right follows from it.
	CreatedAt    time.Time
	EndedAt      time.Time // zero before

	paths  []string // that the host was to ask for after the home page
	mailed bool     // the organization was, of its failure
}

// ErrDrilling says that the site has a drill under way.
var ErrDrilling = fault.Conflict("a drill of the site is under way already: wait until it has ended")

// ErrNotOwn says that a backup goes by another site's name until it is restored: it shows no page beside the site.
var ErrNotOwn = fault.Conflict("a backup that came from elsewhere has no drill: restore it, and drill the next backup of the site")

// drillWithin is that of a restore: as much is read and imported.
const drillWithin = restoreWithin

// Drill has a site's host restore a backup to a scratch place now, and look at it there; DrillEnded judges what it finds. Only a
// READY backup of this very site is drilled, one at a time, and none while another backup is made or a restore goes on. It keeps
// neither from beginning.
func (b *Backups) Drill(ctx context.Context, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (Drill, error) {
	var made Drill
	err := db.InTx(ctx, b.db, func(tx *db.Tx) (err error) {
		made, err = b.drill(ctx, tx, organization, id, backup)
		return err
	}, db.ReadCommitted()) // the site's row is locked before anything is decided
	if err != nil {
		return Drill{}, fmt.Errorf("drill backup %s: %w", backup, err)
	}
	return made, nil
}

// drill orders one. Where it says ErrForged nothing is written, and the site is free for one.
func (b *Backups) drill(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID, backup contract.BackupID) (Drill, error) {
	of, err := site.Lock(ctx, tx, organization, id)
	if err != nil {
		return Drill{}, err
	}
	from, err := load(ctx, tx, organization, id, backup)
	if err != nil {
		return Drill{}, err
	}
	if from.State != Ready {
		return Drill{}, ErrNotReady
	}
	if from.received() {
		return Drill{}, ErrNotOwn
	}
	if err := of.Living(); err != nil {
		return Drill{}, err
	}
	if err := free(ctx, tx, organization, id, false); err != nil {
		return Drill{}, err
	}
	_, running, err := drilling(ctx, tx, organization, id)
	if err != nil {
		return Drill{}, err
	}
	if running {
		return Drill{}, ErrDrilling
	}
	signed, _, err := b.verified(from)
	if err != nil {
		b.log.ErrorContext(ctx, "the manifest of a backup is not what was signed", "backup", from.ID, "site", from.Site, "err", err)
		return Drill{}, ErrForged
	}
	by, err := b.policyOf(ctx, tx, of)
	if err != nil {
		return Drill{}, err
	}
	made := newDrill(from)
	made.paths = by.DrillPaths
	ordered, err := task.Enqueue(ctx, tx, task.New{
		Organization: organization.String(),
		Server:       of.Server.String(),
		Site:         id.String(),
		Kind:         task.DrillSite,
		Parameters:   &orderv1.DrillSite{Handle: of.Handle.String(), DrillId: made.ID.String(), Manifest: signed, Paths: made.paths},
		Timeout:      drillWithin,
		Deadline:     made.CreatedAt.Add(drillWithin + startWithin),
		CreatedBy:    audit.ActorOf(ctx).Account(),
	})
	if err != nil {
		return Drill{}, err
	}
	made.TaskID = ordered.ID
	if err := insertDrill(ctx, tx, made); err != nil {
		return Drill{}, err
	}
	return made, audit.Record(ctx, tx, audit.Event{
		Organization: organization.String(), Action: "backup.drill", Object: from.ID.String(), Detail: fmt.Sprintf("of site %s, drill %s", id, made.ID),
	})
}

func newDrill(from Backup) Drill {
	return Drill{
		Organization: from.Organization, ID: contract.NewDrillID(), Site: from.Site, Backup: from.ID, State: Drilling,
		CreatedAt: db.Time(db.Micros(time.Now())),
	}
}

// stopDrill ends the drill that is under way of a site, if one is: what was asked for must not wait for hours. The site's row is
// locked.
func (b *Backups) stopDrill(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) error {
	order, running, err := drilling(ctx, tx, organization, id)
	if err != nil || !running {
		return err
	}
	if _, err := b.config.Tasks.Cancel(ctx, tx, organization.String(), order); err != nil && fault.KindOf(err) != fault.KindConflict {
		return fmt.Errorf("stop the drill: %w", err)
	}
	return nil // a conflict says that it has just ended by itself
}

// drilling gives the task of the drill that a site has under way.
func drilling(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.SiteID) (order string, running bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT task_id
		FROM drills
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state = 'running'`, organization, id).Scan(&order)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look for a drill: %w", err)
	}
	return order, true, nil
}

// drillsShown is how many ListDrills gives.
const drillsShown = 100

// ListDrills gives a site's newest drills, newest first.
func (b *Backups) ListDrills(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) ([]Drill, error) {
	if err := exists(ctx, b.db.Reader(), organization, id); err != nil {
		return nil, err
	}
	rows, err := b.db.Reader().Query(ctx, drillColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		ORDER BY id DESC
		LIMIT $3`, organization, id, drillsShown)
	if err != nil {
		return nil, fmt.Errorf("list drills of site %s: %w", id, err)
	}
	defer rows.Close()
	var all []Drill
	for rows.Next() {
		d, err := scanDrill(rows)
		if err != nil {
			return nil, fmt.Errorf("list drills of site %s: %w", id, err)
		}
		all = append(all, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list drills of site %s: %w", id, err)
	}
	return all, nil
}

// LastDrills gives a site's newest drill and its newest that passed, the last proven restore; nil where there is none.
func LastDrills(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (last, proven *Drill, err error) {
	for state, to := range map[string]**Drill{"": &last, string(DrillPassed): &proven} {
		d, err := scanDrill(q.QueryRow(ctx, drillColumns+`
			WHERE organization_id = $1
			  AND site_id = $2
			  AND ($3 = '' OR state = $3)
			ORDER BY id DESC
			LIMIT 1`, organization, id, state))
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read the last drills of site %s: %w", id, err)
		}
		*to = &d
	}
	return last, proven, nil
}

const drillColumns = `
	SELECT organization_id,
	       id,
	       site_id,
	       backup_id,
	       state,
	       problem,
	       note,
	       paths,
	       mailed,
	       task_id,
	       evidence,
	       created_at,
	       ended_at
	FROM drills`

func scanDrill(row interface{ Scan(...any) error }) (Drill, error) {
	var d Drill
	var evidence []byte
	var paths string
	var created int64
	var ended sql.NullInt64
	if err := row.Scan(&d.Organization, &d.ID, &d.Site, &d.Backup, &d.State, &d.Problem, &d.Note, &paths, &d.mailed, &d.TaskID, &evidence, &created, &ended); err != nil {
		return Drill{}, err
	}
	if evidence != nil {
		d.Evidence = &backupv1.Evidence{}
		if err := proto.Unmarshal(evidence, d.Evidence); err != nil {
			return Drill{}, fmt.Errorf("drill %s: read evidence: %w", d.ID, err)
		}
	}
	d.CreatedAt, d.EndedAt, d.paths = db.Time(created), db.NullTime(ended), strings.Fields(paths)
	return d, nil
}

func insertDrill(ctx context.Context, tx *db.Tx, d Drill) error {
	if _, err := tx.Exec(ctx, `
		INSERT INTO drills (organization_id, id, site_id, backup_id, state, problem, paths, mailed, task_id, created_at, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		d.Organization, d.ID, d.Site, d.Backup, string(d.State), d.Problem, strings.Join(d.paths, " "), d.mailed, d.TaskID, db.Micros(d.CreatedAt), db.NullMicros(d.EndedAt)); err != nil {
		return fmt.Errorf("insert drill: %w", err)
	}
	return nil
}

// drillsKept is how many drills of a site are kept: those of two years.
const drillsKept = 100

// forgetDrills deletes the oldest drills of a site, but not the newest one that PASSED.
func (b *Backups) forgetDrills(ctx context.Context, k kept) error {
	if err := b.put(ctx, `
		DELETE FROM drills
		WHERE organization_id = $1
		  AND site_id = $2
		  AND state <> 'running'
		  AND id NOT IN (
		      SELECT id
		      FROM drills
		      WHERE organization_id = $1
		        AND site_id = $2
		      ORDER BY id DESC
		      LIMIT $3
		  )
		  AND id <> COALESCE((
		      SELECT MAX(id)
		      FROM drills
		      WHERE organization_id = $1
		        AND site_id = $2
		        AND state = 'passed'
		  ), '')`, k.Organization, k.Site, drillsKept); err != nil {
		return fmt.Errorf("forget old drills: %w", err)
	}
	return nil
}
