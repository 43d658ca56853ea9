package store_test

import (
	"database/sql"
	"regexp"
	"strings"
	"testing"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// SQLite opens a temporary table for RETURNING and for an IN list of more than two values, in a
// statement or in a check or index that it touches. One costs more than the rest of most statements.
func TestEnrolmentOpensNoTemporaryTables(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	c := b.Issued()
	if _, err := s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil }); err != nil {
		t.Fatal(err)
	}
	r := b.Rendering("C02XK1", "wifi")
	b.Rendered(r)
	document, err := s.DocumentByPath(t.Context(), r.Document.PathHash, b.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.MarkFetched(t.Context(), b.Call(), document.ID); err != nil {
		t.Fatal(err)
	}
	_, c = b.Claimed(r.Code.Value)
	if _, err := s.CompleteIssue(t.Context(), b.Operator(), storetest.CompletionFor(c)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil }); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	explained := 0
	for _, statement := range s.Statements() {
		if !strings.Contains(statement, "?") {
			continue // of the transaction itself
		}
		explained++
		if opens(t, db, statement, "OpenEphemeral") {
			t.Errorf("opens a temporary table: %s", statement)
		}
	}
	if explained < 20 {
		t.Errorf("an enrolment has %d statements: the test misses some", explained)
	}
}

var placeholder = regexp.MustCompile(`\?\d*`)

// opens reports whether a statement's program has an instruction.
func opens(t *testing.T, db *sql.DB, statement, instruction string) bool {
	t.Helper()
	rows, err := db.Query("EXPLAIN " + placeholder.ReplaceAllString(statement, "NULL"))
	if err != nil {
		t.Fatalf("explain %s: %v", statement, err)
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var address, p1, p2, p3, p5 int
		var name string
		var p4, comment sql.NullString
		if err := rows.Scan(&address, &name, &p1, &p2, &p3, &p4, &p5, &comment); err != nil {
			t.Fatal(err)
		}
		found = found || name == instruction
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
