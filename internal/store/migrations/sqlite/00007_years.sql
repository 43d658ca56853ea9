-- PostgreSQL lays the tables that only grow into years here; a file of SQLite's stays one.

-- +goose Up

-- What names a device and is not led to by a reference is found by these when the device is forgotten: the serial
-- number and the UDID in personal values, which are JSON; texts in which a device may be named; what was not
-- issued; certificates that went to another device than was expected; and what a list said of another one.
CREATE INDEX audit_personal_serial ON audit_personal (
    lower(substr("values", instr("values", '"serial":"') + 10,
        instr(substr("values", instr("values", '"serial":"') + 10) || '"', '"') - 1)))
    WHERE instr("values", '"serial":"') > 0;
CREATE INDEX audit_personal_udid ON audit_personal (
    lower(substr("values", instr("values", '"udid":"') + 8,
        instr(substr("values", instr("values", '"udid":"') + 8) || '"', '"') - 1)))
    WHERE instr("values", '"udid":"') > 0;
CREATE INDEX audit_personal_texts ON audit_personal (audit)
    WHERE instr("values", '"deviceError":"') > 0 OR instr("values", '"names":[') > 0;
CREATE INDEX evidence_kept_back ON evidence (id) WHERE outcome <> '' AND outcome <> 'issue';
CREATE INDEX certificates_abandoned ON certificates (id) WHERE status = 'abandoned';
CREATE INDEX certificates_expected_serial ON certificates (lower(expected_serial))
    WHERE expected_serial <> '' AND lower(expected_serial) <> lower(device_serial);
CREATE INDEX certificates_expected_udid ON certificates (lower(expected_udid))
    WHERE expected_udid <> '' AND lower(expected_udid) <> lower(device_udid);
CREATE INDEX device_conflicts_device ON device_conflicts (device);
CREATE INDEX device_conflicts_said ON device_conflicts (lower(said)) WHERE said <> '';
