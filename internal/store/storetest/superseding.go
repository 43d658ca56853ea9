package storetest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// issuedFor is the certificate of a rendering, not yet collected.
func (b *Bench) issuedFor(r issuance.Rendering) issuance.Certificate {
	b.T.Helper()
	_, c := b.Claimed(r.Code.Value)
	_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(c))
	b.ok(err)
	return b.wantCertificate(c.ID, issuance.CertificateValid)
}

func (b *Bench) collect(c issuance.Certificate) {
	b.T.Helper()
	_, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID, anyone)
	b.ok(err)
}

// twoIssued are the certificates of a credential's first two renderings, neither of them collected.
func (b *Bench) twoIssued(change func(*issuance.Rendering)) (k issuance.DeviceCredential, first, second issuance.Certificate) {
	b.T.Helper()
	r := b.Rendering("C02XK1", "wifi")
	change(&r)
	k = b.Rendered(r)
	first = b.issuedFor(r)
	again := b.Again(k)
	change(&again)
	k = b.Rendered(again)
	return k, first, b.issuedFor(again)
}

// timeAt is a time as the store keeps it.
func timeAt(t time.Time) time.Time { return t.Truncate(time.Microsecond) }

func asItIs(*issuance.Rendering) {}

func (b *Bench) wantSupersededBy(c issuance.Certificate, by issuance.CertificateID, status issuance.CertificateStatus) {
	b.T.Helper()
	if got := b.wantCertificate(c.ID, status); got.SupersededBy != by {
		b.T.Errorf("superseded by %q, want %q", got.SupersededBy, by)
	}
}

