package store_test

import (
	"strings"
	"testing"

	"assay/internal/issuance"
)

// What one device gave is found without reading all evidence.
func TestEvidenceOfADeviceIsFoundByIndexes(t *testing.T) {
	s := openAt(t, newPath(t))
	for _, err := range s.EvidenceList(t.Context(), issuance.EvidenceFilter{Device: "dev_1"}) {
		t.Fatal(err)
	}
	looked := 0
	for _, text := range s.Statements() {
		if !strings.Contains(text, "FROM evidence WHERE id IN") {
			continue
		}
		looked++
		for _, s := range scans(t, s.ReadPool(), text) {
			t.Errorf("%s is read from end to end in:\n%s", s.table, text)
		}
	}
	if looked == 0 {
		t.Error("looked at no statement")
	}
}
