package store_test

import (
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

func TestCRLStaysStaleWhenARevocationOvertakesItsConfirmation(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	c := b.Issued()
	crl := b.SignedCRL(1, nil)
	if err := s.PutCRL(t.Context(), crl); err != nil {
		t.Fatal(err)
	}
	release := s.Hold()
	errs := make(chan error, 2)
	go func() {
		_, err := s.RevokeCertificate(t.Context(), b.Operator(), issuance.Revocation{Certificate: c.ID})
		errs <- err
	}()
	wait(s.Waiting, 1)
	go func() { errs <- s.ConfirmCRL(t.Context(), crl) }() // reads before the revocation, writes after it
	wait(s.Waiting, 2)
	if err := release(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	got, err := s.CRL(t.Context(), b.Issuer, c.CRLShard)
	if err != nil || !got.Stale {
		t.Errorf("CRL without the revoked certificate is fresh (error %v)", err)
	}
}

// wait returns once as many wait.
func wait(waiting func() int, n int) {
	for waiting() < n {
		time.Sleep(time.Millisecond)
	}
}
