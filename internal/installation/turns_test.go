package installation

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"assay/internal/logbook"
)

// TestPeriodicWorkIsDoneByOneServerAtATime: the other one's turn comes when the first gives its back, and one
// that loses its turn stops.
func TestPeriodicWorkIsDoneByOneServerAtATime(t *testing.T) {
	f := newFleet(t, 2, 3)
	log := &logbook.Book{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	first, second := f.inst.newTurns(UpkeepInterval, logger), opened(t, f.replicas[1].dir).newTurns(UpkeepInterval, logger)
	working, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- first.take(t.Context(), "work", func(ctx context.Context) error {
			close(working)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	<-working
	did := func(turns *turns, name string) (did bool) {
		t.Helper()
		if err := turns.take(t.Context(), name, func(context.Context) error { did = true; return nil }); err != nil {
			t.Fatal(err)
		}
		return did
	}
	if did(second, "work") {
		t.Error("two servers do the same work at once")
	}
	if !did(second, "other work") {
		t.Error("work that nobody does is not done")
	}
	// As if the first had not been heard of for long.
	if held, err := f.inst.Store.Lease(t.Context(), time.Now().Add(time.Hour), "work", second.holder, time.Hour); err != nil || !held {
		t.Fatal(held, err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("work whose turn was lost ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("work whose turn was lost goes on")
	}
	if did(first, "work") {
		t.Error("a server works whose turn is over")
	}
	if err := second.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !did(first, "work") {
		t.Error("a turn that was given back is nobody's")
	}
}
