-- +goose Up

-- What each of the two that measure says by itself: the site's host, and the control plane from outside. What follows from both
-- together stays in valid, begins_at, ends_at and lost_at.
ALTER TABLE certificates ADD COLUMN host_valid BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE certificates ADD COLUMN host_begins_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE certificates ADD COLUMN host_ends_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE certificates ADD COLUMN host_lost_at BIGINT;
ALTER TABLE certificates ADD COLUMN outside_valid BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE certificates ADD COLUMN outside_begins_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE certificates ADD COLUMN outside_ends_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE certificates ADD COLUMN outside_lost_at BIGINT;

UPDATE certificates SET host_valid = valid, host_begins_at = begins_at, host_ends_at = ends_at, host_lost_at = lost_at;
