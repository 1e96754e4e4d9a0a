// Package target keeps the places of organizations' own that backups are kept in, in the stead of the platform's store: what each is,
// what lets in to it, and which repository lies where.
//
// Nobody but the control plane speaks to a target. Hosts put and get objects at its door as ever (package store); what lets in to a
// target never leaves this package, and what keeps a host from changing its past is the door, whatever the target's own rights are.
//
//	host --append-only REST--> store.Server --> Store() --> the platform's own store
//	restic, manifests, removal ---------------> Store() --> a target: an S3 bucket, a directory by SFTP
//
// A repository lies where its row says, for as long as it holds a backup. Store reads that row before each call, so that there is one
// place that decides.
//
// A target is tried before it is stored or changed: an object is written there, read, listed and deleted. How the last use of it went
// stands in its row, in words with what to do.
//
// Every query takes the organization. A target of another organization does not exist.
package target

import (
	"context"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
	"chom.dev/proto/contract"
)

// Target is a place of an organization's own that backups are kept in.
type Target struct {
	Organization contract.OrganizationID
	ID           contract.TargetID
	Name         string
	Place        Place
	CreatedAt    time.Time
	UpdatedAt    time.Time
	CheckedAt    time.Time // when it was last found to work, or not to
	Problem      string    // what was wrong then, and what to do; empty when nothing was

	sealed  []byte
	version int64
}

// MaxTargets is how many an organization may have.
const MaxTargets = 20

// Errors of targets.
var (
	ErrNotFound = fault.NotFound("backup target")
	// ErrTooMany says that the organization has MaxTargets.
	ErrTooMany = fault.Conflict(fmt.Sprintf("an organization has at most %d backup targets", MaxTargets))
	errName    = fault.Conflict("the organization has a backup target with this name: choose another")
	errChanged = fault.Changed("somebody else has changed the backup target meanwhile: look at it, and try again")
	errMoved   = fault.Conflict("backups lie in the target, so that it must go on being the same place: make another target for the other place")
)

// Sealed is where what lets in to targets stands.
var Sealed = secret.Column{Table: "backup_targets", Column: "sealed", Organization: "organization_id", Row: "id"}

func sealedAt(organization contract.OrganizationID, id contract.TargetID) secret.Place {
	return secret.Place{Organization: organization.String(), Table: Sealed.Table, Column: Sealed.Column, Row: id.String()}
}

// keyring seals and opens: a secret.Keyring.
type keyring interface {
	Seal(p secret.Place, plain []byte) ([]byte, error)
	Open(p secret.Place, sealed []byte) ([]byte, error)
}

// Config is what Targets need.
type Config struct {
	Keys keyring
	// Own is the platform's own store.
	Own store.Store
	// Dialer reaches addresses that people chose.
	Dialer *outbound.Dialer
	// Roots are the certificate authorities to trust; nil for the system's.
	Roots *x509.CertPool
}

// Targets keep them. They are safe for concurrent use.
type Targets struct {
	db     *db.DB
	log    *slog.Logger
	config Config

	mu     sync.Mutex
	opened map[contract.TargetID]*opened
}

// New prepares them.
func New(d *db.DB, log *slog.Logger, c Config) *Targets {
	return &Targets{db: d, log: log, config: c, opened: map[contract.TargetID]*opened{}}
}

var targetName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func checkName(name string) error {
	if !targetName.MatchString(name) {
		return fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	}
	return nil
}

