package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

var nonceTests = map[string]func(*testing.T, *Bench){
	"OneOf32SpendsANonce": func(t *testing.T, b *Bench) {
		call := b.Call()
		_, err := oneWinner(race(32, func(int) error { return b.SpendNonce(b.ctx(), call.Nonce) }), issuance.ErrNonceUsed)
		b.ok(err)
	},
	"UsedNonceChangesNothing": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		call := b.Call()
		b.ok(b.SpendNonce(b.ctx(), call.Nonce))
		_, err := b.CreateOrder(b.ctx(), call, issuance.NewOrder{Account: b.Account, Directory: Directory, Token: "t",
			Identifier: issuance.Identifier{Value: value, Kind: policy.ByCode}})
		b.wantError(err, issuance.ErrNonceUsed)
		if ids, err := b.OrdersOf(b.ctx(), b.Account, "", 10); err != nil || len(ids) != 0 {
			t.Errorf("orders %v, error %v", ids, err)
		}
	},
	"NonceOfARefusedChangeStaysSpent": func(t *testing.T, b *Bench) {
		call := b.Call()
		_, err := b.CreateOrder(b.ctx(), call, issuance.NewOrder{Account: b.Account, Directory: Directory,
			Identifier: issuance.Identifier{Value: "no such code", Kind: policy.ByCode}})
		unusable, ok := errors.AsType[*issuance.CodeUnusableError](err)
		if !ok || unusable.Code != "" {
			t.Fatalf("error is %v", err)
		}
		b.wantError(b.SpendNonce(b.ctx(), call.Nonce), issuance.ErrNonceUsed)
	},
	"ZeroNonceSpendsNone": func(t *testing.T, b *Bench) {
		for range 2 {
			b.ok(b.SpendNonce(b.ctx(), issuance.Nonce{}))
		}
	},
	"NonceKeysRotate": func(t *testing.T, b *Bench) {
		for i := range 4 {
			key, err := b.AddNonceKey(b.ctx(), b.Now, uint32(i), bytes.Repeat([]byte{byte(i)}, 32))
			b.ok(err)
			if key.ID != uint32(i+1) {
				t.Errorf("key %d has id %d", i+1, key.ID)
			}
			b.Now = b.Now.Add((issuance.NonceLifetime+issuance.NonceKeyLead)/2 + time.Second)
		}
		keys, err := b.NonceKeys(b.ctx())
		b.ok(err)
		// Key 4 came 90 minutes after key 1 and an hour after key 2: nonces under key 1 died with its
		// successor's first hour.
		var ids []uint32
		for _, k := range keys {
			ids = append(ids, k.ID)
			if !bytes.Equal(k.Secret, bytes.Repeat([]byte{byte(k.ID - 1)}, 32)) {
				t.Errorf("secret of key %d is %x", k.ID, k.Secret)
			}
		}
		if diff := cmp.Diff([]uint32{2, 3, 4}, ids); diff != "" {
			t.Error(diff)
		}
	},
	"WhatIsNoTextNamesNothing": func(t *testing.T, b *Bench) {
		for _, id := range []string{"\x00", "order_\x00", "\xff"} {
			_, err := b.Store.Account(b.ctx(), issuance.AccountID(id))
			b.wantError(err, issuance.ErrNotFound)
			_, err = b.Order(b.ctx(), issuance.OrderID(id))
			b.wantError(err, issuance.ErrNotFound)
			_, err = b.ReadOrder(b.ctx(), b.Call(), issuance.OrderID(id))
			b.wantError(err, issuance.ErrNotFound)
			_, err = b.CodeByValue(b.ctx(), Directory, id)
			b.wantError(err, issuance.ErrNotFound)
			_, err = b.CollectCertificate(b.ctx(), b.Call(), issuance.CertificateID(id), func(issuance.Certificate) error { return nil })
			b.wantError(err, issuance.ErrNotFound)
			known, err := b.RecordRefusal(b.ctx(), b.Call(), issuance.ClientRefusal{Directory: Directory, Order: issuance.OrderID(id),
				Refusal: issuance.Refusal{Problem: "malformed", Check: "url", Detail: id}})
			if b.ok(err); known {
				t.Errorf("%q is known", id)
			}
		}
	},
	"ServersAgreeOnANonceKey": func(t *testing.T, b *Bench) {
		keys := make([]issuance.NonceKey, 16)
		for _, err := range race(len(keys), func(i int) (err error) {
			keys[i], err = b.AddNonceKey(b.ctx(), b.Now, 0, bytes.Repeat([]byte{byte(i)}, 32))
			return err
		}) {
			b.ok(err)
		}
		for _, key := range keys {
			if key.ID != 1 || !bytes.Equal(key.Secret, keys[0].Secret) {
				t.Errorf("keys %+v and %+v", keys[0], key)
			}
		}
	},
	"RefusalsOfStrangersLeaveNoRow": func(t *testing.T, b *Bench) {
		refusal := issuance.ClientRefusal{Directory: Directory, Account: b.Account, Order: "order_none",
			Refusal: issuance.Refusal{Problem: "malformed", Check: "jws", Detail: "broken"}}
		call := b.Call()
		known, err := b.RecordRefusal(b.ctx(), call, refusal)
		b.ok(err)
		if known || len(b.trail(audit.Filter{Action: audit.RequestRefused})) != 0 {
			t.Error("an account without an order is known")
		}
		b.wantError(b.SpendNonce(b.ctx(), call.Nonce), issuance.ErrNonceUsed)

		code, value := b.Mint()
		b.Pending(value)
		known, err = b.RecordRefusal(b.ctx(), call, refusal) // its nonce is spent already: no error
		b.ok(err)
		row := b.wantAudited(audit.Filter{Account: string(b.Account)}, audit.RequestRefused, audit.Refused, "jws")
		if !known || row.Order != "" {
			t.Errorf("known is %v, row names order %q, which does not exist", known, row.Order)
		}
		known, err = b.RecordRefusal(b.ctx(), b.Call(), issuance.ClientRefusal{Code: code.ID, Refusal: refusal.Refusal})
		b.ok(err)
		if !known {
			t.Error("a known code's refusal is a stranger's")
		}
	},
	"StrangersAreOneRow": func(t *testing.T, b *Bench) {
		b.ok(b.RecordStrangers(b.ctx(), b.Now, map[string]int{"jws": 7, "nonce": 900}))
		b.ok(b.RecordStrangers(b.ctx(), b.Now, nil))
		row := b.wantAudited(audit.Filter{}, audit.StrangersRefused, audit.Refused, "")
		if diff := cmp.Diff(map[string]string{"jws": "7", "nonce": "900"}, row.Detail); diff != "" {
			t.Error(diff)
		}
	},
}

