package storetest

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

var withdrawingTests = map[string]func(*testing.T, *Bench){
	"WithdrawnCredentialDeliversNothing": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		k := b.Rendered(r)
		b.Now = b.Now.Add(time.Minute)
		for _, revision := range []int{2, -1} {
			_, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, revision)
			b.wantError(err, issuance.ErrConflict)
		}
		_, err := b.WithdrawCredential(b.ctx(), b.Operator(), "cred_none", 0)
		b.wantError(err, issuance.ErrNotFound)
		b.wantCredential(k)
		got, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 1)
		b.ok(err)
		want := k
		want.Revision, want.WithdrawnAt, want.DueAt = 2, b.Now.Truncate(time.Microsecond), time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		d := b.wantCredential(want)
		if d.Asset != nil || d.Configuration != nil || d.Document.Body != nil {
			t.Errorf("delivery %+v", d)
		}
		b.wantCode(k.Code, issuance.CodeRevoked)
		b.wantAudited(audit.Filter{Code: string(k.Code)}, audit.CodeRevoked, audit.Done, "")
		b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialWithdrawn, audit.Done, "")
		b.wroteNothing(func() {
			again, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 2)
			b.ok(err)
			if !again.WithdrawnAt.Equal(want.WithdrawnAt) || again.Revision != 2 {
				t.Errorf("withdrawn again: %+v", again)
			}
		})
	},
	"WithdrawnCredentialIsDeclaredAgain": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		late := b.Again(k) // begun before
		withdrawn, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 0)
		b.ok(err)
		_, err = b.render(late)
		b.wantError(err, issuance.ErrConflict)
		b.wantCredential(withdrawn)
		r := b.Again(withdrawn)
		back := b.Rendered(r)
		if !back.WithdrawnAt.IsZero() || back.Revision != 3 || back.DueAt.IsZero() {
			t.Errorf("credential %+v", back)
		}
		if d := b.wantCredential(back); string(d.Asset) != string(r.Asset) || d.Document.Body == nil {
			t.Errorf("delivery %+v", d)
		}
	},
	"WithdrawnCredentialIsTakenBackFromTheMDM": func(t *testing.T, b *Bench) {
		never, had := b.Rendered(b.Rendering("SER1", "wifi")), b.Rendered(b.Rendering("SER2", "wifi"))
		tokens := had.AssetToken + " " + had.ConfigurationToken
		b.ok(b.MarkPushed(b.ctx(), b.Operator(), had.ID, issuance.PushOutcome{Pushed: tokens, Done: true}))
		for _, k := range []issuance.DeviceCredential{never, had} {
			_, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 0)
			b.ok(err)
		}
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 1 || got[0] != had.ID {
			t.Errorf("not pushed: %v, want %s", got, had.ID)
		}
		b.ok(b.MarkPushed(b.ctx(), b.Operator(), had.ID, issuance.PushOutcome{Before: tokens, Done: true}))
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 0 {
			t.Errorf("not pushed: %v", got)
		}
	},
	"WithdrawalAndRenderingRace": func(t *testing.T, b *Bench) {
		for range 20 {
			k := b.Rendered(b.Rendering("SER1", "wifi"+rand.Text()))
			r := b.Again(k)
			errs := race(2, func(i int) error {
				if i == 0 {
					_, err := b.render(r)
					return err
				}
				_, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, k.Revision)
				return err
			})
			winner, err := oneWinner(errs, issuance.ErrConflict)
			b.ok(err)
			d, err := b.Delivery(b.ctx(), k.ID)
			b.ok(err)
			if withdrawn := !d.Credential.WithdrawnAt.IsZero(); withdrawn != (winner == 1) || withdrawn != (d.Document.Body == nil) {
				t.Fatalf("call %d won, but withdrawn is %v", winner, withdrawn)
			}
		}
	},
	"PushesAreNoted": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		long := strings.Repeat("é", 1000)
		for _, failure := range []string{"no route to the MDM", "no route to the MDM", long} {
			b.ok(b.MarkPushed(b.ctx(), b.Operator(), k.ID, issuance.PushOutcome{Failure: failure}))
		}
		d, err := b.Delivery(b.ctx(), k.ID)
		b.ok(err)
		if got := d.Credential; got.Pushed != "" || !got.PushedAt.IsZero() || len(got.PushError) != 512 || !strings.HasPrefix(long, got.PushError) {
			t.Errorf("credential %+v", got)
		}
		if n := len(b.trail(audit.Filter{Action: audit.CredentialPushed, Refused: true})); n != 2 {
			t.Errorf("%d audit rows of failures, want 2: one that repeats itself leaves one", n)
		}
		b.ok(b.MarkPushed(b.ctx(), b.Operator(), k.ID, issuance.PushOutcome{Pushed: "a c", Done: true}))
		k.Pushed, k.PushedAt = "a c", b.Now.Truncate(time.Microsecond)
		b.wantCredential(k)
		b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialPushed, audit.Done, "")
		b.wantError(b.MarkPushed(b.ctx(), b.Operator(), "cred_none", issuance.PushOutcome{Done: true}), issuance.ErrNotFound)
	},
	"PushesThatCrossLeaveItUnknownWhatTheMDMHolds": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		tokens := k.AssetToken + " " + k.ConfigurationToken
		for _, o := range []issuance.PushOutcome{
			{Pushed: "?a"}, {Before: "?a", Pushed: "?b"}, // a second push begins
			{Before: "?a", Pushed: tokens, Done: true}, {Before: "?b", Pushed: tokens, Done: true},
		} {
			b.ok(b.MarkPushed(b.ctx(), b.Operator(), k.ID, o))
		}
		d, err := b.Delivery(b.ctx(), k.ID)
		b.ok(err)
		if d.Credential.Pushed == tokens {
			t.Error("either push is taken for the last")
		}
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 1 {
			t.Errorf("not pushed: %v", got)
		}
		_, err = b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 0)
		b.ok(err)
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 1 {
			t.Errorf("withdrawn, and not taken back: %v", got)
		}
	},
	"RevokedCodeIsNotRenderedAgainByItself": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		_, err := b.RevokeCode(b.ctx(), b.Operator(), k.Code)
		b.ok(err)
		k.DueAt = time.Time{}
		b.wantCredential(k)
	},
	"ReportsAreKept": func(t *testing.T, b *Bench) {
		k, other := b.Rendered(b.Rendering("SER1", "wifi")), b.Rendered(b.Rendering("SER2", "wifi"))
		at := b.Now.Truncate(time.Microsecond)
		report := issuance.StatusReport{ReceivedAt: at, Installed: "ab",
			Asset: &issuance.DeclarationState{Identifier: "a", ServerToken: "t", Active: true, Valid: "valid"},
			Configuration: &issuance.DeclarationState{Identifier: "c", Valid: "invalid",
				Reasons: []issuance.DeclarationReason{{Code: "Error.AssetCannotBeDownloaded", Description: "Ann's iPhone"}}},
		}
		store := func(r issuance.StatusReport) {
			t.Helper()
			ids, err := b.RecordReports(b.ctx(), b.Operator(), []issuance.CredentialReport{{Credential: "cred_none", Report: r}, {Credential: k.ID, Report: r}})
			b.ok(err)
			if diff := cmp.Diff([]issuance.CredentialID{k.ID}, ids); diff != "" {
				t.Error(diff)
			}
			k.Report = &r
			b.wantCredential(k)
		}
		store(report)
		row := b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialReported, audit.Refused, "declaration-valid")
		if row.Personal.DeviceError != "Error.AssetCannotBeDownloaded: Ann's iPhone" || row.Detail["configuration"] != "invalid" || row.Detail["asset"] != "valid" {
			t.Errorf("row %+v, personal values %+v", row, row.Personal)
		}
		report.ReceivedAt = at.Add(time.Hour)
		store(report) // the same again
		b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialReported, audit.Refused, "declaration-valid")
		report.Configuration = &issuance.DeclarationState{Identifier: "c", Valid: "valid"}
		store(report)
		b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialReported, audit.Done, "")
		b.wantCredential(other)
	},
	"DeviceIsUpdatedAtItsRevision": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		other := b.Rendered(b.Rendering("SER2", "wifi"))
		print1, none := strings.Repeat("0a", 32), ""
		d, err := b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 1, map[string]string{"owner": "Ann"}, &print1)
		b.ok(err)
		want := issuance.Device{ID: k.Device, Serial: "SER1", Labels: map[string]string{"owner": "Ann"}, MDMFingerprint: print1, Revision: 2, CreatedAt: k.CreatedAt,
			State: policy.Expected, Sources: b.written("serial", "state", "label:owner")}
		stored, err := b.Device(b.ctx(), k.Device)
		b.ok(err)
		for _, got := range []issuance.Device{d, stored} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.DeviceUpdated, audit.Done, "")
		b.wroteNothing(func() {
			_, err = b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 1, map[string]string{"owner": "Bob"}, nil)
			b.wantError(err, issuance.ErrConflict)
			_, err = b.UpdateDevice(b.ctx(), b.Operator(), "dev_none", 0, nil, &none)
			b.wantError(err, issuance.ErrNotFound)
			_, err = b.UpdateDevice(b.ctx(), b.Operator(), other.Device, 0, map[string]string{"x": "y"}, &print1)
			if taken, ok := errors.AsType[*issuance.FingerprintInUseError](err); !ok || taken.Device != k.Device {
				t.Errorf("error is %v", err)
			}
			same, err := b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 2, map[string]string{"owner": "Ann"}, &print1)
			b.ok(err)
			if same.Revision != 2 {
				t.Errorf("revision %d of an unchanged device", same.Revision)
			}
		})
		d, err = b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 0, nil, &none)
		b.ok(err)
		if d.MDMFingerprint != "" || d.Labels["owner"] != "Ann" || d.Revision != 3 {
			t.Errorf("device %+v", d)
		}
		d, err = b.UpdateDevice(b.ctx(), b.Operator(), other.Device, 0, map[string]string{}, &print1)
		b.ok(err)
		if d.MDMFingerprint != print1 {
			t.Errorf("device %+v", d)
		}
		if _, err := b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 0, nil, new("not hex")); err == nil {
			t.Error("stored a fingerprint that is none")
		}
		_, err = oneWinner(race(16, func(int) error {
			_, err := b.UpdateDevice(b.ctx(), b.Operator(), k.Device, 3, map[string]string{"owner": rand.Text()}, nil)
			return err
		}), issuance.ErrConflict)
		b.ok(err)
	},
	"DevicesAreFound": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		r.Device.UDID = "AbC"
		both := b.Rendered(r).Device
		r = b.Rendering("", "wifi")
		r.Device.UDID = "XyZ"
		byUDID := b.Rendered(r).Device
		for _, c := range []struct {
			serial, udid string
			want         issuance.DeviceID
		}{
			{"SER1", "", both}, {"SER1", "XYZ", both}, {"", "aBc", both}, {"", "xYz", byUDID}, {"SER9", "xyz", byUDID},
			{"ser1", "", ""}, {"SER9", "abc", ""}, {"", "", ""}, {"", "other", ""},
		} {
			d, err := b.DeviceLike(b.ctx(), c.serial, c.udid)
			if c.want == "" {
				if !errors.Is(err, issuance.ErrNotFound) {
					t.Errorf("%q, %q: found %s, error %v", c.serial, c.udid, d.ID, err)
				}
			} else if err != nil || d.ID != c.want {
				t.Errorf("%q, %q: found %q, want %s (error %v)", c.serial, c.udid, d.ID, c.want, err)
			}
		}
		for _, c := range []struct {
			filter issuance.DeviceFilter
			want   int
		}{
			{issuance.DeviceFilter{}, 2}, {issuance.DeviceFilter{Serial: "SER1"}, 1}, {issuance.DeviceFilter{Serial: "ser1"}, 0},
			{issuance.DeviceFilter{UDID: "abc"}, 1}, {issuance.DeviceFilter{Serial: "SER1", UDID: "xyz"}, 0},
		} {
			if n := len(all(b, b.Devices(b.ctx(), c.filter))); n != c.want {
				t.Errorf("%+v lists %d devices, want %d", c.filter, n, c.want)
			}
		}
	},
}
