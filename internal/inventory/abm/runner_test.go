package abm_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"
	"assay/internal/issuance"
	"assay/internal/logbook"
	"assay/internal/store"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// gate is a fault that holds an answer back until it is opened, and says when one waits.
type gate struct{ waiting, open chan struct{} }

func newGate() *gate { return &gate{waiting: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) fault(_ *abmtest.Service, w http.ResponseWriter, r *http.Request, right abmtest.Answer) {
	close(g.waiting)
	select {
	case <-g.open:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(right.Body)
	case <-r.Context().Done():
	}
}

func standing(t *testing.T, r *abm.Runner) abm.Standing {
	t.Helper()
	s, err := r.Standing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ended waits until no sync is under way.
func ended(t *testing.T, r *abm.Runner) abm.Standing {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s := standing(t, r); !s.Running {
			return s
		}
	}
	t.Fatal("the sync does not end")
	return abm.Standing{}
}

func TestRunnerMakesOneSyncAtATime(t *testing.T) {
	r := newSyncRig(t, 5)
	log := &logbook.Book{}
	runner := abm.NewRunner(r.Syncer, time.Hour, slog.New(slog.NewTextHandler(log, nil)))
	defer runner.Stop()
	if s := standing(t, runner); s.Running || !s.Last.StartedAt.IsZero() || !s.NextAt.IsZero() || s.Every != time.Hour {
		t.Errorf("before: %+v", s)
	}
	g := newGate()
	r.service.Fail(abmtest.List, nil, g.fault)
	call := issuance.Call{Now: r.clock.Now(), From: "operator:sam"}
	if err := runner.Start(call, abm.Options{}); err != nil {
		t.Fatal(err)
	}
	<-g.waiting
	if s := standing(t, runner); !s.Running || s.Last.Listed != 2 || s.Last.Pages != 1 || !s.Last.EndedAt.IsZero() {
		t.Errorf("under way: %+v", s)
	}
	if err := runner.Start(call, abm.Options{}); !errors.Is(err, abm.ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	requests := len(r.service.Requests())
	if err := runner.RunDue(t.Context()); err != nil || len(r.service.Requests()) != requests {
		t.Errorf("one that is due beside it: %v", err)
	}
	close(g.open)
	s := ended(t, runner)
	if s.Last.New != 5 || !s.NextAt.Equal(r.clock.Now().Add(time.Hour)) || s.CompleteAt.IsZero() {
		t.Errorf("afterwards: %+v", s)
	}
	runner.Stop()
	for _, want := range []string{"level=INFO", `msg="inventory synced"`, "source=apple-business-manager", "new=5", "listed=5"} {
		if !strings.Contains(log.String(), want) || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("the log is not one line with %s:\n%s", want, log.String())
		}
	}
	if err := runner.Start(call, abm.Options{}); err == nil {
		t.Error("starts though it was stopped")
	}
}

func TestRunnerCountsSyncsByWhatCameOfThem(t *testing.T) {
	r := newSyncRig(t, 2)
	runner := abm.NewRunner(r.Syncer, time.Hour, nil)
	defer runner.Stop()
	if err := runner.RunDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.clock.Wait(t.Context(), time.Hour)
	r.service.Fail(abmtest.List, abmtest.Status(403, ""))
	if err := runner.RunDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := runner.Start(r.call(), abm.Options{DryRun: true}); err != nil { // changes nothing: counts for nothing
		t.Fatal(err)
	}
	ended(t, runner)
	err := testutil.CollectAndCompare(runner.Metrics.Syncs, strings.NewReader(`
# HELP assay_inventory_syncs_total Syncs of the inventory with Apple Business or School Manager that ended, dry runs left out: ok, or the check that failed.
# TYPE assay_inventory_syncs_total counter
assay_inventory_syncs_total{result="ok"} 1
assay_inventory_syncs_total{result="permission"} 1
`))
	if err != nil {
		t.Error(err)
	}
	if at := testutil.ToFloat64(runner.Metrics.Complete); at != float64(r.clock.Now().Add(-time.Hour).Unix()) {
		t.Errorf("the last good sync is of %v", at)
	}
}

func TestRunnerKnowsItsDryRun(t *testing.T) {
	r := newSyncRig(t, 2)
	runner := abm.NewRunner(r.Syncer, time.Hour, nil)
	defer runner.Stop()
	if err := runner.Start(r.call(), abm.Options{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if s := ended(t, runner); !s.Last.DryRun || s.Last.New != 2 || !s.CompleteAt.IsZero() || !s.NextAt.IsZero() {
		t.Errorf("%+v", s)
	}
	// What another process did later is what stands.
	r.clock.Wait(t.Context(), time.Minute)
	r.synced(t, abm.Options{})
	if s := standing(t, runner); s.Last.DryRun {
		t.Errorf("%+v", s)
	}
}

func TestRunnerSyncsWhenItIsDue(t *testing.T) {
	r := newSyncRig(t, 2)
	log := &logbook.Book{}
	runner := abm.NewRunner(r.Syncer, time.Hour, slog.New(slog.NewTextHandler(log, nil)))
	defer runner.Stop()
	listings := func() (n int) {
		if err := runner.RunDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, one := range r.service.Requests() {
			if strings.HasPrefix(one, "GET ") {
				n++
			}
		}
		return n
	}
	if n := listings(); n != 1 {
		t.Errorf("%d listings at first", n)
	}
	r.clock.Wait(t.Context(), 59*time.Minute)
	if n := listings(); n != 1 {
		t.Errorf("%d listings before the hour", n)
	}
	r.clock.Wait(t.Context(), time.Minute)
	r.service.Fail(abmtest.List, abmtest.Status(403, ""))
	if n := listings(); n != 2 || !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "check=permission") || !strings.Contains(log.String(), "advice=") {
		t.Errorf("%d listings after the hour, log:\n%s", n, log.String())
	}
	r.clock.Wait(t.Context(), -3*time.Hour) // the clock was ahead
	if n := listings(); n != 3 {
		t.Errorf("%d listings once the clock was set right", n)
	}
}

func TestStoppedRunnerKeepsWhereItWas(t *testing.T) {
	r := newSyncRig(t, 5)
	runner := abm.NewRunner(r.Syncer, time.Hour, nil)
	g := newGate()
	r.service.Fail(abmtest.List, nil, g.fault)
	if err := runner.Start(r.call(), abm.Options{}); err != nil {
		t.Fatal(err)
	}
	<-g.waiting
	runner.Stop()
	if s := standing(t, runner); s.Running || !s.Unfinished || s.Last.Failure.Check != abm.CheckInterrupted || s.NextAt.After(r.clock.Now()) {
		t.Errorf("%+v", s)
	}
}

func TestStateOfAnotherFormIsNone(t *testing.T) {
	r := newSyncRig(t, 1)
	if err := r.store.PutSyncState(t.Context(), r.call(), issuance.Sync{Source: abm.Source, Cursor: `{"Last":7}`}); err != nil {
		t.Fatal(err)
	}
	if s := r.synced(t, abm.Options{}); !s.Complete || s.New != 1 {
		t.Errorf("%+v", s)
	}
}

// broken is a store whose state of syncs cannot be read.
type broken struct{ *store.Store }

func (broken) SyncState(context.Context, string) (issuance.Sync, error) {
	return issuance.Sync{}, errors.New("disk failure")
}

func TestStateThatCannotBeReadIsNotWrittenOver(t *testing.T) {
	r := newSyncRig(t, 5)
	r.service.Fail(abmtest.List, nil, abmtest.Status(403, ""))
	r.failed(t, abm.CheckPermission)
	kept := r.state(t)
	r.Store = broken{r.store}
	r.failed(t, abm.CheckInventory)
	if r.state(t) != kept {
		t.Error("the interrupted listing is lost")
	}
	runner := abm.NewRunner(r.Syncer, time.Hour, nil)
	defer runner.Stop()
	if err := runner.RunDue(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := runner.Standing(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestNothingThatIsKeptNamesADevice(t *testing.T) {
	r := newSyncRig(t, 2)
	r.known(t, "RELEASED1", "MISSING1")
	r.service.Put(abmtest.Device{Serial: "RELEASED1"}, abmtest.Device{Serial: "FAULTY 1"})
	r.service.Release("RELEASED1", r.clock.Now())
	if s := r.synced(t, abm.Options{}); len(s.Released) != 1 || len(s.Missing) != 1 || len(s.Faults) != 1 {
		t.Fatalf("%+v", s)
	}
	y := r.state(t)
	for _, serial := range []string{"S1", "RELEASED1", "MISSING1", "FAULTY 1"} {
		if strings.Contains(y.Cursor+y.Error, serial) {
			t.Errorf("%s is kept: %s", serial, y.Cursor)
		}
	}
	if status, err := r.Status(t.Context()); err != nil || status.Last.ReleasedAll != 1 || status.Last.MissingAll != 1 || status.Last.FaultCount != 1 {
		t.Errorf("%+v, %v", status, err)
	}
}
