-- +goose Up

-- What drills ask the restored site for, beside its home page: paths without spaces, one after the other; and of a drill, what it was
-- to ask for.
ALTER TABLE backup_policies ADD COLUMN drill_paths TEXT NOT NULL DEFAULT '';
ALTER TABLE drills ADD COLUMN paths TEXT NOT NULL DEFAULT '';
-- What is worth to know of a drill that passed.
ALTER TABLE drills ADD COLUMN note TEXT NOT NULL DEFAULT '';
