package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// anyone may collect.
func anyone(issuance.Certificate) error { return nil }

var certificateTests = map[string]func(*testing.T, *Bench){
	"FirstCollectionIsNoted": func(t *testing.T, b *Bench) {
		c := b.Issued()
		if n := len(all(b, b.Certificates(b.ctx(), issuance.CertificateFilter{NeverCollected: true}))); n != 1 {
			t.Errorf("%d certificates were never collected, want 1", n)
		}
		first, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID, anyone)
		b.ok(err)
		if !first.CollectedAt.Equal(b.Now.Truncate(time.Microsecond)) || len(first.DER) == 0 {
			t.Errorf("certificate %+v", first)
		}
		b.Now = b.Now.Add(time.Hour)
		again, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID, anyone)
		b.ok(err)
		if !again.CollectedAt.Equal(first.CollectedAt) {
			t.Errorf("collected at %v, then %v", first.CollectedAt, again.CollectedAt)
		}
		b.wantAudited(audit.Filter{Certificate: string(c.ID)}, audit.CertificateCollected, audit.Done, "")
		if n := len(all(b, b.Certificates(b.ctx(), issuance.CertificateFilter{NeverCollected: true}))); n != 0 {
			t.Errorf("%d certificates were never collected, want 0", n)
		}
		call := b.Call()
		b.ok(b.SpendNonce(b.ctx(), call.Nonce))
		_, err = b.CollectCertificate(b.ctx(), call, c.ID, anyone)
		b.wantError(err, issuance.ErrNonceUsed)
		_, err = b.CollectCertificate(b.ctx(), b.Call(), "cert_none", anyone)
		b.wantError(err, issuance.ErrNotFound)
	},
	"CertificateIsCollectedByWhoMayAlone": func(t *testing.T, b *Bench) {
		c := b.Issued()
		refusal := errors.New("not yours")
		call := b.Call()
		got, err := b.CollectCertificate(b.ctx(), call, c.ID, func(asked issuance.Certificate) error {
			if asked.ID != c.ID || asked.Account != c.Account {
				t.Errorf("asked about %+v", asked)
			}
			return refusal
		})
		b.wantError(err, refusal)
		b.wantError(b.SpendNonce(b.ctx(), call.Nonce), issuance.ErrNonceUsed)
		if got.DER != nil {
			t.Error("the certificate was handed out")
		}
		if n := len(all(b, b.Certificates(b.ctx(), issuance.CertificateFilter{NeverCollected: true}))); n != 1 {
			t.Errorf("%d certificates were never collected, want 1", n)
		}
	},
	"RefusalAboutACertificateIsInItsTrail": func(t *testing.T, b *Bench) {
		c := b.Issued()
		known, err := b.RecordRefusal(b.ctx(), b.Call(), issuance.ClientRefusal{Certificate: c.ID,
			Refusal: issuance.Refusal{Problem: "unauthorized", Check: "revocation-key", Detail: "another key"}})
		b.ok(err)
		row := b.wantAudited(audit.Filter{Certificate: string(c.ID)}, audit.RequestRefused, audit.Refused, "revocation-key")
		if !known || row.Order != string(c.Order) {
			t.Errorf("known is %v, row names order %q", known, row.Order)
		}
	},
	"CertificateIsRevokedOnce": func(t *testing.T, b *Bench) {
		c := b.Issued()
		r := issuance.Revocation{Certificate: c.ID, Account: b.Account, Reason: 1}
		_, err := oneWinner(race(32, func(int) error {
			_, err := b.RevokeCertificate(b.ctx(), b.Call(), r)
			return err
		}), issuance.ErrConflict)
		b.ok(err)
		got := b.wantCertificate(c.ID, issuance.CertificateRevoked)
		if got.RevokedReason != 1 || got.RevokedAt.IsZero() {
			t.Errorf("certificate %+v", got)
		}
		b.wantAudited(audit.Filter{Certificate: string(c.ID)}, audit.CertificateRevoked, audit.Done, "")
		_, value := b.Mint()
		_, reserved := b.Claimed(value)
		_, err = b.RevokeCertificate(b.ctx(), b.Call(), issuance.Revocation{Certificate: reserved.ID})
		b.wantError(err, issuance.ErrConflict)
		_, err = b.RevokeCertificate(b.ctx(), b.Call(), issuance.Revocation{Certificate: "cert_none"})
		b.wantError(err, issuance.ErrNotFound)
	},
	"CertificatesAreListedByFilter": func(t *testing.T, b *Bench) {
		for range 3 {
			b.Issued()
		}
		c := b.Issued()
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID})
		b.ok(err)
		for _, f := range []struct {
			filter issuance.CertificateFilter
			want   int
		}{
			{issuance.CertificateFilter{}, 4},
			{issuance.CertificateFilter{Status: issuance.CertificateRevoked}, 1},
			{issuance.CertificateFilter{Directory: "other"}, 0},
			{issuance.CertificateFilter{Device: c.Device}, 4},
			{issuance.CertificateFilter{DeviceSerial: "C02XK1"}, 4},
			{issuance.CertificateFilter{DeviceSerial: "C02XK2"}, 0},
			{issuance.CertificateFilter{Code: c.Code}, 1},
			{issuance.CertificateFilter{SPKISHA256: c.SPKISHA256}, 1},
			{issuance.CertificateFilter{ExpiringBefore: c.NotAfter}, 0},
			{issuance.CertificateFilter{ExpiringBefore: c.NotAfter.Add(time.Second)}, 4},
		} {
			if n := len(all(b, b.Certificates(b.ctx(), f.filter))); n != f.want {
				t.Errorf("%+v lists %d certificates, want %d", f.filter, n, f.want)
			}
		}
	},
	"CRLNumbersFollowEachOther": func(t *testing.T, b *Bench) {
		_, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.wantError(err, issuance.ErrNotFound)
		first := b.NextCRL()
		second := first
		second.Number++
		b.wantError(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, second), issuance.ErrConflict)
		_, err = oneWinner(race(8, func(int) error { return b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, first) }), issuance.ErrConflict)
		b.ok(err)
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, second))
		crl, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.ok(err)
		if diff := cmp.Diff(second, crl); diff != "" {
			t.Error(diff)
		}
	},
	"RevocationMakesItsShardsCRLStale": func(t *testing.T, b *Bench) {
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, b.NextCRL()))
		c := b.Issued()
		before := b.NextCRL()
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID, Reason: 4})
		b.ok(err)
		if crl, err := b.CRL(b.ctx(), b.Issuer, 3); err != nil || !crl.Stale {
			t.Errorf("CRL is not stale after a revocation (error %v)", err)
		}
		listed, err := b.RevokedSerials(b.ctx(), b.Issuer, 3, b.Now)
		b.ok(err)
		if len(listed) != 1 || listed[0].Serial != c.Serial || listed[0].Reason != 4 {
			t.Fatalf("revoked %+v", listed)
		}
		if other, err := b.RevokedSerials(b.ctx(), b.Issuer, 4, b.Now); err != nil || len(other) != 0 {
			t.Errorf("other shard lists %v, error %v", other, err)
		}
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, before))
		if crl, err := b.CRL(b.ctx(), b.Issuer, 3); err != nil || !crl.Stale {
			t.Errorf("CRL that lacks a revoked certificate is fresh (error %v)", err)
		}
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, b.NextCRL()))
		if crl, err := b.CRL(b.ctx(), b.Issuer, 3); err != nil || crl.Stale {
			t.Errorf("CRL that names every revoked certificate is stale (error %v)", err)
		}
	},
	"RevocationBeforeTheFirstCRLCounts": func(t *testing.T, b *Bench) {
		c := b.Issued()
		overtaken := b.NextCRL()
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID})
		b.ok(err)
		crl, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.ok(err)
		if crl.Number != 0 || !crl.Stale {
			t.Errorf("shard without a CRL has %+v", crl)
		}
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, overtaken))
		if crl, err = b.CRL(b.ctx(), b.Issuer, 3); err != nil || crl.Number != 1 || !crl.Stale {
			t.Errorf("first CRL, overtaken by a revocation, is %+v (error %v)", crl, err)
		}
	},
	"ExpiredCertificatesLeaveTheCRLAfterOneMore": func(t *testing.T, b *Bench) {
		c := b.Issued()
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID})
		b.ok(err)
		for number, want := range []int{1, 1, 0} {
			listed, err := b.RevokedSerials(b.ctx(), b.Issuer, 3, b.Now)
			b.ok(err)
			if len(listed) != want {
				t.Errorf("CRL %d lists %d certificates, want %d", number+1, len(listed), want)
			}
			b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, b.NextCRL()))
			b.Now = c.NotAfter.Add(time.Duration(number+1) * time.Hour)
		}
	},
	"OneIssuerIsActive": func(t *testing.T, b *Bench) {
		second, err := b.AddIssuer(b.ctx(), b.Operator(), issuance.Issuer{Name: "Next CA", Chain: [][]byte{{4}, {5}}, Key: "file:next.key", Active: true})
		b.ok(err)
		third, err := b.AddIssuer(b.ctx(), b.Operator(), issuance.Issuer{Name: "Spare CA", Chain: [][]byte{{6}}, Key: "file:spare.key"})
		b.ok(err)
		active := func() (ids []issuance.IssuerID) {
			for _, i := range must(b.Issuers(b.ctx())) {
				if i.Active {
					ids = append(ids, i.ID)
				}
			}
			return ids
		}
		if got := active(); len(got) != 1 || got[0] != second.ID {
			t.Errorf("active: %v", got)
		}
		got, err := b.ActivateIssuer(b.ctx(), b.Operator(), third.ID)
		b.ok(err)
		if a := active(); !got.Active || len(a) != 1 || a[0] != third.ID {
			t.Errorf("active: %v", a)
		}
		_, err = b.ActivateIssuer(b.ctx(), b.Operator(), "issuer_none")
		b.wantError(err, issuance.ErrNotFound)
		if a := active(); len(a) != 1 || a[0] != third.ID {
			t.Errorf("active after a failed change: %v", a)
		}
		if _, err := b.AddIssuer(b.ctx(), b.Operator(), issuance.Issuer{Name: "No CA"}); err == nil {
			t.Error("added an issuer without a certificate")
		}
	},
}

// NextCRL is the CRL of shard 3 that follows the stored one, made now. What it lists the store does not
// look at.
func (b *Bench) NextCRL() issuance.CRL {
	stored, err := b.CRL(b.ctx(), b.Issuer, 3)
	if !errors.Is(err, issuance.ErrNotFound) {
		b.ok(err)
	}
	now := b.Now.Truncate(time.Second)
	return issuance.CRL{Issuer: b.Issuer, Shard: 3, Number: stored.Number + 1, Revision: stored.Revision,
		DER: []byte("DER"), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}
}
