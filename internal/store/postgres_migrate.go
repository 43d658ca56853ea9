package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// OlderSchemaError: the database has to be migrated before this program can use it.
type OlderSchemaError struct {
	Found  int64 // the database's schema version, 0 for an empty one
	Needed int64
}

func (e *OlderSchemaError) Error() string {
	if e.Found == 0 {
		return "the database is empty: make its tables with assay migrate"
	}
	return fmt.Sprintf("the database has schema version %d, but this program needs %d: bring it up to date with assay migrate", e.Found, e.Needed)
}

// checkPostgresSchema refuses a database that this program cannot use. A newer schema will do as long as the
// newer programs say so: during an upgrade both run side by side.
func checkPostgresSchema(ctx context.Context, d *postgresDB, schema fs.FS) error {
	newest, err := newestVersion(schema)
	if err != nil {
		return err
	}
	found, oldest, err := postgresVersion(ctx, d)
	switch {
	case err != nil:
		return err
	case found < newest:
		return &OlderSchemaError{Found: found, Needed: newest}
	case oldest > newest:
		return &NewerSchemaError{Found: found, Supported: newest}
	}
	return nil
}

// postgresVersion is a database's schema version, 0 for an empty one, and the oldest version whose programs
// may use it. It refuses another program's database. The table of versions alone is an empty one: it is made
// before the others, by whoever is migrating at this moment.
func postgresVersion(ctx context.Context, q interface {
	row(ctx context.Context, query string, args ...any) scanner
}) (found, oldest int64, err error) {
	var ours, others bool
	err = q.row(ctx, `SELECT to_regclass('schema_compatibility') IS NOT NULL AND to_regclass('goose_db_version') IS NOT NULL,
			EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
				AND relname <> 'goose_db_version')`).Scan(&ours, &others)
	if err != nil {
		return 0, 0, fmt.Errorf("look for tables: %w", err)
	}
	if !ours {
		if others {
			return 0, 0, errors.New("not an Assay database: it has other tables")
		}
		return 0, 0, nil
	}
	err = q.row(ctx, `SELECT (SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied), (SELECT max(oldest) FROM schema_compatibility)`).Scan(&found, &oldest)
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	return found, oldest, nil
}

// Migration is what Migrate did, or would do.
type Migration struct {
	From, To int64    // schema versions; the same if there was nothing to do
	Steps    []string // the files of the migrations, in order
	Notes    []string // what to know of a step before it is taken
	Years    []Year   // the tables that lie in partitions by year, as they are now; none before they do
}

// Migrate brings the schema of a PostgreSQL database up to date, and the partitions by year, however many rows have
// to be moved; dry says only what it would do. Servers of
// the version before may be using it meanwhile; of several calls at once one does the work. It refuses
// another program's database, and one whose schema is newer (*NewerSchemaError).
func Migrate(ctx context.Context, location string, dry bool) (Migration, error) {
	m, err := migratePostgres(ctx, location, postgresSchema, dry)
	if err != nil {
		return Migration{}, fmt.Errorf("migrate database %s: %w", Redacted(location), err)
	}
	return m, nil
}

func migratePostgres(ctx context.Context, location string, schema fs.FS, dry bool) (m Migration, err error) {
	d, err := connectPostgres(ctx, location, newMetrics(), time.Now)
	if err != nil {
		return m, err
	}
	defer d.pool.Close()
	db := stdlib.OpenDBFromPool(d.pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return m, err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, schema, goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return m, fmt.Errorf("read migrations: %w", err)
	}
	sources := provider.ListSources()
	m.To = sources[len(sources)-1].Version
	m.From, _, err = postgresVersion(ctx, d)
	switch {
	case err != nil:
		return m, err
	case m.From > m.To:
		return m, &NewerSchemaError{Found: m.From, Supported: m.To}
	}
	for _, s := range sources {
		if s.Version > m.From {
			m.Steps = append(m.Steps, s.Path)
		}
	}
	if m.Notes, err = notes(ctx, d, m.From); err != nil {
		return m, err
	}
	if !dry && len(m.Steps) > 0 {
		if _, err := provider.Up(ctx); err != nil {
			return m, fmt.Errorf("from version %d to %d: %w", m.From, m.To, quieter(err))
		}
	}
	if !dry && m.To >= yearsSince {
		if err := d.makeYears(ctx, changeByRow|changeOffline, time.Now(), nil); err != nil {
			return m, err
		}
	}
	m.Years, err = d.years(ctx)
	return m, err
}

// quieter says what to do where a lock was not to be had in time.
func quieter(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" {
		return fmt.Errorf("somebody uses a table for longer than this waits, and nothing was done: try again in a quieter moment: %w", err)
	}
	return err
}

// notes are what to know before a database that is at a version is migrated.
func notes(ctx context.Context, d *postgresDB, from int64) (notes []string, err error) {
	if from > 0 && from < yearsSince {
		var bytes int64
		err = d.row(ctx, `SELECT sum(pg_relation_size(oid))::bigint FROM pg_class
			WHERE relnamespace = current_schema()::regnamespace AND relname IN ('evidence', 'decisions', 'audit', 'audit_personal', 'certificates')`).Scan(&bytes)
		notes = append(notes, fmt.Sprintf("00007_years.sql reads %d MB of tables in one transaction, to make indexes and to lay evidence, decisions, audit and audit_personal into partitions by year; requests wait until it is done. No row is written anew: those that are there stay one partition, of this year and all before.", bytes>>20))
	}
	return notes, err
}
