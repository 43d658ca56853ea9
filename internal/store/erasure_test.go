package store_test

import (
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

func TestDocumentsOfDeadCodesAreErased(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	kept := func(when string, want int) {
		t.Helper()
		var n int
		if err := s.ReadPool().QueryRowContext(t.Context(), `SELECT count(*) FROM documents WHERE sealed IS NOT NULL`).Scan(&n); err != nil || n != want {
			t.Errorf("%s: %d documents are kept, want %d (error %v)", when, n, want, err)
		}
	}
	_, consumed := b.Mint(storetest.WithDocument("consumed"))
	revoked, _ := b.Mint(storetest.WithDocument("revoked"))
	b.Mint(storetest.WithDocument("expired"), func(m *issuance.Mint) { m.Lifetime = time.Minute })
	_, cert := b.Claimed(consumed)
	kept("while a claim may still be undone", 3)
	if _, err := s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(cert)); err != nil {
		t.Fatal(err)
	}
	kept("once the code is consumed", 2)
	if _, err := s.RevokeCode(t.Context(), b.Operator(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	kept("once the code is revoked", 1)
	if _, err := s.CleanUp(t.Context(), b.Now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	kept("once the code expired", 0)
}
