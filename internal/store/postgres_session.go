package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
)

// pgSession is one transaction. Statements whose outcome nobody waits for are sent together with the next one
// that somebody does, or with the commit: most changes cost two round trips.
type pgSession struct {
	ctx   context.Context
	conn  *pgx.Conn
	batch *pgx.Batch
	tasks []task // what to do with the answer to each statement of the batch
	trips prometheus.Counter

	transaction string // its id, once the database began it
	missed      bool   // a must missed its row, and the database undid the transaction
	err         error  // the first thing that went wrong: then nothing can be committed
}

// task takes the answer to one statement.
type task func(pgx.BatchResults) error

func beginPostgres(ctx context.Context, conn *pgx.Conn, kind changeKind, trips prometheus.Counter) *pgSession {
	p := &pgSession{ctx: ctx, conn: conn, batch: new(pgx.Batch), trips: trips}
	begin := `BEGIN ISOLATION LEVEL SERIALIZABLE`
	if kind.is(changeByRow) {
		begin = `BEGIN ISOLATION LEVEL READ COMMITTED`
	}
	p.queue(ignore, begin)
	if !kind.is(changeByRow) {
		// Before the change sees its one state of the database: rows that are moved to the partition of their year
		// afterwards it would look for there, where it cannot see them, and change nothing without a word.
		p.queue(ignore, `LOCK TABLE decisions, evidence, audit, audit_personal IN ACCESS SHARE MODE`)
	}
	onDisk := "on"
	if kind.is(changeRelaxed) {
		onDisk = "off"
	}
	// A scan of a whole table would conflict with every change of it; nobody needs one here. Whatever stops
	// this process must not leave locks for long.
	p.queue(func(r pgx.BatchResults) error { return r.QueryRow().Scan(&p.transaction, nil, nil, nil, nil) },
		`SELECT pg_current_xact_id()::text, set_config('enable_seqscan', 'off', true),
			set_config('jit', 'off', true), set_config('idle_in_transaction_session_timeout', '5s', true),
			set_config('synchronous_commit', $1, true)`, onDisk)
	return p
}

func ignore(r pgx.BatchResults) error {
	_, err := r.Exec()
	return err
}

// queue adds a statement to those that are sent next.
func (p *pgSession) queue(take task, query string, args ...any) {
	p.batch.Queue(query, args...)
	p.tasks = append(p.tasks, take)
}

// send sends what is queued, and takes all answers.
func (p *pgSession) send() error {
	if p.err != nil {
		return p.err
	}
	p.trips.Inc()
	err := answered(p.conn.SendBatch(p.ctx, p.batch), p.tasks)
	p.batch, p.tasks = new(pgx.Batch), p.tasks[:0]
	if errors.Is(err, sql.ErrNoRows) || errors.Is(err, pgx.ErrNoRows) {
		return sql.ErrNoRows // an answer
	}
	p.err = ifLost(p.conn, err)
	return p.err
}

