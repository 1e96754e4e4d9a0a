-- +goose Up

-- Organizations' access to those who run their DNS.
CREATE TABLE dns_providers (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    id              TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    type            TEXT NOT NULL,
    -- Its credentials.
    sealed          BYTEA NOT NULL,
    -- Why the last call to it failed; empty when it did not.
    problem         TEXT NOT NULL,
    called_at       BIGINT,
    -- Until when one process has it for itself.
    busy_until      BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, name)
);

-- Zones that records may be written in. One of an organization's providers has each.
CREATE TABLE dns_zones (
    organization_id TEXT NOT NULL,
    zone            TEXT NOT NULL,
    provider_id     TEXT NOT NULL REFERENCES dns_providers (id) ON DELETE CASCADE,
    PRIMARY KEY (organization_id, zone)
);

CREATE INDEX dns_zones_provider ON dns_zones (provider_id);

-- Records that we made, or are to make.
CREATE TABLE dns_records (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    provider_id     TEXT NOT NULL REFERENCES dns_providers (id) ON DELETE CASCADE,
    zone            TEXT NOT NULL,
    name            TEXT NOT NULL,
    type            TEXT NOT NULL CHECK (type IN ('A', 'AAAA', 'TXT')),
    value           TEXT NOT NULL,
    -- What it is for: a site's id, a claim's id, or 'challenge'.
    purpose         TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('making', 'made', 'removing', 'in_the_way')),
    -- Whether we ever gave it to the provider: then the one that is there is ours.
    sent            BOOLEAN NOT NULL,
    problem         TEXT NOT NULL,
    tries           BIGINT NOT NULL,
    -- When there is something to do about it.
    due_at          BIGINT,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, provider_id, name, type, value)
);

CREATE INDEX dns_records_due ON dns_records (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX dns_records_provider ON dns_records (provider_id);
CREATE INDEX dns_records_purpose ON dns_records (organization_id, purpose);
CREATE INDEX dns_records_challenges ON dns_records (created_at) WHERE purpose = 'challenge';
