package store_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/counterpart"
	"assay/internal/integrity"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"

	"github.com/jackc/pgx/v5"
)

const grown = "evidence decisions audit audit_personal"

// rowsIn are how many rows each partition has, and each table in all.
func rowsIn(t *testing.T, p *postgres, url string) map[string]int {
	t.Helper()
	return p.numbers(t, url, `SELECT name, (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I', name), false, true, '')))[1]::text::int
		FROM (SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
			AND relname SIMILAR TO '(evidence|decisions|audit|audit_personal)(_default|_[0-9]{4})?') AS t`)
}

// wantUntouchable checks that no statement changes or deletes what is in the audit's partitions.
func wantUntouchable(t *testing.T, p *postgres, url string) {
	t.Helper()
	checked := 0
	for name := range rowsIn(t, p, url) {
		var statements []string
		switch {
		case strings.HasPrefix(name, "audit_personal"):
			statements = []string{`UPDATE %s SET "values" = ''`}
		case strings.HasPrefix(name, "audit"):
			statements = []string{`UPDATE %s SET detail = ''`, `DELETE FROM %s`, `TRUNCATE %s`}
		}
		for _, text := range statements {
			checked++
			if err := p.run(t, url, fmt.Sprintf(text, name)); err == nil || !strings.Contains(err.Error(), "is never done") {
				t.Errorf(text+": %v", name, err)
			}
		}
	}
	if checked < 12 {
		t.Errorf("%d statements were tried", checked)
	}
}

func wantSealed(t *testing.T, s *store.Store, b *storetest.Bench) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // that checkWhole knows, too
	if _, err := s.SealAudit(t.Context(), b.Now, key); err != nil {
		t.Fatal(err)
	}
	faults, seals, err := s.CheckSeals(t.Context(), key.Public().(ed25519.PublicKey), 0, 100)
	if err != nil || len(faults) > 0 || len(seals) == 0 {
		t.Errorf("%d seals with faults %v, %v", len(seals), faults, err)
	}
	if unsealed, faults, err := s.CheckUnsealed(t.Context()); err != nil || unsealed != 0 || len(faults) > 0 {
		t.Errorf("%d audit rows are not sealed, faults %v, %v", unsealed, faults, err)
	}
}

func TestYearsAreToldByIds(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	for _, year := range []int{1970, 2020, 2026, 2027, 2100, 9999} {
		from := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		for prefix, want := range map[string]string{
			"evid_": issuance.FirstID[issuance.EvidenceID](from), "dec_": issuance.FirstID[issuance.DecisionID](from), "audit_": issuance.FirstID[issuance.AuditID](from),
		} {
			found := p.numbers(t, url, fmt.Sprintf(`SELECT first_of_year('%s', %d), count(*)::int FROM tables_in_years WHERE prefix = '%[1]s'`, prefix, year))
			if found[want] < 1 {
				t.Errorf("%d: %v, want %s", year, found, want)
			}
		}
	}
}

