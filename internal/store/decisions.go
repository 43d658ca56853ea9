package store

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// decisionRow is a decision ready to be stored, its JSON made outside the writer.
type decisionRow struct {
	issuance.Decision
	decision, input string
}

// storedDecision is a decision in the JSON form of policy.Schema, which has its lifetimes in nanoseconds.
type storedDecision struct {
	policy.Decision
	Lifetime         time.Duration `json:"lifetime,omitempty"`
	ApprovalLifetime time.Duration `json:"approvalLifetime,omitempty"`
}

func (s *Store) prepareDecision(d issuance.Decision, now time.Time) (decisionRow, error) {
	var err error
	if d.ID, err = newID[issuance.DecisionID](s.random, now); err != nil {
		return decisionRow{}, err
	}
	taken := d.Decision
	decision, err := json.Marshal(storedDecision{taken, time.Duration(taken.Lifetime), time.Duration(taken.ApprovalLifetime)})
	if err != nil {
		return decisionRow{}, fmt.Errorf("encode decision: %w", err)
	}
	input, err := json.Marshal(d.Input)
	if err != nil {
		return decisionRow{}, fmt.Errorf("encode input of decision: %w", err)
	}
	if d.Time.IsZero() {
		d.Time = now
	}
	return decisionRow{Decision: d, decision: string(decision), input: string(input)}, nil
}

// insert stores the decision as one on an order, which says of what directory, code and evidence it was.
func (d *decisionRow) insert(t *tx, o *issuance.Order) error {
	err := t.write(`INSERT INTO decisions (id, order_id, directory, code, evidence, device, hold, time, schema, policy, outcome, decision, input)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(d.ID), string(o.ID), o.Directory, null(o.Code), null(o.Evidence), null(d.Device), null(d.Hold), stamp(d.Time), d.Schema,
		null(d.Decision.Decision.Policy.SHA256), string(d.Decision.Decision.Outcome), d.decision, d.input)
	if err != nil {
		return fmt.Errorf("store decision: %w", err)
	}
	return nil
}

const decisionColumns = `id, order_id, directory, coalesce(code, ''), coalesce(evidence, ''), coalesce(device, ''), coalesce(hold, ''),
	time, schema, decision, coalesce(input, 'null')`

// Decision returns a decision by id, as it was taken. One of a newer schema than this program's is
// refused, never half understood.
func (s *Store) Decision(ctx context.Context, id issuance.DecisionID) (issuance.Decision, error) {
	d, err := scanDecision(s.reads.row(ctx, `SELECT `+decisionColumns+` FROM decisions WHERE id = ?`, string(id)))
	if err != nil {
		return issuance.Decision{}, fmt.Errorf("read decision: %w", err)
	}
	return d, nil
}

func scanDecision(row scanner) (issuance.Decision, error) {
	var d issuance.Decision
	var at int64
	var decision, input string
	err := row.Scan(&d.ID, &d.Order, &d.Directory, &d.Code, &d.Evidence, &d.Device, &d.Hold, &at, &d.Schema, &decision, &input)
	if err != nil {
		return issuance.Decision{}, notFound(err)
	}
	if d.Schema > policy.Schema {
		return issuance.Decision{}, fmt.Errorf("%s has schema %d, but this program knows up to %d", d.ID, d.Schema, policy.Schema)
	}
	d.Time = timeOf(at)
	var stored storedDecision
	if err := json.Unmarshal([]byte(decision), &stored); err != nil {
		return issuance.Decision{}, fmt.Errorf("%s: %w", d.ID, err)
	}
	d.Decision = stored.Decision
	d.Decision.Lifetime, d.Decision.ApprovalLifetime = policy.Lifetime(stored.Lifetime), policy.Lifetime(stored.ApprovalLifetime)
	if err := json.Unmarshal([]byte(input), &d.Input); err != nil {
		return issuance.Decision{}, fmt.Errorf("input of %s: %w", d.ID, err)
	}
	return d, nil
}

// Decisions lists decisions, oldest first.
func (s *Store) Decisions(ctx context.Context, f issuance.DecisionFilter) iter.Seq2[issuance.Decision, error] {
	var q selection
	if !f.Since.IsZero() { // ids sort by time, so that this is the primary key's order
		q.and("id >= ?", issuance.FirstID[issuance.DecisionID](f.Since), true)
		q.and("time >= ?", stamp(f.Since), true)
	}
	q.and("outcome = ?", string(f.Outcome), f.Outcome != "")
	q.plain("outcome <> 'issue'", f.Outcome == policy.Hold || f.Outcome == policy.Refuse || f.Evidence != "") // has an index
	q.and("directory = ?", f.Directory, f.Directory != "")
	q.and("device = ?", string(f.Device), f.Device != "")
	q.and("code = ?", string(f.Code), f.Code != "")
	q.and("evidence = ?", string(f.Evidence), f.Evidence != "")
	l := list[issuance.Decision]{
		what: "list decisions", columns: `SELECT ` + decisionColumns + ` FROM decisions`, key: "id",
		scan: scanDecision, keyOf: func(d *issuance.Decision) []any { return []any{string(d.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}
