package store

import (
	"path/filepath"
	"testing"

	"assay/internal/panics"
)

func TestAPanicWhileRowsAreReadKeepsNoConnection(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	err := panics.Caught(func() error {
		return s.reads.rows(t.Context(), func(scanner) error { panic("oh") }, `SELECT 1`)
	})
	if busy := s.ReadPool().Stats().InUse; err == nil || busy != 0 {
		t.Errorf("%d connections are still in use, %v", busy, err)
	}
	w := s.db.(*sqliteDB).writer
	if err := s.db.do(t.Context(), changeDurable, func(x *tx) error {
		return x.rows(func(scanner) error { panic("oh") }, `SELECT id FROM audit UNION ALL SELECT 1 UNION ALL SELECT 2`)
	}); err == nil {
		t.Error("a panic was lost")
	}
	if busy, err := w.moveLog(); busy || err != nil { // which it cannot while a statement is open
		t.Errorf("the writer still reads: %v, %v", busy, err)
	}
}
