-- The inventory: where a device stands, where each value came from, what contradicts what. Times, ids and
-- optional values as in the first schema.

-- +goose Up

-- '' is a device that nobody lists: evidence alone named it.
ALTER TABLE devices ADD COLUMN state TEXT NOT NULL DEFAULT ''
    CHECK (state = '' OR state = 'expected' OR state = 'active' OR state = 'lost' OR state = 'retired');
ALTER TABLE devices ADD COLUMN sources TEXT NOT NULL DEFAULT ''; -- JSON object by value, '' for none
ALTER TABLE devices ADD COLUMN seen_at INTEGER NOT NULL DEFAULT 0; -- last certificate on its evidence
-- Who minted a code for a device or declared a credential listed it; that it attested itself lists nobody.
UPDATE devices SET state = iif(attested = 1, 'active', 'expected') WHERE attested = 0
    OR EXISTS (SELECT 1 FROM codes WHERE codes.device = devices.id AND (codes.serial <> '' OR codes.udid <> ''))
    OR EXISTS (SELECT 1 FROM device_credentials WHERE device_credentials.device = devices.id);
CREATE INDEX devices_state ON devices (state, id);

-- What contradicts the inventory, until a person or a better list ends it. At most one that is open of a
-- kind, a device and a source.
CREATE TABLE device_conflicts (
    id          TEXT    NOT NULL PRIMARY KEY,
    kind        TEXT    NOT NULL CHECK (kind = 'not-listed' OR kind = 'udid-claimed' OR kind = 'udid-differs' OR kind = 'serial-differs'),
    device      TEXT    NOT NULL REFERENCES devices (id),
    other       TEXT REFERENCES devices (id), -- that claims the same
    source      TEXT    NOT NULL, -- who says otherwise
    said        TEXT    NOT NULL, -- what: a UDID or serial number
    times       INTEGER NOT NULL CHECK (times > 0),
    created_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL, -- last
    resolved_at INTEGER NOT NULL DEFAULT 0,
    resolved_by TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX device_conflicts_open ON device_conflicts (device, kind, source) WHERE resolved_at = 0;
CREATE INDEX device_conflicts_list ON device_conflicts (id) WHERE resolved_at = 0;
CREATE INDEX device_conflicts_other ON device_conflicts (other) WHERE other IS NOT NULL;

-- How far a source of the inventory was read.
CREATE TABLE inventory_syncs (
    source      TEXT    NOT NULL PRIMARY KEY,
    cursor      TEXT    NOT NULL DEFAULT '', -- where an interrupted listing goes on
    began_at    INTEGER NOT NULL DEFAULT 0, -- the listing under way, or the last one
    finished_at INTEGER NOT NULL DEFAULT 0, -- the last whole listing
    failed_at   INTEGER NOT NULL DEFAULT 0,
    error       TEXT    NOT NULL DEFAULT '',
    devices     INTEGER NOT NULL DEFAULT 0, -- in the last whole listing
    changed     INTEGER NOT NULL DEFAULT 0 -- by it
) STRICT;
