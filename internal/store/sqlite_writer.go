package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"assay/internal/issuance"
	"assay/internal/panics"

	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// ErrClosed: the store was closed.
var ErrClosed = errors.New("store is closed")

const (
	queueLength = 1024 // changes that may wait
	batchLength = 128  // changes that share one commit

	// commitDelay is how long a commit waits for others to share it, once changes come together: a
	// commit writes each page that it touched whole, so a shared one costs the processor less. A device
	// waits for it in each of its steps, and a processor with nothing to do gains nothing: keep it short.
	commitDelay = time.Millisecond

	// logLimit is how large the write-ahead log may grow until the writer begins it anew, in bytes. SQLite does so
	// by itself only if a commit meets a moment without any reader, of which there are none under load.
	logLimit = 64 << 20
	// logPatience is how long, in milliseconds, that waits for readers of an older state to end. They are short,
	// but for a backup.
	logPatience = 50
)

// writer owns the one connection that writes. Changes that wait while a commit is being fsynced
// share the next commit, so that many of them cost one fsync.
type writer struct {
	db   *sql.DB
	conn *conn
	jobs chan *job
	done chan struct{} // closed when the goroutine has ended

	mu     sync.RWMutex // held for reading while sending to jobs
	closed bool

	relaxed  bool // the connection is at synchronous=NORMAL
	patience int  // its busy_timeout, in milliseconds; 0: not known

	log         string // path of the write-ahead log
	logLimit    int64
	logAim      int64 // size at which to begin it anew
	logPatience int
	pulse
	metrics *metrics
	now     func() time.Time
}

// job is one change.
type job struct {
	ctx     context.Context
	durable bool // fsynced before it is answered
	run     func(*tx) error
	state   atomic.Int32
	answer  chan error
	err     error
	audited []event // audit rows that it wrote, the last time that it ran
}

// States of a job: whoever takes it from waiting owns it.
const (
	jobWaiting int32 = iota
	jobTaken
	jobWithdrawn
)

func newWriter(ctx context.Context, path string, m *metrics, now func() time.Time) (*writer, error) {
	db, err := openPool(dsn(path, "synchronous(FULL)", "secure_delete(1)", "cache_size(-8192)",
		"wal_autocheckpoint(4000)", "temp_store(MEMORY)"), 1)
	if err != nil {
		return nil, err
	}
	c, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	w := &writer{
		db:   db,
		conn: &conn{c: c, stmts: make(map[string]*sql.Stmt)},
		jobs: make(chan *job, queueLength),
		done: make(chan struct{}),

		patience: busyTimeout,

		log: path + "-wal", logLimit: logLimit, logAim: logLimit, logPatience: logPatience,

		metrics: m, now: now,
	}
	go w.loop()
	return w, nil
}

// do runs a change and waits until it is committed. Whoever cancels ctx takes back a change that
// still waits; one that has begun is waited for. With a full queue it fails, but for a change that
// ends what another began: that one waits for its place.
func (w *writer) do(ctx context.Context, kind changeKind, run func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{ctx: ctx, durable: !kind.is(changeRelaxed), run: run, answer: make(chan error, 1)}
	if err := w.send(j, kind.is(changeEnding)); err != nil {
		return err
	}
	select {
	case err := <-j.answer:
		return err
	case <-ctx.Done():
		if j.state.CompareAndSwap(jobWaiting, jobWithdrawn) {
			return ctx.Err()
		}
		return <-j.answer
	}
}

func (w *writer) send(j *job, wait bool) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrClosed
	}
	if wait {
		select {
		case w.jobs <- j:
			return nil
		case <-j.ctx.Done():
			return j.ctx.Err()
		}
	}
	select {
	case w.jobs <- j:
		return nil
	default:
		w.metrics.rejected.Inc()
		return issuance.ErrOverloaded
	}
}

// loop commits batch after batch until the queue is closed and empty. Where changes come together
// (the last commit had several), it waits a moment for more of them.
func (w *writer) loop() {
	defer close(w.done)
	batch := make([]*job, 0, batchLength)
	for first := range w.jobs {
		if len(batch) > 1 {
			time.Sleep(commitDelay)
		}
		batch = w.gather(append(batch[:0], first))
		w.commit(batch)
		w.trimLog()
	}
}

// trimLog moves the log into the database and begins it anew if it is too large. Where readers hold that up, it is
// tried again when the log has grown by as much once more: nothing is lost by a large log but time. That it fails
// counts as a commit that does: it is the same disk.
func (w *writer) trimLog() {
	info, err := os.Stat(w.log)
	if err != nil || info.Size() < w.logAim {
		return
	}
	w.logAim = info.Size() + w.logLimit
	began := w.now()
	w.since.Store(&began)
	defer w.since.Store(nil)
	busy, err := w.moveLog()
	switch {
	case err != nil:
		w.failed.Store(true)
		w.metrics.failed.Inc()
	case !busy:
		w.logAim = w.logLimit
	}
}

// moveLog moves the log into the database and begins it anew, unless readers keep it busy.
func (w *writer) moveLog() (busy bool, err error) {
	if err := w.setPatience(w.logPatience); err != nil {
		return false, err
	}
	var frames, moved int
	err = w.conn.c.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	return busy, err // the next batch has its patience again
}

