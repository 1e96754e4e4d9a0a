-- +goose Up

-- Each row names the organization of both its ends: no member, invitation or token can be bound to a foreign site.

-- The sites that a member is granted, where members.all_sites is false.
CREATE TABLE member_sites (
    organization_id TEXT NOT NULL,
    account_id      TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    PRIMARY KEY (organization_id, account_id, site_id),
    FOREIGN KEY (organization_id, account_id) REFERENCES members (organization_id, account_id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX member_sites_site ON member_sites (organization_id, site_id);

-- An invitation's row is there while it is open.
CREATE TABLE invitations (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    id              TEXT NOT NULL UNIQUE,
    secret_hash     BYTEA NOT NULL UNIQUE,
    email           TEXT NOT NULL,
    role            TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    -- False: only those of invitation_sites.
    all_sites       BOOLEAN NOT NULL,
    invited_by      TEXT NOT NULL REFERENCES accounts (id),
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, email),
    CHECK (all_sites OR role IN ('member', 'viewer'))
);

CREATE INDEX invitations_email ON invitations (email);

CREATE TABLE invitation_sites (
    organization_id TEXT NOT NULL,
    invitation_id   TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    PRIMARY KEY (organization_id, invitation_id, site_id),
    FOREIGN KEY (organization_id, invitation_id) REFERENCES invitations (organization_id, id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX invitation_sites_site ON invitation_sites (organization_id, site_id);

-- The sites that a token is bound to, where tokens.all_sites is false.
CREATE TABLE token_sites (
    organization_id TEXT NOT NULL,
    token_id        TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    PRIMARY KEY (organization_id, token_id, site_id),
    FOREIGN KEY (organization_id, token_id) REFERENCES tokens (organization_id, id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX token_sites_site ON token_sites (organization_id, site_id);
