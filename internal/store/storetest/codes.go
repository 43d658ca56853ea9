package storetest

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/csr"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
)

func pathHash(path string) [32]byte { return sha256.Sum256([]byte(path)) }

// wantDead checks that a document is no longer served, because its code has this status.
func (b *Bench) wantDead(path string, status issuance.CodeStatus) {
	b.T.Helper()
	d, err := b.DocumentByPath(b.ctx(), pathHash(path), b.Now)
	b.ok(err)
	if d.Body != nil || d.CodeStatus != status {
		b.T.Errorf("document with %d bytes, its code is %s; want none and %s", len(d.Body), d.CodeStatus, status)
	}
}

var codeTests = map[string]func(*testing.T, *Bench){
	"CodeIsFoundByItsValueInItsDirectory": func(t *testing.T, b *Bench) {
		minted, value := b.Mint(func(m *issuance.Mint) {
			m.Serial, m.UDID, m.AllowUnattested = "C02XK1", "0000-A", true
			m.Labels = map[string]string{"owner": "Ann"}
			m.Minted = &csr.Request{Subject: csr.Name{{{Type: "2.5.4.3", Value: "Ann"}}}, KeyType: "EC", KeySize: 384}
		})
		for _, get := range []func() (issuance.Code, error){
			func() (issuance.Code, error) { return b.Code(b.ctx(), minted.ID) },
			func() (issuance.Code, error) { return b.CodeByValue(b.ctx(), Directory, value) },
		} {
			c, err := get()
			b.ok(err)
			if diff := cmp.Diff(minted, c); diff != "" {
				t.Error(diff)
			}
		}
		_, err := b.CodeByValue(b.ctx(), "other", value)
		b.wantError(err, issuance.ErrNotFound)
		row := b.wantAudited(audit.Filter{Device: string(minted.Device)}, audit.CodeMinted, audit.Done, "")
		if row.Personal == nil || row.Personal.Serial != "C02XK1" || row.Personal.From != "operator:test" {
			t.Errorf("personal values %+v", row.Personal)
		}
	},
	"MintIsAllOrNothing": func(t *testing.T, b *Bench) {
		same := rand.Text()
		mint := func(value string) issuance.Mint {
			return issuance.Mint{Directory: Directory, Value: value, Serial: "S-" + value, Lifetime: time.Hour}
		}
		for name, batch := range map[string][]issuance.Mint{
			"value twice":    {mint(rand.Text()), mint(same), mint(same)},
			"short value":    {mint(rand.Text()), mint("guessable")},
			"no lifetime":    {mint(rand.Text()), {Directory: Directory, Value: rand.Text()}},
			"no directory":   {mint(rand.Text()), {Value: rand.Text(), Lifetime: time.Hour}},
			"too many codes": make([]issuance.Mint, store.MaxMint+1),
		} {
			if _, err := b.MintCodes(b.ctx(), b.Operator(), batch); err == nil {
				t.Errorf("%s: minted", name)
			}
		}
		if codes := all(b, b.Codes(b.ctx(), issuance.CodeFilter{})); len(codes) != 0 {
			t.Errorf("%d codes of failed batches", len(codes))
		}
	},
	"CodesAreListedByStatus": func(t *testing.T, b *Bench) {
		const n = 450 // more than two pages
		batch := make([]issuance.Mint, n)
		for i := range batch {
			batch[i] = issuance.Mint{Directory: Directory, Value: rand.Text(), Lifetime: time.Duration(1+i%2) * time.Hour}
		}
		_, err := b.MintCodes(b.ctx(), b.Operator(), batch)
		b.ok(err)
		b.Now = b.Now.Add(time.Hour)
		revoked, _ := b.Mint(func(m *issuance.Mint) { m.Serial = "C02XK1" })
		_, err = b.RevokeCode(b.ctx(), b.Operator(), revoked.ID)
		b.ok(err)
		for _, c := range []struct {
			filter issuance.CodeFilter
			want   int
		}{
			{issuance.CodeFilter{}, n + 1},
			{issuance.CodeFilter{Status: issuance.CodeUnused, Now: b.Now}, n / 2},
			{issuance.CodeFilter{Status: issuance.CodeExpired, Now: b.Now}, n / 2},
			{issuance.CodeFilter{Status: issuance.CodeRevoked}, 1},
			{issuance.CodeFilter{Directory: "other"}, 0},
			{issuance.CodeFilter{Device: revoked.Device}, 1},
			{issuance.CodeFilter{Serial: "C02XK1"}, 1},
			{issuance.CodeFilter{Serial: "c02xk1"}, 0},
		} {
			seen := make(map[issuance.CodeID]bool)
			for _, code := range all(b, b.Codes(b.ctx(), c.filter)) {
				seen[code.ID] = true
			}
			if len(seen) != c.want {
				t.Errorf("%+v lists %d codes, want %d", c.filter, len(seen), c.want)
			}
		}
	},
	"OnlyUnusedCodesAreRevoked": func(t *testing.T, b *Bench) {
		code, value := b.Mint(WithDocument("p"))
		_, cert := b.Claimed(value)
		_, err := b.RevokeCode(b.ctx(), b.Operator(), code.ID)
		b.wantError(err, issuance.ErrConflict)
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), cert.Order, issuance.Refusal{Check: "x"}))
		revoked, err := b.RevokeCode(b.ctx(), b.Operator(), code.ID)
		b.ok(err)
		if revoked.Status != issuance.CodeRevoked || revoked.RevokedAt.IsZero() {
			t.Errorf("code %+v", revoked)
		}
		b.wantDead("p", issuance.CodeRevoked)
		_, err = b.RevokeCode(b.ctx(), b.Operator(), code.ID)
		b.wantError(err, issuance.ErrConflict)
		_, err = b.RevokeCode(b.ctx(), b.Operator(), "code_none")
		b.wantError(err, issuance.ErrNotFound)
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.CodeRevoked, audit.Done, "")
	},
	"DocumentIsServedWhileItsCodeIsUsable": func(t *testing.T, b *Bench) {
		code, value := b.Mint(WithDocument("p"))
		d, err := b.DocumentByPath(b.ctx(), pathHash("p"), b.Now)
		b.ok(err)
		if string(d.Body) != "document with "+value || d.Code != code.ID || !d.FetchedAt.IsZero() {
			t.Errorf("document %+v", d)
		}
		b.ok(b.MarkFetched(b.ctx(), b.Call(), d.ID))
		first := b.Now.Truncate(time.Microsecond)
		b.Now = b.Now.Add(time.Hour)
		b.ok(b.MarkFetched(b.ctx(), b.Call(), d.ID))
		d, err = b.DocumentByPath(b.ctx(), pathHash("p"), b.Now)
		b.ok(err)
		if !d.FetchedAt.Equal(first) {
			t.Errorf("first fetched at %v, want %v", d.FetchedAt, first)
		}
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.DocumentFetched, audit.Done, "")
		_, err = b.DocumentByPath(b.ctx(), pathHash("q"), b.Now)
		b.wantError(err, issuance.ErrNotFound)
		_, err = b.DocumentByPath(b.ctx(), pathHash("p"), code.ExpiresAt.Add(-time.Microsecond))
		b.ok(err)
		began := b.Now
		b.Now = code.ExpiresAt
		b.wantDead("p", issuance.CodeExpired)
		b.Now = began
		b.Claimed(value)
		b.wantDead("p", issuance.CodeIssuing)
	},
	"DevicesAreKnownBySerialThenUDID": func(t *testing.T, b *Bench) {
		device := func(serial, udid string) issuance.DeviceID {
			c, _ := b.Mint(func(m *issuance.Mint) { m.Serial, m.UDID = serial, udid })
			return c.Device
		}
		a := device("SER1", "AbC-1")
		if device("SER1", "") != a || device("", "aBc-1") != a {
			t.Error("one device has two rows")
		}
		if device("ser1", "") == a {
			t.Error("serials that differ in case name one device")
		}
		other := device("SER2", "XYZ")
		if got := device("SER1", "xyz"); got != a {
			t.Errorf("serial and UDID of two devices chose %s, want the serial's %s", got, a)
		}
		row := b.wantAudited(audit.Filter{Device: string(a)}, audit.DeviceConflict, audit.Done, "")
		if row.Detail["other"] != string(other) || row.Detail["kind"] != string(issuance.UDIDClaimed) {
			t.Errorf("conflict names %v", row.Detail)
		}
		bySerial, byUDID := device("SER3", ""), device("", "UVW")
		if got := device("SER3", "UVW"); got != bySerial || got == byUDID {
			t.Errorf("serial and UDID of two rows chose %s, want the serial's %s", got, bySerial)
		}
		got, err := b.Device(b.ctx(), a)
		b.ok(err)
		if got.Serial != "SER1" || got.UDID != "AbC-1" || got.Attested {
			t.Errorf("device %+v", got)
		}
		_, err = b.Device(b.ctx(), "dev_none")
		b.wantError(err, issuance.ErrNotFound)
	},
	"OnlyWhoDeclaresDescribesAKnownDevice": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		c, _ := b.Mint(func(m *issuance.Mint) { m.Serial, m.UDID = "SER1", "U-EVIL" })
		if got, err := b.Device(b.ctx(), k.Device); err != nil || c.Device != k.Device || got.UDID != "" {
			t.Errorf("minting a code made the device %+v, %v", got, err)
		}
		r := b.Rendering("SER1", "vpn")
		r.Device.UDID = "U-1"
		b.Rendered(r)
		if got, err := b.Device(b.ctx(), k.Device); err != nil || got.UDID != "U-1" {
			t.Errorf("declaring made the device %+v, %v", got, err)
		}
	},
	"AttestedUDIDReplacesAnExpectedOne": func(t *testing.T, b *Bench) {
		_, value := b.Mint(func(m *issuance.Mint) { m.Serial, m.UDID = "C02XK1", "mistyped" })
		_, cert := b.Claimed(value)
		_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
		b.ok(err)
		cert = b.wantCertificate(cert.ID, issuance.CertificateValid)
		d, err := b.Device(b.ctx(), cert.Device)
		b.ok(err)
		if d.UDID != "00008110-000A" || !d.Attested || d.Revision != 2 {
			t.Errorf("device %+v", d)
		}
		c, _ := b.Mint(func(m *issuance.Mint) { m.Serial, m.UDID = "C02XK1", "mistyped again" })
		d, err = b.Device(b.ctx(), c.Device)
		b.ok(err)
		if d.UDID != "00008110-000A" {
			t.Errorf("minting changed what evidence attested: %+v", d)
		}
	},
	"UnattestedCertificateBelongsToTheExpectedDevice": func(t *testing.T, b *Bench) {
		code, value := b.Mint(func(m *issuance.Mint) { m.Serial = "C02XK9" })
		_, cert := b.Claimed(value)
		done := CompletionFor(cert)
		done.Attested = issuance.Device{}
		_, err := b.CompleteIssue(b.ctx(), b.Operator(), done)
		b.ok(err)
		cert = b.wantCertificate(cert.ID, issuance.CertificateValid)
		d, err := b.Device(b.ctx(), cert.Device)
		b.ok(err)
		if cert.Device != code.Device || d.Attested {
			t.Errorf("certificate of device %q, attested %v", cert.Device, d.Attested)
		}
	},
	"OneOf32MintsMakesTheDevice": func(t *testing.T, b *Bench) {
		ids := make([]issuance.DeviceID, 32)
		for _, err := range race(32, func(i int) error {
			codes, err := b.MintCodes(b.ctx(), b.Operator(), []issuance.Mint{{Directory: Directory, Value: rand.Text(), Serial: "SER1", Lifetime: time.Hour}})
			if err != nil {
				return fmt.Errorf("mint %d: %w", i, err)
			}
			ids[i] = codes[0].Device
			return nil
		}) {
			b.ok(err)
		}
		for _, id := range ids {
			if id != ids[0] {
				t.Fatal("one serial has two devices")
			}
		}
	},
}
