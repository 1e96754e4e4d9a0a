-- +goose Up

-- Times are microseconds since 1970 UTC (BIGINT), ids are UUID text, protobuf values are their serialized bytes.
-- The nil UUID stands for the platform itself where an organization is named.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE accounts (
    id            TEXT PRIMARY KEY,
    email         TEXT NOT NULL UNIQUE,
    operator      BOOLEAN NOT NULL,
    -- argon2id in PHC format; NULL for somebody who has none yet.
    password_hash TEXT,
    -- When its person showed that the address is theirs; NULL for one whom others named.
    verified_at   BIGINT,
    created_at    BIGINT NOT NULL
);

CREATE TABLE organizations (
    id                    TEXT PRIMARY KEY,
    name                  TEXT NOT NULL,
    state                 TEXT NOT NULL CHECK (state IN ('active', 'closing', 'closed')),
    -- When a closing organization is closed for good.
    close_at              BIGINT,
    require_second_factor BOOLEAN NOT NULL,
    created_at            BIGINT NOT NULL,
    CHECK ((state = 'closing') = (close_at IS NOT NULL))
);

-- The name of a closed organization is free.
CREATE UNIQUE INDEX organizations_name ON organizations (name) WHERE state <> 'closed';
CREATE INDEX organizations_ending ON organizations (state) WHERE state <> 'active';

CREATE TABLE members (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    account_id      TEXT NOT NULL REFERENCES accounts (id),
    role            TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    -- False: only those of member_sites.
    all_sites       BOOLEAN NOT NULL,
    created_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, account_id),
    CHECK (all_sites OR role IN ('member', 'viewer'))
);

CREATE INDEX members_account ON members (account_id);

CREATE TABLE tokens (
    id                TEXT PRIMARY KEY,
    kind              TEXT NOT NULL CHECK (kind IN ('personal', 'organization', 'impersonation')),
    secret_hash       BYTEA NOT NULL UNIQUE,
    -- What people call it; the reason of an impersonation.
    name              TEXT NOT NULL,
    -- Whom it stands for; NULL for an organization's own.
    account_id        TEXT REFERENCES accounts (id),
    -- The only organization that it reaches; NULL for all of its person's.
    organization_id   TEXT REFERENCES organizations (id),
    -- What an organization's own may do; empty for the others.
    role              TEXT NOT NULL CHECK (role IN ('', 'admin', 'member', 'viewer')),
    scope             TEXT NOT NULL CHECK (scope IN ('read', 'deploy', 'manage')),
    -- False: only those of token_sites.
    all_sites         BOOLEAN NOT NULL,
    -- Who made it: for an impersonation, the operator behind it.
    created_by        TEXT NOT NULL REFERENCES accounts (id),
    created_at        BIGINT NOT NULL,
    expires_at        BIGINT NOT NULL,
    revoked_at        BIGINT,
    last_used_at      BIGINT,
    last_used_address TEXT NOT NULL,
    UNIQUE (organization_id, id),
    CHECK ((kind = 'organization') = (account_id IS NULL)),
    CHECK ((kind = 'organization') = (role <> '')),
    CHECK (organization_id IS NOT NULL OR (kind = 'personal' AND all_sites))
);

CREATE INDEX tokens_account ON tokens (account_id, id);

CREATE TABLE servers (
    id                     TEXT PRIMARY KEY,
    name                   TEXT NOT NULL,
    tenancy                TEXT NOT NULL CHECK (tenancy IN ('shared', 'dedicated')),
    organization_id        TEXT REFERENCES organizations (id),
    state                  TEXT NOT NULL CHECK (state IN ('pending', 'active', 'draining', 'quarantined', 'removed')),
    problem                TEXT NOT NULL,
    created_at             BIGINT NOT NULL,
    changed_at             BIGINT NOT NULL,
    facts                  BYTEA,
    prepared               BOOLEAN NOT NULL,
    -- The task that prepares it; why the last one failed, how often in a row, and when it is ordered again by itself.
    prepare_task_id        TEXT NOT NULL,
    prepare_problem        TEXT NOT NULL DEFAULT '',
    prepare_failures       BIGINT NOT NULL DEFAULT 0,
    prepare_again_at       BIGINT,
    -- The link: identity, epoch, and the process that holds it. The next certificate becomes the current one with the
    -- first call that carries it; until then the same key may ask for it again.
    key_hash               BYTEA,
    serial                 TEXT NOT NULL,
    certificate_expires_at BIGINT,
    next_key_hash          BYTEA,
    next_serial            TEXT NOT NULL,
    next_certificate       BYTEA,
    next_expires_at        BIGINT,
    recoveries             BIGINT NOT NULL,
    readmit_until          BIGINT,
    epoch                  BIGINT NOT NULL,
    instance_id            TEXT NOT NULL,
    task_sequence          BIGINT NOT NULL,
    CHECK ((tenancy = 'dedicated') = (organization_id IS NOT NULL))
);