// beforeYears is a database of the last schema without partitions, and a store that works on it.
func beforeYears(t *testing.T, p *postgres) (url string, old *store.Store) {
	t.Helper()
	url = counterpart.Database(t, p.Cluster, "")
	old, err := store.OpenOlder(t.Context(), url, 6, store.Options{Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	return url, old
}

func TestOlderDatabaseIsLaidIntoYears(t *testing.T) {
	p := newPostgres(t)
	url, old := beforeYears(t, p)
	b := storetest.NewBench(t, old)
	this := time.Now().UTC().Year()
	for _, year := range []int{this - 2, this, this + 4} { // at last a clock that was wrong
		b.Now = time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
		b.Account = b.NewAccount()
		b.Issued()
	}
	wantSealed(t, old, b)

	// A name that is taken: nothing is done, and nothing lost.
	if err := p.run(t, url, `CREATE TABLE audit_personal_default ()`); err != nil {
		t.Fatal(err)
	}
	if err := migrateError(t, url); err == nil {
		t.Error("migrated over a table that is in the way")
	}
	if err := p.run(t, url, `DROP TABLE audit_personal_default`); err != nil {
		t.Fatal(err)
	}
	b.Issued()
	dry, err := store.Migrate(t.Context(), url, true)
	if err != nil || dry.From != 6 || len(dry.Notes) != 1 || len(dry.Years) != 0 {
		t.Errorf("would migrate: %+v, %v", dry, err)
	}
	before := rowsIn(t, p, url)
	done, err := store.Migrate(t.Context(), url, false)
	if err != nil || len(done.Years) != 3*4 {
		t.Fatalf("migrated: %+v, %v", done, err)
	}
	after := rowsIn(t, p, url)
	for _, table := range strings.Fields(grown) {
		present, next, rest := after[fmt.Sprintf("%s_%d", table, this)], after[fmt.Sprintf("%s_%d", table, this+1)], after[table+"_default"]
		if after[table] != before[table] || present == 0 || next != 0 || rest == 0 || present+rest != before[table] {
			t.Errorf("%s: %d rows before; %d now: %d of this year and before, %d of the next, %d of none", table, before[table], after[table], present, next, rest)
		}
	}
	for _, y := range done.Years {
		if want := y.Year == fmt.Sprint(this); (y.Since == "all before") != want || y.Bytes == 0 {
			t.Errorf("partition %+v", y)
		}
	}
	wantUntouchable(t, p, url)

	// A server of the version before goes on, beside one of this.
	b.Now = time.Date(this, 8, 1, 0, 0, 0, 0, time.UTC)
	b.Issued()
	wantSealed(t, old, b)
	s := openAt(t, url)
	wantSealed(t, s, b)
	checkWhole(t, s)
}

func TestYearsComeToBe(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	year := time.Now().UTC().Year() + 5
	in := func(table string, after int) string { return fmt.Sprintf("%s_%d", table, year+after) }
	b.Now = time.Date(year, 12, 31, 23, 59, 0, 0, time.UTC)
	b.Account = b.NewAccount()
	c := b.Issued() // nobody made that year
	wantSealed(t, s, b)
	if rows := rowsIn(t, p, url); rows["audit_default"] == 0 || rows["evidence_default"] != 1 || rows["decisions_default"] != 1 {
		t.Fatalf("rows %v", rows)
	}
	if err := s.MakeYearsOf(t.Context(), b.Now, 0); err == nil || !strings.Contains(err.Error(), "assay migrate") {
		t.Errorf("too many rows to move: error %v", err)
	}
	if _, made := rowsIn(t, p, url)[in("audit", 1)]; made { // to attach it reads them all
		t.Error("the next year was made beside too many rows")
	}
	b.Now = b.Now.Add(time.Hour)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for range 5 {
				other := *b
				other.Issued() // in the next year, which has no partition at first
			}
		})
	}
	if err := s.MakeYears(t.Context(), b.Now); err != nil {
		t.Error(err)
	}
	all.Wait()
	if err := s.MakeYears(t.Context(), b.Now); err != nil {
		t.Error(err)
	}
	var sizes []string
	for _, y := range figures(t, s).Years {
		if y.Bytes > 0 {
			sizes = append(sizes, y.Table+"_"+y.Year)
		}
	}
	if len(sizes) < 4*6 || !slices.Contains(sizes, in("audit", 0)) || !slices.Contains(sizes, "audit_default") {
		t.Errorf("sizes of %v", sizes)
	}
	rows := rowsIn(t, p, url)
	for _, table := range []string{"evidence", "decisions"} {
		if rows[table] != 16 || rows[in(table, 0)] != 1 || rows[in(table, 1)] != 15 || rows[table+"_default"] != 0 {
			t.Errorf("%s: %v", table, rows)
		}
	}
	if _, made := rows[in("audit", 2)]; !made || rows["audit_default"] != 0 || rows["audit"] == 0 {
		t.Errorf("rows %v", rows)
	}
	wantSealed(t, s, b)
	wantUntouchable(t, p, url)
	if e, err := s.Evidence(t.Context(), c.Evidence); err != nil || e.Order != c.Order {
		t.Errorf("evidence %+v, %v", e, err)
	}
}

