package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

var orderTests = map[string]func(*testing.T, *Bench){
	"OrderIsStoredAsAsked": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		o := b.Pending(value)
		want := issuance.Order{ID: o.ID, Account: b.Account, Directory: Directory, Code: code.ID,
			Identifier: issuance.Identifier{Type: "permanent-identifier", Value: value, Kind: policy.ByCode},
			Status:     issuance.OrderPending, Authorization: issuance.AuthorizationPending,
			Challenge: issuance.Challenge{Token: o.Challenge.Token, Status: issuance.ChallengePending},
			CreatedAt: b.Now.Truncate(time.Microsecond), ExpiresAt: b.Now.Add(time.Hour).Truncate(time.Microsecond)}
		if diff := cmp.Diff(want, o); diff != "" {
			t.Error(diff)
		}
		stored, err := b.Order(b.ctx(), o.ID)
		b.ok(err)
		if diff := cmp.Diff(want, stored); diff != "" {
			t.Error(diff)
		}
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.OrderCreated, audit.Done, "")
		_, err = b.Order(b.ctx(), "order_none")
		b.wantError(err, issuance.ErrNotFound)
	},
	"OrderBySerialHasNoCode": func(t *testing.T, b *Bench) {
		o, err := b.CreateOrder(b.ctx(), b.Call(), issuance.NewOrder{Account: b.Account, Directory: Directory, Token: "t",
			Identifier: issuance.Identifier{Type: "permanent-identifier", Value: "C02XK1", Kind: policy.BySerial}})
		b.ok(err)
		if o.Code != "" {
			t.Errorf("order names code %s", o.Code)
		}
		_, err = b.AnswerChallenge(b.ctx(), b.Call(), AnswerFor(o))
		b.ok(err)
		c, err := b.BeginIssue(b.ctx(), b.Call(), b.ClaimFor(o))
		b.ok(err)
		_, err = b.CompleteIssue(b.ctx(), b.Call(), CompletionFor(c))
		b.ok(err)
	},
	"DeadCodesCannotBeOrderedWith": func(t *testing.T, b *Bench) {
		revoked, revokedValue := b.Mint()
		_, err := b.RevokeCode(b.ctx(), b.Operator(), revoked.ID)
		b.ok(err)
		expired, expiredValue := b.Mint(func(m *issuance.Mint) { m.Lifetime = time.Minute })
		issuing, issuingValue := b.Mint()
		b.Claimed(issuingValue)
		_, otherValue := b.Mint(func(m *issuance.Mint) { m.Directory = "other" })
		b.Now = b.Now.Add(time.Minute) // the very end of the code's life
		for _, c := range []struct {
			value string
			want  issuance.CodeUnusableError
		}{
			{revokedValue, issuance.CodeUnusableError{Code: revoked.ID, Status: issuance.CodeRevoked}},
			{expiredValue, issuance.CodeUnusableError{Code: expired.ID, Status: issuance.CodeExpired}},
			{issuingValue, issuance.CodeUnusableError{Code: issuing.ID, Status: issuance.CodeIssuing}},
			{otherValue, issuance.CodeUnusableError{}},
		} {
			_, err := b.OrderFor(b.Account, c.value)
			got, ok := errors.AsType[*issuance.CodeUnusableError](err)
			if !ok || *got != c.want {
				t.Errorf("error is %v, want %v", err, &c.want)
			}
			if ok && c.want.Code != "" {
				b.wantAudited(audit.Filter{Code: string(c.want.Code)}, audit.OrderCreated, audit.Refused, "code-usable")
			}
		}
	},
	"CodeTakes64LiveOrders": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		var first issuance.Order
		for i := range issuance.MaxLiveOrdersPerCode {
			if o := b.Pending(value); i == 0 {
				first = o
			}
		}
		_, err := b.OrderFor(b.Account, value)
		if e, ok := errors.AsType[*issuance.TooManyOrdersError](err); !ok || e.Code != code.ID {
			t.Fatalf("error is %v", err)
		}
		a := AnswerFor(first)
		a.Refusal = &issuance.Refusal{Check: "freshness"}
		_, err = b.AnswerChallenge(b.ctx(), b.Call(), a)
		b.ok(err)
		b.Pending(value) // a dead order makes room
		b.Now = b.Now.Add(issuance.OrderLifetime)
		b.Pending(value) // so do expired ones
	},
	"CodeTakes64LiveOrdersAlsoOfManyAtOnce": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		const before, at = issuance.MaxLiveOrdersPerCode - 6, 24
		for range before {
			b.Pending(value)
		}
		accounts := make([]issuance.AccountID, at)
		for i := range accounts {
			accounts[i] = b.NewAccount()
		}
		made := before
		for _, err := range race(at, func(i int) error {
			_, err := b.OrderFor(accounts[i], value)
			return err
		}) {
			if err == nil {
				made++
			} else if _, ok := errors.AsType[*issuance.TooManyOrdersError](err); !ok {
				t.Error(err)
			}
		}
		if made != issuance.MaxLiveOrdersPerCode {
			t.Errorf("%d live orders", made)
		}
	},
	"OrdersOfPages": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		for range 5 {
			b.Pending(value)
			b.Now = b.Now.Add(time.Millisecond)
		}
		var listed []issuance.OrderID
		for after := issuance.OrderID(""); ; {
			ids, err := b.OrdersOf(b.ctx(), b.Account, after, 2)
			b.ok(err)
			if len(ids) == 0 {
				break
			}
			listed, after = append(listed, ids...), ids[len(ids)-1]
		}
		if len(listed) != 5 {
			t.Errorf("listed %v", listed)
		}
	},
	"GoodAnswerMakesTheOrderReady": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		o := b.Pending(value)
		a := AnswerFor(o)
		answered, err := b.AnswerChallenge(b.ctx(), b.Call(), a)
		b.ok(err)
		if answered.Status != issuance.OrderReady || answered.Authorization != issuance.AuthorizationValid ||
			answered.Challenge.Status != issuance.ChallengeValid || !answered.Challenge.ValidatedAt.Equal(b.Now.Truncate(time.Microsecond)) {
			t.Errorf("order %+v", answered)
		}
		e, err := b.Evidence(b.ctx(), answered.Evidence)
		b.ok(err)
		want := a.Evidence
		want.ID, want.Order, want.ReceivedAt = answered.Evidence, o.ID, b.Now.Truncate(time.Microsecond)
		if diff := cmp.Diff(want, e); diff != "" {
			t.Error(diff)
		}
		row := b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.ChallengeAnswered, audit.Done, "")
		if row.Personal == nil || row.Personal.Serial != "C02XK1" || row.Personal.From != "192.0.2.7" {
			t.Errorf("personal values %+v", row.Personal)
		}
		_, err = b.AnswerChallenge(b.ctx(), b.Call(), a)
		b.wantError(err, issuance.ErrConflict)
		b.wantCode(code.ID, issuance.CodeUnused) // a valid challenge holds nothing
	},
	"RefusedAnswerEndsTheOrderAndCountsATry": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		a := AnswerFor(b.Pending(value))
		a.Evidence.Facts, a.Evidence.Failed, a.Evidence.DeviceError = nil, "freshness", "Ann's iPhone failed"
		a.Refusal = &issuance.Refusal{Problem: "badAttestationStatement", Check: "freshness", Detail: "another challenge"}
		_, err := b.AnswerChallenge(b.ctx(), b.Call(), a)
		b.ok(err)
		o := b.wantOrder(a.Order, issuance.OrderInvalid, "freshness")
		if o.Authorization != issuance.AuthorizationInvalid || o.Challenge.Status != issuance.ChallengeInvalid ||
			o.Challenge.Refusal == nil || !o.Challenge.ValidatedAt.IsZero() {
			t.Errorf("order %+v", o)
		}
		c := b.wantCode(code.ID, issuance.CodeUnused)
		if c.Tries != 1 || c.LastRefusal != "freshness" {
			t.Errorf("code has %d tries, last refusal %q", c.Tries, c.LastRefusal)
		}
		row := b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.ChallengeAnswered, audit.Refused, "freshness")
		if row.Personal.DeviceError != a.Evidence.DeviceError {
			t.Errorf("personal values %+v", row.Personal)
		}
	},
	"AnswerNeedsThePendingLiveOrderOfTheAccount": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		o := b.Pending(value)
		a := AnswerFor(o)
		a.Account = b.NewAccount()
		_, err := b.AnswerChallenge(b.ctx(), b.Call(), a)
		b.wantError(err, issuance.ErrNotFound)
		b.Now = b.Now.Add(issuance.OrderLifetime)
		_, err = b.AnswerChallenge(b.ctx(), b.Call(), AnswerFor(o))
		b.wantError(err, issuance.ErrConflict)
		b.wantOrder(o.ID, issuance.OrderPending, "")
	},
	"DeactivatedAuthorizationEndsAnOpenOrder": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		pending, ready := b.Pending(value), b.Ready(value)
		for _, o := range []issuance.Order{pending, ready} {
			_, err := b.DeactivateAuthorization(b.ctx(), b.Call(), b.NewAccount(), o.ID)
			b.wantError(err, issuance.ErrNotFound)
			got, err := b.DeactivateAuthorization(b.ctx(), b.Call(), b.Account, o.ID)
			b.ok(err)
			if got.Authorization != issuance.AuthorizationDeactivated {
				t.Errorf("authorization is %s", got.Authorization)
			}
			b.wantOrder(o.ID, issuance.OrderInvalid, "authorization-deactivated")
			_, err = b.DeactivateAuthorization(b.ctx(), b.Call(), b.Account, o.ID)
			b.wantError(err, issuance.ErrConflict)
		}
		held, _ := b.Claimed(value)
		_, err := b.DeactivateAuthorization(b.ctx(), b.Call(), b.Account, held.ID)
		b.wantError(err, issuance.ErrConflict)
		cert := b.Issued()
		got, err := b.DeactivateAuthorization(b.ctx(), b.Call(), b.Account, cert.Order)
		b.ok(err)
		if got.Status != issuance.OrderValid || got.Certificate != cert.ID {
			t.Errorf("order is %s with certificate %q", got.Status, got.Certificate)
		}
	},
}
