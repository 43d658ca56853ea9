-- Times are microseconds since 1970 UTC, 0 for "not yet"; ids are opaque and sort by time; serials
-- are lower-case hex. Optional references are NULL, optional texts ''.
--
-- Checks and indexes say OR instead of IN where there are more than two values: SQLite would build a
-- temporary table for the list at every write of the row.

-- +goose Up

CREATE TABLE accounts (
    id           TEXT    NOT NULL PRIMARY KEY,
    directory    TEXT    NOT NULL,
    status       TEXT    NOT NULL CHECK (status IN ('valid', 'deactivated')),
    contacts     TEXT    NOT NULL, -- JSON array
    terms_agreed INTEGER NOT NULL CHECK (terms_agreed IN (0, 1)),
    jwk          BLOB    NOT NULL,
    thumbprint   TEXT    NOT NULL,
    orders       INTEGER NOT NULL DEFAULT 0 CHECK (orders >= 0), -- how many order rows name it
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX accounts_key ON accounts (directory, thumbprint);
CREATE INDEX accounts_idle ON accounts (created_at) WHERE orders = 0;

CREATE TABLE devices (
    id         TEXT    NOT NULL PRIMARY KEY,
    serial     TEXT    NOT NULL DEFAULT '',
    udid       TEXT    NOT NULL DEFAULT '',
    udid_key   TEXT    NOT NULL DEFAULT '', -- udid in lower case: UDIDs compare without case
    labels     TEXT    NOT NULL DEFAULT '', -- JSON object, '' for none
    attested   INTEGER NOT NULL CHECK (attested IN (0, 1)),
    created_at INTEGER NOT NULL,
    CHECK (serial <> '' OR udid <> '')
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX devices_serial ON devices (serial) WHERE serial <> '';
CREATE UNIQUE INDEX devices_udid ON devices (udid_key) WHERE udid_key <> '';

CREATE TABLE codes (
    id               TEXT    NOT NULL PRIMARY KEY,
    directory        TEXT    NOT NULL,
    value_sha256     BLOB    NOT NULL CHECK (length(value_sha256) = 32),
    status           TEXT    NOT NULL CHECK (status = 'unused' OR status = 'issuing' OR status = 'consumed' OR status = 'revoked'),
    device           TEXT REFERENCES devices (id),
    serial           TEXT    NOT NULL DEFAULT '', -- bound serial
    udid             TEXT    NOT NULL DEFAULT '', -- bound UDID
    labels           TEXT    NOT NULL DEFAULT '', -- JSON object, '' for none
    allow_unattested INTEGER NOT NULL CHECK (allow_unattested IN (0, 1)),
    minted           TEXT    NOT NULL DEFAULT '', -- JSON of what its credential asks for, '' for none
    order_id         TEXT, -- the order that claimed or consumed it
    certificate      TEXT,
    tries            INTEGER NOT NULL DEFAULT 0,
    last_refusal     TEXT    NOT NULL DEFAULT '',
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER NOT NULL,
    used_at          INTEGER NOT NULL DEFAULT 0,
    revoked_at       INTEGER NOT NULL DEFAULT 0,
    CHECK ((status IN ('issuing', 'consumed')) = (order_id IS NOT NULL)),
    CHECK ((status = 'consumed') = (certificate IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX codes_value ON codes (directory, value_sha256);
CREATE INDEX codes_device ON codes (device) WHERE device IS NOT NULL;
-- Codes that were never used leave some time after they expired.
CREATE INDEX codes_retention ON codes (expires_at) WHERE status = 'unused' OR status = 'revoked';

CREATE TABLE documents (
    id          TEXT    NOT NULL PRIMARY KEY,
    code        TEXT    NOT NULL UNIQUE REFERENCES codes (id),
    path_sha256 BLOB    NOT NULL UNIQUE CHECK (length(path_sha256) = 32),
    sealed      BLOB, -- NULL once erased
    sha256      TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL, -- its code's
    fetched_at  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX documents_sealed ON documents (expires_at) WHERE sealed IS NOT NULL;

-- An order with its one authorization and its one challenge.
CREATE TABLE orders (
    id                TEXT    NOT NULL PRIMARY KEY,
    account           TEXT    NOT NULL REFERENCES accounts (id),
    directory         TEXT    NOT NULL,
    identifier_type   TEXT    NOT NULL,
    identifier_kind   TEXT    NOT NULL,
    identifier_sealed BLOB    NOT NULL, -- may be a live code
    code              TEXT REFERENCES codes (id),
    status            TEXT    NOT NULL CHECK (status = 'pending' OR status = 'ready' OR status = 'processing' OR status = 'valid' OR status = 'invalid'),
    authz             TEXT    NOT NULL CHECK (authz = 'pending' OR authz = 'valid' OR authz = 'invalid' OR authz = 'deactivated'),
    token             TEXT    NOT NULL,
    challenge         TEXT    NOT NULL CHECK (challenge = 'pending' OR challenge = 'valid' OR challenge = 'invalid'),
    validated_at      INTEGER NOT NULL DEFAULT 0,
    challenge_refusal TEXT    NOT NULL DEFAULT '', -- JSON, '' for none
    refusal           TEXT    NOT NULL DEFAULT '', -- JSON, '' for none
    tries             INTEGER NOT NULL DEFAULT 0,
    evidence          TEXT, -- answered its challenge; leaves with it
    decision          TEXT, -- taken at finalize; leaves with it
    certificate       TEXT,
    claimed_at        INTEGER NOT NULL DEFAULT 0,
    created_at        INTEGER NOT NULL,
    expires_at        INTEGER NOT NULL,
    CHECK ((status = 'valid') = (certificate IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_account ON orders (account, id);
CREATE INDEX orders_code ON orders (code) WHERE code IS NOT NULL;
-- Orders that never claimed a serial leave some time after they expired.
CREATE INDEX orders_retention ON orders (expires_at) WHERE claimed_at = 0;

CREATE TABLE evidence (
    id           TEXT    NOT NULL PRIMARY KEY,
    order_id     TEXT    NOT NULL, -- whose evidence column names this row
    received_at  INTEGER NOT NULL,
    kind         TEXT    NOT NULL CHECK (kind = 'attested' OR kind = 'none' OR kind = 'failed'),
    format       TEXT    NOT NULL,
    object       BLOB, -- as received
    device_error TEXT    NOT NULL,
    token        TEXT    NOT NULL,
    key_auth     TEXT    NOT NULL,
    facts        TEXT, -- JSON; NULL unless verified
    facts_schema INTEGER NOT NULL,
    failed       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE decisions (
    id       TEXT    NOT NULL PRIMARY KEY,
    order_id TEXT    NOT NULL, -- whose decision column names this row
    code     TEXT,
    evidence TEXT,
    time     INTEGER NOT NULL,
    schema   INTEGER NOT NULL,
    decision TEXT    NOT NULL, -- JSON
    request  TEXT    NOT NULL  -- JSON, 'null' for none
) STRICT, WITHOUT ROWID;

CREATE TABLE issuers (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    chain      TEXT    NOT NULL, -- JSON array of base64 DER, issuing certificate first
    key        TEXT    NOT NULL, -- URI
    active     INTEGER NOT NULL CHECK (active IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX issuers_active ON issuers (active) WHERE active = 1;

CREATE TABLE certificates (
    id               TEXT    NOT NULL PRIMARY KEY,
    serial           TEXT    NOT NULL UNIQUE CHECK (length(serial) = 40 AND serial NOT GLOB '*[^0-9a-f]*'),
    status           TEXT    NOT NULL CHECK (status = 'reserved' OR status = 'valid' OR status = 'revoked' OR status = 'abandoned'),
    directory        TEXT    NOT NULL,
    issuer           TEXT    NOT NULL REFERENCES issuers (id),
    profile          TEXT    NOT NULL,
    profile_version  INTEGER NOT NULL,
    crl_shard        INTEGER NOT NULL,
    account          TEXT    NOT NULL,
    order_id         TEXT    NOT NULL UNIQUE REFERENCES orders (id),
    code             TEXT, -- its order refers to it
    device           TEXT REFERENCES devices (id),
    decision         TEXT    NOT NULL,
    evidence         TEXT,
    device_serial    TEXT    NOT NULL,
    device_udid      TEXT    NOT NULL,
    expected_serial  TEXT    NOT NULL,
    expected_udid    TEXT    NOT NULL,
    attestation_root TEXT    NOT NULL,
    spki_sha256      TEXT    NOT NULL,
    not_before       INTEGER NOT NULL,
    not_after        INTEGER NOT NULL,
    der              BLOB,
    reserved_at      INTEGER NOT NULL,
    issued_at        INTEGER NOT NULL DEFAULT 0,
    collected_at     INTEGER NOT NULL DEFAULT 0,
    revoked_at       INTEGER NOT NULL DEFAULT 0,
    revoked_reason   INTEGER NOT NULL DEFAULT 0,
    superseded_by    TEXT,
    CHECK ((status IN ('valid', 'revoked')) = (der IS NOT NULL)),
    CHECK ((status = 'revoked') = (revoked_at <> 0))
) STRICT;
-- One code never yields two certificates: the last line of defence behind the conditional writes.
CREATE UNIQUE INDEX certificates_code ON certificates (code) WHERE code IS NOT NULL AND status <> 'abandoned';
CREATE INDEX certificates_spki ON certificates (spki_sha256);
CREATE INDEX certificates_device ON certificates (device, id) WHERE device IS NOT NULL;
CREATE INDEX certificates_not_after ON certificates (not_after, id);
CREATE INDEX certificates_reserved ON certificates (reserved_at) WHERE status = 'reserved';
CREATE INDEX certificates_revoked ON certificates (issuer, crl_shard, not_after) WHERE status = 'revoked';
CREATE INDEX certificates_uncollected ON certificates (id) WHERE status = 'valid' AND collected_at = 0;
CREATE INDEX certificates_superseded ON certificates (superseded_by) WHERE superseded_by IS NOT NULL;

CREATE TABLE crls (
    issuer      TEXT    NOT NULL REFERENCES issuers (id),
    shard       INTEGER NOT NULL,
    number      INTEGER NOT NULL, -- 0: revocations, but no CRL yet
    der         BLOB    NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    stale       INTEGER NOT NULL CHECK (stale IN (0, 1)),
    revision    INTEGER NOT NULL DEFAULT 0, -- counts revocations: a CRL made before one is stale
    PRIMARY KEY (issuer, shard)
) STRICT;

-- A nonce always comes with the same expiry, so both name it: new rows land side by side.
CREATE TABLE nonces (
    expires_at INTEGER NOT NULL,
    id         BLOB    NOT NULL CHECK (length(id) = 16),
    PRIMARY KEY (expires_at, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE nonce_keys (
    id         INTEGER PRIMARY KEY,
    sealed     BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id          TEXT    NOT NULL PRIMARY KEY,
    time        INTEGER NOT NULL,
    action      TEXT    NOT NULL,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('done', 'refused')),
    directory   TEXT    NOT NULL,
    account     TEXT,
    order_id    TEXT,
    code        TEXT,
    certificate TEXT,
    device      TEXT,
    issuer      TEXT,
    failed      TEXT    NOT NULL, -- the failed check
    detail      TEXT    NOT NULL, -- JSON object, '' for none; nothing personal
    commitment  BLOB -- SHA-256 over salt and personal values; NULL if there are none
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_code ON audit (code, id) WHERE code IS NOT NULL;
CREATE INDEX audit_order ON audit (order_id, id) WHERE order_id IS NOT NULL; -- a certificate's rows, too
CREATE INDEX audit_device ON audit (device, id) WHERE device IS NOT NULL;

-- Personal values, which may be erased: the salt leaves with them, or they could be guessed from
-- the commitment.
CREATE TABLE audit_personal (
    audit  TEXT NOT NULL PRIMARY KEY REFERENCES audit (id),
    salt   BLOB NOT NULL CHECK (length(salt) = 16),
    "values" TEXT NOT NULL -- JSON object
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are never changed');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'audit rows are never deleted');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_personal_no_update BEFORE UPDATE ON audit_personal
BEGIN
    SELECT RAISE(ABORT, 'personal values of audit rows are erased, never changed');
END;
-- +goose StatementEnd
