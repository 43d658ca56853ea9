package enroll

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Fleet runs one enrolment for each of many devices, some at a time.
type Fleet struct {
	Size        int // devices
	Concurrency int // enrolments at a time; less than 1 counts as 1

	// Enroll enrols device number i, from 0. It is called from several goroutines.
	Enroll func(ctx context.Context, i int) (*Result, error)

	// Progress is told after each device, one call at a time; nil: nobody watches.
	Progress func(done, size int)
}

// Summary is what became of a fleet.
type Summary struct {
	Issued  int
	Refused map[string]int // by Abort.Cause, or "failed" for errors that are no Abort
	NotRun  int            // devices that a cancelled context kept from finishing
	Latency Latency        // of those issued: from first contact to certificate
	Took    time.Duration  // the whole fleet, keys included

	// FirstError is an example of each refusal, by the same names.
	FirstError map[string]error
}

// Latency is the distribution of a fleet's latencies; zero if there are none.
type Latency struct{ P50, P95, P99, Max time.Duration }

// Run enrols the fleet and returns when every device has ended. A cancelled context ends it early;
// the summary then says how many devices did not finish. A nil now is the system's clock.
func (f *Fleet) Run(ctx context.Context, now func() time.Time) *Summary {
	if now == nil {
		now = time.Now
	}
	start := now()
	t := tally{summary: &Summary{Refused: map[string]int{}, FirstError: map[string]error{}}, fleet: f}
	devices := make(chan int)
	var workers sync.WaitGroup
	for range min(max(f.Concurrency, 1), max(f.Size, 0)) {
		workers.Go(func() {
			for i := range devices {
				if ctx.Err() != nil {
					t.add(ctx, nil, ctx.Err())
					continue
				}
				result, err := f.Enroll(ctx, i)
				t.add(ctx, result, err)
			}
		})
	}
	for i := range f.Size {
		devices <- i
	}
	close(devices)
	workers.Wait()
	t.summary.Latency = latencyOf(t.latencies)
	t.summary.Took = now().Sub(start)
	return t.summary
}

// tally counts results as they come.
type tally struct {
	mu        sync.Mutex
	fleet     *Fleet
	summary   *Summary
	latencies []time.Duration
	done      int
}

func (t *tally) add(ctx context.Context, result *Result, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.summary.Issued++
		t.latencies = append(t.latencies, result.Took)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		t.summary.NotRun++
	default:
		cause := "failed"
		if abort, ok := errors.AsType[*Abort](err); ok {
			cause = abort.Cause()
		}
		t.summary.Refused[cause]++
		if _, seen := t.summary.FirstError[cause]; !seen {
			t.summary.FirstError[cause] = err
		}
	}
	t.done++
	if t.fleet.Progress != nil {
		t.fleet.Progress(t.done, t.fleet.Size)
	}
}

func latencyOf(latencies []time.Duration) Latency {
	if len(latencies) == 0 {
		return Latency{}
	}
	slices.Sort(latencies)
	// Nearest rank: the smallest value that at least p of 100 do not exceed.
	rank := func(p int) time.Duration { return latencies[(len(latencies)*p+99)/100-1] }
	return Latency{P50: rank(50), P95: rank(95), P99: rank(99), Max: latencies[len(latencies)-1]}
}