// answered takes all answers to a batch, until one goes wrong.
func answered(results pgx.BatchResults, tasks []task) (err error) {
	for _, take := range tasks {
		if err = take(results); err != nil {
			break
		}
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	return err
}

func (p *pgSession) exec(query string, args ...any) (n int64, err error) {
	p.queue(func(r pgx.BatchResults) error {
		tag, err := r.Exec()
		n = tag.RowsAffected()
		return err
	}, translated(query), args...)
	err = p.send()
	return n, err
}

func (p *pgSession) first(otherwise error, query string, args ...any) error {
	if p.transaction != "" {
		return errors.New("a change's first statement comes after another one")
	}
	p.queue(func(r pgx.BatchResults) error {
		tag, err := r.Exec()
		if err == nil && tag.RowsAffected() != 1 {
			err = otherwise
		}
		return err
	}, translated(query), args...)
	return p.err
}

// must lets the database divide by zero unless one row was changed, so that it undoes the transaction although the
// commit may be on its way.
func (p *pgSession) must(otherwise error, update string, args ...any) error {
	p.queue(func(r pgx.BatchResults) error {
		err := r.QueryRow().Scan(nil)
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == divisionByZero {
			p.missed = true
			return otherwise
		}
		return err
	}, translated(`WITH changed AS (`+update+` RETURNING 1) SELECT 1 / (count(*) = 1)::int FROM changed`), args...)
	return p.err
}

const divisionByZero = "22012"

func (p *pgSession) write(query string, args ...any) error {
	p.queue(ignore, translated(query), args...)
	return p.err
}

func (p *pgSession) row(query string, args ...any) scanner {
	if !areTexts(args) {
		return failedRow{sql.ErrNoRows}
	}
	return scanFunc(func(into ...any) error {
		p.queue(func(r pgx.BatchResults) error { return r.QueryRow().Scan(into...) }, translated(query), args...)
		return p.send()
	})
}

func (p *pgSession) locked(query string, args ...any) scanner {
	return p.row(query+forUpdate, args...)
}

func (p *pgSession) contest(query string, args ...any) error { return p.write(query, args...) }

func (p *pgSession) updated(read, id, update string, args ...any) scanner {
	return scanFunc(func(into ...any) error {
		changed := false
		p.queue(func(r pgx.BatchResults) error {
			tag, err := r.Exec()
			changed = tag.RowsAffected() > 0
			return err
		}, translated(update), args...)
		p.queue(func(r pgx.BatchResults) error {
			if !changed {
				return ignore(r)
			}
			return r.QueryRow().Scan(into...)
		}, translated(read), id)
		if err := p.send(); err != nil {
			return err
		}
		if !changed {
			return sql.ErrNoRows
		}
		return nil
	})
}

func (p *pgSession) rows(each func(scanner) error, query string, args ...any) error {
	if !areTexts(args) {
		return nil
	}
	return p.ask(asking(each, query, args...))
}

func (p *pgSession) ask(questions ...question) error {
	if err := askable(questions); err != nil {
		return err
	}
	var own error // of whoever takes the rows: not the database's
	for _, q := range questions {
		query := translated(q.query)
		if q.locked {
			query += forUpdate
		}
		p.queue(q.task(&own), query, q.args...)
	}
	if err := p.send(); err != nil {
		return err
	}
	return own
}

// forUpdate locks rows against writers, and lets others refer to them.
const forUpdate = " FOR NO KEY UPDATE"

// askable refuses questions with a text that PostgreSQL cannot hold: to leave one out would be to answer it.
func askable(questions []question) error {
	for _, q := range questions {
		if !areTexts(q.args) {
			return fmt.Errorf("nothing has a name that is no text: %w", sql.ErrNoRows)
		}
	}
	return nil
}

// task takes the rows of the answer, until one goes wrong: own says how.
func (q *question) task(own *error) task {
	return func(r pgx.BatchResults) error {
		rows, err := r.Query()
		if err != nil {
			return err
		}
		defer rows.Close()
		for *own == nil && rows.Next() {
			*own = q.each(rows)
		}
		rows.Close()
		return rows.Err()
	}
}

// lostCommit: the connection was lost while the transaction was being committed.
type lostCommit struct {
	transaction string
	err         error
}

func (l *lostCommit) Error() string { return "connection lost during commit: " + l.err.Error() }
func (l *lostCommit) Unwrap() error { return l.err }

// commit ends the transaction with what is queued. What has to come out in a certain way is sent before, with what
// brings the transaction's id: without that nobody could tell what became of a commit that was not answered.
func (p *pgSession) commit() error {
	if p.transaction == "" {
		if err := p.send(); err != nil {
			return err
		}
	}
	if p.err != nil {
		return p.err
	}
	answer := ""
	p.queue(func(r pgx.BatchResults) error {
		tag, err := r.Exec()
		answer = tag.String()
		return err
	}, `COMMIT`)
	err := p.send()
	refused, isRefused := errors.AsType[*pgconn.PgError](err)
	switch {
	case answer == "COMMIT": // whatever became of the connection then
		return nil
	case p.missed:
		return err
	case answer == "ROLLBACK":
		return errors.New("the database undid a transaction without saying why")
	case isRefused && refused.SeverityUnlocalized == "ERROR": // else the connection ended, and nobody knows when
		return err
	}
	return &lostCommit{p.transaction, err}
}

// rollBack undoes the transaction, if it began.
func (p *pgSession) rollBack() {
	if p.conn.IsClosed() || p.conn.PgConn().TxStatus() == 'I' {
		return
	}
	if _, err := p.conn.Exec(p.ctx, `ROLLBACK`); err != nil {
		// The pool drops a connection that is still in a transaction.
		return
	}
}

// translations are statements in PostgreSQL's form, by their text in the store's.
var translations sync.Map

// translated is a statement with PostgreSQL's parameters: $1 for ? and for ?1.
func translated(query string) string {
	if text, ok := translations.Load(query); ok {
		return text.(string)
	}
	var b strings.Builder
	most := 0
	for rest := query; ; {
		before, after, found := strings.Cut(rest, "?")
		b.WriteString(before)
		if !found {
			break
		}
		digits := len(after) - len(strings.TrimLeft(after, "0123456789"))
		n := most + 1
		if digits > 0 {
			n, _ = strconv.Atoi(after[:digits]) // digits alone
		}
		most = max(most, n)
		b.WriteString("$" + strconv.Itoa(n))
		rest = after[digits:]
	}
	text, _ := translations.LoadOrStore(query, b.String())
	return text.(string)
}
