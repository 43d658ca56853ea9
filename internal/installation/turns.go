package installation

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"assay/internal/store"
)

// leaseLifetime is how long a server that died keeps the others from its periodic work.
const leaseLifetime = 15 * time.Second

// turns lets one server at a time do each kind of periodic work, where several share a database.
type turns struct {
	store  *store.Store
	holder string // this server, by a name that no other has
	now    func() time.Time
	log    *slog.Logger
}

func (i *Installation) newTurns(log *slog.Logger) *turns {
	return &turns{store: i.Store, holder: rand.Text(), now: i.now, log: log}
}

// take does some work if it is this server's turn, which it keeps while it works. If the turn is lost
// meanwhile, as when the database cannot be reached, the work's context ends.
func (t *turns) take(ctx context.Context, name string, work func(context.Context) error) error {
	if !t.store.Shared() {
		return work(ctx)
	}
	held, err := t.store.Lease(ctx, t.now(), name, t.holder, leaseLifetime)
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
	ticker := time.NewTicker(leaseLifetime / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		held, err := t.store.Lease(ctx, t.now(), name, t.holder, leaseLifetime)
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
