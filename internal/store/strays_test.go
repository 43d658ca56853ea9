package store_test

import (
	"testing"
	"time"

	"assay/csr"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

// forgettable lists the device of storetest's evidence, and returns its id.
func forgettable(t *testing.T, s *store.Store, b *storetest.Bench) issuance.DeviceID {
	t.Helper()
	results, err := s.ImportDevices(t.Context(), b.Operator(), issuance.Import{Source: "csv:fleet", Listings: []issuance.Listing{{Serial: forgetSerial, UDID: forgetUDID}}})
	if err != nil {
		t.Fatal(err)
	}
	return results[0].Device
}

func TestForgettingFindsWhatNoReferenceLeadsTo(t *testing.T) {
	for name, leave := range map[string]func(*store.Store, *storetest.Bench) error{
		"an order that is not decided": func(_ *store.Store, b *storetest.Bench) error {
			_, value := b.Mint()
			b.Ready(value)
			return nil
		},
		"an order that came to nothing": func(s *store.Store, b *storetest.Bench) error {
			_, value := b.Mint()
			b.Ready(value)
			b.Now = b.Now.Add(3 * 24 * time.Hour)
			_, err := s.CleanUp(t.Context(), b.Now)
			return err
		},
		"a claim that was undone": func(s *store.Store, b *storetest.Bench) error {
			_, value := b.Mint()
			claim := b.ClaimFor(b.Ready(value))
			claim.Decision.Input.Request.Subject = csr.Name{{{Type: "2.5.4.3", Value: forgetSerial}}}
			claim.Certificate.DeviceSerial, claim.Certificate.DeviceUDID = "", ""
			c, err := s.BeginIssue(t.Context(), b.Call(), claim)
			if err != nil {
				return err
			}
			return s.AbandonIssue(t.Context(), b.Operator(), c.Order, issuance.Refusal{Check: "claim-died"})
		},
		"a claim of another device under way": func(s *store.Store, b *storetest.Bench) error {
			_, value := b.Mint()
			claim := b.ClaimFor(b.Ready(value))
			claim.Decision.Input.Request.Subject = csr.Name{{{Type: "2.5.4.3", Value: forgetSerial}}}
			claim.Certificate.DeviceSerial, claim.Certificate.DeviceUDID = "OTHER", "OTHERS"
			_, err := s.BeginIssue(t.Context(), b.Call(), claim)
			return err
		},
		"a certificate that went to another device": func(s *store.Store, b *storetest.Bench) error {
			_, value := b.Mint()
			claim := b.ClaimFor(b.Ready(value))
			claim.Decision.Input.Request.Subject = csr.Name{{{Type: "2.5.4.3", Value: forgetSerial}}}
			claim.Certificate.DeviceSerial, claim.Certificate.DeviceUDID = "OTHER", "OTHERS"
			claim.Certificate.ExpectedSerial, claim.Certificate.ExpectedUDID = forgetSerial, forgetUDID
			c, err := s.BeginIssue(t.Context(), b.Call(), claim)
			if err == nil {
				_, err = s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(c))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openAt(t, newPath(t))
			b := storetest.NewBench(t, s)
			id := forgettable(t, s, b)
			before := len(traces(t, s))
			if err := leave(s, b); err != nil {
				t.Fatal(err)
			}
			if len(traces(t, s)) <= before {
				t.Fatal("it leaves no trace that could be found")
			}
			if _, err := s.ForgetDevice(t.Context(), b.Operator(), id, true); err != nil {
				t.Fatal(err)
			}
			if left := traces(t, s); len(left) != 0 {
				t.Errorf("still named in %v", left)
			}
		})
	}
}

// What forgetting reads must not grow with what is stored about others.
func TestForgettingReadsFewRows(t *testing.T) {
	const copies, most = 400, 200
	p := newPostgres(t)
	url := p.database(t)
	s := openAt(t, url)
	b := storetest.NewBench(t, s)
	_, value := b.Mint(func(m *issuance.Mint) { m.Serial, m.UDID = forgetSerial, forgetUDID })
	claim := b.ClaimFor(b.Ready(value))
	claim.Certificate.ExpectedSerial, claim.Certificate.ExpectedUDID = forgetSerial, forgetUDID
	c, err := s.BeginIssue(t.Context(), b.Call(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(c)); err != nil {
		t.Fatal(err)
	}
	if err := s.Multiply(t.Context(), c.ID, copies, time.Hour, func(int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := p.run(t, url, `ANALYZE`); err != nil {
		t.Fatal(err)
	}
	var device issuance.DeviceID
	for one, err := range s.Certificates(t.Context(), issuance.CertificateFilter{Page: issuance.Page{Limit: 1}}) {
		if err != nil {
			t.Fatal(err)
		}
		device = one.Device
	}
	if err := s.Close(); err != nil { // which reports what its connections read
		t.Fatal(err)
	}
	before := rowsRead(t, p, url)
	other := openAt(t, url+"&enable_seqscan=off") // tables of this size are read whole else
	done, err := other.ForgetDevice(t.Context(), b.Operator(), device, true)
	if err != nil || done.Certificates != 1 || done.Evidence != 1 || done.AuditRows < 3 {
		t.Fatalf("done %+v, %v", done, err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for table, n := range rowsRead(t, p, url) {
		if n -= before[table]; n > most {
			t.Errorf("%s: %d rows were read, of more than %d", table, n, copies)
		}
	}
}

// rowsRead are how many rows, or entries of indexes, were read of each table.
func rowsRead(t *testing.T, p *postgres, url string) map[string]int {
	t.Helper()
	return p.numbers(t, url, `SELECT t.relname, (t.seq_tup_read + coalesce(sum(i.idx_tup_read), 0))::bigint
		FROM pg_stat_user_tables AS t LEFT JOIN pg_stat_user_indexes AS i USING (relid) GROUP BY t.relid, t.relname, t.seq_tup_read`)
}
