-- Tables that only grow lie in a partition for each year, told by their ids, which begin with their time. Nothing
-- in them is unique but the id, so nothing is lost by it; certificates, codes and orders stay whole.
--
-- What is there already is not written anew: it becomes the partition of this year, and of all before.

-- +goose Up

-- In the order in which servers come to them: they wait now until this is done. Who waits for a lock keeps others
-- waiting behind it, so it gives up where somebody reads for long.
SET LOCAL lock_timeout = '3s';
LOCK TABLE decisions, evidence IN ACCESS EXCLUSIVE MODE;
LOCK TABLE certificates, device_conflicts IN SHARE MODE;
LOCK TABLE audit, audit_unsealed, audit_personal IN ACCESS EXCLUSIVE MODE;

-- Audit rows are written together with those that refer to them, and never leave.
ALTER TABLE audit_unsealed DROP CONSTRAINT audit_unsealed_audit_fkey;
ALTER TABLE audit_personal DROP CONSTRAINT audit_personal_audit_fkey;

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

-- The id before all of a year: 48 bits of milliseconds, and 80 of which none is set.
-- +goose StatementBegin
CREATE FUNCTION first_of_year(prefix text, year integer) RETURNS text STABLE LANGUAGE sql
RETURN (SELECT prefix || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz', ((ms * 4 >> 5 * place) & 31)::integer + 1, 1), '' ORDER BY place DESC) || repeat('0', 16)
    FROM generate_series(0, 9) AS place, (SELECT extract(epoch FROM make_timestamptz(year, 1, 1, 0, 0, 0, 'UTC'))::bigint * 1000 AS ms) AS time);
-- +goose StatementEnd

-- Which tables lie in years, and the prefix of their ids.
CREATE VIEW tables_in_years (name, key, prefix) AS
    VALUES ('evidence', 'id', 'evid_'), ('decisions', 'id', 'dec_'), ('audit', 'id', 'audit_'), ('audit_personal', 'audit', 'audit_');

-- Whether a partition has any of a year: its own, or, after the migration, that of all before.
-- +goose StatementBegin
CREATE FUNCTION has_year(parent text, prefix text, year integer) RETURNS boolean STABLE LANGUAGE sql
RETURN EXISTS (SELECT 1 FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid, pg_get_expr(relpartbound, pg_class.oid) AS bound
    WHERE inhparent = quote_ident(parent)::regclass AND bound <> 'DEFAULT'
        AND coalesce(substring(bound FROM 'FROM \(''([^'']*)''\)'), '') COLLATE "C" < first_of_year(prefix, year + 1)
        AND substring(bound FROM 'TO \(''([^'']*)''\)') COLLATE "C" > first_of_year(prefix, year));
-- +goose StatementEnd

-- Makes the partition of a year, unless one has it, of what the default partition has of it; not if that has more
-- rows than most, which all are read for it (NULL: however many), and not if another table has the name. It returns
-- what keeps it from being made: 'rows', 'name', or NULL. Who reads or writes the default partition waits meanwhile.
-- +goose StatementBegin
CREATE FUNCTION make_year(parent text, year integer, most bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    partition text := parent || '_' || year;
    rest text := parent || '_default';
    key text := t.key FROM tables_in_years AS t WHERE t.name = parent;
    prefix text := t.prefix FROM tables_in_years AS t WHERE t.name = parent;
    range text := format('%1$I >= %2$L AND %1$I < %3$L', key, first_of_year(prefix, year), first_of_year(prefix, year + 1));
    many boolean;
    definition text;
BEGIN
    IF has_year(parent, prefix, year) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT count(*) > $1 FROM (SELECT 1 FROM %I LIMIT $1 + 1) AS rows', rest) INTO many USING most;
    IF many THEN
        RETURN 'rows';
    END IF;
    IF to_regclass(quote_ident(partition)) IS NULL THEN
        EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', rest);
    END IF;
    IF has_year(parent, prefix, year) THEN
        RETURN NULL;
    ELSIF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN 'name';
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', rest);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %s RETURNING *) INSERT INTO %I SELECT * FROM moved', rest, range, partition);
    EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', rest);
    FOR definition IN SELECT pg_get_triggerdef(oid, true) FROM pg_trigger WHERE tgrelid = quote_ident(rest)::regclass AND NOT tgisinternal LOOP
        EXECUTE replace(definition, ' ON ' || rest, format(' ON %I', partition));
    END LOOP;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
        first_of_year(prefix, year), first_of_year(prefix, year + 1));
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Makes the partitions of a year and the next, and of those before that the default partition has rows of: a clock
-- was wrong then, or nobody made them in time. It returns the years that it left, by what kept them from being made.
-- +goose StatementBegin
CREATE FUNCTION make_years(parent text, this integer, most bigint, OUT by_rows integer[], OUT by_name integer[]) LANGUAGE plpgsql AS $$
DECLARE
    rest text := parent || '_default';
    key text := t.key FROM tables_in_years AS t WHERE t.name = parent;
    prefix text := t.prefix FROM tables_in_years AS t WHERE t.name = parent;
    first text COLLATE "C";
    wanted boolean;
