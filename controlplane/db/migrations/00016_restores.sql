-- +goose Up

-- The backup that was made before, of what a restore replaces; empty where that was not wanted. Until the restore's own order is
-- given, its task is that backup's.
ALTER TABLE restores ADD COLUMN before_backup_id TEXT NOT NULL DEFAULT '';
-- The tables that it restores: a JSON array of their names; empty for all of them.
ALTER TABLE restores ADD COLUMN table_names TEXT NOT NULL DEFAULT '';
CREATE INDEX restores_before ON restores (before_backup_id) WHERE before_backup_id <> '';
