-- What SQLite's migrations 1 to 6 made, as PostgreSQL writes it. What each column means is told there.
-- Times are microseconds since 1970 UTC, 0 for "not yet"; truth values are 0 and 1. Texts compare byte by
-- byte, whatever the database's collation: ids sort by time, and pages are read by them.

-- +goose Up

-- The oldest schema version whose programs may use this database beside newer ones: raised by migrations
-- that older programs would not survive.
CREATE TABLE schema_compatibility (oldest bigint NOT NULL);
INSERT INTO schema_compatibility (oldest) VALUES (6);

-- SQLite's, for texts and for bytes.
-- +goose StatementBegin
CREATE FUNCTION instr(text, text) RETURNS integer IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql RETURN strpos($1, $2);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION instr(bytea, bytea) RETURNS integer IMMUTABLE STRICT PARALLEL SAFE LANGUAGE sql RETURN position($2 IN $1);
-- +goose StatementEnd

CREATE TABLE accounts (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    directory    text COLLATE "C" NOT NULL,
    status       text COLLATE "C" NOT NULL CHECK (status IN ('valid', 'deactivated')),
    contacts     text COLLATE "C" NOT NULL, -- JSON array
    terms_agreed bigint NOT NULL CHECK (terms_agreed IN (0, 1)),
    jwk          bytea  NOT NULL,
    thumbprint   text COLLATE "C" NOT NULL,
    orders       bigint NOT NULL DEFAULT 0 CHECK (orders >= 0), -- how many order rows name it
    created_at   bigint NOT NULL
);

CREATE TABLE devices (
    id              text COLLATE "C" NOT NULL PRIMARY KEY,
    serial          text COLLATE "C" NOT NULL DEFAULT '',
    udid            text COLLATE "C" NOT NULL DEFAULT '',
    udid_key        text COLLATE "C" NOT NULL DEFAULT '', -- udid in lower case: UDIDs compare without case
    labels          text COLLATE "C" NOT NULL DEFAULT '', -- JSON object, '' for none
    attested        bigint NOT NULL CHECK (attested IN (0, 1)),
    created_at      bigint NOT NULL,
    mdm_fingerprint text COLLATE "C" NOT NULL DEFAULT ''
        CHECK (mdm_fingerprint = '' OR length(mdm_fingerprint) = 64 AND mdm_fingerprint !~ '[^0-9a-f]'),
    revision        bigint NOT NULL DEFAULT 1 CHECK (revision > 0),
    state           text COLLATE "C" NOT NULL DEFAULT ''
        CHECK (state = '' OR state = 'expected' OR state = 'active' OR state = 'lost' OR state = 'retired'),
    sources         text COLLATE "C" NOT NULL DEFAULT '', -- JSON object by value, '' for none
    seen_at         bigint NOT NULL DEFAULT 0, -- last certificate on its evidence
    CHECK (serial <> '' OR udid <> '')
);

CREATE TABLE codes (
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    directory        text COLLATE "C" NOT NULL,
    value_sha256     bytea  NOT NULL CHECK (length(value_sha256) = 32),
    status           text COLLATE "C" NOT NULL CHECK (status = 'unused' OR status = 'issuing' OR status = 'consumed' OR status = 'revoked'),
    device           text COLLATE "C" REFERENCES devices (id),
    serial           text COLLATE "C" NOT NULL DEFAULT '', -- bound serial
    udid             text COLLATE "C" NOT NULL DEFAULT '', -- bound UDID
    labels           text COLLATE "C" NOT NULL DEFAULT '', -- JSON object, '' for none
    allow_unattested bigint NOT NULL CHECK (allow_unattested IN (0, 1)),
    minted           text COLLATE "C" NOT NULL DEFAULT '', -- JSON of what its credential asks for, '' for none
    order_id         text COLLATE "C", -- the order that claimed or consumed it
    certificate      text COLLATE "C",
    tries            bigint NOT NULL DEFAULT 0,
    last_refusal     text COLLATE "C" NOT NULL DEFAULT '',
    created_at       bigint NOT NULL,
    expires_at       bigint NOT NULL,
    used_at          bigint NOT NULL DEFAULT 0,
    revoked_at       bigint NOT NULL DEFAULT 0,
    CHECK ((status IN ('issuing', 'consumed')) = (order_id IS NOT NULL)),
    CHECK ((status = 'consumed') = (certificate IS NOT NULL))
);

