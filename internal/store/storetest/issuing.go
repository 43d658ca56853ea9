package storetest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
)

var issuingTests = map[string]func(*testing.T, *Bench){
	"FaultyCSRsEndTheOrderAtTheLimit": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		o := b.Ready(value)
		r := issuance.CSRRejection{Account: b.Account, Order: o.ID, Refusal: issuance.Refusal{Problem: "badCSR", Check: "csr-signature", Detail: "wrong"}}
		for i := range issuance.MaxTries - 1 {
			got, err := b.RejectCSR(b.ctx(), b.Call(), r)
			b.ok(err)
			if got.Status != issuance.OrderReady || got.Tries != i+1 {
				t.Fatalf("order is %s after %d tries", got.Status, got.Tries)
			}
		}
		_, err := b.RejectCSR(b.ctx(), b.Call(), r)
		b.ok(err)
		b.wantOrder(o.ID, issuance.OrderInvalid, "too-many-tries")
		_, err = b.RejectCSR(b.ctx(), b.Call(), r)
		b.wantError(err, issuance.ErrConflict)
		if c := b.wantCode(code.ID, issuance.CodeUnused); c.Tries != 0 {
			t.Errorf("faulty CSRs counted %d tries on the code", c.Tries)
		}
		if n := len(b.trail(audit.Filter{Code: string(code.ID), Action: audit.CSRChecked})); n != issuance.MaxTries {
			t.Errorf("%d audit rows", n)
		}
	},
	"RefusedDecisionEndsTheOrderAndCountsATry": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		o := b.Ready(value)
		r := issuance.OrderRefusal{Account: b.Account, Order: o.ID, Decision: b.ClaimFor(o).Decision,
			Refusal: issuance.Refusal{Problem: "unauthorized", Check: "serial-bound", Detail: "another device"}}
		_, err := b.RefuseOrder(b.ctx(), b.Call(), r)
		b.ok(err)
		b.wantOrder(o.ID, issuance.OrderInvalid, "serial-bound")
		if c := b.wantCode(code.ID, issuance.CodeUnused); c.Tries != 1 || c.LastRefusal != "serial-bound" {
			t.Errorf("code has %d tries, last refusal %q", c.Tries, c.LastRefusal)
		}
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.DecisionTaken, audit.Refused, "serial-bound")
		_, err = b.RefuseOrder(b.ctx(), b.Call(), r)
		b.wantError(err, issuance.ErrConflict)
	},
	"WholeIssue": func(t *testing.T, b *Bench) {
		code, value := b.Mint(WithDocument("secret"), func(m *issuance.Mint) { m.Serial = "C02XK1" })
		o := b.Ready(value)
		claim := b.ClaimFor(o)
		reserved, err := b.BeginIssue(b.ctx(), b.Call(), claim)
		b.ok(err)
		b.wantOrder(o.ID, issuance.OrderProcessing, "")
		if c := b.wantCode(code.ID, issuance.CodeIssuing); c.Order != o.ID {
			t.Errorf("code is claimed by %q", c.Order)
		}
		if got := b.wantCertificate(reserved.ID, issuance.CertificateReserved); got.DER != nil || got.Device != code.Device {
			t.Errorf("reserved row %+v", got)
		} else if diff := cmp.Diff(reserved, got); diff != "" {
			t.Error(diff)
		}
		if _, err := b.CollectCertificate(b.ctx(), b.Call(), reserved.ID, anyone); !errors.Is(err, issuance.ErrConflict) {
			t.Errorf("collecting a reserved serial: %v", err)
		}

		done, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(reserved))
		b.ok(err)
		if done.Status != issuance.OrderValid || done.Certificate != reserved.ID {
			t.Errorf("order %+v", done)
		}
		if c := b.wantCode(code.ID, issuance.CodeConsumed); c.Order != o.ID || c.Certificate != reserved.ID || c.UsedAt.IsZero() {
			t.Errorf("code %+v", c)
		}
		cert := b.wantCertificate(reserved.ID, issuance.CertificateValid)
		if !bytes.Equal(cert.DER, CompletionFor(reserved).DER) || cert.Serial != claim.Certificate.Serial || cert.Code != code.ID || cert.Evidence != o.Evidence {
			t.Errorf("certificate %+v", cert)
		}
		decision, err := b.Decision(b.ctx(), cert.Decision)
		b.ok(err)
		want := claim.Decision
		want.ID, want.Order, want.Directory, want.Code, want.Evidence, want.Time = cert.Decision, o.ID, o.Directory, code.ID, o.Evidence, b.Now.Truncate(time.Microsecond)
		if diff := cmp.Diff(want, decision); diff != "" {
			t.Error(diff)
		}
		_, err = b.Decision(b.ctx(), "dec_none")
		b.wantError(err, issuance.ErrNotFound)
		device, err := b.Device(b.ctx(), cert.Device)
		b.ok(err)
		if device.ID != code.Device || !device.Attested || device.Serial != "C02XK1" || device.UDID != "00008110-000A" {
			t.Errorf("device %+v", device)
		}
		b.wantDead("secret", issuance.CodeConsumed)
		bySerial, err := b.CertificateBySerial(b.ctx(), cert.Serial)
		b.ok(err)
		if diff := cmp.Diff(cert, bySerial); diff != "" {
			t.Error(diff)
		}
		b.wantAudited(audit.Filter{Certificate: string(cert.ID)}, audit.IssueBegun, audit.Done, "")
		b.wantAudited(audit.Filter{Certificate: string(cert.ID)}, audit.IssueCompleted, audit.Done, "")
	},
	"OneOf32OrdersTakesTheCode": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		claims := make([]issuance.Claim, 32)
		for i := range claims {
			claims[i] = b.ClaimFor(b.Ready(value))
		}
		winner, err := oneWinner(race(len(claims), func(i int) error {
			_, err := b.BeginIssue(b.ctx(), b.Call(), claims[i])
			return err
		}), issuance.ErrCodeTaken)
		b.ok(err)
		for i, c := range claims {
			if i == winner {
				b.wantOrder(c.Order, issuance.OrderProcessing, "")
				continue
			}
			b.wantOrder(c.Order, issuance.OrderInvalid, "code-live")
		}
		if c := b.wantCode(code.ID, issuance.CodeIssuing); c.Order != claims[winner].Order {
			t.Errorf("code is claimed by %s, not by the winner", c.Order)
		}
		if n := len(all(b, b.Certificates(b.ctx(), issuance.CertificateFilter{Code: code.ID}))); n != 1 {
			t.Errorf("%d serials are reserved for one code", n)
		}
		if n := len(b.trail(audit.Filter{Code: string(code.ID), Action: audit.IssueBegun})); n != 32 {
			t.Errorf("%d audit rows for 32 attempts", n)
		}
	},
	"OneOf32RequestsTakesTheOrder": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		o := b.Ready(value)
		claims := make([]issuance.Claim, 32)
		for i := range claims {
			claims[i] = b.ClaimFor(o)
		}
		_, err := oneWinner(race(len(claims), func(i int) error {
			_, err := b.BeginIssue(b.ctx(), b.Call(), claims[i])
			return err
		}), issuance.ErrConflict)
		b.ok(err)
		b.wantOrder(o.ID, issuance.OrderProcessing, "")
	},
	"ClaimNeedsALiveCode": func(t *testing.T, b *Bench) {
		revoked, revokedValue := b.Mint()
		_, expiringValue := b.Mint(func(m *issuance.Mint) { m.Lifetime = time.Minute })
		onRevoked, onExpired := b.Ready(revokedValue), b.Ready(expiringValue)
		_, err := b.RevokeCode(b.ctx(), b.Operator(), revoked.ID)
		b.ok(err)
		b.Now = b.Now.Add(time.Minute)
		for _, o := range []issuance.Order{onRevoked, onExpired} {
			_, err := b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(o))
			b.wantError(err, issuance.ErrCodeTaken)
			b.wantOrder(o.ID, issuance.OrderInvalid, "code-live")
		}
	},
	"ClaimNeedsTheReadyLiveOrderOfTheAccount": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		pending, ready := b.Pending(value), b.Ready(value)
		_, err := b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(pending))
		b.wantError(err, issuance.ErrConflict)
		claim := b.ClaimFor(ready)
		claim.Account = b.NewAccount()
		_, err = b.BeginIssue(b.ctx(), b.Call(), claim)
		b.wantError(err, issuance.ErrNotFound)
		b.Now = b.Now.Add(issuance.OrderLifetime)
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(ready))
		b.wantError(err, issuance.ErrConflict)
		b.wantCode(code.ID, issuance.CodeUnused)
	},
	"ClaimLeavesNothingWhenItFails": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		used := b.Issued()
		o := b.Ready(value)
		claim := b.ClaimFor(o)
		claim.Certificate.Serial = used.Serial
		if _, err := b.BeginIssue(b.ctx(), b.Call(), claim); err == nil {
			t.Fatal("a serial was reserved twice")
		}
		b.wantOrder(o.ID, issuance.OrderReady, "")
		b.wantCode(code.ID, issuance.CodeUnused)
	},
	"CompletionNeedsItsOwnLiveClaim": func(t *testing.T, b *Bench) {
		_, v1 := b.Mint()
		_, v2 := b.Mint()
		_, first := b.Claimed(v1)
		_, second := b.Claimed(v2)
		mixed := CompletionFor(first)
		mixed.Order = second.Order
		_, err := b.CompleteIssue(b.ctx(), b.Call(), mixed)
		b.wantError(err, issuance.ErrNotFound)
		empty := CompletionFor(first)
		empty.DER = nil
		if _, err = b.CompleteIssue(b.ctx(), b.Call(), empty); err == nil {
			t.Error("completed without a certificate")
		}
		_, err = b.CompleteIssue(b.ctx(), b.Call(), CompletionFor(first))
		b.ok(err)
		_, err = b.CompleteIssue(b.ctx(), b.Call(), CompletionFor(first))
		b.wantError(err, issuance.ErrConflict)
	},
	"AbandonedClaimFreesTheCode": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		o, cert := b.Claimed(value)
		why := issuance.Refusal{Problem: "serverInternal", Check: "signature", Detail: "the CA key did not sign"}
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), o.ID, why))
		b.wantOrder(o.ID, issuance.OrderInvalid, "signature")
		if c := b.wantCode(code.ID, issuance.CodeUnused); c.Order != "" || c.Tries != 0 {
			t.Errorf("code %+v", c)
		}
		b.wantCertificate(cert.ID, issuance.CertificateAbandoned)
		b.wantAudited(audit.Filter{Certificate: string(cert.ID)}, audit.IssueAbandoned, audit.Refused, "signature")
		_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
		b.wantError(err, issuance.ErrConflict)
		b.wantError(b.AbandonIssue(b.ctx(), b.Operator(), o.ID, why), issuance.ErrConflict)
		b.wantError(b.AbandonIssue(b.ctx(), b.Operator(), "order_none", why), issuance.ErrNotFound)

		_, again := b.Claimed(value) // the same code, another order
		_, err = b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(again))
		b.ok(err)
		b.wantCode(code.ID, issuance.CodeConsumed)
	},
	"DeadClaimsAreUndone": func(t *testing.T, b *Bench) {
		var dead []issuance.Certificate
		for range 130 { // more than one batch
			_, value := b.Mint()
			_, c := b.Claimed(value)
			dead = append(dead, c)
		}
		done := b.Issued()
		b.Now = b.Now.Add(time.Minute)
		_, value := b.Mint()
		_, live := b.Claimed(value)
		n, err := b.UndoDeadClaims(b.ctx(), b.Operator(), b.Now)
		b.ok(err)
		if n != len(dead) {
			t.Errorf("%d claims undone, want %d", n, len(dead))
		}
		for _, c := range dead {
			b.wantCertificate(c.ID, issuance.CertificateAbandoned)
			b.wantOrder(c.Order, issuance.OrderInvalid, "claim-died")
			b.wantCode(c.Code, issuance.CodeUnused)
		}
		b.wantCertificate(done.ID, issuance.CertificateValid)
		b.wantCertificate(live.ID, issuance.CertificateReserved)
		n, err = b.UndoDeadClaims(b.ctx(), b.Operator(), b.Now)
		b.ok(err)
		if n != 0 {
			t.Errorf("%d claims undone twice", n)
		}
	},
	"CompletionAndUndoRaceForAClaim": func(t *testing.T, b *Bench) {
		for range 20 {
			code, value := b.Mint()
			o, cert := b.Claimed(value)
			errs := race(2, func(i int) error {
				if i == 0 {
					_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
					return err
				}
				return b.AbandonIssue(b.ctx(), b.Operator(), o.ID, issuance.Refusal{Check: "signature"})
			})
			winner, err := oneWinner(errs, issuance.ErrConflict)
			b.ok(err)
			if winner == 0 {
				b.wantCode(code.ID, issuance.CodeConsumed)
				b.wantCertificate(cert.ID, issuance.CertificateValid)
			} else {
				b.wantCode(code.ID, issuance.CodeUnused)
				b.wantCertificate(cert.ID, issuance.CertificateAbandoned)
			}
		}
	},
}
