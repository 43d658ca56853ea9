package storetest

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
)

// restored marks the store as restored from a backup that was taken an hour ago.
func (b *Bench) restored(change ...func(*store.Restoring)) store.Ended {
	b.T.Helper()
	r := store.Restoring{TakenAt: b.Now.Add(-time.Hour), Shards: 4}
	for _, c := range change {
		c(&r)
	}
	ended, err := b.MarkRestored(b.ctx(), b.Operator(), r)
	b.ok(err)
	return ended
}

func keepAll(r *store.Restoring) { r.KeepCodes, r.KeepTokens = true, true }

var restoringTests = map[string]func(*testing.T, *Bench){
	"RestoredStoreEndsWhatMayHaveBeenUsedSince": func(t *testing.T, b *Bench) {
		cert := b.Issued()
		unused, unusedValue := b.Mint()
		expired, _ := b.Mint()
		_, value := b.Mint()
		ready := b.Ready(value)
		_, value = b.Mint()
		pending := b.Pending(value)
		claimedCode, value := b.Mint()
		claimed, reserved := b.Claimed(value)
		_, value = b.Mint()
		hold := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(hold.ID)
		token, err := b.token("one")
		b.ok(err)
		b.Now = b.Now.Add(25 * time.Hour)

		ended := b.restored()
		want := store.Ended{Claims: 1, Codes: 6, Orders: 2, Approvals: 1, Tokens: 1, CRLs: 4}
		if diff := cmp.Diff(want, ended); diff != "" {
			t.Errorf("ended (-want +got):\n%s", diff)
		}
		for _, id := range []issuance.CodeID{unused.ID, expired.ID, claimedCode.ID} {
			code, err := b.Code(b.ctx(), id)
			b.ok(err)
			if code.Status != issuance.CodeRevoked {
				t.Errorf("code is %s", code.Status)
			}
		}
		b.wantOrder(ready.ID, issuance.OrderInvalid, "installation-restored")
		b.wantOrder(pending.ID, issuance.OrderInvalid, "installation-restored")
		b.wantOrder(claimed.ID, issuance.OrderInvalid, "claim-died")
		b.wantCertificate(reserved.ID, issuance.CertificateAbandoned)
		b.wantCertificate(cert.ID, issuance.CertificateValid) // is not open
		if h := b.wantHold(hold.ID, issuance.HoldHeld); h.DecidedBy != "" || !h.ExpiresAt.IsZero() {
			t.Errorf("hold %+v", h)
		}
		if k, err := b.TokenByHash(b.ctx(), sha256.Sum256([]byte("one"))); err != nil || k.ID != token.ID || k.RevokedAt.IsZero() {
			t.Errorf("token %+v, %v", k, err)
		}
		if _, err := b.OrderFor(b.Account, unusedValue); err == nil {
			t.Error("a code from before the restore was taken")
		}
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(ready))
		if err == nil {
			t.Error("an order from before the restore was finalized")
		}
	},
	"RestoredStoreKeepsWhatItIsToldToKeep": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		order := b.Ready(value)
		_, value = b.Mint()
		hold := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(hold.ID)
		_, err := b.token("one")
		b.ok(err)

		if diff := cmp.Diff(store.Ended{CRLs: 4}, b.restored(keepAll)); diff != "" {
			t.Errorf("ended (-want +got):\n%s", diff)
		}
		b.wantOrder(order.ID, issuance.OrderReady, "")
		b.wantHold(hold.ID, issuance.HoldApproved)
		if c, err := b.Code(b.ctx(), code.ID); err != nil || c.Status != issuance.CodeUnused {
			t.Errorf("code is %s, %v", c.Status, err)
		}
		if k, err := b.TokenByHash(b.ctx(), sha256.Sum256([]byte("one"))); err != nil || !k.RevokedAt.IsZero() {
			t.Errorf("token %+v, %v", k, err)
		}
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(order))
		b.ok(err)
	},
	"RestoredStoreKnowsNoEarlierNonceAndNoAnswer": func(t *testing.T, b *Bench) {
		before, err := b.AddNonceKey(b.ctx(), b.Now, 0, []byte("secret of before"))
		b.ok(err)
		call := b.once("key", "mint one", "")
		b.ok(b.mintOnce(call))

		b.restored(keepAll)
		keys, err := b.NonceKeys(b.ctx())
		b.ok(err)
		if len(keys) != 0 {
			t.Errorf("key %d of %s is still good", keys[0].ID, before.CreatedAt)
		}
		b.ok(b.mintOnce(b.once("key", "mint one", ""))) // done again, not answered again with a revoked code
	},
	"RestoredStorePublishesOnlyHigherCRLs": func(t *testing.T, b *Bench) {
		b.ok(b.PutCRL(b.ctx(), b.Operator(), b.NextCRL()))
		before, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.ok(err)
		if before.Number != 1 || before.Stale {
			t.Fatalf("CRL %d, stale %v", before.Number, before.Stale)
		}
		b.restored(keepAll)
		for shard, number := range map[int]int64{3: 1 + store.CRLJump, 2: store.CRLJump} { // of shard 2 none was published before
			crl, err := b.CRL(b.ctx(), b.Issuer, shard)
			b.ok(err)
			if crl.Number != number || !crl.Stale {
				t.Errorf("shard %d: CRL %d, stale %v; want %d, stale", shard, crl.Number, crl.Stale, number)
			}
		}
		b.restored(keepAll)
		next := b.NextCRL()
		if next.Number != 2+2*store.CRLJump {
			t.Errorf("next CRL is %d", next.Number)
		}
		b.ok(b.PutCRL(b.ctx(), b.Operator(), next))
	},
	"RestoreIsInTheAuditTrail": func(t *testing.T, b *Bench) {
		b.Mint()
		b.restored()
		rows := b.trail(audit.Filter{Action: audit.InstallationRestored})
		if len(rows) != 1 {
			t.Fatalf("%d rows", len(rows))
		}
		want := map[string]string{
			"backup": b.Now.Add(-time.Hour).Format(time.RFC3339), "crlJump": "4294967296",
			"claims": "0", "codes": "1", "orders": "0", "approvals": "0", "tokens": "0", "crls": "4",
		}
		if diff := cmp.Diff(want, rows[0].Detail); diff != "" {
			t.Errorf("detail (-want +got):\n%s", diff)
		}
		b.Now = b.Now.Add(time.Minute)
		b.restored(keepAll)
		rows = b.trail(audit.Filter{Action: audit.InstallationRestored})
		if len(rows) != 2 || rows[1].Detail["codes"] != "kept" || rows[1].Detail["tokens"] != "kept" {
			t.Errorf("rows %+v", rows)
		}
	},
	"RestoredCredentialsWaitForAPerson": func(t *testing.T, b *Bench) {
		r := b.Rendering("C02XK1", "wifi")
		k := b.Rendered(r)
		b.restored()
		d, err := b.Delivery(b.ctx(), k.ID)
		b.ok(err)
		if !d.Credential.DueAt.IsZero() || d.Document.Body != nil || d.Code.Status != issuance.CodeRevoked {
			t.Errorf("due at %v, document of %d bytes, code %s", d.Credential.DueAt, len(d.Document.Body), d.Code.Status)
		}
	},
}
