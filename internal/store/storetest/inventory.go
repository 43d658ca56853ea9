package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// written says of values that the test's operator wrote them down now.
func (b *Bench) written(names ...string) map[string]issuance.Source {
	return b.from(b.Operator().From, names...)
}

func (b *Bench) from(source string, names ...string) map[string]issuance.Source {
	sources := map[string]issuance.Source{}
	for _, name := range names {
		sources[name] = issuance.Source{From: source, At: b.Now.Truncate(time.Microsecond)}
	}
	return sources
}

const fleetList = "csv:fleet.csv"

// imported takes listings of a source into the inventory and checks what became of them.
func (b *Bench) imported(source string, want []issuance.ImportChange, listings ...issuance.Listing) []issuance.ImportResult {
	b.T.Helper()
	results, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: source, Listings: listings})
	b.ok(err)
	var got []issuance.ImportChange
	for _, r := range results {
		got = append(got, r.Change)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.T.Fatalf("import from %s: %s", source, diff)
	}
	return results
}

func (b *Bench) device(id issuance.DeviceID) issuance.Device {
	b.T.Helper()
	d, err := b.Device(b.ctx(), id)
	b.ok(err)
	return d
}

func (b *Bench) openConflicts() []issuance.Conflict {
	b.T.Helper()
	return all(b, b.Conflicts(b.ctx(), issuance.ConflictFilter{Open: true}))
}

func (b *Bench) wantConflict(kind issuance.ConflictKind, device issuance.DeviceID, source, said string) issuance.Conflict {
	b.T.Helper()
	for _, c := range b.openConflicts() {
		if c.Kind == kind && c.Device == device && c.Source == source && c.Said == said {
			return c
		}
	}
	b.T.Fatalf("no open conflict %s about %s from %s saying %s among %+v", kind, device, source, said, b.openConflicts())
	return issuance.Conflict{}
}

func changes(c ...issuance.ImportChange) []issuance.ImportChange { return c }

