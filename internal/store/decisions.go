package store

import (
	"context"
	"encoding/json"
	"fmt"

	"assay/csr"
	"assay/internal/issuance"
	"assay/policy"
)

// Decision returns a stored decision, or issuance.ErrNotFound.
func (s *Store) Decision(ctx context.Context, id issuance.DecisionID) (issuance.Decision, error) {
	var d issuance.Decision
	var at int64
	var decision, request string
	err := s.reads.row(ctx, `SELECT id, order_id, ifnull(code, ''), ifnull(evidence, ''), time, schema, decision, ifnull(request, '')
			FROM decisions WHERE id = ?`, string(id)).
		Scan(&d.ID, &d.Order, &d.Code, &d.Evidence, &at, &d.Schema, &decision, &request)
	if err != nil {
		return issuance.Decision{}, fmt.Errorf("read decision: %w", notFound(err))
	}
	d.Time = timeOf(at)
	if d.Schema > policy.Schema {
		return issuance.Decision{}, fmt.Errorf("read decision %s: it has schema %d, but this program knows up to %d", id, d.Schema, policy.Schema)
	}
	if err := json.Unmarshal([]byte(decision), &d.Decision); err != nil {
		return issuance.Decision{}, fmt.Errorf("read decision %s: %w", id, err)
	}
	if request != "" {
		d.Request = new(csr.Request)
		if err := json.Unmarshal([]byte(request), d.Request); err != nil {
			return issuance.Decision{}, fmt.Errorf("read request of %s: %w", id, err)
		}
	}
	return d, nil
}
