package store_test

import (
	"bytes"
	"database/sql"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
)

var _ storetest.Store = (*store.Store)(nil)

var testKey = bytes.Repeat([]byte{0x5a}, store.KeySize)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openAt opens the database at a location until the test ends.
func openAt(t testing.TB, location string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), location, store.Options{Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "assay.db") }

func TestStore(t *testing.T) {
	statements := make(map[string]bool)
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := openAt(t, newPath(t))
		checkWhole(t, s)
		t.Cleanup(func() {
			for _, text := range s.Statements() {
				statements[text] = true
			}
		})
		return s
	})
	t.Run("NoStatementReadsAWholeTable", func(t *testing.T) { checkPlans(t, slices.Sorted(maps.Keys(statements))) })
}

// TestListsOfUpkeepUseTheirIndexes: they are read every minute.
func TestListsOfUpkeepUseTheirIndexes(t *testing.T) {
	for name, f := range map[string]issuance.CredentialFilter{
		"device_credentials_due":        {DueBefore: storetest.Start},
		"device_credentials_not_pushed": {NotPushed: true},
		"device_credentials_template":   {Device: "dev_1"},
	} {
		s := openAt(t, newPath(t))
		for _, err := range s.DeviceCredentials(t.Context(), f) {
			t.Fatal(err)
		}
		for _, text := range s.Statements() {
			if !strings.Contains(text, "device_credentials") {
				continue
			}
			if steps := strings.Join(plan(t, s.ReadPool(), text), "; "); !strings.Contains(steps, "INDEX "+name+" ") && !strings.HasSuffix(steps, "INDEX "+name) {
				t.Errorf("%s: %s", name, steps)
			}
		}
	}
}

// wholeTables are the tables that stay small and may be read from end to end.
var wholeTables = []string{"issuers", "nonce_keys", "newer", "leases"}

// checkPlans asks SQLite how it would run every statement that the suite used.
func checkPlans(t *testing.T, statements []string) {
	db := openAt(t, newPath(t)).ReadPool()
	checked := 0
	for _, text := range statements {
		verb, _, _ := strings.Cut(text, " ")
		isList := strings.HasSuffix(text, " LIMIT CAST(? AS bigint)") // operators' lists, page after page in key order
		isOffline := strings.HasSuffix(text, "/* offline */")         // of a restore, which nobody waits for
		if !slices.Contains([]string{"SELECT", "UPDATE", "DELETE", "INSERT"}, verb) || isList || isOffline {
			continue
		}
		checked++
		for _, s := range scans(t, db, text) {
			if s.index == "" && !slices.Contains(wholeTables, s.table) {
				t.Errorf("%s is read whole in:\n%s", s.table, text)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d statements were checked", checked)
	}
}

// scan is a table, or what a statement calls it, that is read from end to end.
type scan struct {
	table string
	index string // along which; "" for none
}

// scans are what a statement reads from end to end.
func scans(t *testing.T, db *sql.DB, text string) (all []scan) {
	t.Helper()
	for _, step := range plan(t, db, text) {
		if table, ok := strings.CutPrefix(step, "SCAN "); ok && table != "CONSTANT ROW" {
			table, along, _ := strings.Cut(table, " USING ")
			_, along, _ = strings.Cut(along, "INDEX ")
			index, _, _ := strings.Cut(along, " ")
			all = append(all, scan{table, index})
		}
	}
	return all
}

// plan asks SQLite how it would run a statement.
func plan(t *testing.T, db *sql.DB, text string) (steps []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, make([]any, strings.Count(text, "?"))...)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, detail)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	return steps
}
