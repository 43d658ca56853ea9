package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/internal/counterpart"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// TestCopy runs all tests of copies on one PostgreSQL server.
func TestCopy(t *testing.T) {
	p := newPostgres(t)
	for name, test := range map[string]func(*testing.T, *postgres){
		"CopyKeepsEveryValueOnEveryWay":      testCopyKeepsEveryValueOnEveryWay,
		"CopyRefusesADatabaseWithRows":       testCopyRefusesADatabaseWithRows,
		"CopyRefusesAnotherSchema":           testCopyRefusesAnotherSchema,
		"CopyFindsABentRow":                  testCopyFindsABentRow,
		"InterruptedCopyLeavesNothing":       testInterruptedCopyLeavesNothing,
		"CopyIsOfOneMomentAndKeepsOthersOut": testCopyIsOfOneMomentAndKeepsOthersOut,
		"BothEnginesHaveTheSameTables":       testBothEnginesHaveTheSameTables,
		"PostgresSnapshotIsAFileAsEver":      testPostgresSnapshotIsAFileAsEver,
	} {
		t.Run(name, func(t *testing.T) { test(t, p) })
	}
}

// filled is a database in which many things happened, and some values that are easily lost.
func filled(t *testing.T, location string) string {
	t.Helper()
	s := openAt(t, location)
	b := storetest.NewBench(t, s)
	for n := range 2 {
		b.Issued()
		b.Rendered(b.Rendering(fmt.Sprint("SER", n), "wifi"))
		_, value := b.Mint(storetest.WithDocument(fmt.Sprint("path", n)), func(m *issuance.Mint) { m.Labels = map[string]string{"owner": "Zoë 🙂\n\t\\N \"x\""} })
		b.Ready(value)
	}
	if _, err := s.AddNonceKey(t.Context(), b.Now, 1, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if err := s.SpendNonce(t.Context(), b.Call().Nonce); err != nil {
		t.Fatal(err)
	}
	for n, text := range []string{
		`INSERT INTO policies (sha256, name, text, created_at) VALUES ('` + strings.Repeat("0", 64) + `', '', '', -9223372036854775808)`,
		`INSERT INTO policies (sha256, name, text, created_at) VALUES ('` + strings.Repeat("1", 64) + `', ' ', 'é — 𝄞', 9223372036854775807)`,
		`INSERT INTO policy_uses (directory, since, policy) VALUES ('default', 1, '` + strings.Repeat("1", 64) + `')`,
		`INSERT INTO issuers (id, name, chain, key, active, created_at) VALUES ('issuer_crl', 'CA', '[]', 'file:k', 0, 1)`,
		`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale) VALUES ('issuer_crl', 0, 0, ` + blob(location, "") + `, 0, 0, 1)`,
		`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale) VALUES ('issuer_crl', 10, 1, ` + blob(location, "00ff000a5c") + `, 0, 0, 1)`,
		`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale) VALUES ('issuer_crl', 9, 1, ` + blob(location, "00") + `, 0, 0, 1)`,
		`INSERT INTO leases (name, holder, expires_at) VALUES ('seal', 'somebody', 5)`,
		`INSERT INTO audit (id, time, action, outcome, directory, failed, detail) VALUES ('issuer_crl made', 1, 'x', 'done', '', '', '')`,
	} {
		if err := execute(t, location, text); err != nil {
			t.Fatalf("%d: %v", n, err)
		}
	}
	return location
}

func blob(location, hex string) string {
	if store.IsPostgres(location) {
		return `'\x` + hex + `'::bytea`
	}
	return "x'" + hex + "'"
}

// execute runs statements on a database without the store.
func execute(t testing.TB, location string, statements ...string) (err error) {
	t.Helper()
	if store.IsPostgres(location) {
		c, err := pgx.Connect(t.Context(), location)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.WithoutCancel(t.Context()))
		for _, s := range statements {
			if _, err := c.Exec(t.Context(), s); err != nil {
				return err
			}
		}
		return nil
	}
	db, err := sql.Open("sqlite", location)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			return err
		}
	}
	return nil
}

