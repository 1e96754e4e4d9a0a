-- +goose Up

-- Certificates of organizations' own, for names of one site. They go with the site, and their keys with them.
CREATE TABLE uploaded_certificates (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE,
    site_id         TEXT NOT NULL,
    -- Names that it is for, as it says itself, separated by spaces.
    domains         TEXT NOT NULL,
    issuer          TEXT NOT NULL,
    -- SHA-256 of the leaf in DER.
    sha256          BYTEA NOT NULL,
    not_before      BIGINT NOT NULL,
    not_after       BIGINT NOT NULL,
    -- PEM, the leaf first.
    chain           TEXT NOT NULL,
    -- PEM (PKCS #8), sealed.
    sealed_key      BYTEA NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX uploaded_certificates_site ON uploaded_certificates (organization_id, site_id, id);

-- What each name of a site is served with.
CREATE TABLE certificates (
    organization_id TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    name            TEXT NOT NULL,
    -- What the host's agent measured: a serialized chom.site.v1.ObservedCertificate.
    observed        BYTEA NOT NULL,
    observed_at     BIGINT NOT NULL,
    -- The same from outside, when that is looked at next, and how many looks failed in a row.
    outside         BYTEA,
    outside_at      BIGINT,
    look_at         BIGINT,
    failures        BIGINT NOT NULL,
    -- What follows: whether it is served validly, from when to when the last certificate lasts (0 while there was none), and
    -- since when it is not served validly any more.
    valid           BOOLEAN NOT NULL,
    begins_at       BIGINT NOT NULL,
    ends_at         BIGINT NOT NULL,
    lost_at         BIGINT,
    -- The alarm, when it is decided upon next, and what was mailed of it: of which end, of how many marks before it, of which loss.
    alarm_at        BIGINT,
    decide_at       BIGINT NOT NULL,
    mailed_end      BIGINT NOT NULL,
    mailed_marks    BIGINT NOT NULL,
    mailed_lost     BIGINT NOT NULL,
    mailed_at       BIGINT NOT NULL,
    PRIMARY KEY (organization_id, site_id, name),
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id) ON DELETE CASCADE
);

CREATE INDEX certificates_ends ON certificates (organization_id, ends_at, site_id, name);
CREATE INDEX certificates_look ON certificates (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX certificates_decide ON certificates (decide_at);
