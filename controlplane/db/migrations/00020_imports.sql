-- +goose Up

-- Uploads that are to become backups. The bytes lie in files of the process that takes them; a row is there until they are removed.
CREATE TABLE imports (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    -- Bytes that the archive and the dump have, whatever of them has come; 0 for no dump. An organization may have so many.
    archive_bytes   BIGINT NOT NULL,
    database_bytes  BIGINT NOT NULL,
    -- Leading directories of names in the archive that are left out.
    strip           BIGINT NOT NULL,
    -- The backup that is made of it; empty before it is begun.
    backup_id       TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX imports_site ON imports (organization_id, site_id);
CREATE INDEX imports_backup ON imports (backup_id);
