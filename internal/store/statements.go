package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"assay/internal/issuance"
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

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close())...)
}

// tx is what a change may do. It is valid while the change runs, on the writer's goroutine.
type tx struct {
	conn    *conn
	audited []event // audit rows that it wrote: counted once they are committed
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	s, err := t.conn.prepared(query)
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
func (t *tx) row(query string, args ...any) scanner {
	s, err := t.conn.prepared(query)
	if err != nil {
		return failedRow{err}
	}
	return s.QueryRowContext(context.Background(), args...)
}

// updated runs a conditional update of one row and reads the row back by its id; there is none if
// the condition did not hold. RETURNING would do the same, but SQLite opens a temporary table for
// it, which costs three times what these two statements do together.
func (t *tx) updated(read, id, update string, args ...any) scanner {
	n, err := t.exec(update, args...)
	if err != nil {
		return failedRow{err}
	}
	if n == 0 {
		return failedRow{sql.ErrNoRows}
	}
	return t.row(read, id)
}

// rows runs a query and calls each for every row.
func (t *tx) rows(each func(scanner) error, query string, args ...any) error {
	s, err := t.conn.prepared(query)
	if err != nil {
		return err
	}
	return eachRow(s, each, args)
}

// scanner is one row.
type scanner interface{ Scan(into ...any) error }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }

// reader is the pool of connections that only read, with its prepared statements by text.
type reader struct {
	db    *sql.DB
	mu    sync.Mutex
	stmts sync.Map // string to *sql.Stmt
}

func newReader(path string) (*reader, error) {
	db, err := openPool(dsn(path, "query_only(1)", "cache_size(-16384)", "temp_store(MEMORY)"), readPoolSize())
	if err != nil {
		return nil, err
	}
	return &reader{db: db}, nil
}

func (r *reader) prepared(query string) (*sql.Stmt, error) {
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
func (r *reader) row(ctx context.Context, query string, args ...any) scanner {
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
func (r *reader) rows(ctx context.Context, each func(scanner) error, query string, args ...any) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := r.prepared(query)
	if err != nil {
		return err
	}
	return eachRow(s, each, args)
}

func eachRow(s *sql.Stmt, each func(scanner) error, args []any) error {
	rows, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := each(rows); err != nil {
			return errors.Join(err, rows.Close())
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

func (r *reader) close() error {
	var errs []error
	r.stmts.Range(func(_, s any) bool {
		errs = append(errs, s.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(append(errs, r.db.Close())...)
}

// change runs fn in one durable transaction after spending the call's nonce and noting its key.
func (s *Store) change(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeDurable, call, what, fn)
}

// end is change for what ends a claim: it waits for a place in a full queue.
func (s *Store) end(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeEnding, call, what, fn)
}

// note is change without waiting for fsync: what it writes survives a killed process, not a power
// failure.
func (s *Store) note(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeRelaxed, call, what, fn)
}

func (s *Store) transaction(ctx context.Context, kind changeKind, call issuance.Call, what string, fn func(*tx) error) error {
	err := s.writer.do(ctx, kind, func(t *tx) error {
		if err := t.spend(call.Nonce); err != nil {
			return err
		}
		if err := s.once(t, call.Now, call.Once); err != nil {
			return err
		}
		return t.forgetOnce(call.Once, fn(t))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// notFound turns an empty result into issuance.ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return issuance.ErrNotFound
	}
	return err
}

// newID makes an id from the store's randomness.
func newID[T issuance.ID](random io.Reader, now time.Time) (T, error) {
	return issuance.NewID[T](now, random)
}