// A clock that is years behind: the partition of the migration has those.
func TestYearThatAPartitionHasIsNotMadeAgain(t *testing.T) {
	p := newPostgres(t)
	url, old := beforeYears(t, p)
	b := storetest.NewBench(t, old)
	b.Now = time.Date(2022, 7, 1, 0, 0, 0, 0, time.UTC)
	b.Account = b.NewAccount()
	b.Issued()
	if _, err := store.Migrate(t.Context(), url, false); err != nil {
		t.Fatal(err)
	}
	before := rowsIn(t, p, url)
	if err := openAt(t, url).MakeYears(t.Context(), b.Now); err != nil {
		t.Error(err)
	}
	if after := rowsIn(t, p, url); !maps.Equal(before, after) {
		t.Errorf("rows %v, before %v", after, before)
	}
}

// A table that was detached and left where it was: its name is taken, and everything else goes on.
func TestDetachedTableIsNoPartition(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	year := time.Now().UTC().Year() + 1
	if err := p.run(t, url, fmt.Sprintf(`ALTER TABLE evidence DETACH PARTITION evidence_%d`, year)); err != nil {
		t.Fatal(err)
	}
	now := time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
	err := s.MakeYears(t.Context(), now)
	if want := fmt.Sprintf("another table is named evidence_%d", year); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	rows := rowsIn(t, p, url)
	for _, table := range strings.Fields(grown) {
		if _, made := rows[fmt.Sprintf("%s_%d", table, year+1)]; !made {
			t.Errorf("%s has no partition of the year after: %v", table, rows)
		}
	}
}

