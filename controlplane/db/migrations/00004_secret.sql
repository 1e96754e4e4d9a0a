-- +goose Up

-- A mark of each key that sealed something: the key itself is not in the database.
CREATE TABLE secret_keys (
    version    BIGINT PRIMARY KEY,
    mark       BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

-- Values that must be read again, by name: SSH keys, credentials of providers. They are sealed (package secret).
CREATE TABLE secret_values (
    organization_id TEXT NOT NULL,
    name            TEXT NOT NULL,
    sealed          BYTEA NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    PRIMARY KEY (organization_id, name)
);
