package abm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
)

// soon is when a sync that failed for something that passes is made again, where that is before its time.
const soon = 15 * time.Minute

// Status is where an inventory stands with its organization.
type Status struct {
	Last       Sync      // the last sync; its StartedAt is zero where there was none
	CompleteAt time.Time // when the last complete listing was read to its end; zero for never
	Unfinished bool      // whether a listing waits to go on
}

// Status reads where the inventory stands.
func (s *Syncer) Status(ctx context.Context) (Status, error) {
	kept, err := s.load(ctx)
	if err != nil {
		return Status{}, err
	}
	return Status{Last: kept.Last, CompleteAt: kept.CompleteAt, Unfinished: kept.Interrupted != nil}, nil
}

// NextAt is when the next sync is due, if one is made every so often. After a failure that passes by itself it
// is sooner, but never before the service wants to be asked again.
func (s *Status) NextAt(every time.Duration) time.Time {
	if s.Last.StartedAt.IsZero() {
		return time.Time{}
	}
	failure := s.Last.Failure
	if failure == nil {
		return s.Last.StartedAt.Add(every)
	}
	next := s.Last.EndedAt
	switch failure.Check {
	case CheckInterrupted:
	case CheckRateLimit, CheckService, CheckNetwork, CheckInventory:
		next = next.Add(min(every, soon))
	default: // a person has to mend it first
		next = s.Last.StartedAt.Add(every)
	}
	if next.Before(failure.RetryAt) {
		return failure.RetryAt
	}
	return next
}

func (s *Syncer) load(ctx context.Context) (state, error) {
	text, err := s.kept(ctx)
	if err != nil {
		return state{}, fmt.Errorf("read the state of the sync: %w", err)
	}
	// A state that another version wrote in another form is no more than none: the next sync lists all.
	var kept state
	if json.Unmarshal(text, &kept) != nil {
		return state{}, nil
	}
	return kept, nil
}

// save keeps the sync, without the devices that it names, and, if its listing came to no end, where to go on. It
// is kept also where the sync was stopped, which is when it matters.
func (r *run) save(ctx context.Context) error {
	kept := state{Last: r.sync, CompleteAt: r.state.CompleteAt}
	// Serial numbers stay out of it: who has a device forgotten must not find it here.
	kept.Last.Released, kept.Last.Missing, kept.Last.Faults = nil, nil, nil
	if r.sync.Complete {
		kept.CompleteAt = r.sync.EndedAt
	}
	if r.next != "" && len(r.seen) <= maxSeen {
		kept.Interrupted = &interrupted{Cursor: r.next, StartedAt: r.begun, Seen: r.digests()}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("keep the state of the sync: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), savingLimit)
	defer cancel()
	if err := r.keep(ctx, r.call, text, &kept); err != nil {
		return fmt.Errorf("keep the state of the sync: %w", err)
	}
	return nil
}

func (r *run) digests() []byte {
	all := make([]byte, 0, 8*len(r.seen))
	for key := range r.seen {
		all = binary.BigEndian.AppendUint64(all, key)
	}
	return all
}
