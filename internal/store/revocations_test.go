package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

func TestRevocationsAtOnceDoNotUndoEachOther(t *testing.T) {
	const certificates = 48
	url := newPostgres(t).database(t)
	servers := []*store.Store{openAt(t, url), openAt(t, url)}
	b := storetest.NewBench(t, servers[0])
	var serials []string
	var issued []issuance.Certificate
	for range certificates {
		c := b.Issued()
		issued, serials = append(issued, c), append(serials, c.Serial)
	}
	before := servers[0].Retries() + servers[1].Retries()

	var mutex sync.Mutex
	var revoked []string // for certain
	var revoking, publishing sync.WaitGroup
	for i, c := range issued {
		revoking.Go(func() {
			if _, err := servers[i%2].RevokeCertificate(t.Context(), b.Operator(), issuance.Revocation{Certificate: c.ID}); err != nil {
				t.Error(err)
			}
			mutex.Lock()
			defer mutex.Unlock()
			revoked = append(revoked, c.Serial)
		})
	}
	done := make(chan struct{})
	for _, s := range servers {
		publishing.Go(func() {
			for over := false; !over; {
				select {
				case <-done:
					over = true // once more
				default:
				}
				if err := publish(t, s, b); err != nil && !errors.Is(err, issuance.ErrConflict) {
					t.Error(err)
				}
				mutex.Lock()
				must := slices.Clone(revoked)
				mutex.Unlock()
				checkNames(t, s, b, must)
			}
		})
	}
	revoking.Wait()
	close(done)
	publishing.Wait()
	if retries := servers[0].Retries() + servers[1].Retries() - before; retries != 0 {
		t.Errorf("%v changes were undone for another one's sake", retries)
	}
	if err := publish(t, servers[0], b); err != nil {
		t.Error(err)
	}
	crl := checkNames(t, servers[0], b, serials)
	if crl.Stale || crl.Revision != certificates {
		t.Errorf("after all revocations, and a CRL that names them: stale: %t, revision %d", crl.Stale, crl.Revision)
	}
}

// publish stores the next CRL, which is a list of serials.
func publish(t *testing.T, s *store.Store, b *storetest.Bench) error {
	crl, err := s.CRL(t.Context(), b.Issuer, 3)
	if err != nil && !errors.Is(err, issuance.ErrNotFound) {
		return err
	}
	named, err := s.RevokedSerials(t.Context(), b.Issuer, 3, b.Now)
	if err != nil {
		return err
	}
	var list []string
	for _, one := range named {
		list = append(list, one.Serial)
	}
	crl.Issuer, crl.Shard, crl.Number, crl.DER = b.Issuer, 3, crl.Number+1, []byte(strings.Join(list, " "))
	crl.ThisUpdate, crl.NextUpdate = b.Now, b.Now.Add(time.Hour)
	return s.PutCRL(t.Context(), issuance.Call{Now: b.Now}, crl)
}

// checkNames checks that the CRL of now is stale, or names what was revoked before it was read.
func checkNames(t *testing.T, s *store.Store, b *storetest.Bench, revoked []string) issuance.CRL {
	crl, err := s.CRL(t.Context(), b.Issuer, 3)
	if err != nil {
		t.Error(err)
	}
	for _, serial := range revoked {
		if !crl.Stale && !strings.Contains(string(crl.DER), serial) {
			t.Errorf("CRL %d is not stale, and does not name %s", crl.Number, serial)
		}
	}
	return crl
}

// beside runs a change while another transaction, which ran some statements, is not committed yet, and
// commits that one once the change waits for it.
func beside(t *testing.T, url string, statements []string, change func() error) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, text := range append([]string{"BEGIN"}, statements...) {
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	changed := make(chan error, 1)
	go func() { changed <- change() }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		select {
		case err := <-changed:
			t.Errorf("the change did not wait for the transaction beside it: %v", err)
			return err
		default:
		}
		if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	return <-changed
}

func TestChangesThatRevokeLookAgainAfterTheyWaited(t *testing.T) {
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	crl := func() issuance.CRL {
		t.Helper()
		c, err := s.CRL(t.Context(), b.Issuer, 3)
		ok(err)
		return c
	}
	const revocation = `UPDATE crls SET revision = revision + 1, stale = 1`
	t.Run("a CRL that a revocation overtakes is stale", func(t *testing.T) {
		ok(publish(t, s, b))
		ok(beside(t, url, []string{revocation}, func() error { return publish(t, s, b) }))
		if c := crl(); !c.Stale || c.Number != 2 {
			t.Errorf("it is %+v", c)
		}
	})
	t.Run("of two CRLs with one number one is stored", func(t *testing.T) {
		err := beside(t, url, []string{`UPDATE crls SET number = number + 1`}, func() error { return publish(t, s, b) })
		wantConflict(t, err)
		if c := crl(); c.Number != 3 {
			t.Errorf("it is %+v", c)
		}
	})
	collected := func(template string) (issuance.DeviceCredential, issuance.Certificate) {
		r := b.Rendering("C02XK1", template)
		k := b.Rendered(r)
		_, c := b.Claimed(r.Code.Value)
		_, err := s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(c))
		ok(err)
		_, err = s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil })
		ok(err)
		return k, c
	}
	revoke := func(c issuance.Certificate) func() error {
		return func() error {
			_, err := s.RevokeCertificate(t.Context(), b.Operator(), issuance.Revocation{Certificate: c.ID})
			return err
		}
	}
	t.Run("the code of a renewal that came meanwhile is revoked", func(t *testing.T) {
		k, c := collected("wifi")
		renewal, _ := b.Mint()
		ok(beside(t, url, []string{fmt.Sprintf(`UPDATE device_credentials SET code = '%s', revision = revision + 1 WHERE id = '%s'`, renewal.ID, k.ID)}, revoke(c)))
		if code, err := s.Code(t.Context(), renewal.ID); err != nil || code.Status != issuance.CodeRevoked {
			t.Errorf("code is %s, error %v", code.Status, err)
		}
	})
	t.Run("the code of a renewal that was claimed meanwhile is left to its order", func(t *testing.T) {
		k, c := collected("vpn")
		renewal, value := b.Mint()
		o := b.Pending(value)
		ok(p.run(t, url, fmt.Sprintf(`UPDATE device_credentials SET code = '%s' WHERE id = '%s'`, renewal.ID, k.ID)))
		ok(beside(t, url, []string{fmt.Sprintf(`UPDATE codes SET status = 'issuing', order_id = '%s' WHERE id = '%s'`, o.ID, renewal.ID)}, revoke(c)))
		if code, err := s.Code(t.Context(), renewal.ID); err != nil || code.Status != issuance.CodeIssuing {
			t.Errorf("code is %s, error %v", code.Status, err)
		}
	})
}

// BenchmarkRevocations is 128 revocations at once in one shard.
func BenchmarkRevocations(b *testing.B) {
	const together = 128
	s := openAt(b, newPostgres(b, "fsync=on").database(b))
	bench := storetest.NewBench(b, s)
	for b.Loop() {
		b.StopTimer()
		var issued []issuance.CertificateID
		for range together {
			issued = append(issued, bench.Issued().ID)
		}
		b.StartTimer()
		var all sync.WaitGroup
		for _, id := range issued {
			all.Go(func() {
				if _, err := s.RevokeCertificate(b.Context(), bench.Operator(), issuance.Revocation{Certificate: id}); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	b.ReportMetric(s.Retries()/float64(b.N), "retries/op")
}