// Create makes a target that works. Errors: a fault of kind Invalid that names the field, a Conflict that says in words why it does
// not work or that another one has the name, ErrTooMany.
func (t *Targets) Create(ctx context.Context, of contract.OrganizationID, name string, place Place, credentials Credentials) (Target, error) {
	now := db.Time(db.Micros(time.Now()))
	made := Target{Organization: of, ID: contract.NewTargetID(), Name: name, Place: place, CreatedAt: now, UpdatedAt: now, CheckedAt: now, version: 1}
	if err := errors.Join(checkName(name), place.check(), credentials.check(place)); err != nil {
		return Target{}, err
	}
	if err := t.works(ctx, made, credentials); err != nil {
		return Target{}, err
	}
	if err := t.seal(&made, credentials); err != nil {
		return Target{}, fmt.Errorf("create backup target: %w", err)
	}
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		all, err := lock(ctx, tx, of)
		if err != nil {
			return err
		}
		if len(all) >= MaxTargets {
			return ErrTooMany
		}
		if err := nameFree(all, made); err != nil {
			return err
		}
		text, err := json.Marshal(made.Place)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO backup_targets (organization_id, id, name, place, sealed, version, problem, checked_at, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, '', $7, $7, $7)`,
			made.Organization, made.ID, made.Name, string(text), made.sealed, made.version, db.Micros(now)); err != nil {
			return fmt.Errorf("insert backup target: %w", err)
		}
		return record(ctx, tx, made, "backup_target.create", made.Place.String())
	}, db.ReadCommitted())
	if err != nil {
		return Target{}, fmt.Errorf("create backup target: %w", err)
	}
	return made, nil
}

// works tries a target that is not stored yet.
func (t *Targets) works(ctx context.Context, of Target, credentials Credentials) error {
	s, err := t.dial(of, credentials)
	if err != nil {
		return err
	}
	if problem := try(ctx, of, s); problem != "" {
		return fault.Conflict(problem)
	}
	return ctx.Err()
}

func (t *Targets) seal(of *Target, credentials Credentials) error {
	plain, err := credentials.encode()
	if err != nil {
		return err
	}
	defer clear(plain)
	of.sealed, err = t.config.Keys.Seal(sealedAt(of.Organization, of.ID), plain)
	return err
}

func (t *Targets) open(of Target) (Credentials, error) {
	plain, err := t.config.Keys.Open(sealedAt(of.Organization, of.ID), of.sealed)
	if err != nil {
		return Credentials{}, err
	}
	defer clear(plain)
	return decode(plain)
}

// Change says what a target is to be; nil leaves a part as it is.
type Change struct {
	Name        *string
	Place       *Place
	Credentials *Credentials
}

// Update changes a target, which must work then. Errors: ErrNotFound, a fault of kind Invalid that names the field, a Conflict that
// says why it does not work, that another one has the name, or that backups lie there and the place would be another one.
func (t *Targets) Update(ctx context.Context, organization contract.OrganizationID, id contract.TargetID, change Change) (Target, error) {
	before, err := t.Get(ctx, organization, id)
	if err != nil {
		return Target{}, err
	}
	changed, what := before, []string(nil)
	credentials, err := t.open(before)
	if err != nil {
		return Target{}, fmt.Errorf("update backup target %s: %w", id, err)
	}
	if change.Name != nil {
		changed.Name = *change.Name
		what = append(what, "name: "+changed.Name)
	}
	if change.Place != nil {
		changed.Place = *change.Place
		what = append(what, "place: "+changed.Place.String())
	}
	if change.Credentials != nil {
		credentials = *change.Credentials
		what = append(what, "credentials")
	}
	if err := errors.Join(checkName(changed.Name), changed.Place.check(), credentials.check(changed.Place)); err != nil {
		return Target{}, err
	}
	now := db.Time(db.Micros(time.Now()))
	changed.UpdatedAt = now
	if change.Place != nil || change.Credentials != nil {
		if err := t.works(ctx, changed, credentials); err != nil {
			return Target{}, err
		}
		changed.CheckedAt, changed.Problem, changed.version = now, "", before.version+1
	}
	if err := t.seal(&changed, credentials); err != nil {
		return Target{}, fmt.Errorf("update backup target %s: %w", id, err)
	}
	err = db.InTx(ctx, t.db, func(tx *db.Tx) error {
		all, err := lock(ctx, tx, organization)
		if err != nil {
			return err
		}
		if err := nameFree(all, changed); err != nil {
			return err
		}
		if !changed.Place.same(before.Place) {
			if sites, err := holds(ctx, tx, organization, id); err != nil || len(sites) > 0 {
				return errors.Join(err, errMoved)
			}
		}
		text, err := json.Marshal(changed.Place)
		if err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `
			UPDATE backup_targets
			SET name = $4,
			    place = $5,
			    sealed = $6,
			    version = $7,
			    problem = $8,
			    checked_at = $9,
			    updated_at = $10
			WHERE organization_id = $1
			  AND id = $2
			  AND version = $3`, organization, id, before.version, changed.Name, string(text), changed.sealed, changed.version, changed.Problem,
			db.Micros(changed.CheckedAt), db.Micros(now))
		if err != nil {
			return err
		}
		if n == 0 {
			return errChanged
		}
		return record(ctx, tx, changed, "backup_target.update", strings.Join(what, ", "))
	}, db.ReadCommitted())
	if err != nil {
		return Target{}, fmt.Errorf("update backup target %s: %w", id, err)
	}
	return changed, nil
}

// Delete forgets a target and what lets in to it. What still lies there of sites that are gone is the organization's own to delete.
// Errors: ErrNotFound, and a Conflict that names the sites whose backups lie there, or the policies that name it.
func (t *Targets) Delete(ctx context.Context, organization contract.OrganizationID, id contract.TargetID) error {
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		all, err := lock(ctx, tx, organization)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(one Target) bool { return one.ID == id })
		if i < 0 {
			return ErrNotFound
		}
		if err := unused(ctx, tx, organization, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM repositories
			WHERE organization_id = $1
			  AND target_id = $2
			  AND NOT EXISTS (SELECT 1 FROM sites s WHERE s.organization_id = repositories.organization_id AND s.id = repositories.site_id)`,
			organization, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM backup_targets
			WHERE organization_id = $1
			  AND id = $2`, organization, id); err != nil {
			return err
		}
		return record(ctx, tx, all[i], "backup_target.delete", all[i].Name)
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("delete backup target %s: %w", id, err)
	}
	t.mu.Lock()
	delete(t.opened, id)
	t.mu.Unlock()
	return nil
}

// unused refuses a target that policies name, or in which sites' repositories lie.
func unused(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.TargetID) error {
	policies, err := names(ctx, tx, `
		SELECT name
		FROM backup_policies
		WHERE organization_id = $1
		  AND target_id = $2
		ORDER BY name
		LIMIT $3`, organization, id)
	if err != nil {
		return err
	}
	if len(policies) > 0 {
		return fault.Conflict("backup policies name it: " + strings.Join(policies, ", ") + ". Give them another target first")
	}
	sites, err := holds(ctx, tx, organization, id)
	if err != nil {
		return err
	}
	if len(sites) > 0 {
		return fault.Conflict("backups of sites lie there, also of such as are in the trash: " + strings.Join(sites, ", ") + ". They would be lost")
	}
	return nil
}

// holds are the names of sites whose repositories lie in a target.
func holds(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.TargetID) ([]string, error) {
	return names(ctx, tx, `
		SELECT s.name
		FROM repositories r
		JOIN sites s ON s.organization_id = r.organization_id AND s.id = r.site_id
		WHERE r.organization_id = $1
		  AND r.target_id = $2
		ORDER BY s.name
		LIMIT $3`, organization, id)
}

// named is how many things an error names.
const named = 5

func names(ctx context.Context, tx *db.Tx, query string, organization contract.OrganizationID, id contract.TargetID) ([]string, error) {
	rows, err := tx.Query(ctx, query, organization, id, named+1)
	if err != nil {
		return nil, fmt.Errorf("look what needs the backup target: %w", err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		found = append(found, name)
	}
	if len(found) > named {
		found[named] = "and more"
	}
	return found, rows.Err()
}

// Check tries a target as it is, and notes what came of it.
func (t *Targets) Check(ctx context.Context, organization contract.OrganizationID, id contract.TargetID) (Target, error) {
	found, err := t.Get(ctx, organization, id)
	if err != nil {
		return Target{}, err
	}
	credentials, err := t.open(found)
	if err != nil {
		return Target{}, fmt.Errorf("check backup target %s: %w", id, err)
	}
	s, err := t.dial(found, credentials)
	if err != nil {
		return Target{}, fmt.Errorf("check backup target %s: %w", id, err)
	}
	found.Problem = try(ctx, found, s)
	if err := ctx.Err(); err != nil {
		return Target{}, err
	}
	found.CheckedAt = db.Time(db.Micros(time.Now()))
	if err := t.note(ctx, found); err != nil {
		return Target{}, fmt.Errorf("check backup target %s: %w", id, err)
	}
	return found, nil
}

// note writes down how the last use of a target went, unless it was changed since.
func (t *Targets) note(ctx context.Context, of Target) error {
	return db.InTx(ctx, t.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE backup_targets
			SET problem = $4,
			    checked_at = $5
			WHERE organization_id = $1
			  AND id = $2
			  AND version = $3`, of.Organization, of.ID, of.version, of.Problem, db.Micros(of.CheckedAt))
		return err
	}, db.ReadCommitted())
}

