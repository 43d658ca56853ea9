package storetest

import (
	"bytes"
	"errors"
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
