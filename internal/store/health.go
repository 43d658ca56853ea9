package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// commitLimit is how long a commit may take before the store counts as stuck. A durable one takes milliseconds.
const commitLimit = 5 * time.Second

// pulse is how the writer fares, for whoever looks from outside.
type pulse struct {
	since  atomic.Pointer[time.Time] // when the batch under way began; nil: the writer is idle
	failed atomic.Bool               // whether the last batch could not be committed
}

// Ready says why the store cannot be used now; nil if it can: it answers a read, and the writer is idle, or at
// work for no longer than a moment, and committed what it was last given.
func (s *Store) Ready(ctx context.Context) error {
	var errs []error
	var one int
	if err := s.reads.db.QueryRowContext(ctx, "SELECT 1 FROM goose_db_version LIMIT 1").Scan(&one); err != nil {
		errs = append(errs, fmt.Errorf("the database does not answer a read: %w", err))
	}
	if since := s.writer.since.Load(); since != nil {
		if took := s.writer.now().Sub(*since); took > commitLimit {
			errs = append(errs, fmt.Errorf("a commit takes %s already", took.Round(time.Second)))
		}
	}
	if s.writer.failed.Load() {
		errs = append(errs, errors.New("the last changes could not be committed: is the disk full?"))
	}
	return errors.Join(errs...)
}
