package backup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// targetColumn is a column that is NULL where something lies in the platform's own store.
func targetColumn(id contract.TargetID) sql.NullString {
	return sql.NullString{String: id.String(), Valid: !id.IsZero()}
}

// wantedTarget is where the policy of a site has its backups lie; zero for the platform's own store.
func wantedTarget(ctx context.Context, q db.Querier, of *site.Site) (contract.TargetID, error) {
	policies, err := policiesOf(ctx, q, of.Organization)
	if err != nil {
		return contract.TargetID{}, err
	}
	return policyFor(of.Tags, of.Policy, policies, platform).Target, nil
}

// follow has a site's repository lie where the policy of the site says, if it holds no backup: neither the next one nor any other is
// under way or READY. Its key stays, and what a backup that failed has left behind is nobody's. No backup of the site begins meanwhile.
//
// A host that makes the first backup by itself at this moment has that one refused when it is checked, and makes the next one there.
func follow(ctx context.Context, tx *db.Tx, of *site.Site) error {
	wanted, err := wantedTarget(ctx, tx, of)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		UPDATE repositories
		SET target_id = $3
		WHERE organization_id = $1
		  AND site_id = $2
		  AND COALESCE(target_id, '') <> $4
		  AND NOT EXISTS (
		      SELECT 1
		      FROM backups b
		      WHERE b.organization_id = repositories.organization_id
		        AND b.site_id = repositories.site_id
		        AND b.state <> 'failed')`, of.Organization, of.ID, targetColumn(wanted), wanted.String())
	if err != nil {
		return fmt.Errorf("have the repository of site %s lie where its policy says: %w", of.ID, err)
	}
	return nil
}

// targetProblem is what is known to be wrong with the target that a site's repository lies in, and what to do; empty when nothing is,
// and where it lies in the platform's own store.
func targetProblem(ctx context.Context, q db.Querier, organization contract.OrganizationID, id contract.SiteID) (problem string, err error) {
	err = q.QueryRow(ctx, `
		SELECT t.problem
		FROM repositories r
		JOIN backup_targets t ON t.organization_id = r.organization_id AND t.id = r.target_id
		WHERE r.organization_id = $1
		  AND r.site_id = $2`, organization, id).Scan(&problem)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read what is wrong with the target of site %s: %w", id, err)
	}
	return problem, nil
}

// lyingWords say what is wrong with where a site's backups lie, and what to do; nothing when nothing is.
func lyingWords(ctx context.Context, q db.Querier, of *site.Site, policy Policy) (string, error) {
	problem, err := targetProblem(ctx, q, of.Organization, of.ID)
	if err != nil || problem != "" {
		return problem, err
	}
	var lies, wanted string
	err = q.QueryRow(ctx, `
		SELECT COALESCE((SELECT name FROM backup_targets WHERE organization_id = $1 AND id = r.target_id), ''),
		       COALESCE((SELECT name FROM backup_targets WHERE organization_id = $1 AND id = $3), '')
		FROM repositories r
		WHERE r.organization_id = $1
		  AND r.site_id = $2
		  AND COALESCE(r.target_id, '') <> $3`, of.Organization, of.ID, policy.Target.String()).Scan(&lies, &wanted)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look where the backups of site %s lie: %w", of.ID, err)
	}
	return fmt.Sprintf("the policy %q has backups lie in %s, and those of this site lie in %s since the first of them: they stay, and new ones join them there. "+
		"A site that is to have its backups in another place has to be made anew", policy.Name, targetWords(wanted), targetWords(lies)), nil
}

func targetWords(name string) string {
	if name == "" {
		return "the platform's own store"
	}
	return fmt.Sprintf("the target %q", name)
}