CREATE TABLE orders (
    id                text COLLATE "C" NOT NULL PRIMARY KEY,
    account           text COLLATE "C" NOT NULL REFERENCES accounts (id),
    directory         text COLLATE "C" NOT NULL,
    identifier_type   text COLLATE "C" NOT NULL,
    identifier_kind   text COLLATE "C" NOT NULL,
    identifier_sealed bytea  NOT NULL, -- may be a live code
    code              text COLLATE "C" REFERENCES codes (id),
    status            text COLLATE "C" NOT NULL CHECK (status = 'pending' OR status = 'ready' OR status = 'processing' OR status = 'valid' OR status = 'invalid'),
    authz             text COLLATE "C" NOT NULL CHECK (authz = 'pending' OR authz = 'valid' OR authz = 'invalid' OR authz = 'deactivated'),
    token             text COLLATE "C" NOT NULL,
    challenge         text COLLATE "C" NOT NULL CHECK (challenge = 'pending' OR challenge = 'valid' OR challenge = 'invalid'),
    validated_at      bigint NOT NULL DEFAULT 0,
    challenge_refusal text COLLATE "C" NOT NULL DEFAULT '', -- JSON, '' for none
    refusal           text COLLATE "C" NOT NULL DEFAULT '', -- JSON, '' for none
    tries             bigint NOT NULL DEFAULT 0,
    evidence          text COLLATE "C", -- answered its challenge; leaves with it
    decision          text COLLATE "C", -- taken at finalize; leaves with it
    certificate       text COLLATE "C",
    claimed_at        bigint NOT NULL DEFAULT 0,
    created_at        bigint NOT NULL,
    expires_at        bigint NOT NULL,
    CHECK ((status = 'valid') = (certificate IS NOT NULL))
);

CREATE TABLE evidence (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    order_id     text COLLATE "C" NOT NULL, -- whose evidence column names this row
    received_at  bigint NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind = 'attested' OR kind = 'none' OR kind = 'failed'),
    format       text COLLATE "C" NOT NULL,
    object       bytea, -- as received
    device_error text COLLATE "C" NOT NULL,
    token        text COLLATE "C" NOT NULL,
    key_auth     text COLLATE "C" NOT NULL,
    facts        text COLLATE "C", -- JSON; NULL unless verified
    facts_schema bigint NOT NULL,
    failed       text COLLATE "C" NOT NULL,
    kept         text COLLATE "C" NOT NULL DEFAULT 'full' CHECK (kept = 'full' OR kept = 'facts' OR kept = 'none'),
    outcome      text COLLATE "C" NOT NULL DEFAULT '' CHECK (outcome = '' OR outcome = 'issue' OR outcome = 'hold' OR outcome = 'refuse'),
    removed_at   bigint NOT NULL DEFAULT 0 -- when something of it was last removed
);

CREATE TABLE issuers (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    chain      text COLLATE "C" NOT NULL, -- JSON array of base64 DER, issuing certificate first
    key        text COLLATE "C" NOT NULL, -- URI
    active     bigint NOT NULL CHECK (active IN (0, 1)),
    created_at bigint NOT NULL
);

