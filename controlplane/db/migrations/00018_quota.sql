-- +goose Up

-- How far the steps are that move many bytes: the newest word of each task's host. It counts while that step runs.
CREATE TABLE task_progress (
    task_id     TEXT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    attempt     BIGINT NOT NULL,
    step        TEXT NOT NULL,
    done_bytes  BIGINT NOT NULL,
    -- 0 where it is not known.
    total_bytes BIGINT NOT NULL,
    doing       TEXT NOT NULL
);

-- Bytes of backups that an organization may use: NULL for what the platform gives, 0 for no limit.
ALTER TABLE organizations ADD COLUMN backup_quota BIGINT;
-- When a piece of a backup was last turned away for it; NULL while none was.
ALTER TABLE organizations ADD COLUMN backup_refused_at BIGINT;
-- What was mailed of it: 0 nothing, 1 most of it is used, 2 all of it is.
ALTER TABLE organizations ADD COLUMN backup_quota_told BIGINT NOT NULL DEFAULT 0;

-- Bytes that hosts have ever put into a repository, and how many that were when what it takes (bytes) was measured. It takes about
-- as much more by now as the two are apart.
ALTER TABLE repositories ADD COLUMN put_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN measured_put_bytes BIGINT NOT NULL DEFAULT 0;
-- A piece of a backup was turned away, and what came before it may be of no use to anybody.
ALTER TABLE repositories ADD COLUMN leftovers BOOLEAN NOT NULL DEFAULT FALSE;
