package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// retryBudget is how long a change or a read is tried again that a lost connection or another
	// transaction undid: a restart of the database takes less, and a request has longer.
	retryBudget = 8 * time.Second

	// maxCollisions is how often a change is tried again that met a row which must be unique: another
	// transaction may have just written it, and then the next try sees it.
	maxCollisions = 5
)

// ErrUnknownOutcome: the connection to the database was lost while a change was being committed, and the
// database cannot be asked what became of it.
var ErrUnknownOutcome = errors.New("the database was lost while a change was being committed: it may have been made or not")

// retry repeats try while there is a reason to, and time.
func (d *postgresDB) retry(ctx context.Context, try func() error) error {
	began := time.Now() // of waiting, which is real
	collisions := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := try()
		reason := reasonToRetry(err)
		if reason == byCollision {
			collisions++
		}
		if reason == "" || collisions > maxCollisions || time.Since(began) > retryBudget {
			return err
		}
		d.retries.WithLabelValues(string(reason)).Inc()
		pause(ctx, time.Duration(rand.Int64N(int64(wait)))+wait/2)
		if ctx.Err() != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// retryReason says what undid a change or a read.
type retryReason string

const (
	byConnection retryReason = "connection"
	byConflict   retryReason = "conflict"
	byCollision  retryReason = "collision"
)

// lostConnection: the connection was lost before anything was committed.
type lostConnection struct{ err error }

func (l *lostConnection) Error() string { return "connection to the database lost: " + l.err.Error() }
func (l *lostConnection) Unwrap() error { return l.err }

// reasonToRetry says why something that failed can be done again: nothing of it was committed, and it may go
// otherwise. It is "" if there is no reason.
func reasonToRetry(err error) retryReason {
	if errors.Is(err, ErrUnknownOutcome) {
		return ""
	}
	if _, lost := errors.AsType[*lostConnection](err); lost {
		return byConnection
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return ""
	}
	switch e.Code {
	case "40001", "40P01": // serialization failure, deadlock
		return byConflict
	case "23505": // unique violation
		return byCollision
	case "23514": // a check; one without a name is a partition's, and its row's year was made meanwhile
		if e.ConstraintName == "" {
			return byConflict
		}
	case "57P01", "57P02", "57P03", "53300": // shut down, crashed, starting up, too many connections
		return byConnection
	}
	return ""
}

// broken reports whether an error is the database's and not of what it was asked.
func broken(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code[:2] {
		case "53", "57", "58", "XX": // out of room, shut down, file system, corrupted
			return true
		}
		return false
	}
	_, lost := errors.AsType[*lostConnection](err)
	return lost || errors.Is(err, ErrUnknownOutcome) || errors.Is(err, context.DeadlineExceeded)
}

// outcome finds out what became of a transaction whose commit was not answered. Once it has ended it was
// committed if its witness is there: an audit row or a spent nonce, which no other transaction can have
// written. That the database says of the transaction itself would not do: after a crash its number is used
// again. An error that says that it was undone is one to try again after.
func (d *postgresDB) outcome(ctx context.Context, lost *lostCommit, w witness) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryBudget)
	defer cancel()
	for {
		ended, err := d.ended(ctx, lost.transaction)
		if ended && w.query == "" {
			return &lostConnection{lost.err} // it changed nothing that cannot be changed twice
		}
		committed := false
		if ended {
			err = d.pool.QueryRow(ctx, translated(w.query), w.args...).Scan(&committed)
		}
		switch {
		case ended && err == nil && committed:
			return nil
		case ended && err == nil:
			return &lostConnection{lost.err}
		case ctx.Err() != nil:
			return errors.Join(ErrUnknownOutcome, lost.err, err)
		}
		pause(ctx, 100*time.Millisecond) // it is being committed, or the database comes up again
	}
}

// ended reports whether a transaction is over: the server's part of a connection may live on for a while.
func (d *postgresDB) ended(ctx context.Context, transaction string) (bool, error) {
	var status *string
	err := d.pool.QueryRow(ctx, `SELECT pg_xact_status($1::text::xid8)`, transaction).Scan(&status)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "22023" { // no transaction has that number yet: a crash took it
		return true, nil
	}
	return err == nil && (status == nil || *status != "in progress"), err
}

// witness is a question whose answer is true once a transaction is committed. The zero witness is that of one
// that may be made again without harm.
type witness struct {
	query string
	args  []any
}

// witnessOf is what tells that a change was committed. Whatever must not be made twice is in the audit trail, or
// spends a nonce.
func witnessOf(t *tx) witness {
	switch {
	case t.audit != "":
		return witness{`SELECT EXISTS (SELECT 1 FROM audit WHERE id = ?)`, []any{t.audit}}
	case !t.nonce.IsZero():
		return witness{`SELECT EXISTS (SELECT 1 FROM nonces WHERE expires_at = ? AND id = ?)`, []any{stamp(t.nonce.ExpiresAt), t.nonce.ID[:]}}
	}
	return witness{}
}

// noConnection says why no connection could be had.
func noConnection(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, refused := errors.AsType[*pgconn.PgError](err); refused { // wrong password, no such database; or starting up
		return err
	}
	return &lostConnection{&unreachableError{err}}
}

// unreachableError says in one line why the database cannot be reached: each way that was tried, once.
type unreachableError struct{ err error }

func (u *unreachableError) Error() string {
	var said []string
	for line := range strings.Lines(u.err.Error()) {
		if line = strings.TrimSpace(line); !slices.Contains(said, line) {
			said = append(said, line)
		}
	}
	return strings.Join(said, " ")
}

func (u *unreachableError) Unwrap() error { return u.err }