// Get returns one, or ErrNotFound.
func (t *Targets) Get(ctx context.Context, organization contract.OrganizationID, id contract.TargetID) (Target, error) {
	found, err := scan(t.db.Reader().QueryRow(ctx, columns+`
		WHERE organization_id = $1
		  AND id = $2`, organization, id))
	if errors.Is(err, sql.ErrNoRows) {
		return Target{}, ErrNotFound
	}
	if err != nil {
		return Target{}, fmt.Errorf("read backup target %s: %w", id, err)
	}
	return found, nil
}

// List returns all of an organization's, oldest first.
func (t *Targets) List(ctx context.Context, organization contract.OrganizationID) ([]Target, error) {
	return list(ctx, t.db.Reader(), organization)
}

// Has says whether an organization has a target, which stays until the transaction ends.
func Has(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.TargetID) (bool, error) {
	var one int
	err := tx.QueryRow(ctx, `
		SELECT 1
		FROM backup_targets
		WHERE organization_id = $1
		  AND id = $2`+tx.ForUpdate(), organization, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for backup target: %w", err)
	}
	return true, nil
}

// lock keeps others from changing an organization's targets until the transaction ends, and gives them.
func lock(ctx context.Context, tx *db.Tx, of contract.OrganizationID) ([]Target, error) {
	locked, err := tx.Exec(ctx, `
		UPDATE organizations
		SET name = name
		WHERE id = $1`, of)
	if err != nil {
		return nil, fmt.Errorf("lock backup targets: %w", err)
	}
	if locked == 0 {
		return nil, organization.ErrNotFound
	}
	return list(ctx, tx, of)
}

