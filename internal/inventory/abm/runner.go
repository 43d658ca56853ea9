package abm

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"assay/internal/issuance"
)

// ErrRunning says that a sync is under way already.
var ErrRunning = errors.New("a sync is under way")

// Runner makes syncs one at a time: those that are due, and those that are asked for. Stop it.
type Runner struct {
	// Metrics count the syncs. Default: kept but not registered anywhere.
	Metrics *Metrics

	syncer Syncer
	every  time.Duration
	log    *slog.Logger

	ctx     context.Context // of those that were asked for
	cancel  context.CancelFunc
	working sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	current *Sync // under way; nil for none
	ended   *Sync // the last one that ended in this process, dry runs included
	ends    int   // how many ended
}

// NewRunner makes a runner whose syncs are due every so often. log may be nil.
func NewRunner(s Syncer, every time.Duration, log *slog.Logger) *Runner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{Metrics: NewMetrics(), syncer: s, every: every, log: log}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Standing is where an inventory stands with its organization, and what is being done about it.
type Standing struct {
	Status       // its Last is the sync under way, else the one that ended last here, else the one that was kept
	Running bool // whether it is under way
	Every   time.Duration
	NextAt  time.Time // when the running server makes the next one; zero: at once
}

// Standing says where the inventory stands.
func (r *Runner) Standing(ctx context.Context) (Standing, error) {
	for {
		r.mu.Lock()
		ends := r.ends
		r.mu.Unlock()
		status, err := r.syncer.Status(ctx)
		if err != nil {
			return Standing{}, err
		}
		if s, ok := r.standing(status, ends); ok {
			return s, nil
		}
	}
}

// standing adds what is being done to what was kept; false if a sync ended meanwhile, so that what was kept
// is older than that.
func (r *Runner) standing(status Status, ends int) (Standing, bool) {
	s := Standing{Status: status, Every: r.every, NextAt: status.NextAt(r.every)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends != ends {
		return s, false
	}
	switch {
	case r.current != nil:
		s.Running, s.Last = true, *r.current
	case r.ended != nil && !r.ended.StartedAt.Before(s.Last.StartedAt):
		s.Last = *r.ended
	}
	return s, true
}

// Start starts a sync that goes on by itself, until it ends or Stop is called. ErrRunning if there is one.
func (r *Runner) Start(call issuance.Call, o Options) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil || r.stopped {
		return ErrRunning
	}
	r.begin(o)
	r.working.Go(func() { r.run(r.ctx, call, o) })
	return nil
}

// RunDue makes a sync if one is due and none is under way. Its error is that of finding out: what fails in a
// sync is logged and kept with it.
func (r *Runner) RunDue(ctx context.Context) error {
	status, err := r.syncer.Status(ctx)
	if err != nil {
		return err
	}
	now := r.syncer.Now()
	// A sync that began later than now was made while the clock was ahead: its next one would never come.
	if now.Before(status.NextAt(r.every)) && !status.Last.StartedAt.After(now) {
		return nil
	}
	r.mu.Lock()
	if r.current != nil || r.stopped {
		r.mu.Unlock()
		return nil
	}
	r.begin(Options{})
	r.mu.Unlock()
	r.run(ctx, issuance.Call{Now: now, From: "server"}, Options{})
	return nil
}

// begin notes that a sync is under way; the caller holds mu.
func (r *Runner) begin(o Options) {
	r.current = &Sync{StartedAt: r.syncer.Now(), Full: o.Full, DryRun: o.DryRun}
}

func (r *Runner) run(ctx context.Context, call issuance.Call, o Options) {
	o.Progress = func(s Sync) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.current = &s
	}
	ended, err := r.syncer.Sync(ctx, call, o)
	r.mu.Lock()
	r.current, r.ended, r.ends = nil, &ended, r.ends+1
	r.mu.Unlock()
	r.Metrics.ended(&ended, err, r.syncer.Now())
	r.tell(ctx, &ended, err)
}

// tell writes the one log line of a sync.
func (r *Runner) tell(ctx context.Context, s *Sync, err error) {
	attributes := []any{
		"source", Source, "dryRun", s.DryRun, "complete", s.Complete, "pages", s.Pages, "listed", s.Listed, "new", s.New, "changed", s.Changed,
		"refused", s.Refused, "faults", s.FaultCount, "released", s.ReleasedAll, "missing", s.MissingAll, "unasked", s.Unasked,
		"took", s.EndedAt.Sub(s.StartedAt).String(),
	}
	if err == nil {
		r.log.InfoContext(ctx, "inventory synced", attributes...)
		return
	}
	attributes = append(attributes, "error", err)
	if s.Failure != nil {
		attributes = append(attributes, "check", s.Failure.Check, "advice", s.Failure.Advice)
	}
	r.log.WarnContext(ctx, "inventory not synced", attributes...)
}

// Stop interrupts what Start started, and waits for it to end. Nothing starts afterwards.
func (r *Runner) Stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.cancel()
	r.working.Wait()
}
