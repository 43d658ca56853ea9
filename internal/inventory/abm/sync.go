package abm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

const (
	// maxAsked is how many devices that a listing lacks one sync asks for, each by a request of its own.
	maxAsked = 100
	// maxNamed is how many devices a Sync names of each kind.
	maxNamed = 100
	// resumeWithin is how old an interrupted listing may be to go on.
	resumeWithin = 12 * time.Hour
	// maxSeen is the most devices of a listing that an interruption keeps: two megabytes.
	maxSeen = 250_000
	// savingLimit bounds how long the state may take to be kept once the sync's own context is over.
	savingLimit = 10 * time.Second
)

// Checks that a sync can fail beside those of an Error.
const (
	CheckInventory   = "inventory"   // the inventory did not take what was read
	CheckInterrupted = "interrupted" // the sync was stopped
)

// Sync is one run of a sync, ended or under way.
type Sync struct {
	StartedAt time.Time
	EndedAt   time.Time // zero while it is under way
	Full      bool      // it was told to begin anew
	DryRun    bool      // it changes nothing
	Resumed   bool      // it went on where another one was interrupted

	// Complete is whether the listing was read to its end.
	Complete bool
	Pages    int // read
	Total    int // devices that the service says there are; 0 if it does not
	Listed   int // devices read, each counted once
	Counts
	Faults      []Fault   // devices that cannot be used or were refused, the first maxNamed
	FaultCount  int       // all that cannot be used
	Released    []Release // devices that were released since the sync before, the first maxNamed
	ReleasedAll int
	Missing     []string // likewise the serial numbers of those that the organization has no longer, for whatever reason
	MissingAll  int
	Unasked     int // devices that the listing lacks, and that the next sync asks for

	Failure *Failure // nil while nothing went wrong
}

// Release is a device that the organization released.
type Release struct {
	Serial string
	At     time.Time
}

// Counts say what became of listed devices in the inventory.
type Counts struct {
	New, Changed, Unchanged int
	Refused                 int // by the inventory, such as for a conflict that it lists
}

func (c *Counts) add(more Counts) {
	c.New, c.Changed = c.New+more.New, c.Changed+more.Changed
	c.Unchanged, c.Refused = c.Unchanged+more.Unchanged, c.Refused+more.Refused
}

// Failure is why a sync ended early.
type Failure struct {
	Check   string // stable name
	Detail  string
	Advice  string
	RetryAt time.Time // when the service wants to be asked again; zero if it did not say
}

// Syncer keeps an inventory in step with one organization. Two at once do no harm: what one brings, the other
// finds there.
type Syncer struct {
	Client *Client
	Store  Store
	Now    func() time.Time
}

// Options say how one sync is made.
type Options struct {
	Full     bool       // begin anew where an interrupted listing could go on, and ask once more for what is off the list
	DryRun   bool       // change nothing, and keep nothing of the sync
	Progress func(Sync) // called after every page; may be nil
}

// state is what is kept between syncs.
type state struct {
	Last        Sync         // the last one but for dry runs
	CompleteAt  time.Time    // when the last complete listing was read to its end
	Interrupted *interrupted `json:",omitempty"`
}

// interrupted is a listing that came to no end.
type interrupted struct {
	Cursor    string
	StartedAt time.Time
	Seen      []byte // digests of the devices before the cursor, 8 bytes each
}

// run is one sync under way.
type run struct {
	*Syncer
	call   issuance.Call
	o      Options
	state  state
	loaded bool // whether state is what was kept; else it must not be written over
	sync   Sync
	seen   map[uint64]bool
	next   string    // cursor of the page that is read next
	begun  time.Time // the listing, by the sync that was interrupted in it if it goes on
}

// Sync reads the organization's devices and brings the inventory into step: what is listed becomes known, what
// changed is changed. Devices that are listed no longer are told apart only behind a complete listing, and by
// asking for each. The published API has no filter for changes, so every sync lists all; what did not change
// is not written. Where a listing is interrupted, the next sync goes on behind what was read.
//
// The error is also in the Sync, as its Failure.
func (s *Syncer) Sync(ctx context.Context, call issuance.Call, o Options) (Sync, error) {
	r := &run{Syncer: s, call: call, o: o, seen: map[uint64]bool{}, begun: s.Now()}
	r.sync = Sync{StartedAt: r.begun, Full: o.Full, DryRun: o.DryRun}
	err := r.prepare(ctx)
	if err == nil {
		err = r.list(ctx)
	}
	if err == nil {
		err = r.askForMissing(ctx)
	}
	r.sync.EndedAt = s.Now()
	if err != nil {
		r.sync.Failure = failureOf(ctx, err)
	}
	if r.loaded && !o.DryRun {
		if unsaved := r.save(ctx); unsaved != nil {
			err = errors.Join(err, unsaved)
			r.sync.Failure = failureOf(ctx, err)
		}
	}
	return r.sync, err
}