CREATE TABLE certificates (
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    serial           text COLLATE "C" NOT NULL UNIQUE CHECK (length(serial) = 40 AND serial !~ '[^0-9a-f]'),
    status           text COLLATE "C" NOT NULL CHECK (status = 'reserved' OR status = 'valid' OR status = 'revoked' OR status = 'abandoned'),
    directory        text COLLATE "C" NOT NULL,
    issuer           text COLLATE "C" NOT NULL, -- no reference to issuers: every certificate would lock the same row there
    profile          text COLLATE "C" NOT NULL,
    profile_version  bigint NOT NULL,
    crl_shard        bigint NOT NULL,
    account          text COLLATE "C" NOT NULL,
    order_id         text COLLATE "C" NOT NULL UNIQUE REFERENCES orders (id),
    code             text COLLATE "C", -- its order refers to it
    device           text COLLATE "C" REFERENCES devices (id),
    decision         text COLLATE "C" NOT NULL,
    evidence         text COLLATE "C",
    device_serial    text COLLATE "C" NOT NULL,
    device_udid      text COLLATE "C" NOT NULL,
    expected_serial  text COLLATE "C" NOT NULL,
    expected_udid    text COLLATE "C" NOT NULL,
    attestation_root text COLLATE "C" NOT NULL,
    spki_sha256      text COLLATE "C" NOT NULL,
    not_before       bigint NOT NULL,
    not_after        bigint NOT NULL,
    der              bytea,
    reserved_at      bigint NOT NULL,
    issued_at        bigint NOT NULL DEFAULT 0,
    collected_at     bigint NOT NULL DEFAULT 0,
    revoked_at       bigint NOT NULL DEFAULT 0,
    revoked_reason   bigint NOT NULL DEFAULT 0,
    superseded_by    text COLLATE "C",
    CHECK ((status IN ('valid', 'revoked')) = (der IS NOT NULL)),
    CHECK ((status = 'revoked') = (revoked_at <> 0))
);

CREATE TABLE crls (
    issuer      text COLLATE "C" NOT NULL REFERENCES issuers (id),
    shard       bigint NOT NULL,
    number      bigint NOT NULL, -- 0: revocations, but no CRL yet
    der         bytea  NOT NULL,
    this_update bigint NOT NULL,
    next_update bigint NOT NULL,
    stale       bigint NOT NULL CHECK (stale IN (0, 1)),
    revision    bigint NOT NULL DEFAULT 0, -- counts revocations: a CRL made before one is stale
    PRIMARY KEY (issuer, shard)
);

CREATE TABLE nonces (
    expires_at bigint NOT NULL,
    id         bytea  NOT NULL CHECK (length(id) = 16),
    PRIMARY KEY (expires_at, id)
);

CREATE TABLE nonce_keys (
    id         bigint PRIMARY KEY,
    sealed     bytea  NOT NULL,
    created_at bigint NOT NULL
);

CREATE TABLE audit (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    time        bigint NOT NULL,
    action      text COLLATE "C" NOT NULL,
    outcome     text COLLATE "C" NOT NULL CHECK (outcome IN ('done', 'refused')),
    directory   text COLLATE "C" NOT NULL,
    account     text COLLATE "C",
    order_id    text COLLATE "C",
    code        text COLLATE "C",
    certificate text COLLATE "C",
    device      text COLLATE "C",
    issuer      text COLLATE "C",
    failed      text COLLATE "C" NOT NULL, -- the failed check
    detail      text COLLATE "C" NOT NULL, -- JSON object, '' for none; nothing personal
    commitment  bytea  -- SHA-256 over salt and personal values; NULL if there are none
);

CREATE TABLE audit_personal (
    audit    text COLLATE "C" NOT NULL PRIMARY KEY REFERENCES audit (id),
    salt     bytea  NOT NULL CHECK (length(salt) = 16),
    "values" text COLLATE "C" NOT NULL -- JSON object
);

CREATE TABLE device_credentials (
    id                   text COLLATE "C" NOT NULL PRIMARY KEY,
    device               text COLLATE "C" NOT NULL REFERENCES devices (id),
    template             text COLLATE "C" NOT NULL,
    directory            text COLLATE "C" NOT NULL,
    revision             bigint NOT NULL CHECK (revision > 0),
    document             text COLLATE "C" NOT NULL, -- the current one; no reference, because it refers to this row
    code                 text COLLATE "C" NOT NULL UNIQUE REFERENCES codes (id), -- in that document
    certificate          text COLLATE "C" REFERENCES certificates (id), -- the newest that the device collected
    asset_token          text COLLATE "C" NOT NULL,
    configuration_token  text COLLATE "C" NOT NULL,
    renew_before         bigint NOT NULL CHECK (renew_before >= 0), -- microseconds
    revoke_superseded    bigint NOT NULL CHECK (revoke_superseded IN (0, 1)),
    due_at               bigint NOT NULL,
    attempts             bigint NOT NULL DEFAULT 0, -- documents in a row that were fetched, and no certificate was collected
    pushed               text COLLATE "C" NOT NULL DEFAULT '',
    pushed_at            bigint NOT NULL DEFAULT 0,
    push_error           text COLLATE "C" NOT NULL DEFAULT '',
    report               text COLLATE "C" NOT NULL DEFAULT '', -- JSON, '' for none
    created_at           bigint NOT NULL,
    rendered_at          bigint NOT NULL,
    withdrawn_at         bigint NOT NULL DEFAULT 0,
    asset_sealed         bytea, -- holds the secret URL of the document
    configuration_sealed bytea,
    CHECK (withdrawn_at = 0 OR due_at = 0),
    CHECK ((withdrawn_at <> 0) = (asset_sealed IS NULL)),
    CHECK ((asset_sealed IS NULL) = (configuration_sealed IS NULL))
);

