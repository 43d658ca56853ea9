package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"assay/internal/issuance"
	"assay/internal/panics"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

const (
	// stepTimeout bounds one try of a step of an enrolment; changeTimeout that of what operators and upkeep
	// do, a thousand codes at once for one, and a read.
	stepTimeout   = 10 * time.Second
	changeTimeout = time.Minute

	// offlineTimeout bounds one try of a change that nobody waits for.
	offlineTimeout = time.Hour

	// silence is how long packets to the database may go unanswered by its machine until the connection is taken for
	// lost: short enough to try again within the budget. A database that is slow is not silent.
	silence = 4 * time.Second
)

// postgresDB is the engine over a PostgreSQL database, which any number of servers use at once. A change is a
// serializable transaction, so each method of the store is right by what it does alone, as it is on SQLite; the
// database undoes what would not be, and such a change is tried again. The steps of an enrolment (changeByRow)
// are read-committed ones, because as serializable ones they would undo each other several times an enrolment.
type postgresDB struct {
	pool    *pgxpool.Pool
	metrics *metrics
	now     func() time.Time

	waiting atomic.Int64
	failed  atomic.Bool // whether the last change met a database that did not work
	retries *prometheus.CounterVec
	trips   prometheus.Counter
}

func openPostgres(ctx context.Context, location string, schema fs.FS, m *metrics, now func() time.Time) (*postgresDB, error) {
	d, err := connectPostgres(ctx, location, m, now)
	if err != nil {
		return nil, err
	}
	if err := checkPostgresSchema(ctx, d, schema); err != nil {
		d.pool.Close()
		return nil, err
	}
	return d, nil
}

// connectPostgres makes the pool, whose connections open as they are needed, and tries one.
func connectPostgres(ctx context.Context, location string, m *metrics, now func() time.Time) (*postgresDB, error) {
	config, err := postgresConfig(location)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, &unreachableError{err}
	}
	d := &postgresDB{
		pool: pool, metrics: m, now: now,
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_store_retries_total", Help: "Changes and reads tried again, by what undid them (PostgreSQL only).",
		}, []string{"reason"}),
		trips: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_store_round_trips_total", Help: "Times that a change or a read sent statements to PostgreSQL and waited for it.",
		}),
	}
	for _, reason := range []retryReason{byConnection, byConflict, byCollision} {
		d.retries.WithLabelValues(string(reason))
	}
	return d, nil
}