-- A removed server's row stays, for its tasks and its history; its name is free.
CREATE UNIQUE INDEX servers_name ON servers (name) WHERE state <> 'removed';
CREATE INDEX servers_changed ON servers (changed_at);
CREATE INDEX servers_prepare_again ON servers (prepare_again_at) WHERE prepare_again_at IS NOT NULL;

-- What changes all the time, apart from the wide rows above: every heartbeat and every offer.
CREATE TABLE server_links (
    server_id    TEXT PRIMARY KEY REFERENCES servers (id),
    last_seen_at BIGINT,
    fence        BIGINT NOT NULL
);

-- Every process that ever held the link of a server: one that comes back after another took over is a clone.
CREATE TABLE server_instances (
    server_id   TEXT NOT NULL REFERENCES servers (id),
    instance_id TEXT NOT NULL,
    epoch       BIGINT NOT NULL,
    returns     BIGINT NOT NULL,
    returned_at BIGINT,
    PRIMARY KEY (server_id, instance_id)
);

CREATE TABLE join_tokens (
    id             TEXT PRIMARY KEY,
    server_id      TEXT NOT NULL REFERENCES servers (id),
    secret_hash    BYTEA NOT NULL,
    created_at     BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    revoked_at     BIGINT,
    used_at        BIGINT,
    enrollment_id  TEXT NOT NULL,
    bound_key_hash BYTEA,
    certificate    BYTEA
);

CREATE TABLE sites (
    organization_id     TEXT NOT NULL REFERENCES organizations (id),
    id                  TEXT NOT NULL UNIQUE,
    handle              TEXT NOT NULL UNIQUE,
    server_id           TEXT NOT NULL REFERENCES servers (id),
    name                TEXT NOT NULL,
    type                TEXT NOT NULL,
    request_id          TEXT,
    request_hash        BYTEA,
    -- What is wanted: a serialized chom.site.v1.DesiredState and the parts of it that queries need.
    desired             BYTEA NOT NULL,
    phase               TEXT NOT NULL CHECK (phase IN ('active', 'suspended', 'trashed', 'absent')),
    -- Its host was told to suspend it, whatever the phase, since its organization is closing.
    frozen                BOOLEAN NOT NULL,
    generation          BIGINT NOT NULL,
    -- What was measured: a serialized chom.site.v1.ObservedState.
    observed            BYTEA,
    observed_generation BIGINT NOT NULL,
    -- Why the last task for it failed, how often in a row, and when it is ordered again by itself; empty when it did not.
    problem             TEXT NOT NULL,
    failures            BIGINT NOT NULL DEFAULT 0,
    again_at            BIGINT,
    last_task_id        TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    trashed_at          BIGINT,
    purge_at            BIGINT,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, request_id)
);

-- A name is taken while its site is not gone; names of sites in the trash stay taken so that a restore works.
CREATE UNIQUE INDEX sites_name ON sites (organization_id, name) WHERE phase <> 'absent';
CREATE INDEX sites_server ON sites (server_id);
CREATE INDEX sites_purge ON sites (purge_at) WHERE purge_at IS NOT NULL;
CREATE INDEX sites_frozen ON sites (organization_id) WHERE frozen;
CREATE INDEX sites_again ON sites (again_at) WHERE again_at IS NOT NULL;

