package store

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"
)

func TestListReadsNoMoreRowsThanItsPageHas(t *testing.T) {
	s := openFor(t, filepath.Join(t.TempDir(), "assay.db"))
	var mints []issuance.Mint
	for i := range 300 {
		mints = append(mints, issuance.Mint{Directory: "d", Value: strings.Repeat("x", 22+i), Lifetime: time.Hour})
	}
	if _, err := s.MintCodes(t.Context(), issuance.Call{Now: time.Unix(1, 0)}, mints); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]int{1: 1, 7: 7, 200: 200, 201: 201, 300: 300, 0: 300} {
		read := 0
		l := list[issuance.Code]{
			columns: `SELECT ` + codeColumns + ` FROM codes`, key: "id",
			scan:  func(row scanner) (issuance.Code, error) { read++; return scanCode(row) },
			keyOf: func(c *issuance.Code) []any { return []any{string(c.ID)} },
		}
		seq := l.rows(t.Context(), s.reads, &selection{}, issuance.Page{Limit: limit})
		for range 2 { // a list may be read again
			read = 0
			for _, err := range seq {
				if err != nil {
					t.Fatal(err)
				}
			}
			if read != want {
				t.Errorf("a page of %d read %d rows, want %d", limit, read, want)
			}
		}
	}
}
