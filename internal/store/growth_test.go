package store_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// What an enrolment, the work of every minute and forgetting a device cost must not grow with the database: every statement
// finds its rows by an index, or reads a table that does not grow with certificates.
func TestNoStatementReadsAWholeTable(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	c := b.Issued()
	if _, err := s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil }); err != nil {
		t.Fatal(err)
	}
	subject := issuance.Subject{Directory: storetest.Directory, Code: c.Code, CodeDevice: c.Device, Serial: c.DeviceSerial, UDID: c.DeviceUDID, SPKISHA256: c.SPKISHA256}
	if _, err := s.Circumstances(t.Context(), b.Now, subject); err != nil {
		t.Fatal(err)
	}
	for _, statement := range s.Statements() {
		if strings.Contains(statement, "LIMIT ?") {
			t.Errorf("SQLite compiles a statement of each enrolment anew every time, for its LIMIT is a parameter: %s", statement)
		}
	}
	if _, err := s.CleanUp(t.Context(), b.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UndoDeadClaims(t.Context(), b.Operator(), b.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ApplyRetention(t.Context(), b.Now, issuance.Retention{Issued: issuance.Keep{Facts: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ForgetDevice(t.Context(), b.Operator(), c.Device, true); err != nil {
		t.Fatal(err)
	}
	small := []string{"nonce_keys", "newer", "issuers", "crls", "one", "r", "k"} // their size is that of the configuration
	// Indexes of what was not issued, which leaves in time, and of the few personal values with texts of others.
	few := regexp.MustCompile(`^(evidence_kept_back|decisions_kept_back|certificates_abandoned|certificates_reserved|orders_retention|audit_personal_texts)$`)
	explained := 0
	for _, statement := range s.Statements() {
		if !strings.Contains(statement, "FROM") && !strings.Contains(statement, "UPDATE") {
			continue
		}
		explained++
		for _, s := range scans(t, s.ReadPool(), statement) {
			if !slices.Contains(small, s.table) && !few.MatchString(s.index) {
				t.Errorf("%s is read from end to end in:\n%s", s.table, statement)
			}
		}
	}
	if explained < 30 {
		t.Errorf("%d statements: the test misses some", explained)
	}
}
