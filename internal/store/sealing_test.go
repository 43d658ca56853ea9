package store_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

// sealed is a store whose trail has three seals, its key, and a way to write past the program.
func sealed(t *testing.T) (s *store.Store, b *storetest.Bench, key ed25519.PrivateKey, raw func(statements ...string)) {
	t.Helper()
	path := newPath(t)
	s = openAt(t, path)
	b = storetest.NewBench(t, s)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.Issued()
		b.Now = b.Now.Add(time.Minute)
		if n, err := s.SealAudit(t.Context(), b.Now, key); err != nil || n < 5 {
			t.Fatalf("%d sealed, %v", n, err)
		}
	}
	raw = func(statements ...string) {
		t.Helper()
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, statement := range statements {
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	return s, b, key, raw
}

func check(t *testing.T, s *store.Store, key ed25519.PrivateKey) (faults []audit.Fault, seals []audit.Seal) {
	t.Helper()
	faults, seals, err := s.CheckSeals(t.Context(), key.Public().(ed25519.PublicKey), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return faults, seals
}

func TestSealedTrailVerifies(t *testing.T) {
	s, b, key, _ := sealed(t)
	faults, seals := check(t, s, key)
	if len(faults) != 0 || len(seals) != 3 || seals[2].Last < 15 {
		t.Errorf("faults %+v, seals %+v", faults, seals)
	}
	if n, err := s.SealAudit(t.Context(), b.Now, key); n != 0 || err != nil {
		t.Errorf("sealed again: %d, %v", n, err)
	}
	b.Issued()
	if unsealed, faults, err := s.CheckUnsealed(t.Context()); err != nil || unsealed == 0 || len(faults) != 0 {
		t.Errorf("%d unsealed, faults %+v, %v", unsealed, faults, err)
	}
	part, seals, err := s.CheckSeals(t.Context(), key.Public().(ed25519.PublicKey), 1, 1)
	if err != nil || len(part) != 0 || len(seals) != 1 || seals[0].Number != 2 {
		t.Errorf("from the middle: %+v, %+v, %v", part, seals, err)
	}
	last, err := s.LastSeal(t.Context())
	if err != nil || last.Number != 3 {
		t.Fatalf("last %+v, %v", last, err)
	}
	kept, err := audit.ParseCheckpoint(last.Checkpoint(), key.Public().(ed25519.PublicKey))
	if err != nil || kept.Hash() != last.Hash() {
		t.Errorf("checkpoint %+v, %v", kept, err)
	}
}

func TestForgettingADeviceLeavesTheSealsGood(t *testing.T) {
	s, b, key, _ := sealed(t)
	device, err := s.DeviceLike(t.Context(), "C02XK1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ForgetDevice(t.Context(), b.Operator(), device.ID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SealAudit(t.Context(), b.Now, key); err != nil {
		t.Fatal(err)
	}
	if faults, _ := check(t, s, key); len(faults) != 0 {
		t.Errorf("faults %+v", faults)
	}
}

func TestTamperingWithTheTrailIsFound(t *testing.T) {
	drop := []string{"DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete", "DROP TRIGGER audit_personal_no_update",
		"DROP TRIGGER audit_places_no_update", "DROP TRIGGER audit_places_no_delete", "DROP TRIGGER audit_seals_no_update", "DROP TRIGGER audit_seals_no_delete"}
	row := "(SELECT audit FROM audit_places WHERE seq = 7)"
	for name, test := range map[string]struct {
		tamper []string
		want   string
	}{
		"outcome":        {[]string{"UPDATE audit SET outcome = 'refused' WHERE id = " + row}, "the row was changed"},
		"time":           {[]string{"UPDATE audit SET time = time + 1 WHERE id = " + row}, "the row was changed"},
		"detail":         {[]string{`UPDATE audit SET detail = '{"a":"b"}' WHERE id = ` + row}, "the row was changed"},
		"commitment":     {[]string{"UPDATE audit SET commitment = zeroblob(32) WHERE id = " + row}, "the row was changed"},
		"row and hash":   {[]string{"UPDATE audit SET failed = 'x' WHERE id = " + row, "UPDATE audit_places SET leaf = zeroblob(32) WHERE seq = 7"}, "the row was changed"},
		"deleted":        {[]string{"PRAGMA foreign_keys = 0", "DELETE FROM audit WHERE id = " + row}, "the row was deleted"},
		"with its place": {[]string{"PRAGMA foreign_keys = 0", "DELETE FROM audit WHERE id = " + row, "DELETE FROM audit_places WHERE seq = 7"}, "rows 7 to 7 are missing"},
		"order":          {[]string{"UPDATE audit_places SET seq = 999 WHERE seq = 7", "UPDATE audit_places SET seq = 7 WHERE seq = 8", "UPDATE audit_places SET seq = 8 WHERE seq = 999"}, "the row was changed"},
		"values":         {[]string{`UPDATE audit_personal SET "values" = '{"serial":"ANOTHER"}' WHERE audit IN (SELECT audit FROM audit_places WHERE seq < 9)`}, "personal values were changed"},
		"seal":           {[]string{"UPDATE audit_seals SET sealed_at = sealed_at + 1 WHERE number = 2"}, "signature"},
		"seal gone":      {[]string{"DELETE FROM audit_seals WHERE number = 2"}, "seals 2 to 2 are missing"},
		"first seal":     {[]string{"DELETE FROM audit_seals WHERE number = 1"}, "seals 1 to 1 are missing"},
		"root":           {[]string{"UPDATE audit_seals SET root = zeroblob(32) WHERE number = 3"}, "signature"},
		"last rows":      {[]string{"PRAGMA foreign_keys = 0", "DELETE FROM audit_places WHERE seq = (SELECT last_seq FROM audit_seals WHERE number = 2)"}, "are missing"},
	} {
		s, _, key, raw := sealed(t)
		raw(append(drop, test.tamper...)...)
		faults, _ := check(t, s, key)
		var said []string
		for _, f := range faults {
			said = append(said, f.What)
		}
		if !strings.Contains(strings.Join(said, "\n"), test.want) {
			t.Errorf("%s: faults %q", name, said)
		}
		if strings.Contains(test.want, "the row was") && (faults[0].Seal != 1 && faults[0].Seal != 2 || faults[0].Row == "") {
			t.Errorf("%s: fault %+v", name, faults[0])
		}
	}
	s, _, _, _ := sealed(t)
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	if faults, _ := check(t, s, other); len(faults) != 3 {
		t.Errorf("by another key: %+v", faults)
	}
	last, _ := s.LastSeal(t.Context())
	if _, err := audit.ParseCheckpoint(last.Checkpoint(), other.Public().(ed25519.PublicKey)); err == nil {
		t.Error("a checkpoint by another key is good")
	}
}

// Behind the last seal too, and where as many rows were added as deleted.
func TestRowsThatComeAndGoUnsealedAreFound(t *testing.T) {
	added := "INSERT INTO audit SELECT 'audit_false', time, action, outcome, directory, account, order_id, code, certificate, device, issuer, failed, detail, NULL FROM audit LIMIT 1"
	newest := "(SELECT max(audit) FROM audit_unsealed)"
	deleted := []string{"DROP TRIGGER audit_no_delete", "PRAGMA foreign_keys = 0", "DELETE FROM audit_personal WHERE audit = " + newest, "DELETE FROM audit WHERE id = " + newest}
	for name, test := range map[string]struct {
		tamper []string
		want   []string
	}{
		"added":             {[]string{added}, []string{"1 rows were added"}},
		"deleted":           {deleted, []string{"1 rows were deleted"}},
		"added and deleted": {append(deleted, added), []string{"1 rows were added", "1 rows were deleted"}},
		"waits again":       {[]string{"INSERT INTO audit_unsealed SELECT audit FROM audit_places WHERE seq = 7"}, []string{"1 rows were given a second place"}},
	} {
		s, b, _, raw := sealed(t)
		b.Issued()
		raw(test.tamper...)
		_, faults, err := s.CheckUnsealed(t.Context())
		same := slices.EqualFunc(faults, test.want, func(f audit.Fault, want string) bool { return strings.HasPrefix(f.What, want) })
		if err != nil || !same {
			t.Errorf("%s: %+v, %v", name, faults, err)
		}
	}
}

// With every seal gone there is nothing to hold rows against: the hashes that are left tell.
func TestSealsThatWereAllDeletedAreMissed(t *testing.T) {
	s, _, key, raw := sealed(t)
	raw("DROP TRIGGER audit_seals_no_delete", "DELETE FROM audit_seals")
	if faults, seals := check(t, s, key); len(faults) != 0 || len(seals) != 0 {
		t.Errorf("faults %+v, seals %+v", faults, seals)
	}
	_, faults, err := s.CheckUnsealed(t.Context())
	if err != nil || len(faults) != 1 || !strings.HasPrefix(faults[0].What, "seals were deleted: ") {
		t.Errorf("faults %+v, %v", faults, err)
	}
}

func TestChangedRowWithItsHashIsFoundByTheTree(t *testing.T) {
	s, _, key, raw := sealed(t)
	var seq int64
	var r audit.Row
	var at int64
	err := s.ReadPool().QueryRowContext(t.Context(), `SELECT o.seq, a.id, a.time, a.action, a.outcome, a.directory, ifnull(a.account, ''), ifnull(a.order_id, ''),
			ifnull(a.code, ''), ifnull(a.certificate, ''), ifnull(a.device, ''), ifnull(a.issuer, ''), a.commitment
		FROM audit AS a JOIN audit_places AS o ON o.audit = a.id WHERE o.leaf IS NOT NULL AND a.detail = '' LIMIT 1`).
		Scan(&seq, &r.ID, &at, &r.Action, &r.Outcome, &r.Directory, &r.Account, &r.Order, &r.Code, &r.Certificate, &r.Device, &r.Issuer, &r.Commitment)
	if err != nil {
		t.Fatal(err)
	}
	// Somebody who computes the changed row's hash, too, but cannot sign.
	r.Time, r.Check = time.UnixMicro(at), "x"
	leaf := audit.Leaf(seq, &r)
	raw("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_places_no_update", fmt.Sprintf("UPDATE audit SET failed = 'x' WHERE id = '%s'", r.ID),
		fmt.Sprintf("UPDATE audit_places SET leaf = x'%x' WHERE seq = %d", leaf[:], seq))
	faults, _ := check(t, s, key)
	if len(faults) != 1 || !strings.Contains(faults[0].What, "with its hash") {
		t.Errorf("faults %+v", faults)
	}
}

func TestManyMaySealAtOnce(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	other := openAt(t, path)
	for range 40 {
		b.Issued()
	}
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i, one := range []*store.Store{s, other, s, other} {
		all.Go(func() { _, errs[i] = one.SealAudit(context.WithoutCancel(t.Context()), b.Now, key) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SealAudit(t.Context(), b.Now, key); err != nil {
		t.Fatal(err)
	}
	if faults, _ := check(t, s, key); len(faults) != 0 {
		t.Errorf("faults %+v", faults)
	}
	if unsealed, _, err := s.CheckUnsealed(t.Context()); err != nil || unsealed != 0 {
		t.Errorf("%d unsealed, %v", unsealed, err)
	}
	if _, err := s.Seal(t.Context(), 99); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}
