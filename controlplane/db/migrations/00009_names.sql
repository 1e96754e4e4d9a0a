-- +goose Up

-- How far each name of a site is: whether it was found to lead to the site's host, and what the last look at the DNS found.
-- From when a certificate is ordered for it: it was found to lead to the host once, and its organization has held it since.
ALTER TABLE domains ADD COLUMN ready_at BIGINT;
-- How the CA is shown that; empty while it is not ready.
ALTER TABLE domains ADD COLUMN challenge TEXT NOT NULL DEFAULT '' CHECK (challenge IN ('', 'http-01', 'dns-01'));
-- Why it does not lead to the host, and the records to set, in JSON.
ALTER TABLE domains ADD COLUMN problem TEXT NOT NULL DEFAULT '';
ALTER TABLE domains ADD COLUMN records TEXT NOT NULL DEFAULT '';
ALTER TABLE domains ADD COLUMN looks BIGINT NOT NULL DEFAULT 0;
ALTER TABLE domains ADD COLUMN looked_at BIGINT;
-- When it is looked at next; NULL while the site does not answer to it.
ALTER TABLE domains ADD COLUMN look_at BIGINT;
CREATE INDEX domains_look ON domains (look_at) WHERE look_at IS NOT NULL;

-- Names of sites that are served already are looked at after the start.
UPDATE domains SET look_at = 0 WHERE EXISTS (
    SELECT 1
    FROM sites s
    WHERE s.organization_id = domains.organization_id
      AND s.id = domains.site_id
      AND s.phase IN ('active', 'suspended')
      AND ' ' || s.served || ' ' LIKE '% ' || domains.name || ' %'
);

-- The names for which orders of certificates began, in the last days: what an organization's budget counts.
CREATE TABLE certificate_starts (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name            TEXT NOT NULL,
    started_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, started_at, name)
);
