package abm_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
	"assay/policy"

	"github.com/google/go-cmp/cmp"
)

// syncRig is a rig with a syncer on a store.
type syncRig struct {
	*rig
	abm.Syncer
	store *store.Store
}

func newSyncRig(t *testing.T, devices int) *syncRig {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "assay.db"), store.Options{Key: make([]byte, store.KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &syncRig{rig: newRig(t, nil), store: db}
	r.put(devices)
	r.Syncer = abm.Syncer{Client: r.rig.Client, Store: db, Now: r.clock.Now}
	return r
}

func (r *syncRig) call() issuance.Call {
	return issuance.Call{Now: r.clock.Now(), From: "operator:test"}
}

// device is a device of the store; its serial number is empty if there is none.
func (r *syncRig) device(t *testing.T, serial string) issuance.Device {
	t.Helper()
	d, err := r.store.DeviceLike(t.Context(), serial, "")
	if err != nil && !errors.Is(err, issuance.ErrNotFound) {
		t.Fatal(err)
	}
	return d
}

func (r *syncRig) label(t *testing.T, serial, name string) string {
	t.Helper()
	return r.device(t, serial).Labels[name]
}

// known makes a device known as one of the organization's.
func (r *syncRig) known(t *testing.T, serials ...string) {
	t.Helper()
	for _, serial := range serials {
		in := issuance.Import{Source: abm.Source, Listings: []issuance.Listing{{Serial: serial}}}
		if _, err := r.store.ImportDevices(t.Context(), r.call(), in); err != nil {
			t.Fatal(err)
		}
	}
}

// state is what the store keeps of the sync.
func (r *syncRig) state(t *testing.T) issuance.Sync {
	t.Helper()
	y, err := r.store.SyncState(t.Context(), abm.Source)
	if err != nil {
		t.Fatal(err)
	}
	return y
}

// writes counts what imports wrote.
func (r *syncRig) writes(t *testing.T) (n int) {
	t.Helper()
	for _, err := range r.store.Audit(t.Context(), audit.Filter{Action: audit.DeviceListed}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// synced makes a sync that must succeed.
func (r *syncRig) synced(t *testing.T, o abm.Options) abm.Sync {
	t.Helper()
	s, err := r.Sync(t.Context(), r.call(), o)
	if err != nil || s.Failure != nil {
		t.Fatalf("sync: %v, %+v", err, s)
	}
	return s
}

// failed makes a sync that must fail this check.
func (r *syncRig) failed(t *testing.T, check string) abm.Sync {
	t.Helper()
	s, err := r.Sync(t.Context(), r.call(), abm.Options{})
	if err == nil || s.Failure == nil || s.Failure.Check != check || s.Failure.Advice == "" {
		t.Fatalf("sync: %v, failure %+v", err, s.Failure)
	}
	return s
}

func TestSyncWritesOnlyWhatChanged(t *testing.T) {
	r := newSyncRig(t, 5)
	var progress []int
	s := r.synced(t, abm.Options{Progress: func(s abm.Sync) { progress = append(progress, s.Listed) }})
	if s.Counts != (abm.Counts{New: 5}) || !s.Complete || s.Pages != 3 || s.Listed != 5 || s.Resumed {
		t.Errorf("first: %+v", s)
	}
	if !slices.Equal(progress, []int{2, 4, 5}) {
		t.Errorf("progress %v", progress)
	}
	want := map[string]string{
		"model": "iPhone 15 Pro", "abm.status": "ASSIGNED", "abm.productFamily": "iPhone", "abm.productType": "iPhone16,1", "abm.capacity": "256GB",
		"abm.partNumber": "FD311LL/A", "abm.orderNumber": "1234567890", "abm.purchaseSource": "APPLE",
	}
	d := r.device(t, "S1")
	if diff := cmp.Diff(want, d.Labels); diff != "" || d.State != policy.Expected || d.Sources["label:model"].From != "apple-business-manager" {
		t.Errorf("state %q, sources %v\n%s", d.State, d.Sources, diff)
	}
	r.service.Put(abmtest.Device{Serial: "S2", Attributes: map[string]any{"status": "UNASSIGNED"}}, abmtest.Device{Serial: "S6"})
	before := r.writes(t)
	if s := r.synced(t, abm.Options{}); s.Counts != (abm.Counts{New: 1, Changed: 1, Unchanged: 4}) {
		t.Errorf("second: %+v", s)
	}
	if n := r.writes(t) - before; n != 2 || r.label(t, "S2", "abm.status") != "UNASSIGNED" {
		t.Errorf("%d writes, S2 %v", n, r.device(t, "S2"))
	}
	y := r.state(t)
	if y.Devices != 6 || y.Changed != 2 || y.Error != "" || !y.FinishedAt.Equal(r.clock.Now()) || !y.BeganAt.Equal(r.clock.Now()) {
		t.Errorf("state %+v", y)
	}
}

// untouchable is a store that takes no device.
type untouchable struct {
	*store.Store
	t *testing.T
}

func (u untouchable) ImportDevices(context.Context, issuance.Call, issuance.Import) ([]issuance.ImportResult, error) {
	u.t.Error("the one writer was asked")
	return nil, errors.New("asked")
}

func TestWhatIsKnownTakesNoTurnOfTheWriter(t *testing.T) {
	r := newSyncRig(t, 5)
	r.synced(t, abm.Options{})
	r.Store = untouchable{r.store, t}
	r.synced(t, abm.Options{})
}

func TestWhatPeopleSayOfADeviceStays(t *testing.T) {
	r := newSyncRig(t, 2)
	r.synced(t, abm.Options{})
	d := r.device(t, "S1")
	labels := maps.Clone(d.Labels)
	labels["model"], labels["owner"] = "the old one", "sam"
	if _, err := r.store.UpdateDevice(t.Context(), r.call(), d.ID, 0, labels, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.store.SetDeviceState(t.Context(), r.call(), d.ID, 0, issuance.StateChange{State: policy.Lost}); err != nil {
		t.Fatal(err)
	}
	r.service.Put(abmtest.Device{Serial: "S1", Attributes: map[string]any{"color": "BLACK"}})
	if s := r.synced(t, abm.Options{}); s.Changed != 1 || s.Unchanged != 1 {
		t.Errorf("%+v", s)
	}
	if d := r.device(t, "S1"); d.State != policy.Lost || d.Labels["model"] != "the old one" || d.Labels["owner"] != "sam" || d.Labels["abm.color"] != "BLACK" {
		t.Errorf("%+v", d)
	}
	if s := r.synced(t, abm.Options{}); s.Changed != 0 || s.Unchanged != 2 {
		t.Errorf("%+v", s)
	}
}

func TestDeviceThatAttestedItselfBecomesListed(t *testing.T) {
	r := newSyncRig(t, 0)
	bench := storetest.NewBench(t, r.store)
	d, err := r.store.Device(t.Context(), bench.Issued().Device)
	if err != nil || d.Listed() {
		t.Fatalf("%+v, %v", d, err)
	}
	// Also where a person wrote down already what the list says of it.
	labels := map[string]string{"abm.status": "ASSIGNED"}
	if _, err := r.store.UpdateDevice(t.Context(), r.call(), d.ID, 0, labels, nil); err != nil {
		t.Fatal(err)
	}
	r.service.Put(abmtest.Device{Serial: d.Serial})
	r.service.Fail(abmtest.List, abmtest.Changed(func(document map[string]any) {
		document["data"].([]any)[0].(map[string]any)["attributes"] = map[string]any{"status": "ASSIGNED"}
	}))
	if s := r.synced(t, abm.Options{}); s.Changed != 1 || s.New != 0 {
		t.Errorf("%+v", s)
	}
	if d := r.device(t, d.Serial); !d.Listed() || !d.Attested || d.UDID == "" {
		t.Errorf("%+v", d)
	}
}

func TestDeviceWithTooManyLabelsIsRefusedAlone(t *testing.T) {
	r := newSyncRig(t, 3)
	labels := map[string]string{}
	for i := range issuance.MaxLabels {
		labels[fmt.Sprint("l", i)] = "x"
	}
	in := issuance.Import{Source: "csv:fleet.csv", Listings: []issuance.Listing{{Serial: "S2", Labels: labels}}}
	if _, err := r.store.ImportDevices(t.Context(), r.call(), in); err != nil {
		t.Fatal(err)
	}
	if s := r.synced(t, abm.Options{}); s.New != 2 || s.Refused != 1 || !s.Complete || len(s.Faults) != 1 || s.Faults[0].Serial != "S2" {
		t.Errorf("%+v", s)
	}
}

func TestDevicesOffTheListAreToldApart(t *testing.T) {
	r := newSyncRig(t, 5)
	in := issuance.Import{Source: "csv:fleet.csv", Listings: []issuance.Listing{{Serial: "OTHER"}}}
	if _, err := r.store.ImportDevices(t.Context(), r.call(), in); err != nil {
		t.Fatal(err)
	}
	r.synced(t, abm.Options{})
	at := r.clock.Now().Add(-time.Hour)
	r.service.Release("S1", at)
	r.service.Remove("S2")
	s := r.synced(t, abm.Options{})
	if diff := cmp.Diff([]abm.Release{{Serial: "S1", At: at}}, s.Released); diff != "" || !slices.Equal(s.Missing, []string{"S2"}) || s.ReleasedAll != 1 || s.MissingAll != 1 || s.Unasked != 0 {
		t.Errorf("%+v\n%s", s, diff)
	}
	if d := r.device(t, "S1"); d.Labels["abm.status"] != "RELEASED" || d.State != policy.Expected || d.Labels["model"] == "" {
		t.Errorf("S1 %+v", d)
	}
	if status := r.label(t, "S2", "abm.status"); status != "MISSING" {
		t.Errorf("S2 is %s", status)
	}
	if d := r.device(t, "OTHER"); d.Labels["abm.status"] != "" {
		t.Errorf("a device of another list %+v", d)
	}
	// They are asked for once, unless all is asked for anew.
	for _, c := range []struct {
		full bool
		want int
	}{{false, 0}, {true, 2}} {
		before := len(r.service.Requests())
		r.synced(t, abm.Options{Full: c.full})
		asked := 0
		for _, one := range r.service.Requests()[before:] {
			if strings.HasPrefix(one, "GET /v1/orgDevices/") {
				asked++
			}
		}
		if asked != c.want {
			t.Errorf("full %t: asked for %d", c.full, asked)
		}
	}
	// Listed again, it is no longer off the list, even where Apple says nothing of its status.
	r.service.Put(abmtest.Device{Serial: "S1", Attributes: map[string]any{"status": ""}})
	if s := r.synced(t, abm.Options{}); s.Changed != 1 || r.label(t, "S1", "abm.status") != "UNKNOWN" {
		t.Errorf("listed again: %+v, %v", s, r.device(t, "S1"))
	}
}

func TestDeviceThatCameWhileReadingIsNotMissing(t *testing.T) {
	r := newSyncRig(t, 3)
	r.synced(t, abm.Options{})
	r.service.Fail(abmtest.List, page("", "S1", "S2")) // S3 slipped to a page that was read already
	if s := r.synced(t, abm.Options{}); len(s.Missing)+len(s.Released)+s.Unasked != 0 || r.label(t, "S3", "abm.status") != "ASSIGNED" {
		t.Errorf("%+v", s)
	}
}

func TestEmptyListingTakesNobodyOffUnasked(t *testing.T) {
	r := newSyncRig(t, 3)
	r.synced(t, abm.Options{})
	r.service.Fail(abmtest.List, page(""))
	if s := r.synced(t, abm.Options{}); len(s.Missing)+len(s.Released) != 0 || r.label(t, "S1", "abm.status") != "ASSIGNED" {
		t.Errorf("%+v", s)
	}
}

func TestOneSyncAsksForABoundedNumber(t *testing.T) {
	r := newSyncRig(t, 0)
	for i := range 130 {
		serial := fmt.Sprintf("G%03d", i)
		r.known(t, serial)
	}
	if s := r.synced(t, abm.Options{}); s.MissingAll != 100 || s.Unasked != 30 || len(s.Missing) != 100 {
		t.Errorf("first: missing %d, unasked %d", s.MissingAll, s.Unasked)
	}
	if s := r.synced(t, abm.Options{}); s.MissingAll != 30 || s.Unasked != 0 {
		t.Errorf("second: missing %d, unasked %d", s.MissingAll, s.Unasked)
	}
}

func TestInterruptedListingGoesOn(t *testing.T) {
	r := newSyncRig(t, 7)
	r.known(t, "GONE")
	r.service.Fail(abmtest.List, nil, nil, abmtest.Status(429, "1800"))
	s := r.failed(t, abm.CheckRateLimit)
	if s.Complete || s.Listed != 4 || s.New != 4 || !s.Failure.RetryAt.Equal(r.clock.Now().Add(30*time.Minute)) {
		t.Errorf("interrupted: %+v", s)
	}
	if r.label(t, "GONE", "abm.status") != "" {
		t.Error("an incomplete listing took a device off")
	}
	status, err := r.Status(t.Context())
	if err != nil || !status.Unfinished || !status.CompleteAt.IsZero() || status.Last.Failure == nil {
		t.Errorf("status %+v, %v", status, err)
	}
	r.clock.Wait(t.Context(), 30*time.Minute)
	before := len(r.service.Requests())
	s = r.synced(t, abm.Options{})
	if !s.Resumed || !s.Complete || s.New != 3 || s.Pages != 2 || s.Listed != 7 || !slices.Equal(s.Missing, []string{"GONE"}) {
		t.Errorf("resumed: %+v", s)
	}
	if n := len(r.service.Requests()) - before; n != 3 {
		t.Errorf("%d requests: two pages and the one that is gone", n)
	}
	if status, err := r.Status(t.Context()); err != nil || status.Unfinished || !status.CompleteAt.Equal(s.EndedAt) {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestInterruptedListingBeginsAnewWhereItMust(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*syncRig)
		o      abm.Options
	}{
		"told to":              {func(*syncRig) {}, abm.Options{Full: true}},
		"too old":              {func(r *syncRig) { r.clock.Wait(context.Background(), 13*time.Hour) }, abm.Options{}},
		"cursor no good":       {func(r *syncRig) { r.service.Fail(abmtest.List, abmtest.Status(400, "")) }, abm.Options{}},
		"nothing is to happen": {func(*syncRig) {}, abm.Options{DryRun: true}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSyncRig(t, 5)
			r.service.Fail(abmtest.List, nil, abmtest.Status(403, ""))
			r.failed(t, abm.CheckPermission)
			c.before(r)
			if s := r.synced(t, c.o); s.Resumed || s.Listed != 5 || s.Pages != 3 || !s.Complete {
				t.Errorf("%+v", s)
			}
		})
	}
}

// failing is a store whose nth import fails.
type failing struct {
	*store.Store
	nth, n int
}

func (f *failing) ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error) {
	if f.n++; f.n == f.nth {
		return nil, errors.New("disk full")
	}
	return f.Store.ImportDevices(ctx, call, in)
}

func TestOnlyTheKeptCursorIsForgottenWhereItIsNoGood(t *testing.T) {
	r := newSyncRig(t, 7)
	r.service.Fail(abmtest.List, nil, abmtest.Status(403, ""))
	r.failed(t, abm.CheckPermission)
	r.service.Fail(abmtest.List, nil, abmtest.Status(400, ""))
	if s := r.failed(t, abm.CheckRequest); !s.Resumed || s.Listed != 4 {
		t.Errorf("%+v", s)
	}
}

func TestPageThatTheInventoryRefusedIsReadOnceMore(t *testing.T) {
	r := newSyncRig(t, 5)
	r.Store = &failing{Store: r.store, nth: 2}
	if s := r.failed(t, abm.CheckInventory); s.Listed != 2 {
		t.Errorf("%+v", s)
	}
	if y := r.state(t); y.Error != "inventory: disk full" || y.FailedAt.IsZero() || !y.FinishedAt.IsZero() {
		t.Errorf("state %+v", y)
	}
	if s := r.synced(t, abm.Options{}); !s.Resumed || s.New != 3 || r.device(t, "S5").Serial == "" || r.device(t, "S3").Serial == "" {
		t.Errorf("%+v", s)
	}
}

func TestLargePagesAreImportedInParts(t *testing.T) {
	r := newSyncRig(t, 0)
	r.config.PageSize = 1000
	client, err := abm.New(r.config)
	if err != nil {
		t.Fatal(err)
	}
	r.Syncer.Client = client
	r.put(250)
	counting := &failing{Store: r.store, nth: -1}
	r.Store = counting
	if s := r.synced(t, abm.Options{}); s.New != 250 || s.Pages != 1 || counting.n != 3 {
		t.Errorf("%d imports, %+v", counting.n, s)
	}
}

func TestStoppedSyncKeepsWhereItWas(t *testing.T) {
	r := newSyncRig(t, 5)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.Sync(ctx, r.call(), abm.Options{Progress: func(abm.Sync) { cancel() }})
	if !errors.Is(err, context.Canceled) || s.Failure == nil || s.Failure.Check != abm.CheckInterrupted {
		t.Fatalf("%v, %+v", err, s.Failure)
	}
	if s := r.synced(t, abm.Options{}); !s.Resumed || s.New != 3 {
		t.Errorf("%+v", s)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	r := newSyncRig(t, 3)
	r.synced(t, abm.Options{})
	r.service.Put(abmtest.Device{Serial: "S4"})
	r.service.Remove("S1")
	before, writes := r.state(t), r.writes(t)
	s := r.synced(t, abm.Options{DryRun: true})
	if s.New != 1 || s.Unchanged != 2 || !slices.Equal(s.Missing, []string{"S1"}) {
		t.Errorf("%+v", s)
	}
	if r.state(t) != before || r.writes(t) != writes || r.device(t, "S4").Serial != "" || r.label(t, "S1", "abm.status") != "ASSIGNED" {
		t.Error("the dry run wrote")
	}
}

func TestDeviceThatIsListedTwiceCountsOnce(t *testing.T) {
	r := newSyncRig(t, 3)
	r.service.PutTwice(abmtest.Device{Serial: "S1"})
	if s := r.synced(t, abm.Options{}); s.Listed != 3 || s.New != 3 || s.Unchanged != 0 {
		t.Errorf("%+v", s)
	}
}

func TestFaultyDevicesAreCountedAndTheFirstNamed(t *testing.T) {
	r := newSyncRig(t, 1)
	for i := range 150 {
		r.service.PutTwice(abmtest.Device{Serial: fmt.Sprintf("B %d", i)})
	}
	if s := r.synced(t, abm.Options{}); s.FaultCount != 150 || len(s.Faults) != 100 || s.New != 1 {
		t.Errorf("%d faults, %d named, %d new", s.FaultCount, len(s.Faults), s.New)
	}
}

func TestNextSyncIsDue(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	end := start.Add(time.Minute)
	for name, c := range map[string]struct {
		failure *abm.Failure
		want    time.Time
	}{
		"succeeded":         {nil, start.Add(time.Hour)},
		"stopped":           {&abm.Failure{Check: abm.CheckInterrupted}, end},
		"network":           {&abm.Failure{Check: abm.CheckNetwork}, end.Add(15 * time.Minute)},
		"limited":           {&abm.Failure{Check: abm.CheckRateLimit, RetryAt: end.Add(40 * time.Minute)}, end.Add(40 * time.Minute)},
		"limited for long":  {&abm.Failure{Check: abm.CheckRateLimit, RetryAt: end.Add(3 * time.Hour)}, end.Add(3 * time.Hour)},
		"wrong credentials": {&abm.Failure{Check: abm.CheckCredentials}, start.Add(time.Hour)},
	} {
		s := abm.Status{Last: abm.Sync{StartedAt: start, EndedAt: end, Failure: c.failure}}
		if got := s.NextAt(time.Hour); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	var never abm.Status
	if got := never.NextAt(time.Hour); !got.IsZero() {
		t.Errorf("never synced: %s", got)
	}
	short := abm.Status{Last: abm.Sync{StartedAt: start, EndedAt: end, Failure: &abm.Failure{Check: abm.CheckService}}}
	if got := short.NextAt(5 * time.Minute); !got.Equal(end.Add(5 * time.Minute)) {
		t.Errorf("every five minutes: %s", got)
	}
}
