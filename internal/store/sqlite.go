package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqliteDB is the engine over one file: a writer and a pool of readers.
type sqliteDB struct {
	path string
	*writer
	*sqliteReader
}

func openSQLite(ctx context.Context, path string, schema fs.FS, m *metrics, now func() time.Time) (*sqliteDB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, path, schema); err != nil {
		return nil, err
	}
	d := &sqliteDB{path: path}
	if d.sqliteReader, err = newReader(path); err != nil {
		return nil, err
	}
	if d.writer, err = newWriter(ctx, path, m, now); err != nil {
		return nil, errors.Join(err, d.sqliteReader.close())
	}
	return d, nil
}

func (d *sqliteDB) close() error { return errors.Join(d.writer.close(), d.sqliteReader.close()) }

func (d *sqliteDB) alone() bool { return true }

func (d *sqliteDB) labelIs() string {
	return "CASE WHEN labels = '' THEN NULL ELSE labels END ->> ('$.' || json_quote(?)) = ?"
}

func (d *sqliteDB) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "assay_store_queue_length", Help: "Changes that wait to be committed.",
		}, func() float64 { return float64(len(d.jobs)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "assay_store_queue_capacity", Help: "Changes that may wait; further ones are refused.",
		}, func() float64 { return float64(cap(d.jobs)) }),
	}
}

// commitLimit is how long a commit may take before the store counts as stuck. A durable one takes milliseconds.
const commitLimit = 5 * time.Second

// pulse is how the writer fares, for whoever looks from outside.
type pulse struct {
	since  atomic.Pointer[time.Time] // when the batch under way began, or the move of the log; nil: the writer is idle
	failed atomic.Bool               // whether the last batch could not be committed, or the log be moved after it
}

// ready: it answers a read, and the writer is idle, or at
// work for no longer than a moment, and committed what it was last given.
func (d *sqliteDB) ready(ctx context.Context) error {
	var errs []error
	var one int
	if err := d.sqliteReader.db.QueryRowContext(ctx, "SELECT 1 FROM goose_db_version LIMIT 1").Scan(&one); err != nil {
		errs = append(errs, fmt.Errorf("the database does not answer a read: %w", err))
	}
	if since := d.writer.since.Load(); since != nil {
		if took := d.writer.now().Sub(*since); took > commitLimit {
			errs = append(errs, fmt.Errorf("a commit takes %s already, or the move of the log into the database that follows it", took.Round(time.Second)))
		}
	}
	if d.writer.failed.Load() {
		errs = append(errs, errors.New("the last changes could not be committed, or be moved from the log into the database: is the disk full?"))
	}
	return errors.Join(errs...)
}

// sizes reads how much room the database takes, and how much there is.
func (d *sqliteDB) sizes(_ context.Context, f *Figures) error {
	for _, file := range []struct {
		path string
		size *int64
	}{{d.path, &f.Database}, {d.path + "-wal", &f.WAL}} {
		info, err := os.Stat(file.path)
		if errors.Is(err, fs.ErrNotExist) { // there is no WAL before the first change
			continue
		} else if err != nil {
			return err
		}
		*file.size = info.Size()
	}
	var room unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(d.path), &room); err != nil {
		return err
	}
	f.Free = int64(room.Bavail) * int64(room.Bsize)
	return nil
}

// erased moves the log into the database, so that what was erased is in neither.
func (d *sqliteDB) erased(ctx context.Context) (err error) {
	db, err := openPool(dsn(d.path), 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var busy, frames, moved int
	if err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved); err != nil {
		return fmt.Errorf("move the log into the database: %w", err)
	}
	return nil
}

// busyTimeout is how long, in milliseconds, a write waits for another process's.
const busyTimeout = 10_000

// dsn names the database at an absolute path. Pragmas are applied to every connection.
func dsn(path string, pragmas ...string) string {
	pragmas = append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout), "foreign_keys(1)"}, pragmas...)
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// openPool opens a pool of at most n connections that stay open.
func openPool(dataSource string, n int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dataSource)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

func readPoolSize() int { return max(4, 2*runtime.GOMAXPROCS(0)) }