func copied(t *testing.T, from, to string) store.Copied {
	t.Helper()
	c, err := store.Copy(t.Context(), from, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testCopyKeepsEveryValueOnEveryWay(t *testing.T, p *postgres) {
	ways := map[string]struct{ from, to string }{
		"SQLiteToPostgres":   {newPath(t), p.database(t)},
		"PostgresToSQLite":   {p.database(t), newPath(t)},
		"SQLiteToSQLite":     {newPath(t), newPath(t)},
		"PostgresToPostgres": {p.database(t), p.database(t)},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			c := copied(t, filled(t, way.from), way.to)
			for _, table := range []string{"accounts", "audit", "audit_personal", "certificates", "codes", "crls", "decisions", "device_credentials", "devices", "documents", "evidence", "issuers", "leases", "nonce_keys", "nonces", "orders", "policies", "policy_uses"} {
				if c.Rows[table] == 0 {
					t.Errorf("no row of %s was copied: the test shows little", table)
				}
			}
			// Independent of what Copy itself compares: what each engine writes a value as.
			if diff := cmp.Diff(dump(t, way.from, c), dump(t, way.to, c)); diff != "" {
				t.Errorf("rows (-original +copy):\n%s", diff)
			}
			b := storetest.NewBench(t, openAt(t, way.to)) // and it works
			b.Issued()
		})
	}
}

// dump reads every row as a line that tells NULL, texts and bytes from each other, made by the database itself.
func dump(t *testing.T, location string, c store.Copied) map[string][]string {
	t.Helper()
	if store.IsPostgres(location) {
		return dumpPostgres(t, location, c)
	}
	all := map[string][]string{}
	db, err := sql.Open("sqlite", location)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for table := range c.Rows {
		columns := texts(t, db, `SELECT name FROM pragma_table_info('`+table+`') ORDER BY name`)
		expression := "''"
		for _, column := range columns {
			expression += ` || '` + column + `=' || CASE typeof("` + column + `") WHEN 'null' THEN 'NULL' WHEN 'blob' THEN 'x' || lower(hex("` + column + `")) WHEN 'text' THEN 't' || lower(hex("` + column + `")) ELSE 'i' || "` + column + `" END || ' '`
		}
		all[table] = texts(t, db, `SELECT `+expression+` AS line FROM "`+table+`" ORDER BY line`)
	}
	return all
}

