package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
)

// applicationID marks a database as Assay's in its header: "ASAY".
const applicationID = 0x41534159

// NewerSchemaError: a newer Assay wrote the database.
type NewerSchemaError struct {
	Found     int64 // the database's schema version
	Supported int64 // the newest that this program knows
}

func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("database has schema version %d, but this program knows versions up to %d only: use the newer program, or the backup copy beside the database", e.Found, e.Supported)
}

// migrate makes or updates the database at path. Nothing is written to a database that is refused.
func migrate(ctx context.Context, path string, schema fs.FS) (err error) {
	if err := createFile(path); err != nil {
		return err
	}
	db, err := openPool(dsn(path, "synchronous(FULL)"), 2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, schema, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	sources := provider.ListSources()
	newest := sources[len(sources)-1].Version
	if found, err := schemaVersion(ctx, db); err == nil && found == newest {
		return nil
	}
	// Another process may be at it at this very moment: only one is at a time, and the next finds the
	// work done. SQLite's own locks do not cover the change to WAL.
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("wait for another migration: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	found, err := schemaVersion(ctx, db)
	switch {
	case err != nil:
		return err
	case found > newest:
		return &NewerSchemaError{Found: found, Supported: newest}
	case found == newest:
		return nil
	}
	if err := prepareFile(ctx, db, path, found); err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema from version %d to %d: %w", found, newest, err)
	}
	return nil
}

// lockFolder waits until no other process, and no other call, holds the folder. The lock falls with
// the process, and leaves no file.
func lockFolder(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.EINTR
	for err == unix.EINTR {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// createFile makes an empty file that only its owner can read, if there is none.
func createFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// schemaVersion is the database's schema version: 0 for a new one.
func schemaVersion(ctx context.Context, db interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (int64, error) {
	var id, tables int64
	err := db.QueryRowContext(ctx, `SELECT (SELECT application_id FROM pragma_application_id), (SELECT count(*) FROM sqlite_schema)`).Scan(&id, &tables)
	if err != nil {
		return 0, fmt.Errorf("read header: %w", err)
	}
	if id != applicationID {
		if id != 0 || tables != 0 {
			return 0, fmt.Errorf("not an Assay database: its application id is %#x, not %#x", id, applicationID)
		}
		return 0, nil
	}
	var version int64
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'goose_db_version'`).Scan(&version)
	if err != nil || version == 0 {
		return 0, err
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied = 1`).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}

// prepareFile marks a new database as Assay's, and copies an existing one before it is migrated.
func prepareFile(ctx context.Context, db *sql.DB, path string, version int64) error {
	if version > 0 {
		return backUp(ctx, db, path, version)
	}
	for _, pragma := range []string{"journal_mode=WAL", fmt.Sprintf("application_id=%d", applicationID)} {
		if _, err := db.ExecContext(ctx, "PRAGMA "+pragma); err != nil {
			return fmt.Errorf("prepare new database (%s): %w", pragma, err)
		}
	}
	return nil
}

// backUp copies the database to a file beside it, named for the schema version that it holds, such
// as assay.db.schema-3.bak.
func backUp(ctx context.Context, db *sql.DB, path string, version int64) error {
	var copied *os.File
	var err error
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s.schema-%d.bak", path, version)
		if n > 1 {
			name = fmt.Sprintf("%s.schema-%d-%d.bak", path, version, n)
		}
		copied, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("back up before migrating: %w", err)
	}
	name := copied.Name()
	_, err = db.ExecContext(ctx, "VACUUM INTO "+quoteText(name))
	err = errors.Join(err, copied.Sync(), copied.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("back up before migrating: %w", err), os.Remove(name))
	}
	return syncDirectory(filepath.Dir(name))
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// quoteText is an SQL text literal, for statements that take no parameters.
func quoteText(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
