-- Credentials of devices: what the documents, codes and certificates of one template on one device
-- have in common. Times, ids and optional values as in the first schema.

-- +goose Up

ALTER TABLE devices ADD COLUMN mdm_fingerprint TEXT NOT NULL DEFAULT ''
    CHECK (mdm_fingerprint = '' OR length(mdm_fingerprint) = 64 AND mdm_fingerprint NOT GLOB '*[^0-9a-f]*');
ALTER TABLE devices ADD COLUMN revision INTEGER NOT NULL DEFAULT 1 CHECK (revision > 0);
-- One MDM certificate opens the documents of one device.
CREATE UNIQUE INDEX devices_mdm_fingerprint ON devices (mdm_fingerprint) WHERE mdm_fingerprint <> '';

-- Stays, withdrawn too: its id is the Identifier of declarations that an MDM may still hold. There are
-- no more of them than templates times devices.
CREATE TABLE device_credentials (
    id                   TEXT    NOT NULL PRIMARY KEY,
    device               TEXT    NOT NULL REFERENCES devices (id),
    template             TEXT    NOT NULL,
    directory            TEXT    NOT NULL,
    revision             INTEGER NOT NULL CHECK (revision > 0),
    document             TEXT    NOT NULL, -- the current one; no reference, because it refers to this row
    code                 TEXT    NOT NULL UNIQUE REFERENCES codes (id), -- in that document
    certificate          TEXT REFERENCES certificates (id), -- the newest that the device collected
    asset_token          TEXT    NOT NULL,
    configuration_token  TEXT    NOT NULL,
    renew_before         INTEGER NOT NULL CHECK (renew_before >= 0), -- microseconds
    revoke_superseded    INTEGER NOT NULL CHECK (revoke_superseded IN (0, 1)),
    due_at               INTEGER NOT NULL,
    attempts             INTEGER NOT NULL DEFAULT 0, -- documents in a row that were fetched, and no certificate was collected
    pushed               TEXT    NOT NULL DEFAULT '',
    pushed_at            INTEGER NOT NULL DEFAULT 0,
    push_error           TEXT    NOT NULL DEFAULT '',
    report               TEXT    NOT NULL DEFAULT '', -- JSON, '' for none
    created_at           INTEGER NOT NULL,
    rendered_at          INTEGER NOT NULL,
    withdrawn_at         INTEGER NOT NULL DEFAULT 0,
    asset_sealed         BLOB, -- holds the secret URL of the document
    configuration_sealed BLOB,
    CHECK (withdrawn_at = 0 OR due_at = 0),
    CHECK ((withdrawn_at <> 0) = (asset_sealed IS NULL)),
    CHECK ((asset_sealed IS NULL) = (configuration_sealed IS NULL))
) STRICT;
-- Finds a device's, too.
CREATE UNIQUE INDEX device_credentials_template ON device_credentials (device, template);
CREATE INDEX device_credentials_due ON device_credentials (due_at, id) WHERE due_at <> 0;
-- What is withdrawn is to be taken back from the MDM.
CREATE INDEX device_credentials_not_pushed ON device_credentials (id)
    WHERE pushed <> CASE WHEN withdrawn_at = 0 THEN asset_token || ' ' || configuration_token ELSE '' END;

ALTER TABLE documents ADD COLUMN credential TEXT REFERENCES device_credentials (id);
ALTER TABLE documents ADD COLUMN revision INTEGER NOT NULL DEFAULT 0; -- its credential's: tells older certificates from newer
ALTER TABLE documents ADD COLUMN mdm INTEGER NOT NULL DEFAULT 0 CHECK (mdm IN (0, 1));
ALTER TABLE documents ADD COLUMN fetch_lifetime INTEGER NOT NULL DEFAULT 0 CHECK (fetch_lifetime >= 0); -- microseconds, 0 for none
ALTER TABLE documents ADD COLUMN refused_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE documents ADD COLUMN refused_check TEXT NOT NULL DEFAULT '';
CREATE INDEX documents_credential ON documents (credential, revision) WHERE credential IS NOT NULL;

-- Stays: people make them one by one, and the audit trail names them.
CREATE TABLE tokens (
    id           TEXT    NOT NULL PRIMARY KEY,
    sha256       BLOB    NOT NULL UNIQUE CHECK (length(sha256) = 32),
    name         TEXT    NOT NULL,
    scopes       TEXT    NOT NULL, -- JSON array
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    revoked_at   INTEGER NOT NULL DEFAULT 0,
    last_used_at INTEGER NOT NULL DEFAULT 0 -- to the minute
) STRICT;

-- Changes that were made under an Idempotency-Key; they leave a day later.
CREATE TABLE idempotency_keys (
    key        BLOB    NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    request    BLOB    NOT NULL CHECK (length(request) = 32),
    sealed     BLOB    NOT NULL, -- what is given back to whoever repeats the request; may hold codes
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX idempotency_keys_retention ON idempotency_keys (expires_at);
