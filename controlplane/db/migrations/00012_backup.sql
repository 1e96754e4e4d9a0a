-- +goose Up

-- Tasks have more kinds. A CHECK cannot be changed on both engines alike; a column with another one takes the place of the former.
ALTER TABLE tasks ADD COLUMN kind_now TEXT NOT NULL DEFAULT 'noop' CHECK (kind_now IN (
    'noop', 'prepare_server', 'converge_site', 'site_login', 'backup_site', 'restore_site', 'undo_restore', 'drill_site'));
UPDATE tasks SET kind_now = kind;
ALTER TABLE tasks DROP COLUMN kind;
ALTER TABLE tasks RENAME COLUMN kind_now TO kind;

-- One restic repository for each site that was ever backed up. It has no reference to the site: it is there until its objects are
-- removed from the store, which happens after the site is gone.
CREATE TABLE repositories (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    site_id         TEXT NOT NULL UNIQUE,
    -- Its password, sealed.
    sealed_key      BYTEA NOT NULL,
    -- The newest manifest that was signed: its number and the SHA-256 of its bytes; 0 and NULL before the first.
    sequence        BIGINT NOT NULL,
    manifest_sha256 BYTEA,
    -- What it took when that was last measured.
    bytes           BIGINT NOT NULL,
    -- When its removal is tried next, once its site is gone.
    remove_at       BIGINT NOT NULL,
    tries           BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, site_id)
);

CREATE TABLE backups (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    -- That of its manifest; 0 before it is READY.
    sequence        BIGINT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('running', 'checking', 'ready', 'failed')),
    reason          TEXT NOT NULL CHECK (reason IN ('requested', 'scheduled', 'before_restore')),
    problem         TEXT NOT NULL,
    task_id         TEXT NOT NULL,
    -- What was wanted of the site and what its names were served with when it was asked for: a serialized chom.backup.v1.Manifest
    -- that says nothing else yet.
    draft           BYTEA NOT NULL,
    -- What the host says: a serialized chom.backup.v1.Report.
    report          BYTEA,
    -- What it is: a serialized chom.backup.v1.SignedManifest, and whether the repository has it too.
    manifest        BYTEA,
    put             BOOLEAN NOT NULL,
    -- When it is looked at next, which process does so until then, since when that is tried, and how often in a row it failed.
    check_at        BIGINT,
    claim           TEXT NOT NULL,
    checking_at     BIGINT,
    tries           BIGINT NOT NULL,
    checked_at      BIGINT,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX backups_site ON backups (organization_id, site_id, id);
CREATE INDEX backups_task ON backups (task_id);
CREATE INDEX backups_check ON backups (check_at) WHERE check_at IS NOT NULL;
-- Whatever two transactions do at the same time.
CREATE UNIQUE INDEX backups_under_way ON backups (organization_id, site_id) WHERE state IN ('running', 'checking');
CREATE UNIQUE INDEX backups_sequence ON backups (organization_id, site_id, sequence) WHERE sequence > 0;

CREATE TABLE restores (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    backup_id       TEXT NOT NULL,
    with_files      BOOLEAN NOT NULL,
    with_database   BOOLEAN NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'undoing')),
    undone          BOOLEAN NOT NULL,
    problem         TEXT NOT NULL,
    -- Its newest.
    task_id         TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    ended_at        BIGINT,
    undo_until      BIGINT,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX restores_site ON restores (organization_id, site_id, id);
CREATE INDEX restores_task ON restores (task_id);
CREATE UNIQUE INDEX restores_under_way ON restores (organization_id, site_id) WHERE state IN ('running', 'undoing');