func nameFree(all []Target, wanted Target) error {
	if slices.ContainsFunc(all, func(one Target) bool { return one.Name == wanted.Name && one.ID != wanted.ID }) {
		return errName
	}
	return nil
}

const columns = `
	SELECT organization_id,
	       id,
	       name,
	       place,
	       sealed,
	       version,
	       problem,
	       checked_at,
	       created_at,
	       updated_at
	FROM backup_targets`

func scan(row interface{ Scan(...any) error }) (Target, error) {
	var t Target
	var place string
	var checked, created, updated int64
	if err := row.Scan(&t.Organization, &t.ID, &t.Name, &place, &t.sealed, &t.version, &t.Problem, &checked, &created, &updated); err != nil {
		return Target{}, err
	}
	if err := json.Unmarshal([]byte(place), &t.Place); err != nil {
		return Target{}, fmt.Errorf("backup target %s: read its place: %w", t.ID, err)
	}
	t.CheckedAt, t.CreatedAt, t.UpdatedAt = db.Time(checked), db.Time(created), db.Time(updated)
	return t, nil
}

func list(ctx context.Context, q db.Querier, organization contract.OrganizationID) ([]Target, error) {
	rows, err := q.Query(ctx, columns+`
		WHERE organization_id = $1
		ORDER BY created_at, id`, organization)
	if err != nil {
		return nil, fmt.Errorf("list backup targets: %w", err)
	}
	defer rows.Close()
	var all []Target
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list backup targets: %w", err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list backup targets: %w", err)
	}
	return all, nil
}

func record(ctx context.Context, tx *db.Tx, of Target, action, detail string) error {
	return audit.Record(ctx, tx, audit.Event{Organization: of.Organization.String(), Action: action, Object: of.ID.String(), Detail: detail})
}

// Message is the target as the API says it, without what lets in.
func (t Target) Message() *backupv1.Target {
	m := &backupv1.Target{
		Id: t.ID.String(), OrganizationId: t.Organization.String(), Name: t.Name, Problem: t.Problem,
		CreateTime: timestamppb.New(t.CreatedAt), UpdateTime: timestamppb.New(t.UpdatedAt), CheckTime: timestamppb.New(t.CheckedAt),
	}
	switch {
	case t.Place.S3 != nil:
		m.Place = &backupv1.Target_S3{S3: t.Place.S3.message()}
	case t.Place.SFTP != nil:
		m.Place = &backupv1.Target_Sftp{Sftp: t.Place.SFTP.message()}
	}
	return m
}
