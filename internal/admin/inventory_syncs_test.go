package admin_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/inventory/abm"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

// fakeSyncs stand as a test wants.
type fakeSyncs struct {
	standing abm.Standing
	err      error
	started  []abm.Options
	by       string
}

func (f *fakeSyncs) Start(call issuance.Call, o abm.Options) error {
	if f.err != nil {
		return f.err
	}
	f.started, f.by, f.standing.Running = append(f.started, o), call.From, true
	f.standing.Last = abm.Sync{StartedAt: call.Now, Full: o.Full, DryRun: o.DryRun}
	return nil
}

func (f *fakeSyncs) Standing(context.Context) (abm.Standing, error) { return f.standing, f.err }

func TestSyncsAreListedAndStarted(t *testing.T) {
	syncs := &fakeSyncs{standing: abm.Standing{Every: time.Hour}}
	r := newRig(t, func(c *admin.Config) { c.Syncs = syncs })
	reader, writer := r.client(admin.DevicesRead), r.client(admin.DevicesWrite)
	got := must[[]admin.InventorySync](t)(reader.InventorySyncs(t.Context()))
	if diff := cmp.Diff([]admin.InventorySync{{Source: "apple-business-manager", Every: "1h"}}, got); diff != "" {
		t.Error(diff)
	}
	_, err := reader.StartInventorySync(t.Context(), admin.StartSync{})
	wantRefused(t, err, http.StatusForbidden, "scope-missing")
	_, err = writer.InventorySyncs(t.Context())
	wantRefused(t, err, http.StatusForbidden, "scope-missing")
	if len(syncs.started) != 0 {
		t.Error("started without the scope")
	}
	started := must[admin.InventorySync](t)(writer.StartInventorySync(t.Context(), admin.StartSync{Full: true, DryRun: true}))
	if !started.Running || started.Last == nil || !started.Last.Full || !started.Last.DryRun || !strings.HasPrefix(syncs.by, "token:") {
		t.Errorf("started %+v by %s", started, syncs.by)
	}
	syncs.err = abm.ErrRunning
	_, err = writer.StartInventorySync(t.Context(), admin.StartSync{})
	wantRefused(t, err, http.StatusConflict, "sync-idle")
	syncs.err = errors.New("disk failure")
	_, err = writer.StartInventorySync(t.Context(), admin.StartSync{})
	wantRefused(t, err, http.StatusInternalServerError, "internal")
	_, err = reader.InventorySyncs(t.Context())
	wantRefused(t, err, http.StatusInternalServerError, "internal")
}

func TestSyncSaysEverything(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	syncs := &fakeSyncs{standing: abm.Standing{
		Status: abm.Status{CompleteAt: at.Add(-time.Hour), Unfinished: true, Last: abm.Sync{
			StartedAt: at, EndedAt: at.Add(time.Minute), Full: true, Resumed: true, Complete: true, Pages: 2, Total: 9, Listed: 8,
			Counts:     abm.Counts{New: 1, Changed: 2, Unchanged: 3, Refused: 4},
			Faults:     []abm.Fault{{Serial: "S 1", Why: "blanks"}},
			FaultCount: 5, Released: []abm.Release{{Serial: "S2", At: at}}, ReleasedAll: 6, Missing: []string{"S3"}, MissingAll: 7, Unasked: 10,
			Failure: &abm.Failure{Check: abm.CheckRateLimit, Detail: "too many", Advice: "wait", RetryAt: at.Add(time.Hour)},
		}},
		Every: 90 * time.Minute, NextAt: at.Add(time.Hour),
	}}
	r := newRig(t, func(c *admin.Config) { c.Syncs = syncs })
	want := admin.InventorySync{
		Source: "apple-business-manager", Every: "90m", NextAt: at.Add(time.Hour), CompletedAt: at.Add(-time.Hour), Unfinished: true,
		Last: &admin.SyncRun{
			StartedAt: at, EndedAt: at.Add(time.Minute), Full: true, Resumed: true, Complete: true, Pages: 2, Total: 9, Listed: 8,
			New: 1, Changed: 2, Unchanged: 3, Refused: 4, Faults: []admin.SyncFault{{Serial: "S 1", Why: "blanks"}}, FaultCount: 5,
			Released: []admin.Release{{Serial: "S2", ReleasedAt: at}}, ReleasedCount: 6, Missing: []string{"S3"}, MissingCount: 7, Unasked: 10,
			Failure: &admin.SyncFailure{Check: "rate-limit", Detail: "too many", Advice: "wait", RetryAt: at.Add(time.Hour)},
		},
	}
	got := must[[]admin.InventorySync](t)(r.client(admin.DevicesRead).InventorySyncs(t.Context()))
	if diff := cmp.Diff([]admin.InventorySync{want}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSyncOfNothingIsRefused(t *testing.T) {
	r := newRig(t, nil)
	if got := must[[]admin.InventorySync](t)(r.client(admin.DevicesRead).InventorySyncs(t.Context())); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	_, err := r.client(admin.DevicesWrite).StartInventorySync(t.Context(), admin.StartSync{})
	wantRefused(t, err, http.StatusConflict, "inventory-configured")
}

// What a sync says of a device it may take back, and takes for its own: nobody else may say it.
func TestNobodyImportsInTheNameOfASync(t *testing.T) {
	_, err := newRig(t, nil).client(admin.DevicesWrite).ImportDevices(t.Context(),
		admin.ImportDevices{Source: abm.Source, Devices: []admin.ListedDevice{{Serial: "C02XK1"}}})
	wantRefused(t, err, http.StatusUnprocessableEntity, "source")
}
