package backup

import (
	"context"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Policy says when sites are backed up and what is kept of that.
type Policy struct {
	Interval  time.Duration // between two backups of a site; 0 makes none by itself
	Retention Retention
}

// Retention is how many of a site's READY backups are kept, of so many hours, days, weeks and months.
type Retention struct{ Hourly, Daily, Weekly, Monthly uint32 }

// platformPolicy is the one of sites that no other one is for.
var platformPolicy = Policy{Interval: 24 * time.Hour, Retention: Retention{Daily: 7, Weekly: 5, Monthly: 12}}

// PolicyOf gives the policy that a site goes by.
func (b *Backups) PolicyOf(context.Context, db.Querier, contract.OrganizationID, contract.SiteID) (Policy, error) {
	return platformPolicy, nil
}

// provenOf is the backup that a drill has proven last; the zero value where none was.
func (b *Backups) provenOf(context.Context, db.Querier, contract.OrganizationID, contract.SiteID) (contract.BackupID, error) {
	return contract.BackupID{}, nil
}
