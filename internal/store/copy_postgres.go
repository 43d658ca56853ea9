package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// postgresCopy is one connection to a PostgreSQL database, in a transaction.
type postgresCopy struct {
	c  *pgx.Conn
	tx pgx.Tx
}

// lockPatience is how long a copy waits for others to end what they write to the new database.
const lockPatience = 10 * time.Second

// openPostgresCopy begins to read a database, which may be a standby, or to write to it.
func openPostgresCopy(ctx context.Context, location string, writes bool) (_ *postgresCopy, err error) {
	config, err := postgresConfig(location)
	if err != nil {
		return nil, err
	}
	p := new(postgresCopy)
	if p.c, err = pgx.ConnectConfig(ctx, config.ConnConfig); err != nil {
		return nil, err
	}
	if err := p.begin(ctx, writes); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *postgresCopy) begin(ctx context.Context, writes bool) (err error) {
	o := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	if writes {
		o = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	}
	if p.tx, err = p.c.BeginTx(ctx, o); err != nil {
		return err
	}
	// Limits that are meant for requests would cut off a large table.
	if _, err := p.tx.Exec(ctx, `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	newest, err := newestVersion(postgresSchema)
	if err != nil {
		return err
	}
	found, _, err := postgresVersion(ctx, p)
	switch {
	case err != nil:
		return err
	case found < newest:
		return &OlderSchemaError{Found: found, Needed: newest}
	case found > newest: // whatever it lets older programs do: they do not know all of its tables
		return &NewerSchemaError{Found: found, Supported: newest}
	case !writes:
		return nil
	}
	return p.lock(ctx)
}

// lock keeps others from writing: what they wrote would be missing on the other side, or in the way.
func (p *postgresCopy) lock(ctx context.Context) error {
	tables, err := p.tables(ctx)
	if err != nil {
		return err
	}
	if _, err := p.tx.Exec(ctx, fmt.Sprintf(`SET LOCAL lock_timeout = %d`, lockPatience.Milliseconds())); err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := p.tx.Exec(ctx, "LOCK TABLE "+quoted(t.name)+" IN EXCLUSIVE MODE"); err != nil {
			if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == "55P03" {
				err = fmt.Errorf("others are writing to table %s: %w", t.name, err)
			}
			return err
		}
	}
	return nil
}

// close ends the connection, and with it a transaction that was not committed.
func (p *postgresCopy) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if p.c.IsClosed() {
		return nil
	}
	return p.c.Close(ctx)
}

func (p *postgresCopy) row(ctx context.Context, query string, args ...any) scanner {
	return p.tx.QueryRow(ctx, query, args...)
}

func (p *postgresCopy) tables(ctx context.Context) ([]table, error) {
	const ours = `c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT IN ('goose_db_version', 'schema_compatibility')`
	var r readTables
	err := p.each(ctx, r.column, `SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), coalesce(array_position(k.conkey, a.attnum), 0)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
		WHERE `+ours+` ORDER BY c.relname, a.attname`)
	if err != nil {
		return nil, err
	}
	err = p.each(ctx, r.reference, `SELECT c.relname, o.relname FROM pg_class c JOIN pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' JOIN pg_class o ON o.oid = f.confrelid WHERE `+ours)
	if err != nil {
		return nil, err
	}
	return r.tables()
}

// each calls fn for every row of a query.
func (p *postgresCopy) each(ctx context.Context, fn func(scanner) error, query string) error {
	rows, err := p.tx.Query(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (p *postgresCopy) read(ctx context.Context, t table) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		rows, err := p.tx.Query(ctx, t.inOrder())
		if err != nil {
			yield(nil, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			row, err := rows.Values()
			if !yield(sameEmpty(row), err) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, err)
		}
	}
}

func (p *postgresCopy) write(ctx context.Context, t table, rows iter.Seq2[[]any, error]) error {
	next, stop := iter.Pull2(rows)
	defer stop()
	first, err, _ := next()
	if err == nil && first != nil {
		err = p.makeYears(ctx, t, first)
	}
	if err != nil {
		return err
	}
	_, err = p.tx.CopyFrom(ctx, pgx.Identifier{t.name}, t.names(), pgx.CopyFromFunc(func() ([]any, error) {
		if row := first; row != nil {
			first = nil
			return row, nil
		}
		row, err, _ := next()
		return row, err
	}))
	return err
}

// makeYears makes the partitions of the years since a table's first row: those to come are there.
func (p *postgresCopy) makeYears(ctx context.Context, t table, first []any) error {
	if !slices.Contains(tablesInYears, t.name) {
		return nil
	}
	_, err := p.tx.Exec(ctx, `SELECT make_year(name, year, NULL) FROM tables_in_years, generate_series(2020, $3) AS year
		WHERE name = $1 AND first_of_year(prefix, year + 1) COLLATE "C" > $2`, t.name, first[t.key()[0]], time.Now().UTC().Year())
	return err
}

func (p *postgresCopy) commit(ctx context.Context) error { return p.tx.Commit(ctx) }
