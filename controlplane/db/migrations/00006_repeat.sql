-- +goose Up

-- Calls that came with a key of their caller's: a second one with the same key gets the first one's answer.
CREATE TABLE repeats (
    caller   TEXT NOT NULL,
    key      TEXT NOT NULL,
    -- MAC over the method and its request, by a key that is not in the database: a request may hold secrets.
    request  BYTEA NOT NULL,
    began_at BIGINT NOT NULL,
    outcome  TEXT NOT NULL CHECK (outcome IN ('unknown', 'answered', 'failed', 'secret')),
    -- The serialized answer, or google.rpc.Status when it failed.
    answer   BYTEA,
    PRIMARY KEY (caller, key)
);

CREATE INDEX repeats_began ON repeats (began_at);
