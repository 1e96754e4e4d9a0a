-- +goose Up

-- When a site that is wanted was not served, as its host measured it.
CREATE TABLE site_outages (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    -- What the home page answered when it began.
    problem         TEXT NOT NULL,
    began_at        BIGINT NOT NULL,
    ended_at        BIGINT,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX site_outages_site ON site_outages (organization_id, site_id, began_at);
-- Whatever two transactions do at the same time.
CREATE UNIQUE INDEX site_outages_lasting ON site_outages (organization_id, site_id) WHERE ended_at IS NULL;