func texts(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	all := []string{}
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func dumpPostgres(t *testing.T, location string, c store.Copied) map[string][]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	list := func(query string) []string {
		rows, err := conn.Query(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := map[string][]string{}
	for table := range c.Rows {
		expression := "''"
		for _, column := range list(`SELECT column_name || ' ' || data_type FROM information_schema.columns WHERE table_name = '` + table + `' ORDER BY column_name COLLATE "C"`) {
			name, kind, _ := strings.Cut(column, " ")
			form := map[string]string{"text": `'t' || encode(convert_to("%s", 'UTF8'), 'hex')`, "bytea": `'x' || encode("%s", 'hex')`, "bigint": `'i' || "%s"`}[kind]
			expression += ` || '` + name + `=' || coalesce(` + fmt.Sprintf(form, name) + `, 'NULL') || ' '`
		}
		all[table] = list(`SELECT (` + expression + `) COLLATE "C" AS line FROM "` + table + `" ORDER BY line`)
	}
	return all
}

func testCopyRefusesADatabaseWithRows(t *testing.T, p *postgres) {
	from := filled(t, newPath(t))
	for _, to := range []string{p.database(t), newPath(t)} {
		s := openAt(t, to)
		if _, err := s.AddIssuer(t.Context(), issuance.Call{Now: storetest.Start}, issuance.Issuer{Name: "theirs", Chain: [][]byte{{1}}}); err != nil {
			t.Fatal(err)
		}
		_, err := store.Copy(t.Context(), from, to, nil)
		if _, is := errors.AsType[*store.NotEmptyError](err); !is {
			t.Errorf("error %v", err)
		}
		if err := store.Vacant(t.Context(), to); err == nil {
			t.Error("a database with rows counts as empty")
		}
		if issuers, err := s.Issuers(t.Context()); err != nil || len(issuers) != 1 || issuers[0].Name != "theirs" {
			t.Errorf("issuers %v, error %v", issuers, err)
		}
	}
	if _, err := store.Copy(t.Context(), from, from, nil); err == nil {
		t.Error("a database was copied into itself")
	}
}

func testCopyRefusesAnotherSchema(t *testing.T, p *postgres) {
	from := filled(t, newPath(t))
	empty := counterpart.Database(t, p.Cluster, "")
	_, err := store.Copy(t.Context(), from, empty, nil)
	if older, is := errors.AsType[*store.OlderSchemaError](err); !is || older.Found != 0 || !strings.Contains(err.Error(), "assay migrate") {
		t.Errorf("into a database without tables: %v", err)
	}
	newer := p.database(t)
	if err := execute(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, true)`); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]string{{from, newer}, {newer, newPath(t)}} {
		_, err = store.Copy(t.Context(), way[0], way[1], nil)
		if _, is := errors.AsType[*store.NewerSchemaError](err); !is {
			t.Errorf("with a newer database: %v", err)
		}
	}
	older := filled(t, newPath(t))
	if err := execute(t, older, `DELETE FROM goose_db_version WHERE version_id > 5`); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]string{{older, p.database(t)}, {from, older}} {
		if _, err := store.Copy(t.Context(), way[0], way[1], nil); err == nil || !strings.Contains(err.Error(), "it has schema version 5") {
			t.Errorf("with an older file: %v", err)
		}
	}
	if copies, err := filepath.Glob(older + ".schema-*"); err != nil || len(copies) > 0 {
		t.Errorf("the older file was migrated: %v, %v", copies, err)
	}
	bent := p.database(t)
	if err := execute(t, bent, `ALTER TABLE leases ADD COLUMN note text`); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Copy(t.Context(), from, bent, nil); err == nil || !strings.Contains(err.Error(), "not the same tables and columns") {
		t.Errorf("into a database with another column: %v", err)
	}
	missing := newPath(t)
	if _, err := store.Copy(t.Context(), missing, p.database(t), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("from a file that does not exist: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made: %v", err)
	}
}

// TestCopyFindsABentRow lets the new database change, drop and add rows as they come.
func testCopyFindsABentRow(t *testing.T, p *postgres) {
	from := filled(t, newPath(t))
	for name, bend := range map[string]struct{ table, by string }{
		"a value of no bytes":     {"crls", `IF NEW.der = ''::bytea THEN NEW.der := '\x00'; END IF; RETURN NEW;`},
		"no value":                {"audit", `IF NEW.commitment IS NULL THEN NEW.commitment := ''; END IF; RETURN NEW;`},
		"a number":                {"crls", `IF NEW.shard = 9 THEN NEW.number := NEW.number + 1; END IF; RETURN NEW;`},
		"a row that is gone":      {"crls", `IF NEW.shard = 10 THEN RETURN NULL; END IF; RETURN NEW;`},
		"a row too many":          {"crls", `IF NEW.shard = 10 THEN INSERT INTO crls VALUES (NEW.issuer, 11, 0, '', 0, 0, 0, 0); END IF; RETURN NEW;`},
		"a row under another key": {"crls", `IF NEW.shard = 10 THEN NEW.shard := 8; END IF; RETURN NEW;`},
	} {
		to := p.database(t)
		err := execute(t, to, `CREATE FUNCTION bend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN `+bend.by+` END $$`,
			`CREATE TRIGGER bend BEFORE INSERT ON `+bend.table+` FOR EACH ROW EXECUTE FUNCTION bend()`)
		if err != nil {
			t.Fatal(err)
		}
		wantBent(t, name, bend.table, from, to)
	}
	to := newPath(t)
	openAt(t, to)
	if err := execute(t, to, `CREATE TRIGGER bend AFTER INSERT ON crls WHEN NEW.der = x'' BEGIN UPDATE crls SET der = x'00' WHERE issuer = NEW.issuer AND shard = NEW.shard; END`); err != nil {
		t.Fatal(err)
	}
	wantBent(t, "in a file", "crls", from, to)
}

func wantBent(t *testing.T, name, table, from, to string) {
	t.Helper()
	_, err := store.Copy(t.Context(), from, to, nil)
	if different, is := errors.AsType[*store.DifferentRowError](err); !is || different.Table != table {
		t.Errorf("%s: error %v", name, err)
	}
	if err := store.Vacant(t.Context(), to); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// many adds so many rows to a database file.
func many(t testing.TB, path string, n int) {
	t.Helper()
	openAt(t, path)
	err := execute(t, path, fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO audit (id, time, action, outcome, directory, failed, detail, commitment)
		SELECT 'audit_' || i, 1000 + i, 'code.minted', 'done', 'default', '', '{"n":"' || i || '"}', randomblob(32) FROM n`, n))
	if err != nil {
		t.Fatal(err)
	}
}

