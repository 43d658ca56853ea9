package store_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

// BenchmarkDocumentByPath is what a request for a document costs: one that is served, one that is
// over, and a path that nobody published.
func BenchmarkDocumentByPath(b *testing.B) {
	s := openAt(b, newPath(b))
	bench := storetest.NewBench(b, s)
	const n = 1000
	renderings := make([]issuance.Rendering, n)
	for i := range renderings {
		renderings[i] = bench.Rendering(fmt.Sprintf("SER%d", i), "wifi")
	}
	results, err := s.RenderCredentials(b.Context(), bench.Operator(), renderings)
	if err != nil {
		b.Fatal(err)
	}
	for i := range results[n/2:] { // the second half is over
		if _, err := s.WithdrawCredential(b.Context(), bench.Operator(), results[n/2+i].Credential.ID, 0); err != nil {
			b.Fatal(err)
		}
	}
	path := func(i int) [32]byte { return renderings[i].Document.PathHash }
	for name, ask := range map[string]func(i int) [32]byte{
		"alive": func(i int) [32]byte { return path(i % (n / 2)) },
		"dead":  func(i int) [32]byte { return path(n/2 + i%(n/2)) },
		"none":  func(i int) [32]byte { return sha256.Sum256([]byte(rand.Text())) },
	} {
		b.Run(name, func(b *testing.B) { fetchForBench(b, s, name, ask) })
	}
}

func fetchForBench(b *testing.B, s *store.Store, name string, ask func(i int) [32]byte) {
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d, err := s.DocumentByPath(b.Context(), ask(i), storetest.Start.Add(time.Minute))
		if (err == nil) == (name == "none") || (d.Body != nil) != (name == "alive") {
			b.Fatalf("%d bytes, error %v", len(d.Body), err)
		}
	}
}
