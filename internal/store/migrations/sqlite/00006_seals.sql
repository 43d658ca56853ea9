-- Seals of the audit trail, and who does periodic work. Times, ids and optional values as in the first schema.

-- +goose Up

-- Rows that no seal is over yet.
CREATE TABLE audit_unsealed (
    audit TEXT NOT NULL PRIMARY KEY REFERENCES audit (id)
) STRICT, WITHOUT ROWID;
INSERT INTO audit_unsealed (audit) SELECT id FROM audit;

-- In which order audit rows were sealed: their ids only tell when the request came.
CREATE TABLE audit_places (
    seq   INTEGER PRIMARY KEY CHECK (seq > 0), -- without gaps
    audit TEXT NOT NULL, -- id of the row
    leaf  BLOB NOT NULL CHECK (length(leaf) = 32) -- hash of the row
) STRICT;

-- Chained, signed checkpoints over what was committed.
CREATE TABLE audit_seals (
    number     INTEGER PRIMARY KEY CHECK (number > 0), -- without gaps
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL CHECK (last_seq >= first_seq),
    root       BLOB    NOT NULL CHECK (length(root) = 32),
    previous   BLOB    NOT NULL CHECK (length(previous) = 32), -- hash of the seal before; zeros for the first
    sealed_at  INTEGER NOT NULL,
    signature  BLOB    NOT NULL
) STRICT;

-- Periodic work, of which one server at a time does each kind.
CREATE TABLE leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    holder     TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER audit_places_no_update BEFORE UPDATE ON audit_places
BEGIN
    SELECT RAISE(ABORT, 'places of audit rows are never changed');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_places_no_delete BEFORE DELETE ON audit_places
BEGIN
    SELECT RAISE(ABORT, 'audit rows are never deleted');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_seals_no_update BEFORE UPDATE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'seals are never changed');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_seals_no_delete BEFORE DELETE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'seals are never deleted');
END;
-- +goose StatementEnd
