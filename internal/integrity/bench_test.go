package integrity_test

import (
	"context"
	"crypto/ed25519"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/integrity"
)

// BenchmarkCheck is a check of a database, for each certificate in it with its order, code, evidence, decision and
// audit rows.
func BenchmarkCheck(b *testing.B) {
	const certificates = 500
	p := newPlace(b, filepath.Join(b.TempDir(), "assay.db"))
	for range certificates {
		p.issued()
	}
	if _, err := p.store.SealAudit(b.Context(), p.Now, auditKey); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		_, err := integrity.Check(context.Background(), p.store, integrity.Options{
			Now: func() time.Time { return p.Now }, AuditKey: auditKey.Public().(ed25519.PublicKey),
			Found: func(f integrity.Fault) { b.Errorf("%+v", f) },
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/certificates, "µs/certificate")
}
