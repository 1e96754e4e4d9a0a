-- +goose Up

-- How people prove who they are. Of each secret that somebody holds, only its SHA-256 is here: it has 256 random bits, or 80
-- for a recovery code. Rows are removed when they are used or over.

-- Somebody who gave an address and a password, and has not shown yet that the address is theirs.
CREATE TABLE sign_ups (
    secret_hash   BYTEA PRIMARY KEY,
    email         TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);

CREATE INDEX sign_ups_email ON sign_ups (email);

CREATE TABLE password_resets (
    secret_hash BYTEA PRIMARY KEY,
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    expires_at  BIGINT NOT NULL
);

CREATE INDEX password_resets_account ON password_resets (account_id);

CREATE TABLE email_changes (
    secret_hash BYTEA PRIMARY KEY,
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    -- The new address.
    email       TEXT NOT NULL,
    expires_at  BIGINT NOT NULL
);

CREATE INDEX email_changes_account ON email_changes (account_id);

-- A login whose password was right and whose second factor is missing. It is no session: nothing else looks here.
CREATE TABLE logins (
    secret_hash BYTEA PRIMARY KEY,
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    expires_at  BIGINT NOT NULL
);

CREATE INDEX logins_account ON logins (account_id);

CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    account_id    TEXT NOT NULL REFERENCES accounts (id),
    secret_hash   BYTEA NOT NULL UNIQUE,
    -- It was opened, or confirmed since, with one.
    second_factor BOOLEAN NOT NULL,
    fresh_until   BIGINT NOT NULL,
    user_agent    TEXT NOT NULL,
    address       TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    used_at       BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);

CREATE INDEX sessions_account ON sessions (account_id, used_at);

-- Browsers in which somebody signed in before: a login from another one is told by mail.
CREATE TABLE known_devices (
    account_id  TEXT NOT NULL REFERENCES accounts (id),
    secret_hash BYTEA NOT NULL,
    seen_at     BIGINT NOT NULL,
    PRIMARY KEY (account_id, secret_hash)
);

-- Authenticator apps: at most one that is confirmed, and one that is not yet.
CREATE TABLE totps (
    id           TEXT PRIMARY KEY,
    account_id   TEXT NOT NULL REFERENCES accounts (id),
    sealed_seed  BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,
    confirmed_at BIGINT,
    -- The 30 seconds whose code was used last: that one and those before are worth nothing any more.
    last_step    BIGINT NOT NULL
);

CREATE UNIQUE INDEX totps_confirmed ON totps (account_id) WHERE confirmed_at IS NOT NULL;
CREATE UNIQUE INDEX totps_pending ON totps (account_id) WHERE confirmed_at IS NULL;

CREATE TABLE recovery_codes (
    account_id TEXT NOT NULL REFERENCES accounts (id),
    code_hash  BYTEA NOT NULL,
    PRIMARY KEY (account_id, code_hash)
);

CREATE TABLE passkeys (
    id            TEXT PRIMARY KEY,
    account_id    TEXT NOT NULL REFERENCES accounts (id),
    name          TEXT NOT NULL,
    credential_id BYTEA NOT NULL UNIQUE,
    public_key    BYTEA NOT NULL,
    -- Of the authenticator data of its last use: one that comes again with a lower count is a copy.
    sign_count    BIGINT NOT NULL,
    flags         BIGINT NOT NULL,
    -- As WebAuthn names them, separated by commas.
    transports    TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    used_at       BIGINT
);

CREATE INDEX passkeys_account ON passkeys (account_id);

-- Questions put to passkeys that are not answered yet.
CREATE TABLE passkey_challenges (
    secret_hash BYTEA PRIMARY KEY,
    purpose     TEXT NOT NULL CHECK (purpose IN ('create', 'login', 'second_factor', 'step_up')),
    -- Whom it was put to; NULL when the passkey itself will say who signs in.
    account_id  TEXT REFERENCES accounts (id),
    -- The session that it is for, with create and step_up.
    session_id  TEXT,
    -- The login that it is for, with second_factor.
    login_hash  BYTEA,
    -- What the library needs to check the answer, in its JSON.
    data        BYTEA NOT NULL,
    expires_at  BIGINT NOT NULL
);

-- Programs that wait for somebody to let them act for them.
CREATE TABLE device_logins (
    secret_hash    BYTEA PRIMARY KEY,
    user_code_hash BYTEA NOT NULL UNIQUE,
    name           TEXT NOT NULL,
    scope          TEXT NOT NULL CHECK (scope IN ('read', 'deploy', 'manage')),
    user_agent     TEXT NOT NULL,
    address        TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    polled_at      BIGINT NOT NULL,
    expires_at     BIGINT NOT NULL,
    -- Who let it, or refused to; NULL while nobody has answered.
    account_id     TEXT REFERENCES accounts (id),
    denied         BOOLEAN NOT NULL
);
