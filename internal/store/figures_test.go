package store_test

import (
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

func TestFiguresSayWhatWaits(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	var hold issuance.Hold
	for range 2 {
		_, value := b.Mint()
		hold = b.HeldFor(b.Ready(value), issuance.Device{})
	}
	if _, err := s.SayOfHold(t.Context(), b.Operator(), hold.ID, 0, issuance.Word{By: "operator:test"}); err != nil {
		t.Fatal(err)
	}
	before := figures(t, s)
	if before.HoldsWaiting != 1 || before.Unsealed == 0 || !before.SealedAt.IsZero() || len(before.CRLs) != 0 {
		t.Errorf("figures are %+v", before)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SealAudit(t.Context(), b.Now, key); err != nil {
		t.Fatal(err)
	}
	crl := b.NextCRL()
	if err := s.PutCRL(t.Context(), issuance.Call{Now: b.Now}, crl); err != nil {
		t.Fatal(err)
	}
	listing := func(source, serial, udid string) {
		in := issuance.Import{Source: source, Listings: []issuance.Listing{{Serial: serial, UDID: udid}}}
		if _, err := s.ImportDevices(t.Context(), b.Operator(), in); err != nil {
			t.Fatal(err)
		}
	}
	listing("a", "C02XK1", "00008110-1")
	listing("b", "C02XK1", "00008110-2")
	after := figures(t, s)
	if !after.SealedAt.Equal(b.Now) || after.Unsealed == 0 || after.Unsealed >= before.Unsealed || after.ConflictsOpen != 1 {
		t.Errorf("figures are %+v", after)
	}
	if age := after.CRLs[crl.Issuer]; !age.ThisUpdate.Equal(crl.ThisUpdate) || !age.NextUpdate.Equal(crl.NextUpdate) {
		t.Errorf("CRL is of %v", age)
	}
	if after.Database <= 0 || after.WAL <= 0 || after.Free <= 0 {
		t.Errorf("sizes are %+v", after)
	}
}

func figures(t *testing.T, s *store.Store) store.Figures {
	t.Helper()
	f, err := s.Figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Metrics are asked for every few seconds: what they cost must not grow with the tables.
func TestFiguresUseIndexes(t *testing.T) {
	s := openAt(t, newPath(t))
	figures(t, s)
	looked := 0
	for _, text := range s.Statements() {
		if !strings.Contains(text, "FROM holds") && !strings.Contains(text, "FROM crls") {
			continue
		}
		looked++
		for _, s := range scans(t, s.ReadPool(), text) {
			if s.index == "" && !slices.Contains([]string{"h", "c", "u", "audit_unsealed"}, s.table) /* up to a limit */ {
				t.Errorf("%s is read whole in:\n%s", s.table, text)
			}
		}
	}
	if looked != 2 {
		t.Errorf("looked at %d statements", looked)
	}
}