CREATE TABLE domains (
    name            TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL,
    site_id         TEXT NOT NULL,
    created_at      BIGINT NOT NULL,
    FOREIGN KEY (organization_id, site_id) REFERENCES sites (organization_id, id)
);

CREATE INDEX domains_site ON domains (organization_id, site_id);

CREATE TABLE tasks (
    organization_id     TEXT NOT NULL,
    id                  TEXT NOT NULL UNIQUE,
    server_id           TEXT NOT NULL REFERENCES servers (id),
    site_id             TEXT NOT NULL,
    kind                TEXT NOT NULL CHECK (kind IN ('noop', 'prepare_server', 'converge_site', 'site_login')),
    -- The kind's own message (chom.order.v1.Noop, ConvergeSite, ...), serialized.
    parameters          BYTEA NOT NULL,
    generation          BIGINT NOT NULL,
    -- MAC over what must not change, by a key that is not in the database: a row without it is never signed.
    seal                BYTEA NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('queued', 'offered', 'running', 'unknown', 'succeeded', 'failed', 'canceled', 'timed_out')),
    -- Order of creation on its server, from servers.task_sequence: the order in which a site's tasks run.
    sequence            BIGINT NOT NULL,
    attempt             BIGINT NOT NULL,
    fence               BIGINT NOT NULL,
    step_count          BIGINT NOT NULL,
    event_sequence      BIGINT NOT NULL,
    log_sequence        BIGINT NOT NULL,
    log_bytes           BIGINT NOT NULL,
    timeout_us          BIGINT NOT NULL,
    not_before          BIGINT NOT NULL,
    lease_expires_at    BIGINT,
    deadline_at         BIGINT NOT NULL,
    cancel_requested_at BIGINT,
    error               TEXT NOT NULL,
    created_by          TEXT NOT NULL,
    created_at          BIGINT NOT NULL,
    started_at          BIGINT,
    ended_at            BIGINT,
    version             BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id),
    UNIQUE (server_id, sequence)
);

CREATE INDEX tasks_open ON tasks (server_id, sequence) WHERE state IN ('queued', 'offered', 'running', 'unknown');
CREATE INDEX tasks_site ON tasks (organization_id, site_id, created_at);

CREATE TABLE task_steps (
    task_id    TEXT NOT NULL REFERENCES tasks (id),
    attempt    BIGINT NOT NULL,
    position   BIGINT NOT NULL,
    name       TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('running', 'done', 'already_done', 'failed')),
    started_at BIGINT NOT NULL,
    ended_at   BIGINT,
    message    TEXT NOT NULL,
    PRIMARY KEY (task_id, attempt, name)
);

CREATE TABLE task_logs (
    task_id   TEXT NOT NULL REFERENCES tasks (id),
    sequence  BIGINT NOT NULL,
    logged_at BIGINT NOT NULL,
    text      TEXT NOT NULL,
    PRIMARY KEY (task_id, sequence)
);

-- One chain for each organization: an event's hash is a MAC, by a key that is not in the database, over all its columns and
-- the hash of the event before.
CREATE TABLE audit_events (
    organization_id TEXT NOT NULL,
    sequence        BIGINT NOT NULL,
    happened_at     BIGINT NOT NULL,
    actor           TEXT NOT NULL CHECK (actor IN ('system', 'console', 'stranger', 'person', 'organization', 'agent')),
    actor_id        TEXT NOT NULL,
    session_id      TEXT NOT NULL,
    token_id        TEXT NOT NULL,
    impersonator_id TEXT NOT NULL,
    address         TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    action          TEXT NOT NULL,
    object          TEXT NOT NULL,
    detail          TEXT NOT NULL,
    outcome         TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    hash            BYTEA NOT NULL,
    PRIMARY KEY (organization_id, sequence)
);

CREATE INDEX audit_events_time ON audit_events (organization_id, happened_at, sequence);
CREATE INDEX audit_events_actor ON audit_events (organization_id, actor_id, happened_at, sequence);
CREATE INDEX audit_events_object ON audit_events (organization_id, object, happened_at, sequence);

-- The end of each chain.
CREATE TABLE audit_heads (
    organization_id TEXT PRIMARY KEY,
    sequence        BIGINT NOT NULL,
    hash            BYTEA NOT NULL
);
