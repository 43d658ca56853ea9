-- Decisions with everything that they rested on, the policies that took them, and what waits for a
-- person's word. Times, ids and optional values as in the first schema.

-- +goose Up

-- Every policy that ever decided, as it was written.
CREATE TABLE policies (
    sha256     TEXT    NOT NULL PRIMARY KEY CHECK (length(sha256) = 64),
    name       TEXT    NOT NULL,
    text       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which policy a directory came to use, and when.
CREATE TABLE policy_uses (
    directory TEXT    NOT NULL,
    since     INTEGER NOT NULL,
    policy    TEXT    NOT NULL REFERENCES policies (sha256),
    PRIMARY KEY (directory, since)
) STRICT, WITHOUT ROWID;

ALTER TABLE decisions ADD COLUMN input TEXT; -- JSON; NULL once retention removed it
UPDATE decisions SET input = '{"request":' || request || '}'; -- of schema 1, which kept no more
ALTER TABLE decisions DROP COLUMN request;
ALTER TABLE decisions ADD COLUMN directory TEXT NOT NULL DEFAULT '';
ALTER TABLE decisions ADD COLUMN policy TEXT REFERENCES policies (sha256); -- NULL for the decisions of schema 1
ALTER TABLE decisions ADD COLUMN outcome TEXT NOT NULL DEFAULT 'issue' CHECK (outcome = 'issue' OR outcome = 'hold' OR outcome = 'refuse');
ALTER TABLE decisions ADD COLUMN device TEXT; -- that the input was about
ALTER TABLE decisions ADD COLUMN hold TEXT; -- that it made or used
UPDATE decisions SET outcome = decision ->> '$.outcome';
CREATE INDEX decisions_device ON decisions (device, id) WHERE device IS NOT NULL;
CREATE INDEX decisions_code ON decisions (code, id) WHERE code IS NOT NULL;
CREATE INDEX decisions_kept_back ON decisions (id) WHERE outcome <> 'issue';

-- A device that was held, and what a person said. The subject is what an approval is bound to: an
-- attested device, else the credential that the code belongs to, else the code.
CREATE TABLE holds (
    id         TEXT    NOT NULL PRIMARY KEY,
    directory  TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    status     TEXT    NOT NULL CHECK (status = 'held' OR status = 'approved' OR status = 'declined' OR status = 'claimed' OR status = 'used'),
    decision   TEXT    NOT NULL, -- the newest that held it
    device     TEXT,
    code       TEXT,
    credential TEXT,
    tries      INTEGER NOT NULL CHECK (tries > 0), -- how often it was held
    revision   INTEGER NOT NULL CHECK (revision > 0),
    created_at INTEGER NOT NULL,
    held_at    INTEGER NOT NULL, -- last
    decided_by TEXT    NOT NULL DEFAULT '',
    decided_at INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL DEFAULT 0, -- of the approval
    lifetime   INTEGER NOT NULL, -- microseconds that an approval lives, as the policy has it
    order_id   TEXT, -- that claims or used it
    CHECK ((status IN ('claimed', 'used')) = (order_id IS NOT NULL))
) STRICT;
-- Of one subject there is one hold that is not used up: held again, it is that one.
CREATE UNIQUE INDEX holds_open ON holds (directory, subject) WHERE status <> 'used';
CREATE INDEX holds_order ON holds (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX holds_device ON holds (device, id) WHERE device IS NOT NULL;