CREATE TABLE tokens (
    id           text COLLATE "C" NOT NULL PRIMARY KEY,
    sha256       bytea  NOT NULL UNIQUE CHECK (length(sha256) = 32),
    name         text COLLATE "C" NOT NULL,
    scopes       text COLLATE "C" NOT NULL, -- JSON array
    created_at   bigint NOT NULL,
    expires_at   bigint NOT NULL,
    revoked_at   bigint NOT NULL DEFAULT 0,
    last_used_at bigint NOT NULL DEFAULT 0 -- to the minute
);

CREATE TABLE idempotency_keys (
    key        bytea  NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    request    bytea  NOT NULL CHECK (length(request) = 32),
    sealed     bytea  NOT NULL, -- what is given back to whoever repeats the request; may hold codes
    expires_at bigint NOT NULL
);

CREATE TABLE policies (
    sha256     text COLLATE "C" NOT NULL PRIMARY KEY CHECK (length(sha256) = 64),
    name       text COLLATE "C" NOT NULL,
    text       text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL
);

CREATE TABLE policy_uses (
    directory text COLLATE "C" NOT NULL,
    since     bigint NOT NULL,
    policy    text COLLATE "C" NOT NULL REFERENCES policies (sha256),
    PRIMARY KEY (directory, since)
);

CREATE TABLE holds (
    id         text COLLATE "C" NOT NULL PRIMARY KEY,
    directory  text COLLATE "C" NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    status     text COLLATE "C" NOT NULL CHECK (status = 'held' OR status = 'approved' OR status = 'declined' OR status = 'claimed' OR status = 'used'),
    decision   text COLLATE "C" NOT NULL, -- the newest that held it
    device     text COLLATE "C",
    code       text COLLATE "C",
    credential text COLLATE "C",
    tries      bigint NOT NULL CHECK (tries > 0), -- how often it was held
    revision   bigint NOT NULL CHECK (revision > 0),
    created_at bigint NOT NULL,
    held_at    bigint NOT NULL, -- last
    decided_by text COLLATE "C" NOT NULL DEFAULT '',
    decided_at bigint NOT NULL DEFAULT 0,
    expires_at bigint NOT NULL DEFAULT 0, -- of the approval
    lifetime   bigint NOT NULL, -- microseconds that an approval lives, as the policy has it
    order_id   text COLLATE "C", -- that claims or used it
    CHECK ((status IN ('claimed', 'used')) = (order_id IS NOT NULL))
);

CREATE TABLE device_conflicts (
    id          text COLLATE "C" NOT NULL PRIMARY KEY,
    kind        text COLLATE "C" NOT NULL CHECK (kind = 'not-listed' OR kind = 'udid-claimed' OR kind = 'udid-differs' OR kind = 'serial-differs'),
    device      text COLLATE "C" NOT NULL REFERENCES devices (id),
    other       text COLLATE "C" REFERENCES devices (id), -- that claims the same
    source      text COLLATE "C" NOT NULL, -- who says otherwise
    said        text COLLATE "C" NOT NULL, -- what: a UDID or serial number
    times       bigint NOT NULL CHECK (times > 0),
    created_at  bigint NOT NULL,
    seen_at     bigint NOT NULL, -- last
    resolved_at bigint NOT NULL DEFAULT 0,
    resolved_by text COLLATE "C" NOT NULL DEFAULT ''
);

