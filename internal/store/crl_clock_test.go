package store_test

import (
	"testing"
	"time"

	"assay/internal/issuance"
)

// TestCRLOfAClockThatWasAheadHidesNoRevocation: once the clock is right again, the next CRL names what is revoked
// and valid, although the one before says that it was made after its end.
func TestCRLOfAClockThatWasAheadHidesNoRevocation(t *testing.T) {
	b, s := newBench(t)
	c := b.Issued()
	if _, err := s.RevokeCertificate(t.Context(), b.Operator(), issuance.Revocation{Certificate: c.ID, Reason: 1}); err != nil {
		t.Fatal(err)
	}
	ahead := c.NotAfter.Add(time.Hour)
	err := s.PutCRL(t.Context(), b.Operator(), issuance.CRL{Issuer: c.Issuer, Shard: c.CRLShard, Number: 1, DER: []byte{0x30}, ThisUpdate: ahead, NextUpdate: ahead.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := s.RevokedSerials(t.Context(), c.Issuer, c.CRLShard, b.Now)
	if err != nil || len(revoked) != 1 || revoked[0].Serial != c.Serial {
		t.Errorf("the next CRL would name %+v (error %v)", revoked, err)
	}
}
