-- +goose Up

-- When sites are backed up and what is kept of that. The platform's own policy has no row.
CREATE TABLE backup_policies (
    organization_id  TEXT NOT NULL REFERENCES organizations (id),
    id               TEXT NOT NULL UNIQUE,
    name             TEXT NOT NULL,
    -- Of the sites that it is for, in the order of the alphabet, separated by spaces.
    tags             TEXT NOT NULL,
    rank             BIGINT NOT NULL,
    -- Between two backups; 0 makes none.
    interval_seconds BIGINT NOT NULL,
    keep_hourly      BIGINT NOT NULL,
    keep_daily       BIGINT NOT NULL,
    keep_weekly      BIGINT NOT NULL,
    keep_monthly     BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id)
);

CREATE UNIQUE INDEX backup_policies_name ON backup_policies (organization_id, name);

-- In the order of the alphabet, separated by spaces.
ALTER TABLE sites ADD COLUMN tags TEXT NOT NULL DEFAULT '';
-- The one that was chosen for it; NULL lets its tags choose.
ALTER TABLE sites ADD COLUMN backup_policy_id TEXT REFERENCES backup_policies (id);

CREATE INDEX sites_backup_policy ON sites (backup_policy_id) WHERE backup_policy_id IS NOT NULL;

-- An organization's grows with each change of its policies that schedules may follow from. A site's is the one that its schedule
-- follows from; 0 for one without a schedule, which all are that are older than this.
ALTER TABLE organizations ADD COLUMN policy_revision BIGINT NOT NULL DEFAULT 1;
ALTER TABLE sites ADD COLUMN policy_revision BIGINT NOT NULL DEFAULT 0;