func testInterruptedCopyLeavesNothing(t *testing.T, p *postgres) {
	file := newPath(t)
	many(t, file, 2_500)
	database := p.database(t)
	copied(t, file, database)
	ends := map[string]func(t *testing.T, cancel func()){
		"cancelled": func(_ *testing.T, cancel func()) { cancel() },
		"cut off": func(t *testing.T, _ func()) {
			c, err := pgx.Connect(t.Context(), p.URL("postgres"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.WithoutCancel(t.Context()))
			if _, err := c.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'test%' AND xact_start IS NOT NULL`); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, end := range ends {
		for _, way := range []struct{ from, to string }{{file, p.database(t)}, {database, newPath(t)}} {
			for _, comparing := range []bool{false, true} {
				ctx, cancel := context.WithCancel(t.Context())
				ended := false
				_, err := store.Copy(ctx, way.from, way.to, func(at store.CopyProgress) {
					if at.Comparing == comparing && at.Done >= at.Total/2 && !ended {
						ended = true
						end(t, cancel)
					}
				})
				cancel()
				if err == nil || !ended || name == "cancelled" && !errors.Is(err, context.Canceled) {
					t.Errorf("%s (comparing: %v): error %v", name, comparing, err)
				}
				if err := store.Vacant(t.Context(), way.to); err != nil {
					t.Errorf("%s (comparing: %v): %v", name, comparing, err)
				}
			}
			if name != "cancelled" {
				continue
			}
			if c := copied(t, way.from, way.to); c.Rows["audit"] != 2_500 {
				t.Errorf("then %d rows were copied", c.Rows["audit"])
			}
		}
	}
}

func testCopyIsOfOneMomentAndKeepsOthersOut(t *testing.T, p *postgres) {
	file := filled(t, newPath(t))
	database := filled(t, p.database(t))
	for _, way := range []struct{ from, to string }{{file, p.database(t)}, {database, newPath(t)}} {
		original := openAt(t, way.from)
		wrote := 0
		c, err := store.Copy(t.Context(), way.from, way.to, func(at store.CopyProgress) {
			wrote++
			if store.IsPostgres(way.to) {
				err := execute(t, way.to, `SET lock_timeout = 100`, `INSERT INTO leases (name, holder, expires_at) VALUES ('other', 'another', 5)`)
				if err == nil || !strings.Contains(err.Error(), "lock timeout") {
					t.Errorf("another wrote to the new database: %v", err)
				}
			}
			if _, err := original.AddIssuer(t.Context(), issuance.Call{Now: storetest.Start}, issuance.Issuer{Name: "late", Chain: [][]byte{{1}}}); err != nil {
				t.Error(err)
			}
		})
		if err != nil || wrote < 2 {
			t.Fatalf("wrote %d times, error %v", wrote, err)
		}
		if issuers, err := openAt(t, way.to).Issuers(t.Context()); err != nil || int64(len(issuers)) != c.Rows["issuers"] || len(issuers) != 2 {
			t.Errorf("%d issuers, error %v", len(issuers), err)
		}
	}
}

// BenchmarkCopy measures rows copied and compared a second, of a database of 100,000 audit rows.
func BenchmarkCopy(b *testing.B) {
	p := newPostgres(b)
	const rows = 100_000
	file := newPath(b)
	many(b, file, rows)
	database := p.database(b)
	if _, err := store.Copy(b.Context(), file, database, nil); err != nil {
		b.Fatal(err)
	}
	for name, way := range map[string]struct {
		from string
		to   func(testing.TB) string
	}{"SQLiteToPostgres": {file, p.database}, "PostgresToSQLite": {database, newPath}} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				to := way.to(b)
				b.StartTimer()
				if _, err := store.Copy(b.Context(), way.from, to, nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func testBothEnginesHaveTheSameTables(t *testing.T, p *postgres) {
	file := newPath(t)
	openAt(t, file)
	sqlite, postgres, err := store.TablesOf(t.Context(), file, p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(sqlite) < 25 {
		t.Errorf("only %d tables", len(sqlite))
	}
	if diff := cmp.Diff(sqlite, postgres); diff != "" {
		t.Errorf("a migration changed one engine only (-SQLite +PostgreSQL):\n%s", diff)
	}
}

func testPostgresSnapshotIsAFileAsEver(t *testing.T, p *postgres) {
	from := filled(t, p.database(t))
	into := newPath(t)
	if err := os.WriteFile(into, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.TakeSnapshot(t.Context(), from, into); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(into + "*"); err != nil || len(files) != 1 {
		t.Errorf("files %v, error %v", files, err)
	}
	s, err := store.Describe(t.Context(), into)
	if err != nil || s.Rows["crls"] != 3 || len(s.IssuerKeys) == 0 {
		t.Errorf("snapshot %+v, error %v", s, err)
	}
	if files, err := filepath.Glob(into + "*"); err != nil || len(files) != 1 { // it is in no WAL mode
		t.Errorf("files %v, error %v", files, err)
	}
}
