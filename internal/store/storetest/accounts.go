package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
)

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