// What is removed by id while its row is moved to its year is removed there: the change waits before it looks.
func TestRowsThatAreBeingMovedAreChanged(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	year := time.Now().UTC().Year() + 5
	b.Now = time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
	b.Account = b.NewAccount()
	c := b.Issued()
	b.Now = b.Now.Add(time.Hour)
	forever := issuance.Keep{Object: issuance.Forever, Facts: issuance.Forever}
	r := issuance.Retention{Refused: forever, Held: forever} // what was issued leaves, by its id
	err := beside(t, url, []string{fmt.Sprintf(`SELECT make_year('evidence', %d, NULL)`, year)}, func() error {
		_, err := s.ApplyRetention(t.Context(), b.Now, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Evidence(t.Context(), c.Evidence); err != nil || e.Object != nil || e.Facts != nil {
		t.Errorf("evidence %+v, %v", e, err)
	}
}

// A migration that does not get its turn keeps nobody waiting, and says what to do.
func TestMigrationGivesUpBehindALongReader(t *testing.T) {
	p := newPostgres(t)
	url, _ := beforeYears(t, p)
	reader, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(t.Context())
	if _, err := reader.Exec(t.Context(), `BEGIN; SELECT count(*) FROM decisions`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = store.Migrate(ctx, url, false)
	if err == nil || !strings.Contains(err.Error(), "try again in a quieter moment") {
		t.Errorf("error %v", err)
	}
	if _, err := reader.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if done, err := store.Migrate(t.Context(), url, false); err != nil || done.From != 6 {
		t.Errorf("migrated afterwards: %+v, %v", done, err)
	}
}

func TestYearWaitsForRowsThatAreBeingWritten(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	at := time.Date(time.Now().UTC().Year()+5, 7, 1, 0, 0, 0, 0, time.UTC)
	row := fmt.Sprintf(`INSERT INTO evidence (id, order_id, received_at, kind, format, device_error, token, key_auth, facts_schema, failed)
		VALUES ('%s', 'order_1', 0, 'none', '', '', '', '', 0, '')`, issuance.FirstID[issuance.EvidenceID](at))
	if err := beside(t, url, []string{row}, func() error { return s.MakeYears(t.Context(), at) }); err != nil {
		t.Fatal(err)
	}
	if rows := rowsIn(t, p, url); rows[fmt.Sprintf("evidence_%d", at.Year())] != 1 {
		t.Errorf("rows %v", rows)
	}
}

func TestCopyLaysRowsIntoTheirYears(t *testing.T) {
	p := newPostgres(t)
	path := filepath.Join(t.TempDir(), "assay.db")
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	for _, year := range []int{2023, 2025} {
		b.Now = time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
		b.Account = b.NewAccount()
		b.Issued()
	}
	url := p.database(t)
	if _, err := store.Copy(t.Context(), path, url, nil); err != nil {
		t.Fatal(err)
	}
	rows := rowsIn(t, p, url)
	if rows["evidence_2023"] != 1 || rows["evidence_2025"] != 1 || rows["audit_2023"] == 0 || rows["audit_default"] != 0 {
		t.Errorf("rows %v", rows)
	}
	wantUntouchable(t, p, url)
}

func TestDetachedYearIsNoFault(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	var last issuance.Certificate
	for _, year := range []int{2024, 2025, 2026} {
		b.Now = time.Date(year, 7, 1, 0, 0, 0, 0, time.UTC)
		if err := s.MakeYears(t.Context(), b.Now); err != nil {
			t.Fatal(err)
		}
		b.Account = b.NewAccount()
		last = b.Issued()
	}
	wantSealed(t, s, b)
	checked := func() (faults []integrity.Fault, counts integrity.Counts) {
		t.Helper()
		counts, err := integrity.Check(t.Context(), s, integrity.Options{
			Now: func() time.Time { return b.Now }, AuditKey: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey),
			Found: func(f integrity.Fault) {
				if !slices.Contains(signed, f.Rule) {
					faults = append(faults, f)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return faults, counts
	}
	if faults, counts := checked(); len(faults) != 0 || counts.PutAway != 0 {
		t.Errorf("faults %v, %d put away", faults, counts.PutAway)
	}
	if err := p.run(t, url, `ALTER TABLE evidence DETACH PARTITION evidence_2024`, `ALTER TABLE decisions DETACH PARTITION decisions_2024`); err != nil {
		t.Fatal(err)
	}
	if faults, counts := checked(); len(faults) != 0 || counts.PutAway != 2 {
		t.Errorf("faults %v, %d put away", faults, counts.PutAway)
	}
	// As the manual has it: out of the way of a copy, and back again.
	if err := p.run(t, url, `CREATE SCHEMA archive`, `ALTER TABLE evidence_2024 SET SCHEMA archive`, `ALTER TABLE decisions_2024 SET SCHEMA archive`); err != nil {
		t.Fatal(err)
	}
	if copied, err := store.Copy(t.Context(), url, newPath(t), nil); err != nil || copied.Rows["evidence"] != 2 {
		t.Errorf("copied %+v, %v", copied, err)
	}
	for table, prefix := range map[string]string{"evidence": "evid_", "decisions": "dec_"} {
		err := p.run(t, url, fmt.Sprintf(`ALTER TABLE archive.%s_2024 SET SCHEMA public`, table), fmt.Sprintf(`DO $$ BEGIN EXECUTE (
			SELECT format('ALTER TABLE %[1]s ATTACH PARTITION %[1]s_2024 FOR VALUES FROM (%%L) TO (%%L)', first_of_year('%[2]s', 2024), first_of_year('%[2]s', 2025))); END $$`, table, prefix))
		if err != nil {
			t.Error(err)
		}
	}
	if faults, counts := checked(); len(faults) != 0 || counts.PutAway != 0 {
		t.Errorf("attached again: faults %v, %d put away", faults, counts.PutAway)
	}
	// What is missing from a year that is there was lost.
	if err := p.run(t, url, fmt.Sprintf(`DELETE FROM evidence WHERE id = '%s'`, last.Evidence)); err != nil {
		t.Fatal(err)
	}
	if faults, _ := checked(); len(faults) != 2 { // of its certificate and of its order
		t.Errorf("faults %v", faults)
	}
}
