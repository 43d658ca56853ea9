package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"assay/internal/issuance"

	"github.com/prometheus/client_golang/prometheus"
)

// engine is a database under a store. The store's statements are written in what SQLite and PostgreSQL have
// in common; what they do not is here.
type engine interface {
	querier

	// do runs a change in one transaction and waits until it is committed. The change may run more than
	// once, each time in a new transaction. Whoever cancels ctx takes back a change that still waits for its
	// turn; one that has begun is waited for.
	do(ctx context.Context, kind changeKind, run func(*tx) error) error

	// labelIs is a condition on a device's labels: the one of the first argument has the value of the second.
	labelIs() string

	// alone reports whether this process alone changes accounts.
	alone() bool

	// erased makes sure that what was erased is in no log of the database's any more, as far as it can.
	erased(ctx context.Context) error

	ready(ctx context.Context) error // says why it cannot be used now
	sizes(ctx context.Context, f *Figures) error
	collectors() []prometheus.Collector
	close() error
}

// querier reads single statements, each of which sees what was committed before it began. A cancelled context
// may be looked at before only: reads are short.
type querier interface {
	row(ctx context.Context, query string, args ...any) scanner // at most one row
	rows(ctx context.Context, each func(scanner) error, query string, args ...any) error
	// ask reads several statements, one after the other; a database elsewhere is waited for once.
	ask(ctx context.Context, questions ...question) error
}

// question is a query, with what is called for every row of it.
type question struct {
	each   func(scanner) error
	locked bool // nobody changes what it reads until the transaction ends: see session
	query  string
	args   []any
}

// asking is a question.
func asking(each func(scanner) error, query string, args ...any) question {
	return question{each: each, query: query, args: args}
}

// locking is a question within a transaction, of which nobody changes what it reads until that ends.
func locking(each func(scanner) error, query string, args ...any) question {
	return question{each: each, locked: true, query: query, args: args}
}

// session is one transaction. Parameters are ? in order, or ?1, ?2.
type session interface {
	// exec runs a statement and returns how many rows it changed.
	exec(query string, args ...any) (int64, error)
	// first runs the first statement of a change, which has to change one row: else the change ends with
	// otherwise, and nothing of it stays. That may come to light with a later statement or the commit.
	first(otherwise error, query string, args ...any) error
	// must is first for an UPDATE anywhere in a change, of a row that is known to be as it has to be: it was
	// read by locked or locking, for one. That it is not is a fault of the program or the database.
	must(otherwise error, update string, args ...any) error
	// write runs a statement of which nothing is to be known but that it fails; that may come to light with a
	// later statement, or with the commit, which then fails.
	write(query string, args ...any) error
	// row runs a query (a write with RETURNING, too) for at most one row.
	row(query string, args ...any) scanner
	// locked is row, of which nobody changes what it reads until the transaction ends.
	locked(query string, args ...any) scanner
	// contest is for rows that this change rests on without changing them. It runs a write that leaves them
	// as they are, so that a change which began before and changes them begins again, or this one waits for
	// it. Where there is one writer there is nothing to do.
	contest(query string, args ...any) error
	// updated runs a conditional update of one row and reads the row back by its id; there is none if the
	// condition did not hold.
	updated(read, id, update string, args ...any) scanner
	// rows runs a query and calls each for every row.
	rows(each func(scanner) error, query string, args ...any) error
	// ask runs several queries, one after the other; a database elsewhere is waited for once.
	ask(questions ...question) error
}

// tx is what a change may do. It is valid while the change runs, on one goroutine.
type tx struct {
	session
	audited []event       // audit rows that it wrote: counted once they are committed
	revoked map[shard]int // how many certificates it revoked

	// The id of the last audit row, and the nonce that was spent: either tells afterwards that the change was
	// committed.
	audit string
	nonce issuance.Nonce
}

// changeKind says how a change is committed: a set of the following.
type changeKind uint8

const (
	changeDurable changeKind = 0               // on disk before it is answered
	changeRelaxed changeKind = 1 << (iota - 1) // survives a killed process, not a power failure
	changeEnding                               // never refused for lack of a place: it ends what another change began
	// changeByRow leaves each statement to see what others committed since the one before, where changes
	// run side by side: right for one whose every condition stands in its writes, or about rows that it
	// locked. Else a change sees one state of the database, and is undone if that mattered.
	changeByRow
	changeOffline // gets all the time that it needs: nobody uses the database yet
)

func (k changeKind) is(what changeKind) bool { return k&what != 0 }

// kept is an error to return although the change is committed: a refusal, with its spent nonce and
// its audit row.
type kept struct{ err error }

func (k *kept) Error() string { return k.err.Error() }
func (k *kept) Unwrap() error { return k.err }

// keep commits what was done so far and returns err all the same.
func keep(err error) error { return &kept{err} }

// keeps reports whether a change with this outcome is committed.
func keeps(err error) bool {
	if err == nil {
		return true
	}
	_, ok := errors.AsType[*kept](err)
	return ok
}

// scanner is one row.
type scanner interface{ Scan(into ...any) error }

type failedRow struct{ err error }

func (f failedRow) Scan(...any) error { return f.err }

// change runs fn in one durable transaction after spending the call's nonce and noting its key.
func (s *Store) change(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeDurable, call, what, fn)
}

// step is change for what devices do all the time, many at once: its conditions stand in its writes.
func (s *Store) step(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeByRow, call, what, fn)
}

// end is step for what ends a claim: it waits for a place in a full queue.
func (s *Store) end(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeEnding|changeByRow, call, what, fn)
}

// note is change without waiting for fsync: what it writes survives a killed process, not a power
// failure.
func (s *Store) note(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeRelaxed, call, what, fn)
}

// noteStep is step without waiting for fsync.
func (s *Store) noteStep(ctx context.Context, call issuance.Call, what string, fn func(*tx) error) error {
	return s.transaction(ctx, changeRelaxed|changeByRow, call, what, fn)
}

func (s *Store) transaction(ctx context.Context, kind changeKind, call issuance.Call, what string, fn func(*tx) error) (err error) {
	ctx, span := s.traced(ctx, what)
	defer span.End(&err)
	err = s.db.do(ctx, kind, func(t *tx) error {
		span.Event("begun") // once a try
		if err := t.spend(call.Nonce); err != nil {
			return err
		}
		if err := s.once(t, call.Now, call.Once); err != nil {
			return err
		}
		err := t.forgetOnce(call.Once, fn(t))
		if !keeps(err) {
			return err
		}
		if failed := t.endRevocations(); failed != nil {
			return failed
		}
		return err
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
