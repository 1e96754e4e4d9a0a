-- +goose Up

-- Every day each repository is looked after: what has expired is removed from it, and a part of it is read.
-- When that is next, which process does it and until when nobody else begins, and how often in a row it failed.
ALTER TABLE repositories ADD COLUMN keep_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN keep_claim TEXT NOT NULL DEFAULT '';
ALTER TABLE repositories ADD COLUMN keep_tries BIGINT NOT NULL DEFAULT 0;
-- Until when hosts may not write to it, and nothing of its site begins that would: data is being removed.
ALTER TABLE repositories ADD COLUMN held_until BIGINT NOT NULL DEFAULT 0;
-- How many parts of it were read in this round, and when the last round ended that found all of it intact.
ALTER TABLE repositories ADD COLUMN parts_read BIGINT NOT NULL DEFAULT 0;
ALTER TABLE repositories ADD COLUMN verified_at BIGINT;
-- Since when it is known to be damaged; NULL while it is not.
ALTER TABLE repositories ADD COLUMN damaged_at BIGINT;

CREATE INDEX repositories_keep ON repositories (keep_at);

-- When a backup that nothing keeps any more is removed; NULL while something does.
ALTER TABLE backups ADD COLUMN expire_at BIGINT;

-- Backups that are none any more, and of which something may still be in the repository. They have no reference to the site: they
-- go with the repository.
CREATE TABLE removals (
    organization_id   TEXT NOT NULL,
    backup_id         TEXT NOT NULL,
    site_id           TEXT NOT NULL,
    sequence          BIGINT NOT NULL,
    files_snapshot    TEXT NOT NULL,
    database_snapshot TEXT NOT NULL,
    created_at        BIGINT NOT NULL,
    PRIMARY KEY (organization_id, backup_id),
    FOREIGN KEY (organization_id, site_id) REFERENCES repositories (organization_id, site_id) ON DELETE CASCADE
);

CREATE INDEX removals_site ON removals (organization_id, site_id);

-- Snapshots that belong to no backup, and since when that is known.
CREATE TABLE stray_snapshots (
    organization_id TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    snapshot        TEXT NOT NULL,
    seen_at         BIGINT NOT NULL,
    PRIMARY KEY (organization_id, site_id, snapshot),
    FOREIGN KEY (organization_id, site_id) REFERENCES repositories (organization_id, site_id) ON DELETE CASCADE
);

-- What is wrong with a site's backups, and what was mailed of that.
CREATE TABLE backup_alarms (
    organization_id TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    -- Since when backups are wanted that are made by themselves; NULL while none are.
    wanted_at       BIGINT,
    -- What is wrong: 0 nothing, 1 they fail, 2 they are overdue, 3 they are damaged.
    about           BIGINT NOT NULL,
    -- What was mailed last: about what, since when that was, and when.
    told_about      BIGINT NOT NULL,
    told_since      BIGINT,
    told_at         BIGINT,
    -- When it is decided anew.
    decide_at       BIGINT NOT NULL,
    PRIMARY KEY (organization_id, site_id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX backup_alarms_decide ON backup_alarms (decide_at);
