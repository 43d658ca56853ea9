package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"assay/csr"
	"assay/internal/issuance"
	"assay/policy"
)

// decisionRow is a decision ready to be stored, its JSON made outside the writer.
type decisionRow struct {
	id                issuance.DecisionID
	time, schema      int64
	decision, request string
}

func (s *Store) prepareDecision(d issuance.Decision, now time.Time) (decisionRow, error) {
	id, err := newID[issuance.DecisionID](s.random, now)
	if err != nil {
		return decisionRow{}, err
	}
	decision, err := json.Marshal(&d.Decision)
	if err != nil {
		return decisionRow{}, fmt.Errorf("encode decision: %w", err)
	}
	request, err := json.Marshal(d.Request)
	if err != nil {
		return decisionRow{}, fmt.Errorf("encode request: %w", err)
	}
	if d.Time.IsZero() {
		d.Time = now
	}
	return decisionRow{id: id, time: stamp(d.Time), schema: int64(d.Schema), decision: string(decision), request: string(request)}, nil
}

func (d *decisionRow) insert(t *tx, order issuance.OrderID, code issuance.CodeID, evidence issuance.EvidenceID) error {
	_, err := t.exec(`INSERT INTO decisions (id, order_id, code, evidence, time, schema, decision, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		string(d.id), string(order), null(code), null(evidence), d.time, d.schema, d.decision, d.request)
	if err != nil {
		return fmt.Errorf("store decision: %w", err)
	}
	return nil
}

// Decision returns a decision by id, as it was taken. One of a newer schema than this program's is
// refused, never half understood.
func (s *Store) Decision(ctx context.Context, id issuance.DecisionID) (issuance.Decision, error) {
	var d issuance.Decision
	var at int64
	var decision, request string
	err := s.reads.row(ctx, `SELECT id, order_id, ifnull(code, ''), ifnull(evidence, ''), time, schema, decision, request
		FROM decisions WHERE id = ?`, string(id)).
		Scan(&d.ID, &d.Order, &d.Code, &d.Evidence, &at, &d.Schema, &decision, &request)
	if err != nil {
		return issuance.Decision{}, fmt.Errorf("read decision: %w", notFound(err))
	}
	if d.Schema > policy.Schema {
		return issuance.Decision{}, fmt.Errorf("read decision %s: it has schema %d, but this program knows up to %d", id, d.Schema, policy.Schema)
	}
	d.Time = timeOf(at)
	if err := json.Unmarshal([]byte(decision), &d.Decision); err != nil {
		return issuance.Decision{}, fmt.Errorf("read decision %s: %w", id, err)
	}
	if request != "null" {
		d.Request = new(csr.Request)
		if err := json.Unmarshal([]byte(request), d.Request); err != nil {
			return issuance.Decision{}, fmt.Errorf("read request of decision %s: %w", id, err)
		}
	}
	return d, nil
}
