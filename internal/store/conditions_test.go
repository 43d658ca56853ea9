package store_test

import (
	"errors"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
	"assay/policy"
)

func wantConflict(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, issuance.ErrConflict) {
		t.Errorf("error is %v, want %v", err, issuance.ErrConflict)
	}
}

func newBench(t *testing.T) (*storetest.Bench, *store.Store) {
	t.Helper()
	s := openAt(t, newPath(t))
	return storetest.NewBench(t, s), s
}

func TestKeyOfADeactivatedAccountDoesNotChange(t *testing.T) {
	b, s := newBench(t)
	a, err := s.DeactivateAccount(t.Context(), b.Call(), b.Account)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.ChangeKey(t.Context(), b.Call(), a.ID, a.Thumbprint, []byte(`{"new":1}`), "new")
	wantConflict(t, err)
	if now, err := s.Account(t.Context(), a.ID); err != nil || now.Thumbprint != a.Thumbprint {
		t.Errorf("key is %s, error %v", now.Thumbprint, err)
	}
}

func TestOrderBelongsToTheDirectoryOfItsAccount(t *testing.T) {
	b, s := newBench(t)
	for directory, want := range map[string]error{storetest.Directory: nil, "other": issuance.ErrConflict} {
		_, err := s.CreateOrder(t.Context(), b.Call(), issuance.NewOrder{Account: b.Account, Directory: directory, Token: "t",
			Identifier: issuance.Identifier{Type: "permanent-identifier", Value: "C02XK1", Kind: policy.BySerial}})
		if !errors.Is(err, want) {
			t.Errorf("%s: error is %v, want %v", directory, err, want)
		}
	}
}

func TestExpiredOrderIsNotRefusedAnyMore(t *testing.T) {
	for name, refuse := range map[string]func(*storetest.Bench, *store.Store, issuance.Order) error{
		"CSR rejected": func(b *storetest.Bench, s *store.Store, o issuance.Order) error {
			_, err := s.RejectCSR(t.Context(), b.Call(), issuance.CSRRejection{Account: o.Account, Order: o.ID, Refusal: issuance.Refusal{Check: "csr"}})
			return err
		},
		"order refused": func(b *storetest.Bench, s *store.Store, o issuance.Order) error {
			_, err := s.RefuseOrder(t.Context(), b.Call(), issuance.OrderRefusal{Account: o.Account, Order: o.ID,
				Decision: b.ClaimFor(o).Decision, Refusal: issuance.Refusal{Check: "no"}})
			return err
		},
	} {
		b, s := newBench(t)
		_, value := b.Mint()
		o, lives := b.Ready(value), b.Ready(value)
		b.Now = o.ExpiresAt.Add(-time.Microsecond)
		if err := refuse(b, s, lives); err != nil {
			t.Errorf("%s in the last moment: %v", name, err)
		}
		b.Now = o.ExpiresAt
		wantConflict(t, refuse(b, s, o))
		if after, err := s.Order(t.Context(), o.ID); err != nil || after.Status != issuance.OrderReady || after.Tries != 0 {
			t.Errorf("%s: order is %s after %d tries, error %v", name, after.Status, after.Tries, err)
		}
	}
}

// TestSpentNonceStaysSpentUntilNobodyCanPresentIt: a request whose nonce was good when it came may
// reach the store seconds after the nonce expired.
func TestSpentNonceStaysSpentUntilNobodyCanPresentIt(t *testing.T) {
	b, s := newBench(t)
	nonce := b.Call().Nonce
	if err := s.SpendNonce(t.Context(), nonce); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{-time.Second, time.Microsecond, 14 * time.Second, time.Minute} {
		if _, err := s.CleanUp(t.Context(), nonce.ExpiresAt.Add(after)); err != nil {
			t.Fatal(err)
		}
		if err := s.SpendNonce(t.Context(), nonce); !errors.Is(err, issuance.ErrNonceUsed) {
			t.Errorf("%v after it expired: error is %v, want %v", after, err, issuance.ErrNonceUsed)
		}
	}
	cleaned, err := s.CleanUp(t.Context(), nonce.ExpiresAt.Add(time.Minute+time.Microsecond))
	if err != nil || cleaned.Nonces == 0 {
		t.Errorf("cleaned %+v, error %v: spent nonces are kept for ever", cleaned, err)
	}
}
