package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Statements returns the text of every statement that the store has prepared so far.
func (s *Store) Statements() []string {
	var texts []string
	d := s.db.(*sqliteDB)
	ask := func(*tx) error { // on the writer's goroutine, which owns them
		for text := range d.conn.stmts {
			texts = append(texts, text)
		}
		return nil
	}
	if err := s.db.do(context.Background(), changeRelaxed, ask); err != nil {
		panic(err)
	}
	d.sqliteReader.stmts.Range(func(text, _ any) bool {
		texts = append(texts, text.(string))
		return true
	})
	return texts
}

// Retries is how often something was tried again because of another transaction, or a lost connection; 0 on
// SQLite.
func (s *Store) Retries() (n float64) {
	d, ok := s.db.(*postgresDB)
	if !ok {
		return 0
	}
	for _, reason := range []retryReason{byConnection, byConflict, byCollision} {
		n += testutil.ToFloat64(d.retries.WithLabelValues(string(reason)))
	}
	return n
}

// MissARow writes an account, and then has to update one that there is not; with the commit, where that is sent
// behind it.
func (s *Store) MissARow(ctx context.Context, otherwise error) error {
	return s.db.do(ctx, changeDurable, func(t *tx) error {
		if _, err := t.exists(`SELECT 1 FROM accounts`); err != nil {
			return err
		}
		err := t.write(`INSERT INTO accounts (id, directory, status, contacts, terms_agreed, jwk, thumbprint, created_at)
			VALUES ('account_missed', 'default', 'valid', '[]', 0, ?, 'x', 1)`, []byte{1})
		if err != nil {
			return err
		}
		return t.must(otherwise, `UPDATE accounts SET status = 'valid' WHERE id = ?`, "account_none")
	})
}

// RoundTrips is how often PostgreSQL was waited for.
func (s *Store) RoundTrips() float64 { return testutil.ToFloat64(s.db.(*postgresDB).trips) }

// LastCommitWasDurable reports whether the last change was fsynced before it was answered. Only for a
// store that nobody else uses meanwhile.
func (s *Store) LastCommitWasDurable() bool { return !s.db.(*sqliteDB).relaxed }

// NewestVersion is the newest schema version of an engine.
func NewestVersion(engine string) (int64, error) {
	return newestVersion(part(migrations, "migrations/"+engine))
}

// ReadPool is the pool of reading connections.
func (s *Store) ReadPool() *sql.DB { return s.db.(*sqliteDB).sqliteReader.db }

// BusyWriter keeps the writer busy until release is called.
func (s *Store) BusyWriter() (release func() error) {
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		left <- s.db.do(context.Background(), changeDurable, func(*tx) error {
			close(entered)
			<-leave
			return nil
		})
	}()
	<-entered
	return func() error {
		close(leave)
		return <-left
	}
}

// Waiting is how many changes wait for the writer.
func (s *Store) Waiting() int { return len(s.db.(*sqliteDB).jobs) }

// TablesOf describes the tables of two databases: every column, its kind and its place in the key.
func TablesOf(ctx context.Context, one, other string) (ones, others []string, err error) {
	for _, side := range []struct {
		location string
		into     *[]string
	}{{one, &ones}, {other, &others}} {
		source, err := openSource(ctx, side.location)
		if err != nil {
			return nil, nil, err
		}
		tables, err := source.tables(ctx)
		if err := errors.Join(err, source.close()); err != nil {
			return nil, nil, err
		}
		for _, t := range tables {
			*side.into = append(*side.into, fmt.Sprintf("%s %v", t.name, t.columns))
		}
	}
	return ones, others, nil
}

// CommittedTransaction is the number of a transaction that was committed.
func (s *Store) CommittedTransaction(ctx context.Context) (id string, err error) {
	err = s.db.(*postgresDB).pool.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&id)
	return id, err
}

// Outcome is what became of a transaction that wrote an audit row.
func (s *Store) Outcome(ctx context.Context, transaction, audit string) error {
	return s.db.(*postgresDB).outcome(ctx, &lostCommit{transaction, errors.New("cut")}, witnessOf(&tx{audit: audit}))
}

// HoldConnection takes a connection to PostgreSQL, which release gives back.
func (s *Store) HoldConnection(ctx context.Context) (release func(), err error) {
	conn, err := s.db.(*postgresDB).pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return conn.Release, nil
}

// Connections is how many connections to PostgreSQL there are.
func (s *Store) Connections() int { return int(s.db.(*postgresDB).pool.Stat().TotalConns()) }

// Settings are what a kind of change asks of PostgreSQL.
func (s *Store) Settings(ctx context.Context, kind string) (map[string]string, error) {
	kinds := map[string]changeKind{"durable": changeDurable, "relaxed": changeRelaxed, "step": changeByRow,
		"relaxed step": changeRelaxed | changeByRow, "ending step": changeEnding | changeByRow}
	settings := map[string]string{}
	err := s.db.do(ctx, kinds[kind], func(t *tx) error {
		for _, name := range []string{"synchronous_commit", "transaction_isolation", "enable_seqscan", "idle_in_transaction_session_timeout"} {
			var value string
			if err := t.row(`SELECT current_setting(?)`, name).Scan(&value); err != nil {
				return err
			}
			settings[name] = value
		}
		return nil
	})
	return settings, err
}

// olderSchema are PostgreSQL's migrations up to a version.
func olderSchema(version int64) (fs.FS, error) {
	older := fstest.MapFS{}
	names, err := fs.Glob(postgresSchema, "*.sql")
	for _, name := range names {
		var of int64
		if _, err := fmt.Sscanf(name, "%d_", &of); err == nil && of <= version {
			content, err := fs.ReadFile(postgresSchema, name)
			if err != nil {
				return nil, err
			}
			older[name] = &fstest.MapFile{Data: content}
		}
	}
	return older, err
}

// OpenOlder migrates a PostgreSQL database to an older version, and opens it as a program of that version.
func OpenOlder(ctx context.Context, location string, version int64, o Options) (*Store, error) {
	schema, err := olderSchema(version)
	if err != nil {
		return nil, err
	}
	if _, err := migratePostgres(ctx, location, schema, false); err != nil {
		return nil, err
	}
	return open(ctx, location, o, schema)
}

// Years are the partitions by year.
func (s *Store) Years(ctx context.Context) ([]Year, error) { return s.db.(*postgresDB).years(ctx) }

// MakeYearsOf is MakeYears with another bound.
func (s *Store) MakeYearsOf(ctx context.Context, now time.Time, most int) error {
	return s.db.(*postgresDB).makeYears(ctx, changeByRow, now, most)
}