var accountTests = map[string]func(*testing.T, *Bench){
	"OneAccountPerKeyAndDirectory": func(t *testing.T, b *Bench) {
		a := issuance.Account{Directory: Directory, Contacts: []string{"mailto:a@example.com"}, TermsAgreed: true, JWK: []byte("{}"), Thumbprint: "tp"}
		first, created, err := b.RegisterAccount(b.ctx(), b.Call(), a)
		b.ok(err)
		again, createdAgain, err := b.RegisterAccount(b.ctx(), b.Call(), issuance.Account{Directory: Directory, JWK: []byte("{}"), Thumbprint: "tp"})
		b.ok(err)
		if !created || createdAgain {
			t.Errorf("created %v, then %v", created, createdAgain)
		}
		for _, got := range []issuance.Account{again, must(b.Account2(first.ID)), must(b.AccountByKey(b.ctx(), Directory, "tp"))} {
			if diff := cmp.Diff(first, got); diff != "" {
				t.Error(diff)
			}
		}
		other, created, err := b.RegisterAccount(b.ctx(), b.Call(), issuance.Account{Directory: "other", JWK: []byte("{}"), Thumbprint: "tp"})
		b.ok(err)
		if !created || other.ID == first.ID {
			t.Error("an account belongs to two directories")
		}
		_, err = b.AccountByKey(b.ctx(), "third", "tp")
		b.wantError(err, issuance.ErrNotFound)
	},
	"OneOf32RegistersAKey": func(t *testing.T, b *Bench) {
		ids := make([]issuance.AccountID, 32)
		made := make([]bool, 32)
		for _, err := range race(32, func(i int) error {
			a, created, err := b.RegisterAccount(b.ctx(), b.Call(), issuance.Account{Directory: Directory, JWK: []byte("{}"), Thumbprint: "shared"})
			ids[i], made[i] = a.ID, created
			return err
		}) {
			b.ok(err)
		}
		n := 0
		for i := range ids {
			if made[i] {
				n++
			}
			if ids[i] != ids[0] {
				t.Error("one key has two accounts")
			}
		}
		if n != 1 {
			t.Errorf("%d calls created the account", n)
		}
	},
	"ContactsOfAValidAccountChange": func(t *testing.T, b *Bench) {
		a, err := b.UpdateContacts(b.ctx(), b.Call(), b.Account, []string{"mailto:new@example.com"})
		b.ok(err)
		if diff := cmp.Diff(a, must(b.Account2(b.Account))); diff != "" || len(a.Contacts) != 1 {
			t.Error(a.Contacts, diff)
		}
		_, err = b.DeactivateAccount(b.ctx(), b.Call(), b.Account)
		b.ok(err)
		_, err = b.UpdateContacts(b.ctx(), b.Call(), b.Account, nil)
		b.wantError(err, issuance.ErrConflict)
		_, err = b.UpdateContacts(b.ctx(), b.Call(), "acct_none", nil)
		b.wantError(err, issuance.ErrNotFound)
	},
	"AccountIsReadAsItIsNow": func(t *testing.T, b *Bench) {
		now := func(what string, want issuance.Account) {
			t.Helper()
			if diff := cmp.Diff(want, must(b.Account2(want.ID))); diff != "" {
				t.Errorf("account after %s: %s", what, diff)
			}
		}
		a := must(b.Account2(b.Account))
		for range 2 {
			now("nothing", a)
		}
		a, err := b.UpdateContacts(b.ctx(), b.Call(), a.ID, []string{"mailto:new@example.com"})
		b.ok(err)
		now("an update", a)
		a, err = b.ChangeKey(b.ctx(), b.Call(), a.ID, a.Thumbprint, []byte(`{"new":1}`), "new")
		b.ok(err)
		now("a key change", a)
		a, err = b.DeactivateAccount(b.ctx(), b.Call(), a.ID)
		b.ok(err)
		now("deactivation", a)
		idle := b.NewAccount()
		_, err = b.Account2(idle)
		b.ok(err)
		_, err = b.CleanUp(b.ctx(), b.Now.Add(24*time.Hour))
		b.ok(err)
		_, err = b.Account2(idle)
		b.wantError(err, issuance.ErrNotFound)
	},
	"ReadOrderSpendsTheNonce": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		o := b.Pending(value)
		call := b.Call()
		got, err := b.ReadOrder(b.ctx(), call, o.ID)
		b.ok(err)
		if diff := cmp.Diff(o, got); diff != "" {
			t.Error(diff)
		}
		_, err = b.ReadOrder(b.ctx(), call, o.ID)
		b.wantError(err, issuance.ErrNonceUsed)
		call = b.Call()
		_, err = b.ReadOrder(b.ctx(), call, "order_none")
		b.wantError(err, issuance.ErrNotFound)
		b.wantError(b.SpendNonce(b.ctx(), call.Nonce), issuance.ErrNonceUsed)
	},
	"DeactivationEndsOpenOrders": func(t *testing.T, b *Bench) {
		_, v1 := b.Mint()
		_, v2 := b.Mint()
		pending, ready := b.Pending(v1), b.Ready(v1)
		held, cert := b.Claimed(v2)
		a, err := b.DeactivateAccount(b.ctx(), b.Call(), b.Account)
		b.ok(err)
		if a.Status != issuance.AccountDeactivated {
			t.Errorf("account is %s", a.Status)
		}
		o := b.wantOrder(pending.ID, issuance.OrderInvalid, "account-deactivated")
		if o.Authorization != issuance.AuthorizationInvalid || o.Challenge.Status != issuance.ChallengeInvalid {
			t.Errorf("authorization %s, challenge %s", o.Authorization, o.Challenge.Status)
		}
		o = b.wantOrder(ready.ID, issuance.OrderInvalid, "account-deactivated")
		if o.Authorization != issuance.AuthorizationDeactivated || o.Challenge.Status != issuance.ChallengeValid {
			t.Errorf("authorization %s, challenge %s", o.Authorization, o.Challenge.Status)
		}
		b.wantOrder(held.ID, issuance.OrderProcessing, "")
		_, err = b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
		b.ok(err)
		_, err = b.DeactivateAccount(b.ctx(), b.Call(), b.Account)
		b.wantError(err, issuance.ErrConflict)
		_, err = b.OrderFor(b.Account, v1)
		b.wantError(err, issuance.ErrConflict)
		b.wantAudited(audit.Filter{Account: string(b.Account)}, audit.AccountDeactivated, audit.Done, "")
	},
	"KeyChangeNeedsTheOldKeyAndAFreeNewOne": func(t *testing.T, b *Bench) {
		a := must(b.Account2(b.Account))
		other := must(b.Account2(b.NewAccount()))
		changed, err := b.ChangeKey(b.ctx(), b.Call(), a.ID, a.Thumbprint, []byte(`{"new":1}`), "new")
		b.ok(err)
		if changed.Thumbprint != "new" || string(changed.JWK) != `{"new":1}` {
			t.Errorf("account has key %s %s", changed.Thumbprint, changed.JWK)
		}
		_, err = b.ChangeKey(b.ctx(), b.Call(), a.ID, a.Thumbprint, []byte("{}"), "newer")
		b.wantError(err, issuance.ErrConflict)
		_, err = b.ChangeKey(b.ctx(), b.Call(), a.ID, "new", []byte("{}"), other.Thumbprint)
		if inUse, ok := errors.AsType[*issuance.KeyInUseError](err); !ok || inUse.Account != other.ID {
			t.Errorf("error is %v", err)
		}
		_, err = b.ChangeKey(b.ctx(), b.Call(), "acct_none", "x", []byte("{}"), "y")
		b.wantError(err, issuance.ErrNotFound)
	},
}

// Account2 reads an account.
func (b *Bench) Account2(id issuance.AccountID) (issuance.Account, error) {
	return b.Store.Account(b.ctx(), id)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("unexpected error: %v", err))
	}
	return v
}

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