CREATE TABLE inventory_syncs (
    source      text COLLATE "C" NOT NULL PRIMARY KEY,
    cursor      text COLLATE "C" NOT NULL DEFAULT '', -- where an interrupted listing goes on
    began_at    bigint NOT NULL DEFAULT 0, -- the listing under way, or the last one
    finished_at bigint NOT NULL DEFAULT 0, -- the last whole listing
    failed_at   bigint NOT NULL DEFAULT 0,
    error       text COLLATE "C" NOT NULL DEFAULT '',
    devices     bigint NOT NULL DEFAULT 0, -- in the last whole listing
    changed     bigint NOT NULL DEFAULT 0 -- by it
);

CREATE TABLE audit_unsealed (
    audit text COLLATE "C" NOT NULL PRIMARY KEY REFERENCES audit (id)
);

CREATE TABLE audit_places (
    seq   bigint PRIMARY KEY CHECK (seq > 0), -- without gaps
    audit text COLLATE "C" NOT NULL, -- id of the row
    leaf  bytea  NOT NULL CHECK (length(leaf) = 32) -- hash of the row
);

CREATE TABLE audit_seals (
    number    bigint PRIMARY KEY CHECK (number > 0), -- without gaps
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL CHECK (last_seq >= first_seq),
    root      bytea  NOT NULL CHECK (length(root) = 32),
    previous  bytea  NOT NULL CHECK (length(previous) = 32), -- hash of the seal before; zeros for the first
    sealed_at bigint NOT NULL,
    signature bytea  NOT NULL
);

CREATE TABLE documents (
    id             text COLLATE "C" NOT NULL PRIMARY KEY,
    code           text COLLATE "C" NOT NULL UNIQUE REFERENCES codes (id),
    path_sha256    bytea  NOT NULL UNIQUE CHECK (length(path_sha256) = 32),
    sealed         bytea, -- NULL once erased
    sha256         text COLLATE "C" NOT NULL,
    created_at     bigint NOT NULL,
    expires_at     bigint NOT NULL, -- its code's
    fetched_at     bigint NOT NULL DEFAULT 0,
    credential     text COLLATE "C" REFERENCES device_credentials (id),
    revision       bigint NOT NULL DEFAULT 0, -- its credential's: tells older certificates from newer
    mdm            bigint NOT NULL DEFAULT 0 CHECK (mdm IN (0, 1)),
    fetch_lifetime bigint NOT NULL DEFAULT 0 CHECK (fetch_lifetime >= 0), -- microseconds, 0 for none
    refused_at     bigint NOT NULL DEFAULT 0,
    refused_check  text COLLATE "C" NOT NULL DEFAULT ''
);

CREATE TABLE decisions (
    id        text COLLATE "C" NOT NULL PRIMARY KEY,
    order_id  text COLLATE "C" NOT NULL, -- whose decision column names this row
    code      text COLLATE "C",
    evidence  text COLLATE "C",
    time      bigint NOT NULL,
    schema    bigint NOT NULL,
    decision  text COLLATE "C" NOT NULL, -- JSON
    input     text COLLATE "C", -- JSON; NULL once retention removed it
    directory text COLLATE "C" NOT NULL DEFAULT '',
    policy    text COLLATE "C", -- no reference to policies: every decision would lock the same row there
    outcome   text COLLATE "C" NOT NULL DEFAULT 'issue' CHECK (outcome = 'issue' OR outcome = 'hold' OR outcome = 'refuse'),
    device    text COLLATE "C", -- that the input was about
    hold      text COLLATE "C" -- that it made or used
);

CREATE TABLE leases (
    name       text COLLATE "C" NOT NULL PRIMARY KEY,
    holder     text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);

