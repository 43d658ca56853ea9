package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
)

// sqliteCopy is one connection to a SQLite database, in a transaction.
type sqliteCopy struct {
	db *sql.DB
	c  *sql.Conn
}

// openSQLiteSource begins to read the file at path, which must exist.
func openSQLiteSource(ctx context.Context, path string) (copySource, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil { // SQLite would make it
		return nil, err
	}
	// The transaction begins to read with its first statement, and sees nothing that is committed after it.
	return beginSQLiteCopy(ctx, dsn(path, "query_only(1)"), "BEGIN")
}

// openSQLiteTarget begins to write to the file at path, which is made if it does not exist.
func openSQLiteTarget(ctx context.Context, path string) (copyTarget, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := checkSQLiteTarget(ctx, path); err != nil {
		return nil, err
	}
	if err := migrate(ctx, path, sqliteSchema); err != nil {
		return nil, err
	}
	return beginSQLiteCopy(ctx, dsn(path, "synchronous(FULL)"), "BEGIN IMMEDIATE")
}

// checkSQLiteTarget refuses a database of another schema before it would be migrated, which nobody asked for.
func checkSQLiteTarget(ctx context.Context, path string) error {
	err := withDatabase(path, func(db *sql.DB) error {
		found, err := schemaVersion(ctx, db)
		if err != nil || found == 0 {
			return err
		}
		return checkSQLiteVersion(found)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func checkSQLiteVersion(found int64) error {
	newest, err := newestVersion(sqliteSchema)
	switch {
	case err != nil:
		return err
	case found > newest:
		return &NewerSchemaError{Found: found, Supported: newest}
	case found < newest:
		return fmt.Errorf("it has schema version %d, and this program needs %d: a server that starts on it brings it up to date (assay serve), and can then be stopped", found, newest)
	}
	return nil
}

func beginSQLiteCopy(ctx context.Context, dataSource, begin string) (_ *sqliteCopy, err error) {
	s := new(sqliteCopy)
	if s.db, err = openPool(dataSource, 1); err != nil {
		return nil, err
	}
	if s.c, err = s.db.Conn(ctx); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	if _, err = s.c.ExecContext(ctx, begin); err == nil {
		var found int64
		if found, err = schemaVersion(ctx, s.c); err == nil {
			err = checkSQLiteVersion(found)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close ends the connection, and with it a transaction that was not committed.
func (s *sqliteCopy) close() error { return errors.Join(s.c.Close(), s.db.Close()) }

func (s *sqliteCopy) row(ctx context.Context, query string, args ...any) scanner {
	return s.c.QueryRowContext(ctx, query, args...)
}

func (s *sqliteCopy) tables(ctx context.Context) ([]table, error) {
	const ours = `m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' AND m.name <> 'goose_db_version'`
	var r readTables
	err := s.each(ctx, r.column, `SELECT m.name, c.name, CASE c.type WHEN 'TEXT' THEN 'text' WHEN 'INTEGER' THEN 'bigint' WHEN 'BLOB' THEN 'bytea' ELSE c.type END, c.pk
		FROM sqlite_schema m, pragma_table_info(m.name) c WHERE `+ours+` ORDER BY m.name, c.name`)
	if err != nil {
		return nil, err
	}
	if err := s.each(ctx, r.reference, `SELECT m.name, f."table" FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE `+ours); err != nil {
		return nil, err
	}
	return r.tables()
}

// each calls fn for every row of a query.
func (s *sqliteCopy) each(ctx context.Context, fn func(scanner) error, query string) (err error) {
	rows, err := s.c.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *sqliteCopy) read(ctx context.Context, t table) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		row := make([]any, len(t.columns))
		into := make([]any, len(row))
		for n := range row {
			into[n] = &row[n]
		}
		stopped := errors.New("stopped")
		err := s.each(ctx, func(r scanner) error {
			if err := r.Scan(into...); err != nil {
				return err
			}
			if !yield(sameEmpty(row), nil) {
				return stopped
			}
			return nil
		}, t.inOrder())
		if err != nil && !errors.Is(err, stopped) {
			yield(nil, err)
		}
	}
}

func (s *sqliteCopy) write(ctx context.Context, t table, rows iter.Seq2[[]any, error]) (err error) {
	insert, err := s.c.PrepareContext(ctx, "INSERT INTO "+quoted(t.name)+" ("+quoted(t.names()...)+") VALUES (?"+strings.Repeat(", ?", len(t.columns)-1)+")")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, insert.Close()) }()
	for row, err := range rows {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		// Without the context: the driver needs no goroutine per row to watch for cancellation.
		if _, err := insert.ExecContext(context.WithoutCancel(ctx), row...); err != nil {
			return fmt.Errorf("row %s: %w", t.keyOf(row), err)
		}
	}
	return nil
}

func (s *sqliteCopy) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.c.ExecContext(context.WithoutCancel(ctx), "COMMIT")
	return err
}
