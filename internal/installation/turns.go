package installation

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"assay/internal/store"
)

// turns lets one server at a time do each kind of periodic work, where several share a database.
type turns struct {
	store  *store.Store
	holder string        // this server, by a name that no other has
	every  time.Duration // between two turns
	now    func() time.Time
	log    *slog.Logger
}

func (i *Installation) newTurns(every time.Duration, log *slog.Logger) *turns {
	return &turns{store: i.Store, holder: rand.Text(), every: every, now: i.now, log: log}
}

// lease is how long a server that died keeps the others from its periodic work.
func (t *turns) lease() time.Duration { return t.every / 4 }

// periodically does some work at once and then again and again, until the context ends.
func (t *turns) periodically(ctx context.Context, what string, work func(context.Context) error) {
	ticker := time.NewTicker(t.every)
	defer ticker.Stop()
	for {
		if err := traced(ctx, what, work); err != nil && ctx.Err() == nil {
			t.log.Error(what, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// take does some work if it is this server's turn, which it keeps while it works. If the turn is lost
// meanwhile, as when the database cannot be reached, the work's context ends.
func (t *turns) take(ctx context.Context, name string, work func(context.Context) error) error {
	if !t.store.Shared() {
		return work(ctx)
	}
	held, err := t.store.Lease(ctx, t.now(), name, t.holder, t.lease())
	if err != nil || !held {
		return err
	}
	working, cancel := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		t.keep(working, cancel, name)
	}()
	err = work(working)
	cancel()
	<-kept
	return err
}

// keep prolongs the lease until the work is done.
func (t *turns) keep(ctx context.Context, lost context.CancelFunc, name string) {
	ticker := time.NewTicker(t.lease() / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		held, err := t.store.Lease(ctx, t.now(), name, t.holder, t.lease())
		if ctx.Err() != nil {
			return
		}
		if err != nil || !held {
			t.log.Warn("lost the turn at periodic work: another server does it", "work", name, "error", err)
			lost()
			return
		}
	}
}

// end gives back every turn, so that another server need not wait for it.
func (t *turns) end(ctx context.Context) error {
	if !t.store.Shared() {
		return nil
	}
	return t.store.ReleaseLeases(ctx, t.holder)
}
