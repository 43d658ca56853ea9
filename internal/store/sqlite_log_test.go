package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// withSmallLog is a store that begins its log anew at a megabyte, and what writes to it and tells the log's size.
func withSmallLog(t *testing.T) (s *Store, write func() (log int64)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assay.db")
	s, err := Open(t.Context(), path, Options{Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	d := s.db.(*sqliteDB)
	var id uint64
	fill := func(*tx) error { d.writer.logLimit, d.writer.logAim = 1<<20, 1<<20; return nil } // on the writer's goroutine
	if err := d.do(t.Context(), changeRelaxed, fill); err != nil {
		t.Fatal(err)
	}
	return s, func() int64 {
		t.Helper()
		err := d.do(t.Context(), changeRelaxed, func(tx *tx) error {
			for range 500 { // spread over the table
				id += 0x9e3779b97f4a7c15
				if err := tx.write(`INSERT INTO nonces (expires_at, id) VALUES (?, ?)`, int64(id>>1), binary.BigEndian.AppendUint64(make([]byte, 8), id)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
}

// reading begins a read that lasts until it is ended.
func reading(t *testing.T, s *Store) (end func()) {
	t.Helper()
	tx, err := s.ReadPool().BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Error(err)
		return func() {}
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM issuers`).Scan(&n); err != nil {
		t.Error(err)
	}
	return func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}
}

// TestLogIsBegunAnewThoughThereIsAlwaysAReader: under load one reader ends when the next one reads already.
func TestLogIsBegunAnewThoughThereIsAlwaysAReader(t *testing.T) {
	s, write := withSmallLog(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		end := reading(t, s)
		defer func() { end() }()
		for {
			next := reading(t, s)
			end()
			end = next
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	most := int64(0)
	for range 100 {
		most = max(most, write())
	}
	close(stop)
	<-stopped
	if most < 1<<20 || most > 8<<20 {
		t.Errorf("the log had up to %d bytes", most)
	}
}

// TestHangingMoveOfTheLogIsSeen: its change was answered before.
func TestHangingMoveOfTheLogIsSeen(t *testing.T) {
	s, write := withSmallLog(t)
	d := s.db.(*sqliteDB)
	if err := d.do(t.Context(), changeRelaxed, func(*tx) error { d.writer.logPatience = busyTimeout; return nil }); err != nil {
		t.Fatal(err)
	}
	end := reading(t, s)
	for write() < 1<<20 {
	}
	seen := false
	for begun := time.Now(); !seen && time.Since(begun) < busyTimeout/2*time.Millisecond; time.Sleep(time.Millisecond) {
		seen = d.writer.since.Load() != nil
	}
	end()
	if !seen {
		t.Error("the writer counts as idle while it moves the log")
	}
}

// TestMoveOfTheLogThatFailsIsSeen: as a commit that does.
func TestMoveOfTheLogThatFailsIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	s, err := Open(t.Context(), path, Options{Key: make([]byte, KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	w := s.db.(*sqliteDB).writer
	w.log, w.logAim = path, 0 // of what is closed nothing can be moved
	w.trimLog()
	if !w.failed.Load() || testutil.ToFloat64(w.metrics.failed) != 1 || w.since.Load() != nil {
		t.Errorf("failed %t, %g times, under way %v", w.failed.Load(), testutil.ToFloat64(w.metrics.failed), w.since.Load())
	}
}

// TestChangesWaitForOthersAsLongAsEver: also where to say so failed after the log was moved.
func TestChangesWaitForOthersAsLongAsEver(t *testing.T) {
	s, write := withSmallLog(t)
	d := s.db.(*sqliteDB)
	write()
	impatient := func(*tx) error { return d.writer.setPatience(logPatience) }
	if err := d.do(t.Context(), changeRelaxed, impatient); err != nil {
		t.Fatal(err)
	}
	var patience int
	if err := d.do(t.Context(), changeRelaxed, func(tx *tx) error { return tx.row(`PRAGMA busy_timeout`).Scan(&patience) }); err != nil || patience != busyTimeout {
		t.Errorf("the next change waits %d ms, %v", patience, err)
	}
}

// TestLongReaderHoldsUpNoWrite: the log grows meanwhile, and is begun anew afterwards.
func TestLongReaderHoldsUpNoWrite(t *testing.T) {
	s, write := withSmallLog(t)
	end := reading(t, s)
	for write() < 4<<20 {
	}
	end()
	for n := 0; write() > 3<<20; n++ {
		if n == 100 {
			t.Fatal("the log was not begun anew")
		}
	}
}
