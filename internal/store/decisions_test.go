package store_test

import (
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// TestDecisionsKeepTheFormOfTheirSchema: servers of the version before read what this one decided.
func TestDecisionsKeepTheFormOfTheirSchema(t *testing.T) {
	b, s := newBench(t)
	_, value := b.Mint()
	held := b.HeldFor(b.Ready(value), issuance.Device{Serial: "HELD"})
	var schema int
	var approvals int64
	err := s.ReadPool().QueryRowContext(t.Context(), `SELECT schema, json_extract(decision, '$.approvalLifetime') FROM decisions WHERE id = ?`, string(held.Decision)).
		Scan(&schema, &approvals)
	if err != nil || schema != 2 || approvals != int64(time.Hour) {
		t.Errorf("schema %d, approvals live for %d: %v", schema, approvals, err)
	}
	if d, err := s.Decision(t.Context(), held.Decision); err != nil || d.Decision.ApprovalLifetime != policy.Lifetime(time.Hour) {
		t.Errorf("%v is read, %v", d.Decision.ApprovalLifetime, err)
	}
}