CREATE UNIQUE INDEX accounts_key ON accounts (directory, thumbprint);
CREATE INDEX accounts_idle ON accounts (created_at) WHERE orders = 0;
CREATE UNIQUE INDEX devices_serial ON devices (serial) WHERE serial <> '';
CREATE UNIQUE INDEX devices_udid ON devices (udid_key) WHERE udid_key <> '';
CREATE UNIQUE INDEX codes_value ON codes (directory, value_sha256);
CREATE INDEX codes_device ON codes (device) WHERE device IS NOT NULL;
CREATE INDEX codes_retention ON codes (expires_at) WHERE status = 'unused' OR status = 'revoked';
CREATE INDEX documents_sealed ON documents (expires_at) WHERE sealed IS NOT NULL;
CREATE INDEX orders_account ON orders (account, id);
CREATE INDEX orders_code ON orders (code) WHERE code IS NOT NULL;
CREATE INDEX orders_retention ON orders (expires_at) WHERE claimed_at = 0;
CREATE UNIQUE INDEX issuers_active ON issuers (active) WHERE active = 1;
CREATE UNIQUE INDEX certificates_code ON certificates (code) WHERE code IS NOT NULL AND status <> 'abandoned';
CREATE INDEX certificates_spki ON certificates (spki_sha256);
CREATE INDEX certificates_device ON certificates (device, id) WHERE device IS NOT NULL;
CREATE INDEX certificates_not_after ON certificates (not_after, id);
CREATE INDEX certificates_reserved ON certificates (reserved_at) WHERE status = 'reserved';
CREATE INDEX certificates_revoked ON certificates (issuer, crl_shard, not_after) WHERE status = 'revoked';
CREATE INDEX certificates_uncollected ON certificates (id) WHERE status = 'valid' AND collected_at = 0;
CREATE INDEX certificates_superseded ON certificates (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX audit_code ON audit (code, id) WHERE code IS NOT NULL;
CREATE INDEX audit_order ON audit (order_id, id) WHERE order_id IS NOT NULL;
CREATE INDEX audit_device ON audit (device, id) WHERE device IS NOT NULL;
CREATE UNIQUE INDEX devices_mdm_fingerprint ON devices (mdm_fingerprint) WHERE mdm_fingerprint <> '';
CREATE UNIQUE INDEX device_credentials_template ON device_credentials (device, template);
CREATE INDEX device_credentials_due ON device_credentials (due_at, id) WHERE due_at <> 0;
CREATE INDEX device_credentials_not_pushed ON device_credentials (id)
    WHERE pushed <> CASE WHEN withdrawn_at = 0 THEN asset_token || ' ' || configuration_token ELSE '' END;
CREATE INDEX documents_credential ON documents (credential, revision) WHERE credential IS NOT NULL;
CREATE INDEX idempotency_keys_retention ON idempotency_keys (expires_at);
CREATE INDEX decisions_device ON decisions (device, id) WHERE device IS NOT NULL;
CREATE INDEX decisions_code ON decisions (code, id) WHERE code IS NOT NULL;
CREATE INDEX decisions_kept_back ON decisions (id) WHERE outcome <> 'issue';
CREATE UNIQUE INDEX holds_open ON holds (directory, subject) WHERE status <> 'used';
CREATE INDEX holds_order ON holds (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX holds_device ON holds (device, id) WHERE device IS NOT NULL;
CREATE INDEX devices_state ON devices (state, id);
CREATE UNIQUE INDEX device_conflicts_open ON device_conflicts (device, kind, source) WHERE resolved_at = 0;
CREATE INDEX device_conflicts_list ON device_conflicts (id) WHERE resolved_at = 0;
CREATE INDEX device_conflicts_other ON device_conflicts (other) WHERE other IS NOT NULL;
CREATE INDEX evidence_kept ON evidence (kept, outcome, received_at) WHERE kept <> 'none';
CREATE INDEX decisions_evidence ON decisions (evidence) WHERE outcome <> 'issue';
CREATE INDEX holds_decision ON holds (decision);
CREATE INDEX holds_over ON holds (held_at) WHERE status = 'used' OR status = 'declined';

-- +goose StatementBegin
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is never done', lower(TG_OP), TG_TABLE_NAME;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_never BEFORE UPDATE OR DELETE OR TRUNCATE ON audit EXECUTE FUNCTION never();
CREATE TRIGGER audit_personal_never BEFORE UPDATE ON audit_personal EXECUTE FUNCTION never();
CREATE TRIGGER audit_places_never BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_places EXECUTE FUNCTION never();
CREATE TRIGGER audit_seals_never BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seals EXECUTE FUNCTION never();
