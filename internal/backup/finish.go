package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/store"
)

// FinishOptions says how a database that came back by other means is made safe to serve.
type FinishOptions struct {
	// TakenAt is when the copy of the database was taken (the end of pg_dump): it holds nothing later. A time
	// of whole seconds means all of its second.
	TakenAt time.Time
	// KeepCodes and KeepTokens leave open what the database has as open (store.Restoring).
	// WARNING: only where the original did nothing any more after the copy was taken.
	KeepCodes, KeepTokens bool
	Now                   func() time.Time
	From                  string // who does it, for the audit
}

// UsedSinceError: the database holds what happened after the time at which the copy is said to be taken.
type UsedSinceError struct{ TakenAt, Newest time.Time }

func (e *UsedSinceError) Error() string {
	return fmt.Sprintf("its newest audit row is of %s, but the copy is said to be of %s: the time is wrong, or this is a database that is being served, or one that was made safe already; nothing was changed",
		e.Newest.UTC().Format(time.RFC3339Nano), e.TakenAt.UTC().Format(time.RFC3339Nano))
}

// Finish makes the database of the installation in dir safe to serve after it was brought back by other means
// than Restore, such as pg_restore: it ends what may have been used up since (store.MarkRestored). It refuses
// a database that a server runs on (installation.ErrServed), and one that was used since (*UsedSinceError):
// there it would end what is in use.
func Finish(ctx context.Context, dir string, o FinishOptions) (store.Ended, error) {
	ended, err := o.finish(ctx, dir)
	if err != nil {
		return store.Ended{}, fmt.Errorf("finish the restore of %s: %w", dir, err)
	}
	return ended, nil
}

func (o *FinishOptions) finish(ctx context.Context, dir string) (ended store.Ended, err error) {
	config, err := installation.LoadConfig(dir)
	if err != nil {
		return store.Ended{}, err
	}
	unlock, err := installation.Lock(dir)
	if err != nil {
		return store.Ended{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	location := config.DatabaseLocation(dir)
	db, err := openUnsealed(ctx, location)
	if err != nil {
		return store.Ended{}, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	until, err := store.ServedUntil(ctx, location)
	if err != nil {
		return store.Ended{}, err
	}
	if now := o.Now(); until.After(now) {
		return store.Ended{}, fmt.Errorf("%w, or did until a moment ago: stop every server of the database, and try again in %s", installation.ErrServed, until.Sub(now).Round(time.Second)+time.Second)
	}
	newest, err := db.NewestAudit(ctx)
	if err != nil {
		return store.Ended{}, err
	}
	last := o.TakenAt
	if last.Nanosecond() == 0 {
		last = last.Add(time.Second - 1)
	}
	if newest.After(last) {
		return store.Ended{}, &UsedSinceError{TakenAt: o.TakenAt, Newest: newest}
	}
	return db.MarkRestored(ctx, issuance.Call{Now: o.Now(), From: o.From}, store.Restoring{
		TakenAt: o.TakenAt, Shards: config.ShardCount(), KeepCodes: o.KeepCodes, KeepTokens: o.KeepTokens,
	})
}