var supersedingTests = map[string]func(*testing.T, *Bench){
	"CollectedCertificateTakesThePlaceOfTheOneBefore": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		other := b.Rendering("C02XK1", "vpn") // same device
		b.Rendered(other)
		beside, alone := b.issuedFor(other), b.Issued()
		b.collect(beside)
		b.collect(alone)
		b.collect(first)
		b.wantSupersededBy(first, "", issuance.CertificateValid)
		b.collect(second)
		b.wantSupersededBy(first, second.ID, issuance.CertificateValid)
		row := b.wantAudited(audit.Filter{Certificate: string(first.ID)}, audit.CertificateSuperseded, audit.Done, "")
		if row.Detail["by"] != string(second.ID) {
			t.Errorf("row %+v", row)
		}
		for _, c := range []issuance.Certificate{second, beside, alone} {
			b.wantSupersededBy(c, "", issuance.CertificateValid)
		}
		k.Certificate, k.DueAt = second.ID, second.NotAfter.Add(-30*24*time.Hour)
		b.wantCredential(k)
		if _, err := b.CRL(b.ctx(), b.Issuer, 3); err == nil {
			t.Error("a certificate was revoked")
		}
		b.wroteNothing(func() { b.collect(first); b.collect(second) })
		b.wantCredential(k)
	},
	"SupersededCertificateIsRevokedWhereTheTemplateSaysSo": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(func(r *issuance.Rendering) { r.RevokeSuperseded = true })
		b.collect(first)
		crl := b.NextCRL()
		crl.Number = 1
		b.ok(b.PutCRL(b.ctx(), issuance.Call{Now: b.Now}, crl))
		b.Now = b.Now.Add(time.Hour)
		b.collect(second)
		b.wantSupersededBy(first, second.ID, issuance.CertificateRevoked)
		b.wantSupersededBy(second, "", issuance.CertificateValid)
		revoked, err := b.RevokedSerials(b.ctx(), b.Issuer, 3, b.Now)
		b.ok(err)
		want := []issuance.RevokedSerial{{Serial: first.Serial, RevokedAt: b.Now.Truncate(time.Microsecond), Reason: 4}}
		if diff := cmp.Diff(want, revoked); diff != "" {
			t.Error(diff)
		}
		if stale, err := b.CRL(b.ctx(), b.Issuer, 3); err != nil || !stale.Stale || stale.Revision != 1 {
			t.Errorf("CRL %+v, error %v", stale, err)
		}
		b.wantAudited(audit.Filter{Certificate: string(first.ID)}, audit.CertificateSuperseded, audit.Done, "")
		row := b.wantAudited(audit.Filter{Certificate: string(first.ID)}, audit.CertificateRevoked, audit.Done, "")
		if row.Detail["reason"] != "4" || row.Detail["certificateSerial"] != first.Serial {
			t.Errorf("row %+v", row)
		}
		k.Certificate, k.DueAt = second.ID, second.NotAfter.Add(-30*24*time.Hour)
		b.wantCredential(k)
	},
	"UncollectedCertificateIsSupersededToo": func(t *testing.T, b *Bench) {
		_, first, second := b.twoIssued(asItIs)
		b.collect(second)
		b.wantSupersededBy(first, second.ID, issuance.CertificateValid)
		b.collect(first) // late, or by somebody else
		b.wantSupersededBy(second, "", issuance.CertificateValid)
		d, err := b.DeliveryOf(b.ctx(), second.Device, "wifi")
		b.ok(err)
		if d.Credential.Certificate != second.ID {
			t.Errorf("certificate %s, want the second", d.Credential.Certificate)
		}
	},
	"EarlierCertificateDoesNotSupersedeALaterOne": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		b.collect(first)
		b.wantSupersededBy(second, "", issuance.CertificateValid)
		k.Certificate = first.ID // and what is due belongs to the second rendering
		b.wantCredential(k)
		b.collect(second)
		b.wantSupersededBy(first, second.ID, issuance.CertificateValid)
		b.wantSupersededBy(second, "", issuance.CertificateValid)
	},
	"RevokedCertificateTakesNobodysPlace": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		b.collect(first)
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: second.ID, Reason: 1})
		b.ok(err)
		b.collect(second)
		b.wantSupersededBy(first, "", issuance.CertificateValid)
		k.Certificate, k.DueAt = first.ID, time.Time{}
		b.wantCredential(k)
	},
	"RevokedCertificateStaysAsItWasRevoked": func(t *testing.T, b *Bench) {
		_, first, second := b.twoIssued(func(r *issuance.Rendering) { r.RevokeSuperseded = true })
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: first.ID, Reason: 1})
		b.ok(err)
		b.collect(second)
		b.wantSupersededBy(first, "", issuance.CertificateRevoked)
		if c := b.wantCertificate(first.ID, issuance.CertificateRevoked); c.RevokedReason != 1 {
			t.Errorf("reason %d", c.RevokedReason)
		}
	},
	"SupersededCertificateStaysSupersededByTheFirstToDoSo": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		b.collect(second)
		again := b.Again(k)
		b.Rendered(again)
		third := b.issuedFor(again)
		b.collect(third)
		b.wantSupersededBy(first, second.ID, issuance.CertificateValid)
		b.wantSupersededBy(second, third.ID, issuance.CertificateValid)
	},
	"RenewalIsDueInTheSecondHalfOfALife": func(t *testing.T, b *Bench) {
		for before, want := range map[time.Duration]func(issuance.Certificate) time.Time{
			0:                   func(issuance.Certificate) time.Time { return time.Time{} },
			time.Hour:           func(c issuance.Certificate) time.Time { return c.NotAfter.Add(-time.Hour) },
			80 * 24 * time.Hour: func(c issuance.Certificate) time.Time { return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2) },
		} {
			r := b.Rendering("C02XK1", "wifi"+before.String())
			r.RenewBefore = before
			k := b.Rendered(r)
			b.ok(b.MarkFetched(b.ctx(), b.Call(), k.Document))
			c := b.issuedFor(r)
			b.collect(c)
			k.Certificate, k.DueAt = c.ID, want(c)
			b.wantCredential(k)
		}
	},
	"RevokedCertificateIsNotRenewed": func(t *testing.T, b *Bench) {
		for name, collected := range map[string]bool{"collected": true, "never collected": false} {
			r := b.Rendering("C02XK1", name)
			k := b.Rendered(r)
			b.ok(b.MarkFetched(b.ctx(), b.Call(), k.Document))
			c := b.issuedFor(r)
			if collected {
				b.collect(c)
				k.Certificate = c.ID
			}
			_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: c.ID})
			b.ok(err)
			k.DueAt = time.Time{}
			b.wantCredential(k)
		}
	},
	"RevokingAnEarlierCertificateLeavesTheRenewal": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		b.collect(first)
		b.collect(second)
		_, err := b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: first.ID})
		b.ok(err)
		k.Certificate, k.DueAt = second.ID, second.NotAfter.Add(-30*24*time.Hour)
		b.wantCredential(k)
	},
	"DeviceThatFetchesInVainGetsSevenMoreDocuments": func(t *testing.T, b *Bench) {
		r := b.Rendering("C02XK1", "wifi")
		k := b.Rendered(r)
		for attempt := range issuance.MaxAttempts {
			b.ok(b.MarkFetched(b.ctx(), b.Call(), k.Document))
			k.DueAt = timeAt(b.Now.Add(time.Hour + issuance.RetryPause))
			k.Attempts = attempt
			b.wantCredential(k)
			b.Now = k.DueAt
			if due := b.listed(issuance.CredentialFilter{DueBefore: b.Now.Add(time.Second)}); len(due) != 1 {
				t.Fatalf("attempt %d: due are %v", attempt, due)
			}
			r = b.Again(k)
			k = b.Rendered(r)
		}
		b.ok(b.MarkFetched(b.ctx(), b.Call(), k.Document))
		k.Attempts, k.DueAt = issuance.MaxAttempts, time.Time{}
		b.wantCredential(k)
		b.collect(b.issuedFor(r)) // it got there after all
		if again := b.Rendered(b.Again(k)); again.Attempts != 0 {
			t.Errorf("%d attempts after a certificate was collected", again.Attempts)
		}
	},
	"DocumentThatNobodyFetchedIsNoAttempt": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("C02XK1", "wifi"))
		if k = b.Rendered(b.Again(k)); k.Attempts != 0 {
			t.Errorf("%d attempts", k.Attempts)
		}
	},
	"WithdrawnCredentialIsNotRenewed": func(t *testing.T, b *Bench) {
		k, first, second := b.twoIssued(asItIs)
		k, err := b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 0)
		b.ok(err)
		b.collect(second)
		b.wantSupersededBy(first, second.ID, issuance.CertificateValid)
		k.Certificate = second.ID
		b.wantCredential(k)
	},
	"CollectionAndRenderingRace": func(t *testing.T, b *Bench) {
		for range 20 {
			r := b.Rendering("C02XK1", "wifi"+rand.Text())
			k := b.Rendered(r)
			c := b.issuedFor(r)
			again := b.Again(k)
			for _, err := range race(2, func(i int) error {
				if i == 0 {
					_, err := b.render(again)
					return err
				}
				_, err := b.CollectCertificate(b.ctx(), b.Call(), c.ID, anyone)
				return err
			}) {
				b.ok(err)
			}
			d, err := b.Delivery(b.ctx(), k.ID)
			b.ok(err)
			if d.Credential.Certificate != c.ID || d.Credential.Revision != 2 || !d.Credential.DueAt.Equal(d.Code.ExpiresAt) {
				t.Fatalf("credential %+v", d.Credential)
			}
		}
	},
}
