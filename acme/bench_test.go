package acme

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
)

// BenchmarkRequest compares a whole ES256 request with the bare verification that it cannot avoid.
func BenchmarkRequest(b *testing.B) {
	key := testKeys()["ES256"].(*ecdsa.PrivateKey)
	large := []byte(`{"attObj":"` + strings.Repeat("A", 4000) + `"}`)
	for name, test := range map[string]struct {
		kid     string
		payload []byte
	}{"POST-as-GET": {testKID, nil}, "newAccount": {"", []byte(`{"termsOfServiceAgreed":true}`)}, "attestation": {testKID, large}} {
		body := must(Sign(key, test.kid, testNonce, testURL, test.payload))
		jwk := publicJWK(key)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, p := ParseMessage(body)
				if p != nil {
					b.Fatal(p)
				}
				if _, p := m.Verify(jwk); p != nil {
					b.Fatal(p)
				}
			}
		})
	}
	digest := sha256.Sum256(large)
	signature := must(ecdsa.SignASN1(rand.Reader, key, digest[:]))
	b.Run("bare ecdsa", func(b *testing.B) {
		for b.Loop() {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				b.Fatal("signature does not verify")
			}
		}
	})
}