var inventoryTests = map[string]func(*testing.T, *Bench){
	"AListIsTakenOnceHoweverOftenItIsImported": func(t *testing.T, b *Bench) {
		list := []issuance.Listing{
			{Serial: "S1", UDID: "U1", Labels: map[string]string{"owner": "sam", "empty": ""}},
			{Serial: "S2", State: policy.Retired}, {UDID: "U3"},
		}
		first := b.imported(fleetList, changes(issuance.ImportAdded, issuance.ImportAdded, issuance.ImportAdded), list...)
		want := issuance.Device{ID: first[0].Device, Serial: "S1", UDID: "U1", Labels: map[string]string{"owner": "sam"}, State: policy.Expected, Revision: 1,
			CreatedAt: b.Now.Truncate(time.Microsecond), Sources: b.from(fleetList, "serial", "udid", "state", "label:owner")}
		if diff := cmp.Diff(want, b.device(first[0].Device)); diff != "" {
			t.Error(diff)
		}
		if d := b.device(first[1].Device); d.State != policy.Retired {
			t.Errorf("state %q", d.State)
		}
		b.wantAudited(audit.Filter{Device: string(first[0].Device)}, audit.DeviceListed, audit.Done, "")
		b.Now = b.Now.Add(time.Hour)
		b.wroteNothing(func() {
			b.imported(fleetList, changes(issuance.ImportUnchanged, issuance.ImportUnchanged, issuance.ImportUnchanged), list...)
		})
		if diff := cmp.Diff(want, b.device(first[0].Device)); diff != "" {
			t.Error(diff)
		}
	},
	"ADryRunSaysWhatWouldBecomeAndWritesNothing": func(t *testing.T, b *Bench) {
		id := b.imported(fleetList, changes(issuance.ImportAdded), issuance.Listing{Serial: "S1"})[0].Device
		before := b.device(id)
		b.wroteNothing(func() {
			results, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: "abm", DryRun: true, Listings: []issuance.Listing{
				{Serial: "S1", Labels: map[string]string{"owner": "sam"}}, {Serial: "S2"}, {Serial: "S2"}, {Serial: "S2", Labels: map[string]string{"a": "b"}},
			}})
			b.ok(err)
			var got []issuance.ImportChange
			for _, r := range results {
				got = append(got, r.Change)
			}
			if diff := cmp.Diff(changes(issuance.ImportUpdated, issuance.ImportAdded, issuance.ImportUnchanged, issuance.ImportUpdated), got); diff != "" {
				t.Error(diff)
			}
		})
		if diff := cmp.Diff(before, b.device(id)); diff != "" {
			t.Error(diff)
		}
		if n := len(all(b, b.Devices(b.ctx(), issuance.DeviceFilter{}))); n != 1 {
			t.Errorf("%d devices are known", n)
		}
		_, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: "abm", DryRun: true, Listings: []issuance.Listing{{}}})
		if err == nil {
			t.Error("a dry run hides an error")
		}
	},
	"AListCorrectsItself": func(t *testing.T, b *Bench) {
		id := b.imported(fleetList, changes(issuance.ImportAdded), issuance.Listing{Serial: "S1", UDID: "U1", Labels: map[string]string{"owner": "sam", "room": "1"}})[0].Device
		b.imported(fleetList, changes(issuance.ImportUpdated), issuance.Listing{Serial: "S1", UDID: "U2", Labels: map[string]string{"owner": "kim"}})
		if d := b.device(id); d.UDID != "U2" || d.Labels["owner"] != "kim" || d.Labels["room"] != "1" || d.Revision != 2 {
			t.Errorf("device %+v", d)
		}
		if c := b.openConflicts(); len(c) != 0 {
			t.Errorf("conflicts %+v", c)
		}
	},
	"AnotherListThatSaysOtherwiseIsAConflict": func(t *testing.T, b *Bench) {
		ids := b.imported(fleetList, changes(issuance.ImportAdded, issuance.ImportAdded), issuance.Listing{Serial: "S1", UDID: "U1"}, issuance.Listing{Serial: "S2"})
		r := b.imported("abm", changes(issuance.ImportConflict, issuance.ImportConflict),
			issuance.Listing{Serial: "S1", UDID: "U9", Labels: map[string]string{"owner": "sam"}}, issuance.Listing{Serial: "S2", UDID: "U1"})
		if r[0].Conflict != issuance.UDIDDiffers || r[1].Conflict != issuance.UDIDClaimed {
			t.Errorf("results %+v", r)
		}
		b.wantConflict(issuance.UDIDDiffers, ids[0].Device, "abm", "U9")
		claimed := b.wantConflict(issuance.UDIDClaimed, ids[1].Device, "abm", "U1")
		if claimed.Other != ids[0].Device || claimed.Times != 1 {
			t.Errorf("conflict %+v", claimed)
		}
		if d := b.device(ids[0].Device); d.UDID != "U1" || d.Labels["owner"] != "sam" {
			t.Errorf("device %+v", d)
		}
		b.imported("abm", changes(issuance.ImportConflict), issuance.Listing{Serial: "S2", UDID: "U1"})
		if c := b.wantConflict(issuance.UDIDClaimed, ids[1].Device, "abm", "U1"); c.ID != claimed.ID || c.Times != 2 {
			t.Errorf("said again it is %+v", c)
		}
		resolved, err := b.ResolveConflict(b.ctx(), b.Operator(), claimed.ID)
		b.ok(err)
		if resolved.ResolvedAt.IsZero() || resolved.ResolvedBy != b.Operator().From {
			t.Errorf("resolved %+v", resolved)
		}
		_, err = b.ResolveConflict(b.ctx(), b.Operator(), claimed.ID)
		b.wantError(err, issuance.ErrConflict)
		_, err = b.ResolveConflict(b.ctx(), b.Operator(), "conflict_none")
		b.wantError(err, issuance.ErrNotFound)
		if n := len(b.openConflicts()); n != 1 {
			t.Errorf("%d conflicts are open", n)
		}
	},
	"WhatPeopleWroteDownStaysWhereNobodyChoseTheList": func(t *testing.T, b *Bench) {
		id := b.imported(fleetList, changes(issuance.ImportAdded), issuance.Listing{Serial: "S1", Labels: map[string]string{"owner": "list", "room": "1"}})[0].Device
		_, err := b.UpdateDevice(b.ctx(), b.Operator(), id, 0, map[string]string{"owner": "person", "room": "1"}, nil)
		b.ok(err)
		_, _, err = b.SetDeviceState(b.ctx(), b.Operator(), id, 0, issuance.StateChange{State: policy.Lost})
		b.ok(err)
		_, err = b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: "abm", Automatic: true,
			Listings: []issuance.Listing{{Serial: "S1", State: policy.Expected, Labels: map[string]string{"owner": "abm", "room": "2"}}}})
		b.ok(err)
		if d := b.device(id); d.Labels["owner"] != "person" || d.Labels["room"] != "2" || d.State != policy.Lost {
			t.Errorf("device %+v", d)
		}
		b.imported(fleetList, changes(issuance.ImportUpdated), issuance.Listing{Serial: "S1", State: policy.Expected, Labels: map[string]string{"owner": "list"}})
		if d := b.device(id); d.Labels["owner"] != "list" || d.State != policy.Expected {
			t.Errorf("device %+v", d)
		}
	},
	"AListThatNobodyChoseTakesNoDeviceBack": func(t *testing.T, b *Bench) {
		automatic := func(source string, state policy.State) policy.State {
			t.Helper()
			results, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: source, Automatic: true, Listings: []issuance.Listing{{Serial: "S1", State: state}}})
			b.ok(err)
			return b.device(results[0].Device).State
		}
		b.imported("csv:fleet", changes(issuance.ImportAdded), issuance.Listing{Serial: "S1"})
		for _, state := range []policy.State{policy.Lost, policy.Retired} {
			b.imported("csv:stolen", changes(issuance.ImportUpdated), issuance.Listing{Serial: "S1", State: state})
			if got := automatic("folder:fleet.csv", policy.Expected); got != state {
				t.Errorf("it was %s, and a list makes it %s", state, got)
			}
			b.imported("csv:stolen", changes(issuance.ImportUpdated), issuance.Listing{Serial: "S1", State: policy.Expected})
			if got := automatic("folder:fleet.csv", state); got != state {
				t.Errorf("a list that says %s makes it %s", state, got)
			}
			if got := automatic("folder:fleet.csv", policy.Expected); got != policy.Expected {
				t.Errorf("a list takes back what it said itself: %s", got)
			}
		}
		// A name that a list gives itself makes nobody of it.
		b.imported("operators:list", changes(issuance.ImportUpdated), issuance.Listing{Serial: "S1", Labels: map[string]string{"room": "1"}})
		_, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: "folder:fleet.csv", Automatic: true, Listings: []issuance.Listing{{Serial: "S1", Labels: map[string]string{"room": "2"}}}})
		b.ok(err)
		d, err := b.DeviceLike(b.ctx(), "S1", "")
		b.ok(err)
		if d.Labels["room"] != "2" {
			t.Errorf("device %+v", d)
		}
	},
	"AttestedValuesBeatLists": func(t *testing.T, b *Bench) {
		id := b.Issued().Device // heldDevice, which nobody lists
		if d := b.device(id); d.Listed() || !d.Attested || !d.SeenAt.Equal(b.Now.Truncate(time.Microsecond)) {
			t.Fatalf("device %+v", d)
		}
		b.wantConflict(issuance.NotListed, id, issuance.FromEvidence, heldDevice.Serial)
		r := b.imported(fleetList, changes(issuance.ImportConflict), issuance.Listing{Serial: heldDevice.Serial, UDID: "hardware-uuid", Labels: map[string]string{"owner": "sam"}})
		if r[0].Conflict != issuance.UDIDDiffers || r[0].Device != id {
			t.Errorf("results %+v", r)
		}
		if d := b.device(id); d.UDID != heldDevice.UDID || d.State != policy.Expected || d.Labels["owner"] != "sam" {
			t.Errorf("device %+v", d)
		}
		b.wantConflict(issuance.UDIDDiffers, id, fleetList, "hardware-uuid")
		if n := len(b.openConflicts()); n != 1 { // it is listed now
			t.Errorf("%d conflicts are open", n)
		}
		serial := b.imported(fleetList, changes(issuance.ImportConflict), issuance.Listing{UDID: heldDevice.UDID, Serial: "OTHER"})
		if serial[0].Device == id || serial[0].Conflict != issuance.UDIDClaimed {
			t.Errorf("another serial with its UDID: %+v", serial)
		}
	},
	"AnExpectedDeviceIsActiveOnceItsCertificateIsIssued": func(t *testing.T, b *Bench) {
		id := b.imported(fleetList, changes(issuance.ImportAdded), issuance.Listing{Serial: heldDevice.Serial})[0].Device
		b.Now = b.Now.Add(time.Hour)
		b.Issued()
		d := b.device(id)
		if d.State != policy.Active || d.Sources["state"].From != issuance.FromEvidence || d.Sources["udid"].From != issuance.FromEvidence ||
			d.Sources["serial"].From != fleetList || !d.SeenAt.Equal(b.Now.Truncate(time.Microsecond)) {
			t.Errorf("device %+v", d)
		}
		b.Now = b.Now.Add(time.Hour)
		b.Issued()
		if again := b.device(id); again.Revision != d.Revision || !again.SeenAt.After(d.SeenAt) {
			t.Errorf("device %+v", again)
		}
		b.imported(fleetList, changes(issuance.ImportUnchanged), issuance.Listing{Serial: heldDevice.Serial, State: policy.Expected})
	},
	"EvidenceWithAnotherUDIDThanListedIsAConflict": func(t *testing.T, b *Bench) {
		id := b.imported(fleetList, changes(issuance.ImportAdded), issuance.Listing{Serial: heldDevice.Serial, UDID: "hardware-uuid"})[0].Device
		b.Issued()
		if d := b.device(id); d.UDID != heldDevice.UDID {
			t.Errorf("device %+v", d)
		}
		b.wantConflict(issuance.UDIDDiffers, id, issuance.FromEvidence, "hardware-uuid")
	},
	"WhatALostDeviceHasIsRevokedInTheSameStep": func(t *testing.T, b *Bench) {
		one, two := b.Issued(), b.Issued()
		d, revoked, err := b.SetDeviceState(b.ctx(), b.Operator(), one.Device, 0, issuance.StateChange{State: policy.Lost, Revoke: true, Reason: 4})
		b.ok(err)
		if revoked != 2 || d.State != policy.Lost || d.Sources["state"].From != b.Operator().From {
			t.Errorf("%d revoked, device %+v", revoked, d)
		}
		for _, c := range []issuance.Certificate{one, two} {
			if c := b.wantCertificate(c.ID, issuance.CertificateRevoked); c.RevokedReason != 4 {
				t.Errorf("reason %d", c.RevokedReason)
			}
			b.wantAudited(audit.Filter{Certificate: string(c.ID)}, audit.CertificateRevoked, audit.Done, "")
		}
		crl, err := b.CRL(b.ctx(), one.Issuer, one.CRLShard)
		b.ok(err)
		if !crl.Stale || crl.Revision != 2 {
			t.Errorf("CRL %+v", crl)
		}
		b.wantAudited(audit.Filter{Device: string(one.Device)}, audit.DeviceStateChanged, audit.Done, "")
		_, _, err = b.SetDeviceState(b.ctx(), b.Operator(), one.Device, d.Revision-1, issuance.StateChange{State: policy.Expected})
		b.wantError(err, issuance.ErrConflict)
		_, _, err = b.SetDeviceState(b.ctx(), b.Operator(), "dev_none", 0, issuance.StateChange{State: policy.Lost})
		b.wantError(err, issuance.ErrNotFound)
		c, err := b.Circumstances(b.ctx(), b.Now, issuance.Subject{Directory: Directory, Serial: heldDevice.Serial})
		b.ok(err)
		if c.Device == nil || c.Device.State != policy.Lost || c.Device.ForPolicy(true).State != policy.Lost {
			t.Errorf("circumstances %+v", c)
		}
	},
	"ARowThatBarsAnotherDeviceByMistakeIsAConflict": func(t *testing.T, b *Bench) {
		for _, c := range []struct {
			listing issuance.Listing
			kind    issuance.ConflictKind
			said    string
		}{
			{issuance.Listing{Serial: "MISTYPED", UDID: heldDevice.UDID, State: policy.Retired}, issuance.SerialDiffers, heldDevice.Serial},
			{issuance.Listing{Serial: heldDevice.Serial, UDID: "MISTYPED-UDID", State: policy.Lost}, issuance.UDIDDiffers, heldDevice.UDID},
		} {
			results, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: fleetList, Listings: []issuance.Listing{c.listing}})
			b.ok(err)
			for range 2 { // once on record
				code, value := b.Mint()
				o := b.Ready(value)
				if found := b.around(heldDevice, code).Device; found == nil || !found.Barred() {
					t.Fatalf("decided on %+v", found)
				}
				r := issuance.OrderRefusal{Account: o.Account, Order: o.ID, Decision: b.ClaimFor(o).Decision, Attested: heldDevice,
					Refusal: issuance.Refusal{Problem: "unauthorized", Check: policy.CheckDeviceState}}
				r.Decision.Decision.Outcome, r.Decision.Device = policy.Refuse, results[0].Device
				_, err = b.RefuseOrder(b.ctx(), b.Call(), r)
				b.ok(err)
			}
			b.wantConflict(c.kind, results[0].Device, issuance.FromEvidence, c.said)
			_, _, err = b.SetDeviceState(b.ctx(), b.Operator(), results[0].Device, 0, issuance.StateChange{State: policy.Expected})
			b.ok(err)
		}
	},
	"ADeviceThatIsBarredMeanwhileGetsNothing": func(t *testing.T, b *Bench) {
		for name, listing := range map[string]issuance.Listing{
			"by its serial number": {Serial: heldDevice.Serial},
			"by its UDID":          {Serial: "ANOTHER", UDID: strings.ToUpper(heldDevice.UDID)},
			"by its code":          {Serial: "CODES"},
		} {
			stands := func(state policy.State) issuance.DeviceID {
				t.Helper()
				listing.State = state
				results, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: fleetList, Listings: []issuance.Listing{listing}})
				b.ok(err)
				return results[0].Device
			}
			code, value := b.Mint(func(m *issuance.Mint) { m.Serial = "CODES" })
			ready := func() issuance.Claim {
				claim := b.ClaimFor(b.Ready(value))
				claim.Certificate.Device = code.Device
				return claim
			}
			for _, state := range []policy.State{policy.Lost, policy.Retired} {
				claim := ready()
				id := stands(state)
				if c := b.around(heldDevice, code); c.Device == nil || c.Device.ID != id || c.Device.State != state {
					t.Errorf("%s: decided on %+v", name, c.Device)
				}
				_, err := b.BeginIssue(b.ctx(), b.Call(), claim)
				b.wantError(err, issuance.ErrDeviceBarred)
				b.wantOrder(claim.Order, issuance.OrderInvalid, policy.CheckDeviceState)
				b.wantCode(code.ID, issuance.CodeUnused)

				stands(policy.Expected)
				claim = ready()
				cert, err := b.BeginIssue(b.ctx(), b.Call(), claim)
				b.ok(err)
				stands(state)
				_, err = b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
				b.wantError(err, issuance.ErrDeviceBarred)
				b.wantCertificate(cert.ID, issuance.CertificateReserved)
				b.ok(b.AbandonIssue(b.ctx(), b.Operator(), claim.Order, issuance.Refusal{Check: "issuing"}))
				stands(policy.Expected)
			}
		}
	},
	"ADeviceThatGetsLostAsItsCertificateIsIssuedKeepsNone": func(t *testing.T, b *Bench) {
		issued := 0
		for i := range 60 {
			code, value := b.Mint(func(m *issuance.Mint) { m.Serial, m.AllowUnattested = fmt.Sprint("LOST", i), true })
			order := b.Ready(value)
			claim := b.ClaimFor(order)
			claim.Certificate.Device = code.Device
			cert, err := b.BeginIssue(b.ctx(), b.Call(), claim)
			b.ok(err)
			completion := CompletionFor(cert)
			if completion.Attested = (issuance.Device{}); i%2 == 0 {
				completion.Attested = issuance.Device{Serial: code.Serial}
			}
			errs := race(2, func(n int) (err error) {
				if n == 0 {
					_, err = b.CompleteIssue(b.ctx(), b.Operator(), completion)
					return err
				}
				_, _, err = b.SetDeviceState(b.ctx(), b.Operator(), code.Device, 0, issuance.StateChange{State: policy.Lost, Revoke: true})
				return err
			})
			b.ok(errs[1])
			if errs[0] != nil {
				b.wantError(errs[0], issuance.ErrDeviceBarred)
				b.wantCertificate(cert.ID, issuance.CertificateReserved)
				continue
			}
			issued++
			b.wantCertificate(cert.ID, issuance.CertificateRevoked)
		}
		t.Logf("%d of 60 were issued, and revoked", issued)
	},
	"DevicesAreFoundByStateAndLabel": func(t *testing.T, b *Bench) {
		ids := b.imported(fleetList, changes(issuance.ImportAdded, issuance.ImportAdded), issuance.Listing{Serial: "S1", Labels: map[string]string{`o"w.n`: "sam"}},
			issuance.Listing{Serial: "S2", State: policy.Lost})
		seen := b.Issued().Device
		for name, test := range map[string]struct {
			f    issuance.DeviceFilter
			want []issuance.DeviceID
		}{
			"lost":       {issuance.DeviceFilter{State: policy.Lost}, []issuance.DeviceID{ids[1].Device}},
			"not listed": {issuance.DeviceFilter{NotListed: true}, []issuance.DeviceID{seen}},
			"label":      {issuance.DeviceFilter{LabelName: `o"w.n`, LabelValue: "sam"}, []issuance.DeviceID{ids[0].Device}},
			"no label":   {issuance.DeviceFilter{LabelName: "o", LabelValue: "sam"}, nil},
		} {
			var got []issuance.DeviceID
			for _, d := range all(b, b.Devices(b.ctx(), test.f)) {
				got = append(got, d.ID)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%s: %v, want %v", name, got, test.want)
			}
		}
	},
	"SyncStateIsKept": func(t *testing.T, b *Bench) {
		_, err := b.SyncState(b.ctx(), "abm")
		b.wantError(err, issuance.ErrNotFound)
		y := issuance.Sync{Source: "abm", Cursor: "c1", BeganAt: b.Now.Truncate(time.Second)}
		b.ok(b.PutSyncState(b.ctx(), b.Operator(), y))
		y.Cursor, y.FinishedAt, y.Devices, y.Changed, y.Error = "", b.Now.Truncate(time.Second), 9, 3, "x"
		b.ok(b.PutSyncState(b.ctx(), b.Operator(), y))
		got, err := b.SyncState(b.ctx(), "abm")
		b.ok(err)
		listed, err := b.Syncs(b.ctx())
		b.ok(err)
		if diff := cmp.Diff([]issuance.Sync{y, y}, append(listed, got)); diff != "" {
			t.Error(diff)
		}
	},
	"ImportsOfOneListInAnyOrderEndTheSame": func(t *testing.T, b *Bench) {
		rapid.Check(t, func(rt *rapid.T) {
			prefix := rapid.StringMatching(`[A-Z]{12}`).Draw(rt, "prefix")
			list := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) issuance.Listing {
				return issuance.Listing{
					Serial: prefix + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "serial"),
					Labels: map[string]string{rapid.SampledFrom([]string{"a", "b'", `c"`}).Draw(rt, "label"): rapid.String().Draw(rt, "value")},
				}
			}), 1, 6).Draw(rt, "list")
			take := func() {
				if _, err := b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: fleetList, Listings: list}); err != nil {
					rt.Fatal(err)
				}
			}
			take()
			before := all(b, b.Devices(b.ctx(), issuance.DeviceFilter{Serial: list[0].Serial}))
			take()
			take()
			after := all(b, b.Devices(b.ctx(), issuance.DeviceFilter{Serial: list[0].Serial}))
			for i := range before { // which of contradicting rows came last, came last again
				before[i].Revision, after[i].Revision = 0, 0
				before[i].Sources, after[i].Sources = nil, nil
			}
			if diff := cmp.Diff(before, after); diff != "" {
				rt.Fatal(diff)
			}
		})
	},
	"OneOfManyImportsMakesADevice": func(t *testing.T, b *Bench) {
		results := make([][]issuance.ImportResult, 8)
		for _, err := range race(len(results), func(i int) (err error) {
			results[i], err = b.ImportDevices(b.ctx(), b.Operator(), issuance.Import{Source: fleetList, Listings: []issuance.Listing{{Serial: "S1"}}})
			return err
		}) {
			b.ok(err)
		}
		added := 0
		for _, r := range results {
			if r[0].Change == issuance.ImportAdded {
				added++
			}
		}
		if added != 1 || len(all(b, b.Devices(b.ctx(), issuance.DeviceFilter{Serial: "S1"}))) != 1 {
			t.Errorf("%d imports made the device", added)
		}
	},
}