// setPatience chooses for how many milliseconds the connection waits for others.
func (w *writer) setPatience(ms int) error {
	if w.patience == ms {
		return nil
	}
	w.patience = 0
	if _, err := w.conn.c.ExecContext(context.Background(), fmt.Sprintf("PRAGMA busy_timeout=%d", ms)); err != nil {
		return err
	}
	w.patience = ms
	return nil
}

// gather adds what waits already.
func (w *writer) gather(batch []*job) []*job {
	for len(batch) < batchLength {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				return batch
			}
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit runs the batch in one transaction and answers every job of it.
func (w *writer) commit(batch []*job) {
	taken := batch[:0]
	for _, j := range batch {
		if !j.state.CompareAndSwap(jobWaiting, jobTaken) {
			continue
		}
		if err := j.ctx.Err(); err != nil {
			j.answer <- err
			continue
		}
		taken = append(taken, j)
	}
	if len(taken) == 0 {
		return
	}
	began := w.now()
	w.since.Store(&began)
	failed := w.transact(taken)
	w.since.Store(nil)
	w.failed.Store(failed != nil)
	w.count(taken, w.now().Sub(began), failed != nil)
	for _, j := range taken {
		err := j.err
		if failed != nil {
			err = failed
		}
		if k, ok := errors.AsType[*kept](err); ok {
			err = k.err
		}
		j.answer <- err
	}
}

// count counts a batch that took so long.
func (w *writer) count(batch []*job, took time.Duration, failed bool) {
	w.metrics.batch.Observe(float64(len(batch)))
	if failed {
		w.metrics.failed.Inc()
	}
	var audited [][]event
	for _, j := range batch {
		if !failed && keeps(j.err) {
			audited = append(audited, j.audited)
		}
	}
	w.metrics.committed(!w.relaxed, took, audited...)
}

// transact leaves each job's own outcome in its err; the error returned is everybody's. Savepoints
// make SQLite copy every page that a change touches, and hardly ever is one needed: only if a change
// has to be rolled back is the batch run again with them. Changes can therefore run twice.
func (w *writer) transact(batch []*job) error {
	durable := false
	for _, j := range batch {
		durable = durable || j.durable
	}
	if err := errors.Join(w.setDurable(durable), w.setPatience(busyTimeout)); err != nil {
		return fmt.Errorf("set durability and patience: %w", err)
	}
	clean, err := w.attempt(batch, false)
	if err == nil && !clean && len(batch) > 1 {
		_, err = w.attempt(batch, true)
	}
	return err
}

// attempt runs the batch in one transaction and commits it. Without savepoints a change that fails
// spoils all of it: then nothing is committed, and clean is false.
func (w *writer) attempt(batch []*job, savepoints bool) (clean bool, err error) {
	if err := w.conn.run("BEGIN IMMEDIATE"); err != nil {
		return false, fmt.Errorf("begin: %w", err)
	}
	for _, j := range batch {
		if err := w.runOne(j, savepoints); err != nil {
			return false, errors.Join(err, w.rollBack())
		}
		if !savepoints && !keeps(j.err) {
			return false, w.rollBack()
		}
	}
	if err := w.conn.run("COMMIT"); err != nil {
		return false, errors.Join(fmt.Errorf("commit: %w", err), w.rollBack())
	}
	return true, nil
}

// runOne runs a job. The error returned means that the whole batch is lost.
func (w *writer) runOne(j *job, savepoint bool) error {
	if savepoint {
		if err := w.conn.run("SAVEPOINT change"); err != nil {
			return fmt.Errorf("savepoint: %w", err)
		}
	}
	t := &tx{session: w.conn}
	j.err = panics.Caught(func() error { return j.run(t) }) // the engine lives on
	j.audited = t.audited
	if breaksTransaction(j.err) {
		return j.err
	}
	if !savepoint {
		return nil
	}
	if !keeps(j.err) {
		if err := w.conn.run("ROLLBACK TO change"); err != nil {
			return fmt.Errorf("roll back one change: %w", err)
		}
	}
	if err := w.conn.run("RELEASE change"); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}

// breaksTransaction reports whether SQLite may have rolled back the whole transaction by itself, as
// it does on a full disk, I/O errors or lack of memory: nothing may be run in it any more.
func breaksTransaction(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	primary := e.Code() & 0xff
	return primary != sqlitelib.SQLITE_CONSTRAINT && primary != sqlitelib.SQLITE_MISMATCH
}

// rollBack undoes the transaction. SQLite may have done so already; then there is none to roll back.
func (w *writer) rollBack() error {
	err := w.conn.run("ROLLBACK")
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code() == sqlitelib.SQLITE_ERROR {
		return nil
	}
	return err
}

// setDurable chooses whether commits wait for fsync. In WAL mode NORMAL commits are atomic and
// survive a killed process; only a power failure may lose the last of them.
func (w *writer) setDurable(durable bool) error {
	if durable != w.relaxed {
		return nil
	}
	level := "FULL"
	if !durable {
		level = "NORMAL"
	}
	// Never prepared: the pragma takes effect while it is compiled.
	if _, err := w.conn.c.ExecContext(context.Background(), "PRAGMA synchronous="+level); err != nil {
		return err
	}
	w.relaxed = !durable
	return nil
}

func (w *writer) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.jobs)
	w.mu.Unlock()
	<-w.done
	return errors.Join(w.conn.close(), w.db.Close())
}
