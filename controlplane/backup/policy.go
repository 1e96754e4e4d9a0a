package backup

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// Policy says when sites are backed up and what is kept of that. The platform's own has neither id nor organization.
type Policy struct {
	Organization contract.OrganizationID
	ID           contract.PolicyID
	Name         string
	Tags         []string      // of the sites that it is for, in the order of the alphabet
	Rank         int32         // the lowest comes first; of two with the same, the older one
	Interval     time.Duration // between two backups of a site, whole seconds; 0 makes none
	Retention    Retention
	Target       contract.TargetID // where the repositories of sites are made that have none; zero for the platform's own store
	DrillPaths   []string          // that drills ask for, beside the home page
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// Retention is how many of a site's READY backups are kept: the newest one of each of so many hours, days, weeks and months that
// have one.
type Retention struct {
	Hourly, Daily, Weekly, Monthly uint32
}

// platform is the platform's own but for its interval.
var platform = Policy{Name: "platform", Retention: Retention{Daily: 7, Weekly: 5, Monthly: 12}}

// Platform is the policy of sites that go by no other.
func (b *Backups) Platform() Policy {
	p := platform
	p.Interval = b.config.Every
	return p
}

// policyFor is the policy that a site goes by: the chosen one, else the first of whose tags it has one, else the platform's own. The
// organization's are given in their order; none is chosen where the id is the zero value.
func policyFor(tags []string, chosen contract.PolicyID, policies []Policy, platform Policy) Policy {
	for _, p := range policies {
		if !chosen.IsZero() && p.ID == chosen {
			return p
		}
	}
	for _, p := range policies {
		if slices.ContainsFunc(p.Tags, func(tag string) bool { return slices.Contains(tags, tag) }) {
			return p
		}
	}
	return platform
}

// PolicyOf is the policy that a site goes by, or site.ErrNotFound.
func (b *Backups) PolicyOf(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (Policy, error) {
	of, err := site.Load(ctx, q, organization, id)
	if err != nil {
		return Policy{}, err
	}
	return b.policyOf(ctx, q, of)
}

func (b *Backups) policyOf(ctx context.Context, q db.Querier, of *site.Site) (Policy, error) {
	policies, err := policiesOf(ctx, q, of.Organization)
	if err != nil {
		return Policy{}, err
	}
	return policyFor(of.Tags, of.Policy, policies, b.Platform()), nil
}

// Message is the policy as the API says it.
func (p Policy) Message() *backupv1.Policy {
	m := &backupv1.Policy{
		Id: p.ID.String(), OrganizationId: p.Organization.String(), Name: p.Name, Tags: p.Tags, Rank: p.Rank, Retention: p.Retention.Message(),
		TargetId:   p.Target.String(),
		DrillPaths: p.DrillPaths,
	}
	if p.Interval > 0 {
		m.Interval = durationpb.New(p.Interval)
	}
	if !p.CreatedAt.IsZero() {
		m.CreateTime, m.UpdateTime = timestamppb.New(p.CreatedAt), timestamppb.New(p.UpdatedAt)
	}
	return m
}

// Message is the retention as the API says it.
func (r Retention) Message() *backupv1.Retention {
	return &backupv1.Retention{Hourly: r.Hourly, Daily: r.Daily, Weekly: r.Weekly, Monthly: r.Monthly}
}

// RetentionFrom takes in what somebody asks for; nothing is the platform's own.
func RetentionFrom(m *backupv1.Retention) Retention {
	if m == nil {
		return platform.Retention
	}
	return Retention{Hourly: m.GetHourly(), Daily: m.GetDaily(), Weekly: m.GetWeekly(), Monthly: m.GetMonthly()}
}

// MaxPolicies is how many an organization may have.
const MaxPolicies = 100

// PoliciesTopic is what Listen hears when schedules may follow from other policies; the payload is the organization's id.
const PoliciesTopic = "backup_policies"

// Errors of policies.
var (
	ErrPolicyNotFound = fault.NotFound("backup policy")
	// ErrTooManyPolicies says that the organization has MaxPolicies.
	ErrTooManyPolicies = fault.Conflict(fmt.Sprintf("an organization has at most %d backup policies", MaxPolicies))
	errPolicyName      = fault.Conflict("the organization has a backup policy with this name: choose another")
	errPlatformName    = fault.Invalid("name", `must not be "platform": that is the platform's own`)
)

// PolicyChange says what a policy is to be; nil leaves a part as it is.
type PolicyChange struct {
	Name       *string
	Tags       *[]string
	Rank       *int32
	Interval   *time.Duration
	Retention  *Retention
	Target     *contract.TargetID // zero for the platform's own store
	DrillPaths *[]string
}

// apply lays a change over a policy, and says in words what changes. Errors are faults of kind Invalid that name the field.
func (c PolicyChange) apply(p Policy) (Policy, []string, error) {
	var what []string
	if c.Name != nil {
		p.Name = *c.Name
		what = append(what, "name: "+p.Name)
	}
	if c.Tags != nil {
		tags, err := site.ParseTags(*c.Tags)
		if err != nil {
			return Policy{}, nil, err
		}
		p.Tags = tags
		what = append(what, "tags: "+cmp.Or(strings.Join(tags, " "), "none"))
	}
	if c.Rank != nil {
		p.Rank = *c.Rank
		what = append(what, fmt.Sprintf("rank: %d", p.Rank))
	}
	if c.Interval != nil {
		p.Interval = *c.Interval
		what = append(what, "interval: "+p.Interval.String())
	}
	if c.Retention != nil {
		p.Retention = *c.Retention
		what = append(what, fmt.Sprintf("kept: %d hourly, %d daily, %d weekly, %d monthly", p.Retention.Hourly, p.Retention.Daily, p.Retention.Weekly, p.Retention.Monthly))
	}
	if c.Target != nil {
		p.Target = *c.Target
		what = append(what, "target: "+cmp.Or(p.Target.String(), "none"))
	}
	if c.DrillPaths != nil {
		p.DrillPaths = slices.DeleteFunc(slices.Clone(*c.DrillPaths), func(path string) bool { return path == "/" }) // which is always asked for
		what = append(what, "drill paths: "+cmp.Or(strings.Join(p.DrillPaths, " "), "none"))
	}
	return p, what, p.check()
}

var policyName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func (p Policy) check() error {
	switch {
	case !policyName.MatchString(p.Name):
		return fault.Invalid("name", "must be 1 to 63 lower-case letters, digits and hyphens, beginning with a letter")
	case p.Name == platform.Name:
		return errPlatformName
	case p.Rank < 0 || p.Rank > 1000000:
		return fault.Invalid("rank", "must be 0 to 1000000")
	case p.Interval != 0 && (p.Interval < 15*time.Minute || p.Interval > 31*24*time.Hour || p.Interval%time.Second != 0):
		return fault.Invalid("interval", "must be 15 minutes to 31 days, in whole seconds")
	case p.Retention.Hourly > 720:
		return fault.Invalid("retention.hourly", "must be at most 720")
	case p.Retention.Daily > 366:
		return fault.Invalid("retention.daily", "must be at most 366")
	case p.Retention.Weekly > 260:
		return fault.Invalid("retention.weekly", "must be at most 260")
	case p.Retention.Monthly > 120:
		return fault.Invalid("retention.monthly", "must be at most 120")
	}
	return checkPaths(p.DrillPaths)
}

// maxPaths is how many a drill asks for, beside the home page: each may take a minute.
const maxPaths = 5

var drillPath = regexp.MustCompile(`^/[!-~]*$`)

func checkPaths(paths []string) error {
	if len(paths) > maxPaths {
		return fault.Invalid("drill_paths", fmt.Sprintf("must be at most %d", maxPaths))
	}
	for i, path := range paths {
		if _, err := url.ParseRequestURI(path); err != nil || len(path) > 1024 || !drillPath.MatchString(path) {
			return fault.Invalid("drill_paths", "must be paths as a browser sends them: /shop/, without spaces or letters that are not ASCII, at most 1024 bytes each")
		}
		if slices.Contains(paths[:i], path) {
			return fault.Invalid("drill_paths", "must name each path once")
		}
	}
	return nil
}

// CreatePolicy makes a policy. A part of the change that is nil is as the platform's own has it, but for the name. Errors: a fault of
// kind Invalid that names the field, target.ErrNotFound, ErrTooManyPolicies, a Conflict for a name that another one has.
func (b *Backups) CreatePolicy(ctx context.Context, organization contract.OrganizationID, wanted PolicyChange) (Policy, error) {
	now := db.Time(db.Micros(time.Now()))
	from := Policy{
		Organization: organization, ID: contract.NewPolicyID(), Interval: day, Retention: platform.Retention, CreatedAt: now, UpdatedAt: now,
	}
	made, _, err := wanted.apply(from)
	if err != nil {
		return Policy{}, err
	}
	err = db.InTx(ctx, b.db, func(tx *db.Tx) error {
		// Nobody has chosen it yet.
		policies, err := lockPolicies(ctx, tx, organization, len(made.Tags) > 0)
		if err != nil {
			return err
		}
		if len(policies) >= MaxPolicies {
			return ErrTooManyPolicies
		}
		if err := errors.Join(nameFree(policies, made), hasTarget(ctx, tx, made)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO backup_policies (
				organization_id, id, name, tags, rank, interval_seconds, keep_hourly, keep_daily, keep_weekly, keep_monthly, target_id, drill_paths, created_at,
				updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)`, append(made.values(), db.Micros(now))...); err != nil {
			return fmt.Errorf("insert backup policy: %w", err)
		}
		return recordPolicy(ctx, tx, made, "backup_policy.create", made.Name)
	}, db.ReadCommitted())
	if err != nil {
		return Policy{}, fmt.Errorf("create backup policy: %w", err)
	}
	return made, nil
}

// UpdatePolicy changes a policy; the sites that go by it follow by themselves, but for its target where they have backups elsewhere.
// Errors: ErrPolicyNotFound, target.ErrNotFound, a fault of kind Invalid that names the field, a Conflict for a name that another one
// has.
func (b *Backups) UpdatePolicy(ctx context.Context, organization contract.OrganizationID, id contract.PolicyID, change PolicyChange) (Policy, error) {
	var changed Policy
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		// What is kept of a site's backups, its host need not know.
		policies, err := lockPolicies(ctx, tx, organization, change.Tags != nil || change.Rank != nil || change.Interval != nil)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(policies, func(p Policy) bool { return p.ID == id })
		if i < 0 {
			return ErrPolicyNotFound
		}
		var what []string
		if changed, what, err = change.apply(policies[i]); err != nil {
			return err
		}
		if err := errors.Join(nameFree(policies, changed), hasTarget(ctx, tx, changed)); err != nil {
			return err
		}
		changed.UpdatedAt = db.Time(db.Micros(time.Now()))
		if _, err := tx.Exec(ctx, `
			UPDATE backup_policies
			SET name = $3,
			    tags = $4,
			    rank = $5,
			    interval_seconds = $6,
			    keep_hourly = $7,
			    keep_daily = $8,
			    keep_weekly = $9,
			    keep_monthly = $10,
			    target_id = $11,
			    drill_paths = $12,
			    updated_at = $13
			WHERE organization_id = $1
			  AND id = $2`, append(changed.values(), db.Micros(changed.UpdatedAt))...); err != nil {
			return err
		}
		return recordPolicy(ctx, tx, changed, "backup_policy.update", strings.Join(what, ", "))
	}, db.ReadCommitted())
	if err != nil {
		return Policy{}, fmt.Errorf("update backup policy %s: %w", id, err)
	}
	return changed, nil
}

// DeletePolicy removes a policy; sites that came to it by their tags go by the next one. Errors: ErrPolicyNotFound, and a Conflict
// that names the sites which have chosen it.
func (b *Backups) DeletePolicy(ctx context.Context, organization contract.OrganizationID, id contract.PolicyID) error {
	err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
		policies, err := lockPolicies(ctx, tx, organization, true)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(policies, func(p Policy) bool { return p.ID == id })
		if i < 0 {
			return ErrPolicyNotFound
		}
		if _, err := HasPolicy(ctx, tx, organization, id); err != nil { // whoever chooses it waits, or is waited for
			return err
		}
		if err := unchosen(ctx, tx, organization, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM backup_policies
			WHERE organization_id = $1
			  AND id = $2`, organization, id); err != nil {
			return err
		}
		return recordPolicy(ctx, tx, policies[i], "backup_policy.delete", policies[i].Name)
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("delete backup policy %s: %w", id, err)
	}
	return nil
}

// ListPolicies returns all of an organization's, in their order.
func (b *Backups) ListPolicies(ctx context.Context, organization contract.OrganizationID) ([]Policy, error) {
	return policiesOf(ctx, b.db.Reader(), organization)
}

// HasPolicy says whether an organization has a policy, which stays until the transaction ends.
func HasPolicy(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.PolicyID) (bool, error) {
	var one int
	err := tx.QueryRow(ctx, `
		SELECT 1
		FROM backup_policies
		WHERE organization_id = $1
		  AND id = $2`+tx.ForUpdate(), organization, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for backup policy: %w", err)
	}
	return true, nil
}

// lockPolicies keeps others from changing an organization's policies until the transaction ends, and gives them in their order. Where
// schedules may follow from what is done to them, its sites come to look.
func lockPolicies(ctx context.Context, tx *db.Tx, of contract.OrganizationID, scheduling bool) ([]Policy, error) {
	step := 0
	if scheduling {
		step = 1
		tx.Notify(PoliciesTopic, of.String())
	}
	locked, err := tx.Exec(ctx, `
		UPDATE organizations
		SET policy_revision = policy_revision + $2
		WHERE id = $1`, of, step)
	if err != nil {
		return nil, fmt.Errorf("lock backup policies: %w", err)
	}
	if locked == 0 {
		return nil, organization.ErrNotFound
	}
	return policiesOf(ctx, tx, of)
}

// nameFree refuses the name of another one.
func nameFree(policies []Policy, wanted Policy) error {
	if slices.ContainsFunc(policies, func(p Policy) bool { return p.Name == wanted.Name && p.ID != wanted.ID }) {
		return errPolicyName
	}
	return nil
}

// hasTarget refuses a target that the organization does not have.
func hasTarget(ctx context.Context, tx *db.Tx, of Policy) error {
	if of.Target.IsZero() {
		return nil
	}
	has, err := target.Has(ctx, tx, of.Organization, of.Target)
	if err == nil && !has {
		err = target.ErrNotFound
	}
	return err
}

// named is how many sites an error names.
const named = 5

// unchosen refuses a policy that sites have chosen.
func unchosen(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, id contract.PolicyID) error {
	rows, err := tx.Query(ctx, `
		SELECT name
		FROM sites
		WHERE organization_id = $1
		  AND backup_policy_id = $2
		ORDER BY name
		LIMIT $3`, organization, id, named+1)
	if err != nil {
		return fmt.Errorf("look who has chosen it: %w", err)
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil || len(names) == 0 {
		return err
	}
	if len(names) > named {
		names[named] = "and more"
	}
	return fault.Conflict("it was chosen for sites, also such as are in the trash: " + strings.Join(names, ", ") + ". Choose another one for them first")
}

// policiesOf are an organization's, in the order in which they come.
func policiesOf(ctx context.Context, q db.Querier, organization contract.OrganizationID) ([]Policy, error) {
	rows, err := q.Query(ctx, `
		SELECT organization_id,
		       id,
		       name,
		       tags,
		       rank,
		       interval_seconds,
		       keep_hourly,
		       keep_daily,
		       keep_weekly,
		       keep_monthly,
		       target_id,
		       drill_paths,
		       created_at,
		       updated_at
		FROM backup_policies
		WHERE organization_id = $1
		ORDER BY rank, created_at, id`, organization)
	if err != nil {
		return nil, fmt.Errorf("read backup policies: %w", err)
	}
	defer rows.Close()
	var all []Policy
	for rows.Next() {
		var p Policy
		var tags, paths string
		var seconds, created, updated int64
		var lies sql.Null[contract.TargetID]
		if err := rows.Scan(&p.Organization, &p.ID, &p.Name, &tags, &p.Rank, &seconds,
			&p.Retention.Hourly, &p.Retention.Daily, &p.Retention.Weekly, &p.Retention.Monthly, &lies, &paths, &created, &updated); err != nil {
			return nil, fmt.Errorf("read backup policies: %w", err)
		}
		p.Tags, p.Interval, p.DrillPaths = strings.Fields(tags), time.Duration(seconds)*time.Second, strings.Fields(paths)
		p.Target, p.CreatedAt, p.UpdatedAt = lies.V, db.Time(created), db.Time(updated)
		all = append(all, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read backup policies: %w", err)
	}
	return all, nil
}

// values are those of its row, but for the times.
func (p Policy) values() []any {
	return []any{
		p.Organization, p.ID, p.Name, strings.Join(p.Tags, " "), p.Rank, int64(p.Interval / time.Second),
		p.Retention.Hourly, p.Retention.Daily, p.Retention.Weekly, p.Retention.Monthly,
		targetColumn(p.Target), strings.Join(p.DrillPaths, " "),
	}
}

func recordPolicy(ctx context.Context, tx *db.Tx, p Policy, action, detail string) error {
	return audit.Record(ctx, tx, audit.Event{Organization: p.Organization.String(), Action: action, Object: p.ID.String(), Detail: detail})
}
