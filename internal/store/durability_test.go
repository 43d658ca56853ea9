package store_test

import (
	"context"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// TestCollectionIsDurableWhereItRevokesOrRenews: what a collection changes beside its own note must
// survive a power failure, because nobody collects a second time.
func TestCollectionIsDurableWhereItRevokesOrRenews(t *testing.T) {
	b, s := newBench(t)
	collect := func(c issuance.Certificate) {
		t.Helper()
		if _, err := s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	plain := b.Issued()
	collect(plain)
	if s.LastCommitWasDurable() {
		t.Error("a plain collection waits for fsync")
	}
	r := b.Rendering("C02XK1", "wifi")
	b.Rendered(r)
	if !s.LastCommitWasDurable() {
		t.Error("a rendering is not durable")
	}
	_, reserved := b.Claimed(r.Code.Value)
	if _, err := s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(reserved)); err != nil {
		t.Fatal(err)
	}
	if err := s.SpendNonce(t.Context(), b.Call().Nonce); err != nil || s.LastCommitWasDurable() {
		t.Fatal("the commit before is durable: the test shows nothing", err)
	}
	collect(reserved)
	if !s.LastCommitWasDurable() {
		t.Error("the collection of a credential's certificate is not durable")
	}
	collect(reserved)
	if s.LastCommitWasDurable() {
		t.Error("a second collection waits for fsync")
	}
}

// TestRepeatedRefusalsDoNotWrite: whoever holds a URL may ask as often as he likes, and must not keep
// the writer from those who enrol.
func TestRepeatedRefusalsDoNotWrite(t *testing.T) {
	b, s := newBench(t)
	k := b.Rendered(b.Rendering("SER1", "wifi"))
	if err := s.RefuseFetch(t.Context(), b.Call(), k.Document, "mdm-identity"); err != nil {
		t.Fatal(err)
	}
	release := s.BusyWriter()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.RefuseFetch(ctx, b.Call(), k.Document, "mdm-identity"); err != nil {
		t.Errorf("waited for the writer: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
