package storetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
)

var certificateTests = map[string]func(*testing.T, *Bench){
	"FirstCollectionIsNoted": func(t *testing.T, b *Bench) {
		c := b.Issued()
		if n := len(all(b, b.Certificates(b.ctx(), store.CertificateFilter{NeverCollected: true}))); n != 1 {
			t.Errorf("%d certificates were never collected, want 1", n)
		}
		first, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID)
		b.ok(err)
		if !first.CollectedAt.Equal(b.Now.Truncate(time.Microsecond)) || len(first.DER) == 0 {
			t.Errorf("certificate %+v", first)
		}
		b.Now = b.Now.Add(time.Hour)
		again, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID)
		b.ok(err)
		if !again.CollectedAt.Equal(first.CollectedAt) {
			t.Errorf("collected at %v, then %v", first.CollectedAt, again.CollectedAt)
		}
		b.wantAudited(store.AuditFilter{Certificate: c.ID}, audit.CertificateCollected, audit.Done, "")
		if n := len(all(b, b.Certificates(b.ctx(), store.CertificateFilter{NeverCollected: true}))); n != 0 {
			t.Errorf("%d certificates were never collected, want 0", n)
		}
		call := b.Call()
		b.ok(b.SpendNonce(b.ctx(), call.Nonce))
		_, err = b.CollectCertificate(b.ctx(), call, c.ID)
		b.wantError(err, issuance.ErrNonceUsed)
		_, err = b.CollectCertificate(b.ctx(), b.Call(), "cert_none")
		b.wantError(err, issuance.ErrNotFound)
	},
	"RefusalAboutACertificateIsInItsTrail": func(t *testing.T, b *Bench) {
		c := b.Issued()
		known, err := b.RecordRefusal(b.ctx(), b.Call(), issuance.ClientRefusal{Certificate: c.ID,
			Refusal: issuance.Refusal{Problem: "unauthorized", Check: "revocation-key", Detail: "another key"}})
		b.ok(err)
		row := b.wantAudited(store.AuditFilter{Certificate: c.ID}, audit.RequestRefused, audit.Refused, "revocation-key")
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
		b.wantAudited(store.AuditFilter{Certificate: c.ID}, audit.CertificateRevoked, audit.Done, "")
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
			filter store.CertificateFilter
			want   int
		}{
			{store.CertificateFilter{}, 4},
			{store.CertificateFilter{Status: issuance.CertificateRevoked}, 1},
			{store.CertificateFilter{Directory: "other"}, 0},
			{store.CertificateFilter{Device: c.Device}, 4},
			{store.CertificateFilter{DeviceSerial: "C02XK1"}, 4},
			{store.CertificateFilter{DeviceSerial: "C02XK2"}, 0},
			{store.CertificateFilter{Code: c.Code}, 1},
			{store.CertificateFilter{SPKISHA256: c.SPKISHA256}, 1},
			{store.CertificateFilter{ExpiringBefore: c.NotAfter}, 0},
			{store.CertificateFilter{ExpiringBefore: c.NotAfter.Add(time.Second)}, 4},
		} {
			if n := len(all(b, b.Certificates(b.ctx(), f.filter))); n != f.want {
				t.Errorf("%+v lists %d certificates, want %d", f.filter, n, f.want)
			}
		}
	},
	"CRLNumbersFollowEachOther": func(t *testing.T, b *Bench) {
		_, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.wantError(err, issuance.ErrNotFound)
		b.wantError(b.PutCRL(b.ctx(), b.SignedCRL(2, nil)), issuance.ErrConflict)
		_, err = oneWinner(race(8, func(int) error { return b.PutCRL(b.ctx(), b.SignedCRL(1, nil)) }), issuance.ErrConflict)
		b.ok(err)
		b.ok(b.PutCRL(b.ctx(), b.SignedCRL(2, nil)))
		crl, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.ok(err)
		if crl.Number != 2 || crl.Stale || !crl.NextUpdate.Equal(b.Now.Add(time.Hour).Truncate(time.Second)) {
			t.Errorf("CRL %+v", crl)
		}
		garbage := b.SignedCRL(3, nil)
		garbage.DER = []byte("no CRL")
		if err := b.PutCRL(b.ctx(), garbage); err == nil {
			t.Error("stored what is no CRL")
		}
	},
	"RevocationMakesItsShardsCRLStale": func(t *testing.T, b *Bench) {
		b.ok(b.PutCRL(b.ctx(), b.SignedCRL(1, nil)))
		c := b.Issued()
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID, Reason: 4})
		b.ok(err)
		crl, err := b.CRL(b.ctx(), b.Issuer, 3)
		b.ok(err)
		if !crl.Stale {
			t.Error("CRL is not stale after a revocation")
		}
		listed, err := b.RevokedSerials(b.ctx(), b.Issuer, 3, b.Now)
		b.ok(err)
		if len(listed) != 1 || listed[0].Serial != c.Serial || listed[0].Reason != 4 {
			t.Fatalf("revoked %+v", listed)
		}
		if other, err := b.RevokedSerials(b.ctx(), b.Issuer, 4, b.Now); err != nil || len(other) != 0 {
			t.Errorf("other shard lists %v, error %v", other, err)
		}
		b.ok(b.PutCRL(b.ctx(), b.SignedCRL(2, nil))) // made before the revocation
		if crl, err = b.CRL(b.ctx(), b.Issuer, 3); err != nil || !crl.Stale {
			t.Errorf("CRL that lacks a revoked certificate is fresh (error %v)", err)
		}
		b.ok(b.PutCRL(b.ctx(), b.SignedCRL(3, listed)))
		if crl, err = b.CRL(b.ctx(), b.Issuer, 3); err != nil || crl.Stale {
			t.Errorf("CRL that names every revoked certificate is stale (error %v)", err)
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
			b.ok(b.PutCRL(b.ctx(), b.SignedCRL(int64(number+1), listed)))
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

// SignedCRL is a CRL of shard 3 that lists the revoked certificates.
func (b *Bench) SignedCRL(number int64, revoked []issuance.RevokedSerial) issuance.CRL {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: b.Now.Truncate(time.Second), NextUpdate: b.Now.Add(time.Hour).Truncate(time.Second)}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).SetBytes(must(hex.DecodeString(r.Serial))), RevocationTime: r.RevokedAt, ReasonCode: r.Reason})
	}
	der := must(x509.CreateRevocationList(rand.Reader, list, issuer, key))
	return issuance.CRL{Issuer: b.Issuer, Shard: 3, Number: number, DER: der, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate}
}
