package store

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// conn is the writing connection with its prepared statements, by text.
type conn struct {
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

func (c *conn) prepared(query string) (*sql.Stmt, error) {
	if s, ok := c.stmts[query]; ok {
		return s, nil
	}
	// Statements run without the caller's context: a change that has begun ends, and the driver
	// needs no goroutine per statement to watch for cancellation.
	s, err := c.c.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	c.stmts[query] = s
	return s, nil
}

func (c *conn) run(query string, args ...any) error {
	s, err := c.prepared(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background(), args...)
	return err
}

func (c *conn) first(otherwise error, query string, args ...any) error {
	n, err := c.exec(query, args...)
	if err == nil && n != 1 {
		return keep(otherwise) // nothing was written, so nothing needs to be rolled back
	}
	return err
}

func (c *conn) must(otherwise error, query string, args ...any) error {
	n, err := c.exec(query, args...)
	if err == nil && n != 1 {
		return otherwise
	}
	return err
}

func (c *conn) write(query string, args ...any) error {
	_, err := c.exec(query, args...)
	return err
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close())...)
}

// exec runs a statement and returns how many rows it changed.
func (c *conn) exec(query string, args ...any) (int64, error) {
	s, err := c.prepared(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// row runs a query (a write with RETURNING, too) for at most one row.
func (c *conn) row(query string, args ...any) scanner {
	s, err := c.prepared(query)
	if err != nil {
		return failedRow{err}
	}
	return s.QueryRowContext(context.Background(), args...)
}

func (c *conn) locked(query string, args ...any) scanner { return c.row(query, args...) }

func (c *conn) contest(string, ...any) error { return nil }

// updated runs a conditional update of one row and reads the row back by its id; there is none if
// the condition did not hold. RETURNING would do the same, but SQLite opens a temporary table for
// it, which costs three times what these two statements do together.
func (c *conn) updated(read, id, update string, args ...any) scanner {
	n, err := c.exec(update, args...)
	if err != nil {
		return failedRow{err}
	}
	if n == 0 {
		return failedRow{sql.ErrNoRows}
	}
	return c.row(read, id)
}

// rows runs a query and calls each for every row.
func (c *conn) rows(each func(scanner) error, query string, args ...any) error {
	s, err := c.prepared(query)
	if err != nil {
		return err
	}
	return eachRow(s, each, args)
}

func (c *conn) ask(questions ...question) error {
	for _, q := range questions {
		if err := c.rows(q.each, q.query, q.args...); err != nil {
			return err
		}
	}
	return nil
}

// sqliteReader is the pool of connections that only read, with its prepared statements by text.
type sqliteReader struct {
	db    *sql.DB
	mu    sync.Mutex
	stmts sync.Map // string to *sql.Stmt
}

// newReader opens the pool. A reader's page cache is small: what it lacks, the system's cache has, and a
// page of 4 KiB takes 9 KiB in it, because the allocator's sizes are powers of two.
func newReader(path string) (*sqliteReader, error) {
	db, err := openPool(dsn(path, "query_only(1)", "cache_size(-4096)", "temp_store(MEMORY)"), readPoolSize())
	if err != nil {
		return nil, err
	}
	return &sqliteReader{db: db}, nil
}

func (r *sqliteReader) prepared(query string) (*sql.Stmt, error) {
	if s, ok := r.stmts.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.stmts.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := r.db.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	r.stmts.Store(query, s)
	return s, nil
}

// row reads at most one row. Reads are short: a cancelled context is looked at before, not during.
func (r *sqliteReader) row(ctx context.Context, query string, args ...any) scanner {
	if err := ctx.Err(); err != nil {
		return failedRow{err}
	}
	s, err := r.prepared(query)
	if err != nil {
		return failedRow{err}
	}
	return s.QueryRowContext(context.Background(), args...)
}

// rows reads a bounded number of rows.
func (r *sqliteReader) rows(ctx context.Context, each func(scanner) error, query string, args ...any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := r.prepared(query)
	if err != nil {
		return err
	}
	return eachRow(s, each, args)
}

func (r *sqliteReader) ask(ctx context.Context, questions ...question) error {
	for _, q := range questions {
		if err := r.rows(ctx, q.each, q.query, q.args...); err != nil {
			return err
		}
	}
	return nil
}

func eachRow(s *sql.Stmt, each func(scanner) error, args []any) (err error) {
	rows, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }() // after a panic as well: rows hold their connection
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (r *sqliteReader) close() error {
	var errs []error
	r.stmts.Range(func(_, s any) bool {
		errs = append(errs, s.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(append(errs, r.db.Close())...)
}
