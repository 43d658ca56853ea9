package enroll

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/acme"
)

func TestFleetCountsWhatBecameOfEachDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := &Abort{Step: StepOrder, Reason: ReasonHTTPStatus, Problem: acme.NewProblem(acme.RejectedIdentifier, "code", "used")}
		var running, most atomic.Int32
		var progress []int
		fleet := &Fleet{
			Size: 120, Concurrency: 10,
			Enroll: func(ctx context.Context, i int) (*Result, error) {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				time.Sleep(time.Second)
				switch {
				case i < 100:
					return &Result{Took: time.Duration(i+1) * time.Millisecond}, nil
				case i < 110:
					return nil, refused
				case i < 115:
					return nil, &Abort{Step: StepNonce, Reason: ReasonTransport}
				}
				return nil, errors.New("no attestation authority")
			},
			Progress: func(done, size int) {
				if size != 120 {
					t.Errorf("size %d", size)
				}
				progress = append(progress, done)
			},
		}
		s := fleet.Run(t.Context(), nil)
		want := map[string]int{"order: rejectedIdentifier (code)": 10, "nonce: transport": 5, "failed": 5}
		if diff := cmp.Diff(want, s.Refused); diff != "" {
			t.Error(diff)
		}
		if s.Issued != 100 || s.NotRun != 0 || s.Took != 12*time.Second || most.Load() != 10 {
			t.Errorf("%+v, at most %d at a time", s, most.Load())
		}
		ms := time.Millisecond
		if s.Latency != (Latency{P50: 50 * ms, P95: 95 * ms, P99: 99 * ms, Max: 100 * ms}) {
			t.Errorf("latency %+v", s.Latency)
		}
		for i, done := range progress {
			if done != i+1 {
				t.Fatalf("progress %v", progress)
			}
		}
		if len(progress) != 120 || s.FirstError["order: rejectedIdentifier (code)"] != error(refused) {
			t.Errorf("%d reports, example %v", len(progress), s.FirstError)
		}
	})
}

func TestFleetEndsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	// Device 10 cancels once the ten before it have their certificates, and whoever is under way
	// with it sees that: how the two workers take turns must not matter to the count.
	var ten sync.WaitGroup
	ten.Add(10)
	fleet := &Fleet{Size: 50, Concurrency: 2, Enroll: func(ctx context.Context, i int) (*Result, error) {
		switch {
		case i < 10:
			ten.Done()
			return &Result{}, nil
		case i == 10:
			ten.Wait()
			cancel()
		}
		<-ctx.Done()
		return nil, &Abort{Step: StepNonce, Err: ctx.Err()}
	}}
	s := fleet.Run(ctx, nil)
	if s.Issued != 10 || s.NotRun != 40 || len(s.Refused) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestEmptyFleet(t *testing.T) {
	if s := (&Fleet{}).Run(t.Context(), nil); s.Issued != 0 || s.Latency != (Latency{}) {
		t.Errorf("%+v", s)
	}
}

func TestLatencyOfFew(t *testing.T) {
	if got := latencyOf([]time.Duration{3, 1, 2}); got != (Latency{P50: 2, P95: 3, P99: 3, Max: 3}) {
		t.Errorf("%+v", got)
	}
	if got := latencyOf([]time.Duration{7}); got != (Latency{7, 7, 7, 7}) {
		t.Errorf("%+v", got)
	}
}

func TestFleetOfRealRuns(t *testing.T) {
	f := newFakeServer(t)
	f.script = func(step string, a *answer) {
		if step == "new-account" {
			a.Status = http.StatusServiceUnavailable
		}
	}
	client, _ := newClient(t, f, IPhone, "A15")
	fleet := &Fleet{Size: 3, Concurrency: 1, Enroll: func(ctx context.Context, _ int) (*Result, error) {
		own := *client
		own.Device = must(NewDevice(IPhone, "", rand.Reader))
		return own.Enroll(ctx, f.document())
	}}
	if s := fleet.Run(t.Context(), nil); s.Refused["account: http-status"] != 3 {
		t.Errorf("%+v", s)
	}
}
