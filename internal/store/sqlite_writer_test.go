package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/issuance"
)

func spend(id byte) func(*tx) error {
	return func(t *tx) error {
		return t.spend(issuance.Nonce{ID: [16]byte{id}, ExpiresAt: time.Unix(100, 0)})
	}
}

func countNonces(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.reads.row(t.Context(), `SELECT count(*) FROM nonces`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// blocked holds the writer until release is called, so that what is sent meanwhile is one batch.
func blocked(t *testing.T, s *Store) (release func()) {
	t.Helper()
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		left <- s.db.(*sqliteDB).do(context.Background(), changeDurable, func(*tx) error {
			once.Do(func() { close(entered) })
			<-leave
			return nil
		})
	}()
	<-entered
	return func() {
		close(leave)
		if err := <-left; err != nil {
			t.Error(err)
		}
	}
}

// sendAll queues changes while the writer is held and returns their errors.
func sendAll(t *testing.T, s *Store, changes ...func(*tx) error) []error {
	t.Helper()
	release := blocked(t, s)
	jobs := make([]*job, len(changes))
	for i, run := range changes {
		jobs[i] = &job{ctx: t.Context(), durable: i%2 == 0, run: run, answer: make(chan error, 1)}
		if err := s.db.(*sqliteDB).send(jobs[i], false); err != nil {
			t.Fatal(err)
		}
	}
	release()
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		errs[i] = <-j.answer
	}
	return errs
}

func TestFailedChangeOfABatchLeavesTheOthersAlone(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	wrong := errors.New("wrong")
	errs := sendAll(t, s,
		spend(1),
		func(t *tx) error { return errors.Join(spend(2)(t), wrong) },
		spend(3),
		func(t *tx) error { _ = spend(4)(t); panic("oh") },
		func(t *tx) error { return errors.Join(spend(5)(t), keep(wrong)) },
		func(t *tx) error {
			_, err := t.exec(`INSERT INTO audit_personal (audit, salt, "values") VALUES ('none', zeroblob(16), '')`)
			return errors.Join(spend(6)(t), err)
		},
		spend(1),
		spend(7),
	)
	for i, want := range []string{"", "wrong", "", "panic: oh", "wrong", "FOREIGN KEY", issuance.ErrNonceUsed.Error(), ""} {
		if got := errs[i]; (got == nil) != (want == "") || got != nil && !strings.Contains(got.Error(), want) {
			t.Errorf("change %d: error %v, want %q", i, got, want)
		}
	}
	if n := countNonces(t, s); n != 4 {
		t.Errorf("%d changes were kept, want those of 1, 3, 5 and 7", n)
	}
}

func TestLostTransactionFailsTheWholeBatch(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	errs := sendAll(t, s,
		spend(1),
		func(t *tx) error { _, err := t.exec(`SELECT no_such_function()`); return err },
		spend(2),
	)
	for i, err := range errs {
		if err == nil {
			t.Errorf("change %d succeeded in a lost transaction", i)
		}
	}
	if n := countNonces(t, s); n != 0 {
		t.Errorf("%d changes were kept", n)
	}
	if err := s.db.(*sqliteDB).do(t.Context(), changeDurable, spend(3)); err != nil {
		t.Errorf("writer did not recover: %v", err)
	}
}

func TestFailedCommitFailsEveryChange(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	errs := sendAll(t, s,
		spend(1),
		func(t *tx) error {
			if _, err := t.exec(`PRAGMA defer_foreign_keys = 1`); err != nil {
				return err
			}
			_, err := t.exec(`INSERT INTO audit_personal (audit, salt, "values") VALUES ('none', zeroblob(16), '')`)
			return err
		},
	)
	for i, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "commit") {
			t.Errorf("change %d: error %v", i, err)
		}
	}
	if n := countNonces(t, s); n != 0 {
		t.Errorf("%d changes were kept", n)
	}
	if err := s.db.(*sqliteDB).do(t.Context(), changeRelaxed, spend(3)); err != nil {
		t.Errorf("writer did not recover: %v", err)
	}
}

func TestFullQueueFailsAtOnce(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	release := blocked(t, s)
	jobs := make([]*job, queueLength)
	for i := range jobs {
		jobs[i] = &job{ctx: t.Context(), run: func(*tx) error { return nil }, answer: make(chan error, 1)}
		if err := s.db.(*sqliteDB).send(jobs[i], false); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SpendNonce(t.Context(), issuance.Nonce{ID: [16]byte{1}}); !errors.Is(err, issuance.ErrOverloaded) {
		t.Errorf("error is %v", err)
	}
	// What ends a claim is not refused: it waits for its place, as long as its caller does.
	impatient, giveUp := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		gaveUp <- s.db.(*sqliteDB).do(impatient, changeEnding, func(*tx) error { t.Error("ran though its caller gave up"); return nil })
	}()
	giveUp()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.db.(*sqliteDB).do(t.Context(), changeEnding, func(*tx) error { return nil }) }()
	release()
	if err := <-ended; err != nil {
		t.Errorf("what ends a claim was refused: %v", err)
	}
	for _, j := range jobs {
		if err := <-j.answer; err != nil {
			t.Error(err)
		}
	}
}

func TestCancelledChangeIsTakenBackOrFinished(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	release := blocked(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- s.db.(*sqliteDB).do(ctx, changeDurable, spend(1)) }()
	for len(s.db.(*sqliteDB).jobs) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	release()

	ctx, cancel = context.WithCancel(t.Context())
	err := s.db.(*sqliteDB).do(ctx, changeDurable, func(t *tx) error {
		cancel() // too late: it has begun
		return spend(2)(t)
	})
	if err != nil {
		t.Errorf("a change that had begun: %v", err)
	}
	if err := s.db.(*sqliteDB).do(ctx, changeDurable, spend(3)); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if n := countNonces(t, s); n != 1 {
		t.Errorf("%d changes were kept, want 1", n)
	}
}

func TestClosedStoreFinishesItsWorkAndTakesNoMore(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	release := blocked(t, s)
	last := &job{ctx: t.Context(), run: spend(1), answer: make(chan error, 1)}
	if err := s.db.(*sqliteDB).send(last, false); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- s.db.(*sqliteDB).close() }()
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := <-last.answer; err != nil {
		t.Errorf("change sent before closing: %v", err)
	}
	if err := s.SpendNonce(t.Context(), issuance.Nonce{ID: [16]byte{2}}); !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
}

func TestOnlyBatchesWithADurableChangeAreSynced(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	for i, kind := range []changeKind{changeDurable, changeRelaxed, changeRelaxed, changeDurable, changeRelaxed, changeEnding} {
		var level int
		if err := s.db.(*sqliteDB).do(t.Context(), kind, func(t *tx) error { return t.row("PRAGMA synchronous").Scan(&level) }); err != nil {
			t.Fatal(err)
		}
		if want := map[changeKind]int{changeDurable: 2, changeRelaxed: 1, changeEnding: 2}[kind]; level != want {
			t.Errorf("change %d: synchronous is %d, want %d", i, level, want)
		}
	}
	levels := make([]int, 2)
	read := func(i int) func(*tx) error {
		return func(t *tx) error { return t.row("PRAGMA synchronous").Scan(&levels[i]) }
	}
	for _, err := range sendAll(t, s, read(0), read(1)) { // durable and not, in one batch
		if err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(levels) != "[2 2]" {
		t.Errorf("a mixed batch runs at %v", levels)
	}
}
