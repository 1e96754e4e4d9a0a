package site

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// outage says why visitors of a site that is wanted see no page of it; empty where they do, and where it is not wanted. A host that
// is not there yet, at a change or at the beginning, says nothing of either.
func outage(w Wanted, o *sitev1.ObservedState) (problem string, says bool) {
	switch {
	case o.GetObserveTime() == nil:
		return "", false
	case w.onHost() != Active:
		return "", true
	case o.GetGeneration() < w.Generation:
		return "", false
	case o.GetHttpStatus() == 0:
		return "the home page did not answer", true
	case o.GetHttpStatus() >= http.StatusInternalServerError:
		return fmt.Sprintf("the home page answered with status %d", o.GetHttpStatus()), true
	}
	return "", true
}

// noteOutage begins or ends a site's outage.
func noteOutage(ctx context.Context, tx *db.Tx, organization contract.OrganizationID, site contract.SiteID, problem string, now time.Time) error {
	if problem == "" {
		if _, err := tx.Exec(ctx, `
			UPDATE site_outages
			SET ended_at = $1
			WHERE organization_id = $2
			  AND site_id = $3
			  AND ended_at IS NULL`,
			db.Micros(now), organization, site); err != nil {
			return fmt.Errorf("end an outage of site %s: %w", site, err)
		}
		return nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("begin an outage of site %s: %w", site, err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO site_outages (organization_id, id, site_id, problem, began_at)
		VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (organization_id, site_id) WHERE ended_at IS NULL DO NOTHING`,
		organization, id.String(), site, problem, db.Micros(now)); err != nil {
		return fmt.Errorf("begin an outage of site %s: %w", site, err)
	}
	return nil
}
