package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Snapshot is what a copy of a database holds.
type Snapshot struct {
	Schema     int64            // its schema version
	Rows       map[string]int64 // by table
	IssuerKeys []string         // URIs of the keys of its issuing CAs
}

// TakeSnapshot copies the database at a location (a path, or the URL of a PostgreSQL database), as it is at one
// moment, into a SQLite file that does not exist or is empty. It works beside servers, whose changes go on
// meanwhile, and never migrates the database. A PostgreSQL database must have the newest schema that this
// program knows.
func TakeSnapshot(ctx context.Context, location, into string) error {
	if IsPostgres(location) {
		if _, err := Copy(ctx, location, into, nil); err != nil {
			return err
		}
		return setJournal(ctx, into, "DELETE")
	}
	err := withDatabase(location, func(db *sql.DB) error {
		if _, err := schemaVersion(ctx, db); err != nil {
			return err
		}
		_, err := db.ExecContext(ctx, "VACUUM INTO "+quoteText(into))
		return err
	})
	if err != nil {
		return fmt.Errorf("copy database %s: %w", location, err)
	}
	return nil
}

// Describe reads what the database at path holds, and changes nothing. It refuses a database that is
// damaged, that another program made, or that a newer Assay wrote (*NewerSchemaError).
func Describe(ctx context.Context, path string) (s Snapshot, err error) {
	err = withDatabase(path, func(db *sql.DB) error {
		s, err = describe(ctx, db)
		return err
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("look into database %s: %w", path, err)
	}
	return s, nil
}

func describe(ctx context.Context, db *sql.DB) (Snapshot, error) {
	s := Snapshot{Rows: map[string]int64{}}
	var err error
	if s.Schema, err = schemaVersion(ctx, db); err != nil {
		return s, err
	}
	newest, err := newestVersion(sqliteSchema)
	if err != nil {
		return s, err
	}
	if s.Schema > newest {
		return s, &NewerSchemaError{Found: s.Schema, Supported: newest}
	}
	var word string
	if err := db.QueryRowContext(ctx, `SELECT quick_check FROM pragma_quick_check LIMIT 1`).Scan(&word); err != nil {
		return s, err
	}
	if word != "ok" {
		return s, fmt.Errorf("it is damaged: %s", word)
	}
	tables, err := texts(ctx, db, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`)
	if err != nil {
		return s, err
	}
	for _, table := range tables {
		var n int64
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
			return s, fmt.Errorf("count %s: %w", table, err)
		}
		s.Rows[table] = n
	}
	if _, has := s.Rows["issuers"]; !has {
		return s, errors.New("it has no tables: was its first migration cut off?")
	}
	s.IssuerKeys, err = texts(ctx, db, `SELECT DISTINCT key FROM issuers ORDER BY key`)
	return s, err
}

// withDatabase opens the file at path, which must exist, for one piece of work.
func withDatabase(path string, work func(*sql.DB) error) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil { // SQLite would make it
		return err
	}
	db, err := openPool(dsn(path), 1)
	if err != nil {
		return err
	}
	return errors.Join(work(db), db.Close())
}

// texts reads a column.
func texts(ctx context.Context, db *sql.DB, query string) (all []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// Enliven makes a copy that TakeSnapshot made ready to be opened: copies are not in WAL mode.
func Enliven(ctx context.Context, path string) error { return setJournal(ctx, path, "WAL") }

// setJournal sets how the database at path keeps its changes; none is under way.
func setJournal(ctx context.Context, path, mode string) error {
	err := withDatabase(path, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "PRAGMA journal_mode="+mode)
		return err
	})
	if err != nil {
		return fmt.Errorf("prepare database %s: %w", path, err)
	}
	return nil
}
