package store_test

import (
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

func TestCRLIsStaleWhenARevocationOvertakesIt(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	c := b.Issued()
	crl := b.NextCRL() // made before the revocation
	release := s.BusyWriter()
	errs := make(chan error, 2)
	go func() {
		_, err := s.RevokeCertificate(t.Context(), b.Operator(), issuance.Revocation{Certificate: c.ID})
		errs <- err
	}()
	wait(s.Waiting, 1)
	go func() { errs <- s.PutCRL(t.Context(), issuance.Call{Now: crl.ThisUpdate}, crl) }() // stored after it
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
	if err != nil || !got.Stale || got.Number != 1 {
		t.Errorf("CRL without the revoked certificate is %+v (error %v)", got, err)
	}
}

// wait returns once as many wait.
func wait(waiting func() int, n int) {
	for waiting() < n {
		time.Sleep(time.Millisecond)
	}
}