// prepare finds out where the listing begins.
func (r *run) prepare(ctx context.Context) error {
	var err error
	if r.state, err = r.load(ctx); err != nil {
		return err
	}
	r.loaded = true
	left := r.state.Interrupted
	if left == nil || r.o.Full || r.o.DryRun || r.begun.Sub(left.StartedAt) > resumeWithin {
		return nil
	}
	r.sync.Resumed, r.next, r.begun = true, left.Cursor, left.StartedAt
	for seen := left.Seen; len(seen) >= 8; seen = seen[8:] {
		r.seen[binary.BigEndian.Uint64(seen)] = true
	}
	r.sync.Listed = len(r.seen)
	return nil
}

// list reads the listing into the inventory. A cursor that is no good any more is one to forget.
func (r *run) list(ctx context.Context) error {
	err := r.listFrom(ctx, r.next)
	fault, refused := errors.AsType[*Error](err)
	if refused && r.sync.Resumed && r.sync.Pages == 0 && fault.Check == CheckRequest {
		r.sync.Resumed, r.next, r.begun, r.sync.Listed = false, "", r.sync.StartedAt, 0
		clear(r.seen)
		err = r.listFrom(ctx, "")
	}
	return err
}

func (r *run) listFrom(ctx context.Context, cursor string) error {
	for page, err := range r.Client.Pages(ctx, cursor) {
		if err != nil {
			return err
		}
		if err := r.takePage(ctx, &page); err != nil {
			return err
		}
	}
	r.next, r.sync.Complete = "", true
	return nil
}

// takePage brings a page into the inventory.
func (r *run) takePage(ctx context.Context, page *Page) error {
	var listings []issuance.Listing
	for _, d := range page.Devices {
		if key := digest(d.Serial); !r.seen[key] { // a list that changes while it is read may have a device twice
			r.seen[key] = true
			listings = append(listings, listingOf(d))
		}
	}
	counts, err := r.take(ctx, listings)
	if err != nil {
		for _, l := range listings { // the page will be read once more
			delete(r.seen, digest(l.Serial))
		}
		return err
	}
	r.sync.Counts.add(counts)
	r.sync.Pages, r.sync.Total, r.sync.Listed = r.sync.Pages+1, page.Total, r.sync.Listed+len(listings)
	r.sync.FaultCount += len(page.Faults)
	r.sync.Faults = append(r.sync.Faults, page.Faults[:min(len(page.Faults), maxNamed-len(r.sync.Faults))]...)
	r.next = page.Next
	if r.o.Progress != nil {
		r.o.Progress(r.sync)
	}
	return nil
}

// askForMissing asks for the devices that the complete listing lacks: whether a device was released is said of
// single devices only, and one that is lacking may have been listed on a page that was read already.
func (r *run) askForMissing(ctx context.Context) error {
	missing, err := r.offList(ctx)
	if err != nil {
		return err
	}
	r.sync.Unasked = len(missing)
	for _, serial := range missing[:min(len(missing), maxAsked)] {
		if err := r.ask(ctx, serial); err != nil {
			return fmt.Errorf("the listing is complete, but not what became of devices that it lacks: %w", err)
		}
		r.sync.Unasked--
	}
	return nil
}

// ask finds out what became of a device that is listed no longer.
func (r *run) ask(ctx context.Context, serial string) error {
	device, err := r.Client.Device(ctx, serial)
	fault, ok := errors.AsType[*Error](err)
	gone := ok && fault.Check == CheckMissing
	switch {
	case gone:
		r.sync.MissingAll++
		if len(r.sync.Missing) < maxNamed {
			r.sync.Missing = append(r.sync.Missing, serial)
		}
		return r.takeOff(ctx, serial, StatusMissing)
	case err != nil:
		return err
	case device.ReleasedAt.IsZero(): // it is still the organization's: it came while the list was read
		return nil
	}
	r.sync.ReleasedAll++
	if len(r.sync.Released) < maxNamed {
		r.sync.Released = append(r.sync.Released, Release{Serial: serial, At: device.ReleasedAt})
	}
	return r.takeOff(ctx, serial, StatusReleased)
}

// digest tells devices apart in little space. Two of a million have the same one with a chance of one in
// thirty million; then one that is missing is not noticed.
func digest(serial string) uint64 {
	sum := sha256.Sum256([]byte(serial))
	return binary.BigEndian.Uint64(sum[:8])
}

// failureOf is a sync's error as people and programs read it.
func failureOf(ctx context.Context, err error) *Failure {
	if ctx.Err() != nil {
		return &Failure{Check: CheckInterrupted, Detail: "the sync was stopped", Advice: "nothing is to be done: the next sync goes on behind what was read"}
	}
	if fault, ok := errors.AsType[*Error](err); ok {
		return &Failure{Check: fault.Check, Detail: err.Error(), Advice: fault.Advice(), RetryAt: fault.RetryAt}
	}
	return &Failure{Check: CheckInventory, Detail: err.Error(), Advice: "the server's log says more; the next sync tries again"}
}