BEGIN
    by_rows := '{}';
    by_name := '{}';
    EXECUTE format('SELECT min(%I) FROM %I', key, rest) INTO first;
    FOR year IN 2020 .. this + 1 LOOP
        wanted := year >= this;
        IF NOT wanted AND first < first_of_year(prefix, year + 1) THEN
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %1$I WHERE %2$I >= $1 AND %2$I < $2)', rest, key) INTO wanted
                USING first_of_year(prefix, year), first_of_year(prefix, year + 1);
        END IF;
        IF wanted THEN
            CASE make_year(parent, year, most)
                WHEN 'rows' THEN by_rows := by_rows || year;
                WHEN 'name' THEN by_name := by_name || year;
                ELSE
            END CASE;
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE PROCEDURE lay_in_years(parent text) LANGUAGE plpgsql AS $$
DECLARE
    year integer := extract(year FROM now() AT TIME ZONE 'UTC');
    old text := parent || '_' || year;
    key text := t.key FROM tables_in_years AS t WHERE t.name = parent;
    prefix text := t.prefix FROM tables_in_years AS t WHERE t.name = parent;
    first text COLLATE "C";
    statement text;
    statements text[];
BEGIN
    -- What the table has stays with it under its new name; the same is made for the new table of the old name.
    SELECT array_agg(pg_get_indexdef(indexrelid)) INTO statements FROM pg_index WHERE indrelid = quote_ident(parent)::regclass AND NOT indisprimary;
    statements := statements || (SELECT array_agg(pg_get_triggerdef(oid, true)) FROM pg_trigger WHERE tgrelid = quote_ident(parent)::regclass AND NOT tgisinternal);
    EXECUTE format('ALTER TABLE %I RENAME TO %I', parent, old);
    FOR statement IN SELECT format('ALTER INDEX %s RENAME TO %I', indexrelid::regclass, overlay(relname PLACING old FROM 1 FOR length(parent)))
            FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = quote_ident(old)::regclass LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE format('CREATE TABLE %1$I (LIKE %2$I INCLUDING ALL EXCLUDING INDEXES, PRIMARY KEY (%3$I)) PARTITION BY RANGE (%3$I)', parent, old, key);
    EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', parent || '_default', parent);
    FOREACH statement IN ARRAY coalesce(statements, '{}') LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN SELECT pg_get_triggerdef(oid, true) FROM pg_trigger WHERE tgrelid = quote_ident(parent)::regclass AND NOT tgisinternal LOOP
        EXECUTE replace(statement, ' ON ' || parent, format(' ON %I', parent || '_default'));
    END LOOP;
    -- A clock that was ahead left rows of later years.
    EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', old);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L RETURNING *) INSERT INTO %I SELECT * FROM moved', old, key, first_of_year(prefix, year + 1), parent || '_default');
    EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', old);
    EXECUTE format('SELECT min(%I) FROM %I', key, old) INTO first;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%L)', parent, old,
        CASE WHEN first < first_of_year(prefix, year) THEN 'MINVALUE' ELSE quote_literal(first_of_year(prefix, year)) END, first_of_year(prefix, year + 1));
    PERFORM make_years(parent, year, NULL);
END
$$;
-- +goose StatementEnd

CALL lay_in_years('evidence');
CALL lay_in_years('decisions');
CALL lay_in_years('audit');
CALL lay_in_years('audit_personal');
DROP PROCEDURE lay_in_years;
