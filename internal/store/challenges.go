package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"assay/attest"
	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// AnswerChallenge stores the evidence that answered an order's pending challenge, and its outcome:
// challenge and authorization valid and the order ready, or all three invalid and a try counted on
// the code.
func (s *Store) AnswerChallenge(ctx context.Context, call issuance.Call, a issuance.Answer) (o issuance.Order, err error) {
	const what = "answer challenge"
	e := a.Evidence
	e.Order, e.ReceivedAt = a.Order, call.Now
	if e.ID, err = newID[issuance.EvidenceID](s.random, call.Now); err != nil {
		return o, fmt.Errorf("%s: %w", what, err)
	}
	refusal, err := refusalText(a.Refusal)
	if err != nil {
		return o, fmt.Errorf("%s: %w", what, err)
	}
	facts, err := factsText(e.Facts)
	if err != nil {
		return o, fmt.Errorf("%s: %w", what, err)
	}
	status, part, validated := issuance.OrderReady, "valid", stamp(call.Now)
	if a.Refusal != nil {
		status, part, validated = issuance.OrderInvalid, "invalid", 0
	}
	err = s.step(ctx, call, what, func(t *tx) error {
		o, err = s.scanOrder(t.updated(orderByID, string(a.Order), `UPDATE orders SET status = ?1, authz = ?2, challenge = ?2, validated_at = ?3,
				challenge_refusal = ?4, refusal = ?4, evidence = ?5
			WHERE id = ?6 AND account = ?7 AND status = 'pending' AND challenge = 'pending' AND expires_at > ?8`,
			string(status), part, validated, refusal, string(e.ID), string(a.Order), string(a.Account), stamp(call.Now)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.orderConflict(a.Account, a.Order)
		}
		if err != nil {
			return err
		}
		if err := insertEvidence(t, &e, facts); err != nil {
			return err
		}
		row, p := orderRow(audit.ChallengeAnswered, &o), evidencePersonal(&e)
		if a.Refusal == nil {
			row.Detail = map[string]string{"evidence": string(e.Kind)}
			return s.record(t, call, row, p)
		}
		if err := t.countTry(o.Code, a.Refusal.Check); err != nil {
			return err
		}
		return s.record(t, call, refused(row, a.Refusal), p)
	})
	return o, err
}

// factsText is facts as JSON, or nil for none.
func factsText(f *attest.Facts) (any, error) {
	if f == nil {
		return nil, nil
	}
	text, err := json.Marshal(f)
	return string(text), err
}

func evidencePersonal(e *issuance.Evidence) audit.Personal {
	p := audit.Personal{DeviceError: e.DeviceError}
	if e.Facts != nil {
		p.Serial, p.UDID = e.Facts.Identifier(deviceid.Serial), e.Facts.Identifier(deviceid.UDID)
	}
	return p
}

func insertEvidence(t *tx, e *issuance.Evidence, facts any) error {
	outcome := ""
	if e.Failed != "" {
		outcome = string(policy.Refuse)
	}
	err := t.write(`INSERT INTO evidence (id, order_id, received_at, kind, format, object, device_error, token, key_auth,
			facts, facts_schema, failed, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(e.ID), string(e.Order), stamp(e.ReceivedAt), string(e.Kind), e.Format, e.Object, e.DeviceError, e.Token,
		e.KeyAuth, facts, e.FactsSchema, e.Failed, outcome)
	if err != nil {
		return fmt.Errorf("store evidence: %w", err)
	}
	return nil
}

const evidenceColumns = `id, order_id, received_at, kind, format, device_error, token, key_auth, coalesce(facts, ''),
	facts_schema, failed, removed_at`

// scanEvidence reads a row of evidenceColumns and the object. Facts of a newer schema than this program's are
// refused, never half understood.
func scanEvidence(row scanner) (issuance.Evidence, error) {
	var e issuance.Evidence
	var received, removed int64
	var facts string
	err := row.Scan(&e.ID, &e.Order, &received, &e.Kind, &e.Format, &e.DeviceError, &e.Token, &e.KeyAuth, &facts,
		&e.FactsSchema, &e.Failed, &removed, &e.Object)
	if err != nil {
		return issuance.Evidence{}, notFound(err)
	}
	e.ReceivedAt, e.RemovedAt = timeOf(received), timeOf(removed)
	if facts == "" {
		return e, nil
	}
	if e.FactsSchema > attest.FactsSchema {
		return issuance.Evidence{}, fmt.Errorf("the facts of %s have schema %d, but this program knows up to %d", e.ID, e.FactsSchema, attest.FactsSchema)
	}
	e.Facts = new(attest.Facts)
	if err := json.Unmarshal([]byte(facts), e.Facts); err != nil {
		return issuance.Evidence{}, fmt.Errorf("facts of %s: %w", e.ID, err)
	}
	return e, nil
}

// Evidence returns the evidence that answered an order's challenge.
func (s *Store) Evidence(ctx context.Context, id issuance.EvidenceID) (issuance.Evidence, error) {
	e, err := scanEvidence(s.reads.row(ctx, `SELECT `+evidenceColumns+`, object FROM evidence WHERE id = ?`, string(id)))
	if err != nil {
		return issuance.Evidence{}, fmt.Errorf("read evidence: %w", err)
	}
	return e, nil
}

// EvidenceList lists pieces of evidence, oldest first, without their objects.
func (s *Store) EvidenceList(ctx context.Context, f issuance.EvidenceFilter) iter.Seq2[issuance.EvidenceLine, error] {
	var q selection
	if !f.Since.IsZero() { // ids sort by time, so that this is the primary key's order
		q.and("id >= ?", issuance.FirstID[issuance.EvidenceID](f.Since), true)
		q.and("received_at >= ?", stamp(f.Since), true)
	}
	q.and("kind = ?", string(f.Kind), f.Kind != "")
	q.plain("failed <> ''", f.Failed)
	if f.Device != "" {
		q.and(`id IN (SELECT evidence FROM certificates WHERE device = ? UNION ALL SELECT evidence FROM decisions WHERE device = ?
			UNION ALL SELECT orders.evidence FROM codes JOIN orders ON orders.code = codes.id WHERE codes.device = ?)`, string(f.Device), true)
		q.args = append(q.args, string(f.Device), string(f.Device))
	}
	l := list[issuance.EvidenceLine]{
		what:    "list evidence",
		columns: `SELECT id, order_id, received_at, kind, format, failed, kept, removed_at FROM evidence`, key: "id",
		scan: func(row scanner) (e issuance.EvidenceLine, err error) {
			var received, removed int64
			err = row.Scan(&e.ID, &e.Order, &received, &e.Kind, &e.Format, &e.Failed, &e.Kept, &removed)
			e.ReceivedAt, e.RemovedAt = timeOf(received), timeOf(removed)
			return e, err
		},
		keyOf: func(e *issuance.EvidenceLine) []any { return []any{string(e.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}
