package store_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"assay/internal/counterpart"
	"assay/internal/issuance"
	"assay/internal/pgcluster"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

func TestPostgres(t *testing.T) {
	cluster := newPostgres(t)
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := openAt(t, cluster.database(t))
		checkWhole(t, s)
		return s
	})
}

// postgres is a PostgreSQL server whose databases are Assay's, and empty.
type postgres struct {
	*pgcluster.Cluster
}

func newPostgres(t testing.TB, settings ...string) *postgres {
	t.Helper()
	c := counterpart.Postgres(t, settings...)
	url, err := c.CreateDatabase(t.Context(), "template", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), url, false); err != nil {
		t.Fatal(err)
	}
	return &postgres{c}
}

// database is the URL of a new database.
func (p *postgres) database(t testing.TB) string {
	t.Helper()
	return counterpart.Database(t, p.Cluster, "template")
}

// run runs statements past the program.
func (p *postgres) run(t testing.TB, url string, statements ...string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range statements {
		if _, err = conn.Exec(t.Context(), text); err != nil {
			break
		}
	}
	return errors.Join(err, conn.Close(t.Context()))
}

// TestARowThatIsMissedUndoesTheChange: also where that comes to light with the commit.
func TestARowThatIsMissedUndoesTheChange(t *testing.T) {
	for name, location := range map[string]string{"SQLite": filepath.Join(t.TempDir(), "assay.db"), "PostgreSQL": newPostgres(t).database(t)} {
		s := openAt(t, location)
		missed := errors.New("missed")
		if err := s.MissARow(t.Context(), missed); !errors.Is(err, missed) {
			t.Errorf("%s: error %v", name, err)
		}
		if n := s.Retries(); n > 0 {
			t.Errorf("%s: tried again %v times", name, n)
		}
		if _, err := s.Account(t.Context(), "account_missed"); !errors.Is(err, issuance.ErrNotFound) {
			t.Errorf("%s: what was written before is there: %v", name, err)
		}
	}
}

// numbers are the rows of a query for a name and a number.
func (p *postgres) numbers(t testing.TB, url, query string) map[string]int {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]int{}
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error { numbers[name] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return numbers
}

func TestOpenRefusesADatabaseThatItCannotUse(t *testing.T) {
	p := newPostgres(t)
	open := func(url string) error {
		s, err := store.Open(t.Context(), url, store.Options{Key: testKey})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	empty, foreign, newer, secret := counterpart.Database(t, p.Cluster, ""), counterpart.Database(t, p.Cluster, ""), p.database(t), p.URL("nowhere")
	if older, is := errors.AsType[*store.OlderSchemaError](open(empty)); !is || older.Found != 0 {
		t.Errorf("empty: %v", open(empty))
	}
	if err := p.run(t, foreign, `CREATE TABLE things (id integer)`); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"opened": open(foreign), "migrated": migrateError(t, foreign)} {
		if err == nil || !strings.Contains(err.Error(), "not an Assay database") {
			t.Errorf("another program's database is %s: %v", what, err)
		}
	}
	// A newer program's schema will do, until that says otherwise.
	if err := p.run(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, true)`); err != nil {
		t.Fatal(err)
	}
	if err := open(newer); err != nil {
		t.Errorf("a newer schema that older programs may use: %v", err)
	}
	if err := p.run(t, newer, `UPDATE schema_compatibility SET oldest = 1000`); err != nil {
		t.Fatal(err)
	}
	if refused, is := errors.AsType[*store.NewerSchemaError](open(newer)); !is || refused.Found != 1000 {
		t.Errorf("a newer schema: %v", open(newer))
	}
	if refused, is := errors.AsType[*store.NewerSchemaError](migrateError(t, newer)); !is || refused.Found != 1000 {
		t.Errorf("a newer schema migrates: %v", migrateError(t, newer))
	}
	withPassword := strings.Replace(secret, "assay@", "assay:hunter2@", 1)
	if err := open(withPassword); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("an error with a password: %v", err)
	}
}

func migrateError(t *testing.T, url string) error {
	_, err := store.Migrate(t.Context(), url, false)
	return err
}

func TestMigrateIsDoneOnceHoweverManyAsk(t *testing.T) {
	p := newPostgres(t)
	url := counterpart.Database(t, p.Cluster, "")
	newest, err := store.SupportedSchema()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := store.Migrate(t.Context(), url, true); err != nil || m.From != 0 || m.To != newest || len(m.Steps) == 0 {
		t.Errorf("would migrate: %+v, %v", m, err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := store.Migrate(t.Context(), url, false); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if m, err := store.Migrate(t.Context(), url, true); err != nil || len(m.Steps) != 0 || m.From != newest {
		t.Errorf("migrated: %+v, %v", m, err)
	}
	openAt(t, url)
}

// TestBothEnginesKnowTheSameNewestSchema: a migration is written for both.
func TestBothEnginesKnowTheSameNewestSchema(t *testing.T) {
	lite, err := store.NewestVersion("sqlite")
	if err != nil {
		t.Fatal(err)
	}
	if post, err := store.NewestVersion("postgres"); err != nil || post != lite {
		t.Errorf("SQLite is at schema %d, PostgreSQL at %d, %v", lite, post, err)
	}
}

func TestTrailCannotBeChangedByStatements(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	b.Issued()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	if _, err := s.SealAudit(t.Context(), b.Now, key); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`UPDATE audit SET failed = 'x'`, `DELETE FROM audit`, `TRUNCATE audit CASCADE`, `UPDATE audit_personal SET "values" = '{}'`,
		`UPDATE audit_places SET leaf = leaf`, `DELETE FROM audit_places`, `UPDATE audit_seals SET sealed_at = 0`, `DELETE FROM audit_seals`,
	} {
		if err := p.run(t, url, statement); err == nil || !strings.Contains(err.Error(), "never done") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if faults, seals := check(t, s, key); len(faults) != 0 || len(seals) != 1 {
		t.Errorf("faults %+v, %d seals", faults, len(seals))
	}
}
