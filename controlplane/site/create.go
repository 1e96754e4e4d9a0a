package site

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// Request describes a site that somebody wants, as they wrote it.
type Request struct {
	Organization contract.OrganizationID
	Name         string
	Type         string
	Domains      []string
	// Redirects are those of Domains that send visitors on to the first of them.
	Redirects []string `json:",omitempty"` // what was added later leaves the hashes of older requests as they were
	HTTPS     HTTPS    `json:",omitzero"`
	Settings  map[string]string
	Limits    Limits
	Tags      []string `json:",omitempty"`
	// Policy is the backup policy that is chosen for it; the zero value lets its tags choose.
	Policy contract.PolicyID `json:",omitzero"`
	// Server to hold it; the zero value lets the fleet choose.
	Server contract.ServerID
	// RequestID is the caller's own id for the request, may be empty.
	RequestID string
}

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$`)

// Create places a site on a server, and has it installed by the task that it returns.
//
// A repeat with the same request id and the same content returns the first one's site and task; one with other content is
// ErrRequestID. Other errors: a fault of kind Invalid that names the field, ErrNameTaken, a Conflict that names the domain
// which another site has, ErrNoPolicy,
// organization.ErrNotFound and ErrClosing, and what the fleet says when no server can take it.
func (s *Sites) Create(ctx context.Context, n Request) (*Site, task.Task, error) {
	wanted, err := s.parse(n)
	if err != nil {
		return nil, task.Task{}, err
	}
	if n.RequestID != "" && !requestIDPattern.MatchString(n.RequestID) {
		return nil, task.Task{}, fault.Invalid("request_id", "must be up to 64 letters, digits and _ . : - and begin with a letter or digit")
	}
	hash, err := n.hash()
	if err != nil {
		return nil, task.Task{}, err
	}
	var made *Site
	var ordered task.Task
	// Constraints decide who is first, and Enqueue locks the server's row, so that ReadCommitted is enough: with more, a
	// crowd would fail on each other. A request that lost to a constraint runs once more and then finds who won; so does
	// one that found its name taken in a moment, perhaps by its own repeat.
	for try := range 3 {
		err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
			made, ordered, err = s.create(ctx, tx, n, wanted, hash)
			return err
		}, db.ReadCommitted())
		perhapsRepeat := n.RequestID != "" && try == 0 && fault.KindOf(err) == fault.KindConflict
		if !db.IsUnique(err) && !perhapsRepeat {
			break
		}
	}
	if err != nil {
		return nil, task.Task{}, fmt.Errorf("create site: %w", err)
	}
	if ordered.State == "" { // a repeat: only the id of its task is known
		if ordered, err = s.tasks.Get(ctx, n.Organization.String(), ordered.ID); err != nil {
			return nil, task.Task{}, fmt.Errorf("create site: %w", err)
		}
	}
	return made, ordered, nil
}

// parse turns what somebody wrote into what a host may be told.
func (s *Sites) parse(n Request) (Wanted, error) {
	if err := checkName(n.Name); err != nil {
		return Wanted{}, err
	}
	kind, err := parseType(n.Type)
	if err != nil {
		return Wanted{}, err
	}
	wanted := Wanted{Phase: Active, Limits: n.Limits, HTTPS: n.HTTPS}
	if wanted.Type, err = contract.ParseSiteType(n.Type); err != nil {
		return Wanted{}, fault.Invalid("type", contract.RuleOf(err))
	}
	if wanted.Domains, err = parseDomains(n.Domains); err != nil {
		return Wanted{}, err
	}
	if wanted.Redirects, err = parseRedirects(n.Redirects, wanted.Domains); err != nil {
		return Wanted{}, err
	}
	if err := n.HTTPS.check(); err != nil {
		return Wanted{}, err
	}
	if wanted.Settings, err = kind.newSettings(n.Settings, n.Name); err != nil {
		return Wanted{}, err
	}
	if err := n.Limits.check(); err != nil {
		return Wanted{}, err
	}
	if kind.installs {
		if s.config.WordPress == nil {
			return Wanted{}, fault.Conflict("this control plane has no WordPress release configured: an operator sets --wordpress-url, --wordpress-version and --wordpress-sha256 of chomd")
		}
		archive := *s.config.WordPress
		wanted.Archive = &archive
	}
	return wanted, nil
}

// hash is the content of a request, to tell a repeat from another request.
func (n Request) hash() ([]byte, error) {
	n.RequestID = ""
	text, err := json.Marshal(struct { // maps are written in the order of their keys
		Request
		Organization, Server string
	}{n, n.Organization.String(), n.Server.String()})
	if err != nil {
		return nil, fmt.Errorf("hash request: %w", err)
	}
	sum := sha256.Sum256(text)
	return sum[:], nil
}

func (s *Sites) create(ctx context.Context, tx *db.Tx, n Request, wanted Wanted, hash []byte) (*Site, task.Task, error) {
	if n.RequestID != "" {
		if made, first, err := repeated(ctx, tx, n, hash); made != nil || err != nil {
			return made, first, err
		}
	}
	if err := free(ctx, tx, n); err != nil {
		return nil, task.Task{}, err
	}
	server, err := fleet.Place(ctx, tx, n.Organization, n.Server)
	if err != nil {
		return nil, task.Task{}, err
	}
	now := db.Time(db.Micros(time.Now()))
	made := &Site{
		Organization: n.Organization,
		ID:           contract.NewSiteID(),
		Handle:       contract.NewHandle(),
		Server:       server,
		Name:         n.Name,
		Wanted:       wanted,
		Policy:       n.Policy,
		CreatedAt:    now,
		UpdatedAt:    now,
		owner:        organization.Active,
	}
	if made.Tags, err = ParseTags(n.Tags); err != nil {
		return nil, task.Task{}, err
	}
	if err := s.mayChoose(ctx, tx, made); err != nil {
		return nil, task.Task{}, err
	}
	if err := insert(ctx, tx, made, n.RequestID, hash); err != nil {
		return nil, task.Task{}, err
	}
	if err := s.claim(ctx, tx, made, wanted.Domains); err != nil {
		return nil, task.Task{}, err
	}
	if err := s.renew(ctx, tx, made); err != nil {
		return nil, task.Task{}, err
	}
	ordered, err := s.converge(ctx, tx, made)
	if err != nil {
		return nil, task.Task{}, err
	}
	if err := publish(ctx, tx, made, "site.create"); err != nil {
		return nil, task.Task{}, err
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Organization: made.Organization.String(), Action: "site.create", Object: made.ID.String(),
		Detail: fmt.Sprintf("%s, %s, %s", made.Name, made.Wanted.Type, joinNames(made.Wanted.Domains)),
	}); err != nil {
		return nil, task.Task{}, err
	}
	return made, ordered, nil
}

// repeated finds the site that an earlier request with the same id made, and the id of the task that installed it, or of the
// oldest that is still remembered.
func repeated(ctx context.Context, tx *db.Tx, n Request, hash []byte) (*Site, task.Task, error) {
	var id contract.SiteID
	var before []byte
	err := tx.QueryRow(ctx, `
		SELECT id,
		       request_hash
		FROM sites
		WHERE organization_id = $1
		  AND request_id = $2`,
		n.Organization, n.RequestID).Scan(&id, &before)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, task.Task{}, nil
	}
	if err != nil {
		return nil, task.Task{}, fmt.Errorf("look for request: %w", err)
	}
	if string(before) != string(hash) {
		return nil, task.Task{}, ErrRequestID
	}
	found, err := load(ctx, tx, n.Organization, id)
	if err != nil {
		return nil, task.Task{}, err
	}
	var first string
	if err := tx.QueryRow(ctx, `
		SELECT id
		FROM tasks
		WHERE organization_id = $1
		  AND site_id = $2
		ORDER BY sequence
		LIMIT 1`,
		n.Organization, id).Scan(&first); err != nil {
		return nil, task.Task{}, fmt.Errorf("look for the request's task: %w", err)
	}
	return found, task.Task{ID: first}, nil
}

// free refuses an organization that does not exist or is closing, and a name that it has given already.
func free(ctx context.Context, tx *db.Tx, n Request) error {
	var owner organization.State
	err := tx.QueryRow(ctx, `SELECT state FROM organizations WHERE id = $1`, n.Organization).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return organization.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("look for organization: %w", err)
	}
	if owner != organization.Active {
		return organization.ErrClosing
	}
	var one int
	err = tx.QueryRow(ctx, `
		SELECT 1
		FROM sites
		WHERE organization_id = $1
		  AND name = $2
		  AND phase <> 'absent'`,
		n.Organization, n.Name).Scan(&one)
	if err == nil {
		return ErrNameTaken
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("look for name: %w", err)
	}
	return nil
}
