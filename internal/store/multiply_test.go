package store_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

func TestMultipliedCertificatesAreWhole(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	original := b.Issued()
	original, err := b.CollectCertificate(t.Context(), b.Call(), original.ID, func(issuance.Certificate) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	var told []int
	const copies = 403
	err = s.Multiply(t.Context(), original.ID, copies, 100*24*time.Hour, func(stored int) error { told = append(told, stored); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{200, 400, 403}; !slices.Equal(told, want) {
		t.Errorf("progress was %d, want %d", told, want)
	}

	var last issuance.Certificate
	n := 0
	for c, err := range s.Certificates(t.Context(), issuance.CertificateFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n > copies {
			break // the original comes last: its time is after all others
		}
		last = c
		o, err := s.Order(t.Context(), c.Order)
		if err != nil || o.Certificate != c.ID || o.Code != c.Code || o.Account != c.Account || o.Evidence != c.Evidence {
			t.Fatalf("order %+v of %+v: %v", o, c, err)
		}
		device, err := s.DeviceLike(t.Context(), c.DeviceSerial, c.DeviceUDID)
		if err != nil || device.ID != c.Device {
			t.Fatalf("device %+v of %+v: %v", device, c, err)
		}
		if c.NotAfter.Sub(c.NotBefore) != original.NotAfter.Sub(original.NotBefore) || !c.IssuedAt.Before(original.IssuedAt) || original.IssuedAt.Sub(c.IssuedAt) > 100*24*time.Hour {
			t.Fatalf("%s was issued at %s, and is valid from %s to %s", c.ID, c.IssuedAt, c.NotBefore, c.NotAfter)
		}
	}
	if n != copies+1 {
		t.Errorf("%d certificates, want %d", n, copies+1)
	}
	of := func(c issuance.Certificate) (actions []audit.Action) {
		for row, err := range s.Audit(t.Context(), audit.Filter{Code: string(c.Code)}) {
			if err == nil {
				err = audit.VerifyPersonal(row)
			}
			if err != nil {
				t.Fatal(err)
			}
			actions = append(actions, row.Action)
		}
		slices.Sort(actions)
		return actions
	}
	if got, want := of(last), of(original); !slices.Equal(got, want) || len(want) < 6 {
		t.Errorf("audit rows of a copy are %s, want %s", got, want)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.SealAudit(t.Context(), b.Now, key); err != nil || n < 6*copies {
		t.Fatalf("%d rows sealed, %v", n, err)
	}
	if faults, _, err := s.CheckSeals(t.Context(), key.Public().(ed25519.PublicKey), 0, 100); err != nil || len(faults) > 0 {
		t.Errorf("seals: %v, %v", faults, err)
	}

	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if violations := rowsOf(t, db, `PRAGMA foreign_key_check`); len(violations) > 0 {
		t.Errorf("rows refer to what is not there: %v", violations)
	}
	compareCopies(t, db, copies, original)
}

// compareCopies holds a copy of each row against the original: whatever is not a name, a time or
// sealed is the same, in columns of later schemas too.
func compareCopies(t *testing.T, db *sql.DB, copies int, original issuance.Certificate) {
	t.Helper()
	fresh := map[string][]string{
		"accounts":     {"id", "thumbprint", "created_at"},
		"devices":      {"id", "serial", "udid", "udid_key", "created_at", "seen_at"},
		"codes":        {"id", "value_sha256", "device", "order_id", "certificate", "created_at", "expires_at", "used_at"},
		"orders":       {"id", "account", "identifier_sealed", "code", "evidence", "decision", "certificate", "claimed_at", "created_at", "expires_at", "validated_at"},
		"evidence":     {"id", "order_id", "received_at", "facts"},
		"decisions":    {"id", "order_id", "code", "evidence", "time"},
		"certificates": {"id", "serial", "account", "order_id", "code", "device", "decision", "evidence", "device_serial", "device_udid", "spki_sha256", "not_before", "not_after", "reserved_at", "issued_at", "collected_at"},
	}
	for table, ids := range map[string][2]string{
		"accounts": {string(original.Account), "account"}, "devices": {string(original.Device), "device"}, "codes": {string(original.Code), "code"},
		"orders": {string(original.Order), "order_id"}, "evidence": {string(original.Evidence), "evidence"}, "decisions": {string(original.Decision), "decision"},
		"certificates": {string(original.ID), "id"},
	} {
		want := rowsOf(t, db, `SELECT * FROM `+table+` WHERE id = ?`, ids[0])
		got := rowsOf(t, db, fmt.Sprintf(`SELECT * FROM %s WHERE id = (SELECT %s FROM certificates WHERE id <> ? LIMIT 1)`, table, ids[1]), string(original.ID))
		if len(want) != 1 || len(got) != 1 {
			t.Errorf("%s: %d originals and %d copies, want one of each", table, len(want), len(got))
			continue
		}
		for column, value := range want[0] {
			same := reflect.DeepEqual(value, got[0][column])
			if slices.Contains(fresh[table], column) {
				if same {
					t.Errorf("%s.%s is the original's: %v", table, column, value)
				}
			} else if !same {
				t.Errorf("%s.%s is %v, want the original's %v", table, column, got[0][column], value)
			}
		}
	}
}

// rowsOf reads whole rows, by column.
func rowsOf(t *testing.T, db *sql.DB, query string, args ...any) (all []map[string]any) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range into {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		row := map[string]any{}
		for i, column := range columns {
			row[column] = values[i]
		}
		all = append(all, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMultiplyRefusesWhatIsNoWholeEnrolment(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	silent := func(int) error { return nil }
	if err := s.Multiply(t.Context(), "cert_none", 1, time.Hour, silent); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("unknown certificate: %v", err)
	}
	_, value := b.Mint()
	_, reserved := b.Claimed(value)
	if err := s.Multiply(t.Context(), reserved.ID, 1, time.Hour, silent); err == nil {
		t.Error("a reserved serial was multiplied")
	}
	stop := errors.New("full")
	if err := s.Multiply(context.Background(), b.Issued().ID, 600, time.Hour, func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("progress said stop: %v", err)
	}
	n := 0
	for range s.Certificates(t.Context(), issuance.CertificateFilter{}) {
		n++
	}
	if n != 202 {
		t.Errorf("%d certificates, want the first 200 copies beside two others", n)
	}
}
