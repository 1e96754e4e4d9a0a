-- +goose Up

CREATE TABLE drills (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    backup_id       TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('running', 'passed', 'failed')),
    problem         TEXT NOT NULL,
    -- Its organization was mailed of the failure.
    mailed          BOOLEAN NOT NULL,
    -- Empty for one that failed before anything was ordered.
    task_id         TEXT NOT NULL,
    -- What the host found: a serialized chom.backup.v1.Evidence.
    evidence        BYTEA,
    created_at      BIGINT NOT NULL,
    ended_at        BIGINT,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX drills_site ON drills (organization_id, site_id, id);
CREATE INDEX drills_task ON drills (task_id);
-- Whatever two transactions do at the same time.
CREATE UNIQUE INDEX drills_under_way ON drills (organization_id, site_id) WHERE state = 'running';
