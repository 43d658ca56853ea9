package store_test

import (
	"context"
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"assay/internal/integrity"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

// signed are the rules that the suite cannot keep: it signs nothing.
var signed = []string{"issuer-chain", "certificate-der", "crl-der", "crl-entries"}

// checkWhole checks, once the test has ended, what it leaves behind: the random walk's, too.
func checkWhole(t *testing.T, s *store.Store) {
	t.Cleanup(func() {
		key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
		_, err := integrity.Check(context.Background(), s, integrity.Options{
			Now: func() time.Time { return storetest.Start }, AuditKey: key.Public().(ed25519.PublicKey),
			Found: func(f integrity.Fault) {
				if !slices.Contains(signed, f.Rule) {
					t.Errorf("%s: %s %s", f.Rule, f.Of, f.What)
				}
			},
		})
		if err != nil {
			t.Error(err)
		}
	})
}
