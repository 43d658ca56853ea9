package store

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// audits is a change that writes an audit row and ends so.
func audits(s *Store, action audit.Action, err error) func(*tx) error {
	return func(t *tx) error {
		return errors.Join(s.record(t, issuance.Call{Now: time.Unix(100, 0)}, audit.Row{Action: action}, audit.Personal{}), err)
	}
}

// A batch in which one change fails is run twice, and its other changes with it: they are counted once, and what
// was rolled back is not counted.
func TestMetricsCountWhatIsCommittedAndOnce(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	release := blocked(t, s)
	fault := errors.New("a fault")
	changes := []func(*tx) error{
		audits(s, audit.CertificateRevoked, nil),
		audits(s, audit.CertificateCollected, fault),
		audits(s, audit.CertificateRevoked, nil),
		audits(s, audit.CodeMinted, nil),
	}
	jobs := make([]*job, len(changes))
	for n, run := range changes {
		jobs[n] = &job{ctx: t.Context(), durable: true, run: run, answer: make(chan error, 1)}
		if err := s.db.(*sqliteDB).send(jobs[n], false); err != nil {
			t.Fatal(err)
		}
	}
	release()
	for n, j := range jobs {
		if err := <-j.answer; (n == 1) != errors.Is(err, fault) {
			t.Fatalf("change %d: %v", n, err)
		}
	}
	m := s.metrics
	if revoked, collected := testutil.ToFloat64(m.revoked), testutil.ToFloat64(m.collected); revoked != 2 || collected != 0 {
		t.Errorf("%v revoked and %v collected, want 2 and none", revoked, collected)
	}
	if minted := testutil.ToFloat64(m.audited.WithLabelValues("code.minted", "done")); minted != 1 {
		t.Errorf("%v audit rows of minted codes, want 1", minted)
	}
	err := testutil.CollectAndCompare(m.batch, strings.NewReader(`
# HELP assay_store_batch_changes Changes that shared one commit.
# TYPE assay_store_batch_changes histogram
assay_store_batch_changes_bucket{le="1"} 1
assay_store_batch_changes_bucket{le="2"} 1
assay_store_batch_changes_bucket{le="4"} 2
assay_store_batch_changes_bucket{le="8"} 2
assay_store_batch_changes_bucket{le="16"} 2
assay_store_batch_changes_bucket{le="32"} 2
assay_store_batch_changes_bucket{le="64"} 2
assay_store_batch_changes_bucket{le="128"} 2
assay_store_batch_changes_bucket{le="+Inf"} 2
assay_store_batch_changes_sum 5
assay_store_batch_changes_count 2
`))
	if err != nil {
		t.Error(err)
	}
}

func TestReadyTellsAStuckWriterFromABusyOne(t *testing.T) {
	var later atomic.Int64 // how far the clock is ahead
	start := time.Now()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "assay.db"), Options{
		Key: make([]byte, KeySize), Now: func() time.Time { return start.Add(time.Duration(later.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	release := blocked(t, s)
	later.Store(int64(commitLimit))
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("at work for %s: %v", commitLimit, err)
	}
	later.Add(int64(time.Second))
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "a commit takes 6s already") {
		t.Errorf("at work for longer: %v", err)
	}
	release()
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := s.Ready(canceled(t)); err == nil || !strings.Contains(err.Error(), "does not answer a read") {
		t.Errorf("without time for a read: %v", err)
	}
}

func TestReadyTellsThatChangesAreNotCommitted(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	err := s.db.(*sqliteDB).do(t.Context(), changeDurable, func(t *tx) error { // whose commit fails
		if _, err := t.exec(`PRAGMA defer_foreign_keys = 1`); err != nil {
			return err
		}
		_, err := t.exec(`INSERT INTO audit_personal (audit, salt, "values") VALUES ('none', zeroblob(16), '')`)
		return err
	})
	if err == nil {
		t.Fatal("the commit did not fail")
	}
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "could not be committed") {
		t.Errorf("after a commit failed: %v", err)
	}
	if failed := testutil.ToFloat64(s.metrics.failed); failed != 1 {
		t.Errorf("%v failures counted", failed)
	}
	if err := s.db.(*sqliteDB).do(t.Context(), changeDurable, spend(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("after the next commit: %v", err)
	}
}

func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