// postgresConfig is what a URL says, with our defaults for what it leaves open.
func postgresConfig(location string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(location)
	if err != nil {
		return nil, err // pgx leaves out the password
	}
	if !strings.Contains(location, "pool_max_conns") {
		config.MaxConns = int32(max(8, 4*runtime.GOMAXPROCS(0)))
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "assay"
	}
	if config.ConnConfig.RuntimeParams["plan_cache_mode"] == "" {
		config.AfterConnect = planOnce
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	config.ConnConfig.DialFunc = dialPostgres
	return config, nil
}

// dialPostgres connects so that the system ends a connection which is dead without a word: one that a firewall
// forgot, or of a machine that lost its power. It would else be waited for until a statement's time is over, and,
// while it is idle in the pool, for a quarter of an hour.
func dialPostgres(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence, Interval: time.Second, Count: 1},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") { // a socket of this machine
				return nil
			}
			var failed error
			err := c.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence/time.Millisecond))
			})
			return errors.Join(err, failed)
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// planOnce has a connection plan each prepared statement once. Ours are written to need no look at their parameters,
// for SQLite takes none; and where tables lie in years, planning one costs many times what it reads. As a parameter of
// the connection PgBouncer would refuse it.
func planOnce(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SET plan_cache_mode = force_generic_plan`)
	return err
}

func (d *postgresDB) close() error {
	d.pool.Close()
	return nil
}

func (d *postgresDB) alone() bool { return false }

func (d *postgresDB) labelIs() string { return "nullif(labels, '')::jsonb ->> ? = ?" }

// erased: what was erased leaves PostgreSQL's files with vacuum and its log as that is recycled.
func (d *postgresDB) erased(context.Context) error { return nil }

// do tries a change until it is committed, or refused for a reason of its own.
func (d *postgresDB) do(ctx context.Context, kind changeKind, run func(*tx) error) error {
	if d.waiting.Add(1) > queueLength && !kind.is(changeEnding) {
		d.waiting.Add(-1)
		d.metrics.rejected.Inc()
		return issuance.ErrOverloaded
	}
	defer d.waiting.Add(-1)
	return d.retry(ctx, func() error { return d.try(ctx, kind, run) })
}

// try runs a change in one transaction and commits it.
func (d *postgresDB) try(ctx context.Context, kind changeKind, run func(*tx) error) error {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return noConnection(ctx, err)
	}
	began := d.now()
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeLimit(kind))
	defer cancel()
	p := beginPostgres(work, conn.Conn(), kind, d.trips)
	t := &tx{session: p}
	err = panics.Caught(func() error { return run(t) })
	failed := p.err // whatever the change made of it: nothing can be committed any more
	if failed == nil && keeps(err) {
		failed = p.commit()
	} else if failed == nil {
		failed = err
	}
	if failed != nil {
		p.rollBack()
	}
	conn.Release() // before another one is asked for
	d.suspect(failed)
	if lost, isLost := errors.AsType[*lostCommit](failed); isLost {
		failed = d.outcome(ctx, lost, witnessOf(t))
	}
	d.note(failed)
	if failed != nil {
		return failed
	}
	d.metrics.committed(!kind.is(changeRelaxed), d.now().Sub(began), t.audited)
	if k, ok := errors.AsType[*kept](err); ok {
		err = k.err
	}
	return err
}

// timeLimit is how long one try of a change may take.
func timeLimit(kind changeKind) time.Duration {
	switch {
	case kind.is(changeOffline):
		return offlineTimeout
	case kind.is(changeByRow):
		return stepTimeout
	}
	return changeTimeout
}

// note keeps whether the database failed at the last change.
func (d *postgresDB) note(err error) {
	failed := err != nil && broken(err)
	d.failed.Store(failed)
	if failed {
		d.metrics.failed.Inc()
	}
}

func (d *postgresDB) row(ctx context.Context, query string, args ...any) scanner {
	if !areTexts(args) {
		return failedRow{sql.ErrNoRows}
	}
	return scanFunc(func(into ...any) error {
		return d.retry(ctx, func() error {
			return d.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
				return conn.QueryRow(ctx, translated(query), args...).Scan(into...)
			})
		})
	})
}

func (d *postgresDB) rows(ctx context.Context, each func(scanner) error, query string, args ...any) error {
	given := false
	return d.retry(ctx, func() error {
		err := d.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, translated(query), args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				given = true
				if err := each(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		return halfway(given, err)
	})
}

// halfway keeps a read that failed from being tried again if rows were given: they cannot be taken back.
func halfway(given bool, err error) error {
	if given && reasonToRetry(err) != "" {
		return fmt.Errorf("reading stopped halfway: %v", err)
	}
	return err
}

func (d *postgresDB) ask(ctx context.Context, questions ...question) error {
	if err := askable(questions); err != nil {
		return err
	}
	given := false
	return d.retry(ctx, func() error {
		err := d.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			batch, tasks := new(pgx.Batch), make([]task, 0, len(questions))
			var own error
			for _, q := range questions {
				each := q.each
				q.each = func(row scanner) error {
					given = true
					return each(row)
				}
				batch.Queue(translated(q.query), q.args...)
				tasks = append(tasks, q.task(&own))
			}
			if err := answered(conn.SendBatch(ctx, batch), tasks); err != nil {
				return err
			}
			return own
		})
		return halfway(given, err)
	})
}

// areTexts reports whether all texts are such as PostgreSQL can hold. Strangers choose the ids in URLs: one that
// is no text names nothing.
func areTexts(args []any) bool {
	return !slices.ContainsFunc(args, func(arg any) bool {
		text, is := arg.(string)
		return is && (strings.ContainsRune(text, 0) || !utf8.ValidString(text))
	})
}

// read lends a connection for one read.
func (d *postgresDB) read(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return noConnection(ctx, err)
	}
	defer conn.Release()
	d.trips.Inc()
	bounded, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	err = ifLost(conn.Conn(), work(bounded, conn.Conn()))
	d.suspect(err)
	return err
}

// suspect replaces every connection once one was silent: the others are no better, and each would cost its user as
// long to find that out.
func (d *postgresDB) suspect(err error) {
	if errors.Is(err, syscall.ETIMEDOUT) {
		d.pool.Reset()
	}
}

// ifLost marks an error for what it is if the connection was lost with it.
func ifLost(conn *pgx.Conn, err error) error {
	if err == nil || !conn.IsClosed() || reasonToRetry(err) != "" || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &lostConnection{err}
}

// scanFunc is a row that is read once it is known where to.
type scanFunc func(into ...any) error

func (f scanFunc) Scan(into ...any) error { return f(into...) }

// ready: it answers a read, may be written to, and worked for the last change.
func (d *postgresDB) ready(ctx context.Context) error {
	var readOnly bool
	if err := d.pool.QueryRow(ctx, `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean FROM goose_db_version LIMIT 1`).Scan(&readOnly); err != nil {
		return fmt.Errorf("the database does not answer a read: %w", err)
	}
	if readOnly {
		return errors.New("the database can only be read: it is a standby")
	}
	if d.failed.Load() {
		return errors.New("the last change could not be committed: is the database out of room?")
	}
	return nil
}

func (d *postgresDB) sizes(ctx context.Context, f *Figures) (err error) {
	if err := d.row(ctx, `SELECT pg_database_size(current_database())`).Scan(&f.Database); err != nil {
		return err
	}
	f.Years, err = d.years(ctx)
	return err
}

func (d *postgresDB) collectors() []prometheus.Collector {
	gauge := func(name, help string, of func(*pgxpool.Stat) int32) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of(d.pool.Stat())) })
	}
	return []prometheus.Collector{
		d.retries, d.trips,
		gauge("assay_store_connections_busy", "Connections to PostgreSQL that are at work.", (*pgxpool.Stat).AcquiredConns),
		gauge("assay_store_connections_limit", "Connections to PostgreSQL that may be open.", (*pgxpool.Stat).MaxConns),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "assay_store_queue_length", Help: "Changes that wait to be committed.",
		}, func() float64 { return float64(d.waiting.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "assay_store_queue_capacity", Help: "Changes that may wait; further ones are refused.",
		}, func() float64 { return queueLength }),
	}
}
