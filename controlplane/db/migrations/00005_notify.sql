-- +goose Up

-- What must still reach somebody outside. What it is stands in the table of its noun, under the same id, and goes with it.
CREATE TABLE outbox (
    id          TEXT PRIMARY KEY,
    queue       TEXT NOT NULL CHECK (queue IN ('mail', 'webhook')),
    -- Of one lane one item at a time is carried.
    lane        TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'sending', 'sent', 'dead')),
    -- When it may be tried; of a sending one, when whoever carries it is taken for dead.
    due_at      BIGINT NOT NULL,
    deadline_at BIGINT NOT NULL,
    tries       BIGINT NOT NULL,
    -- Why the last try failed.
    error       TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    ended_at    BIGINT
);

CREATE INDEX outbox_due ON outbox (queue, due_at) WHERE state IN ('waiting', 'sending');
CREATE INDEX outbox_lane ON outbox (queue, lane) WHERE state = 'waiting';
CREATE INDEX outbox_ended ON outbox (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE mails (
    id              TEXT PRIMARY KEY REFERENCES outbox (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL,
    template        TEXT NOT NULL,
    recipient       TEXT NOT NULL,
    -- Values of the template, encrypted: one-time links are among them. Gone once it was sent.
    sealed_values   BYTEA
);

-- How many mails of a template went to a recipient in an hour (hours since 1970).
CREATE TABLE mail_counts (
    recipient TEXT NOT NULL,
    template  TEXT NOT NULL,
    hour      BIGINT NOT NULL,
    mails     BIGINT NOT NULL,
    PRIMARY KEY (recipient, template, hour)
);

CREATE INDEX mail_counts_hour ON mail_counts (hour);

CREATE TABLE webhooks (
    organization_id      TEXT NOT NULL REFERENCES organizations (id),
    id                   TEXT NOT NULL UNIQUE,
    url                  TEXT NOT NULL,
    description          TEXT NOT NULL,
    -- Types of the events that it wants, separated by spaces; empty for all.
    events               TEXT NOT NULL,
    enabled              BOOLEAN NOT NULL,
    -- Why it was disabled, unless by a person.
    problem              TEXT NOT NULL,
    sealed_secret        BYTEA NOT NULL,
    -- The secret before the last change of it, which signs besides until former_until.
    sealed_former_secret BYTEA,
    former_until         BIGINT,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    PRIMARY KEY (organization_id, id)
);

-- Those whose last try failed. Apart from the rows above, which every event reads.
CREATE TABLE webhook_failures (
    webhook_id TEXT PRIMARY KEY REFERENCES webhooks (id) ON DELETE CASCADE,
    failures   BIGINT NOT NULL,
    since      BIGINT NOT NULL
);

CREATE TABLE webhook_deliveries (
    organization_id TEXT NOT NULL,
    id              TEXT NOT NULL UNIQUE REFERENCES outbox (id) ON DELETE CASCADE,
    webhook_id      TEXT NOT NULL,
    event_id        TEXT NOT NULL,
    type            TEXT NOT NULL,
    body            TEXT NOT NULL,
    PRIMARY KEY (organization_id, id)
);

CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (organization_id, webhook_id, id);

CREATE TABLE webhook_attempts (
    delivery_id TEXT NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    started_at  BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    -- HTTP status of the answer; 0 when there was none.
    status      BIGINT NOT NULL,
    problem     TEXT NOT NULL,
    PRIMARY KEY (delivery_id, started_at)
);
