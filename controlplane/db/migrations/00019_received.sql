-- +goose Up

-- Backups are made for more reasons. A CHECK cannot be changed on both engines alike; a column with another one takes the place of the
-- former.
ALTER TABLE backups ADD COLUMN reason_now TEXT NOT NULL DEFAULT 'requested' CHECK (reason_now IN (
    'requested', 'scheduled', 'before_restore', 'copied', 'imported'));
UPDATE backups SET reason_now = reason;
ALTER TABLE backups DROP COLUMN reason;
ALTER TABLE backups RENAME COLUMN reason_now TO reason;

-- The backup that one was copied from, and its site; empty otherwise. They may be gone since.
ALTER TABLE backups ADD COLUMN source_backup_id TEXT NOT NULL DEFAULT '';
ALTER TABLE backups ADD COLUMN source_site_id TEXT NOT NULL DEFAULT '';

CREATE INDEX backups_copying ON backups (organization_id, source_site_id) WHERE state = 'running' AND source_site_id <> '';
