-- +goose Up

-- Places of organizations' own that backups are kept in. The platform's own store has no row.
CREATE TABLE backup_targets (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    id              TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    -- Where it is, as JSON.
    place           TEXT NOT NULL,
    -- What lets in, sealed.
    sealed          BYTEA NOT NULL,
    -- Grows with each change of either.
    version         BIGINT NOT NULL,
    -- What was wrong when it was last used or tried, and when that was; empty when nothing was.
    problem         TEXT NOT NULL,
    checked_at      BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id)
);

CREATE UNIQUE INDEX backup_targets_name ON backup_targets (organization_id, name);

-- Where the repositories of sites are made that have none yet; NULL is the platform's own store.
ALTER TABLE backup_policies ADD COLUMN target_id TEXT REFERENCES backup_targets (id);
-- Where it lies; NULL is the platform's own store.
ALTER TABLE repositories ADD COLUMN target_id TEXT REFERENCES backup_targets (id);

CREATE INDEX backup_policies_target ON backup_policies (target_id) WHERE target_id IS NOT NULL;
CREATE INDEX repositories_target ON repositories (target_id) WHERE target_id IS NOT NULL;
