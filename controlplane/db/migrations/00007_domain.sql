-- +goose Up

-- Names that organizations say are theirs, and what is known of it.
CREATE TABLE claims (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    id              TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'verified', 'released')),
    -- What the proof must say. No secret: it stands in the DNS.
    token           TEXT NOT NULL,
    -- How it was proved: by the record in the DNS, or by an operator's word; empty while it was not.
    proof           TEXT NOT NULL CHECK (proof IN ('', 'dns', 'operator')),
    -- Why the last look did not find the proof.
    problem         TEXT NOT NULL,
    looks           BIGINT NOT NULL,
    looked_at       BIGINT,
    look_at         BIGINT,
    verified_at     BIGINT,
    -- Until when a released name is kept from others.
    held_until      BIGINT,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, name)
);

CREATE INDEX claims_look ON claims (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX claims_held ON claims (held_until) WHERE held_until IS NOT NULL;

-- Every verified or released claim with its own name and all names above it, so that an overlap is found by equality.
CREATE TABLE claim_names (
    name            TEXT NOT NULL,
    claim_id        TEXT NOT NULL REFERENCES claims (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL,
    -- Whether it is the claim's own name.
    own             BOOLEAN NOT NULL,
    PRIMARY KEY (name, claim_id)
);

CREATE INDEX claim_names_claim ON claim_names (claim_id);
-- A name is held once, whatever two transactions do at the same time.
CREATE UNIQUE INDEX claim_names_own ON claim_names (name) WHERE own;

-- Names that the site's host was told to answer to, the primary one first, separated by spaces: those of its names that its
-- organization held when its generation began, and its preview name.
ALTER TABLE sites ADD COLUMN served TEXT NOT NULL DEFAULT '';
-- Whether it has names besides that it does not answer to yet.
ALTER TABLE sites ADD COLUMN pending BOOLEAN NOT NULL DEFAULT FALSE;
CREATE INDEX sites_pending ON sites (organization_id, id) WHERE pending;
-- Until its next change a site goes on with the names that it had.
UPDATE sites SET served = COALESCE((
    SELECT string_agg(d.name, ' ')
    FROM domains d
    WHERE d.organization_id = sites.organization_id
      AND d.site_id = sites.id
), '');
