package store

import (
	"context"
	"fmt"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// ApplyRetention removes what is not to be kept any longer, in small transactions between which others
// write. Not fsynced: what a power failure brings back leaves the next time.
func (s *Store) ApplyRetention(ctx context.Context, now time.Time, r issuance.Retention) (issuance.Removed, error) {
	var removed issuance.Removed
	for _, part := range []struct {
		outcome policy.Outcome
		keep    issuance.Keep
	}{{policy.Refuse, r.Refused}, {policy.Hold, r.Held}} {
		for _, step := range []struct {
			what  string
			after time.Duration
			count *int64
			run   func(*tx, time.Time) (int64, error)
		}{
			{"evidence of " + string(part.outcome), part.keep.Facts, &removed.Evidence, func(t *tx, before time.Time) (int64, error) { return t.deleteEvidence(part.outcome, before) }},
			{"objects of " + string(part.outcome), part.keep.Object, &removed.Objects, func(t *tx, before time.Time) (int64, error) { return t.dropObjects(part.outcome, before, now) }},
			{"decisions to " + string(part.outcome), part.keep.Facts, &removed.Decisions, func(t *tx, before time.Time) (int64, error) { return t.deleteDecisions(part.outcome, before) }},
		} {
			if err := s.inBatches(ctx, step.what, now, step.after, step.count, step.run); err != nil {
				return removed, err
			}
		}
	}
	for _, step := range []struct {
		what  string
		after time.Duration
		count *int64
		run   func(*tx, time.Time) (int64, error)
	}{
		{"facts of certificates", r.Issued.Facts, &removed.Facts, func(t *tx, before time.Time) (int64, error) { return t.dropIssued(before, now, true) }},
		{"objects of certificates", r.Issued.Object, &removed.Objects, func(t *tx, before time.Time) (int64, error) { return t.dropIssued(before, now, false) }},
		{"holds", r.Held.Facts, &removed.Holds, func(t *tx, before time.Time) (int64, error) {
			return t.exec(`DELETE FROM holds WHERE id IN (SELECT id FROM holds WHERE (status = 'used' OR status = 'declined') AND held_at < ? LIMIT ?)`,
				stamp(before), cleanBatch)
		}},
	} {
		if err := s.inBatches(ctx, step.what, now, step.after, step.count, step.run); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// inBatches runs a step until it finds nothing more.
func (s *Store) inBatches(ctx context.Context, what string, now time.Time, after time.Duration, count *int64, run func(*tx, time.Time) (int64, error)) error {
	if after == issuance.Forever {
		return nil
	}
	for more := true; more; {
		var n int64
		err := s.note(ctx, issuance.Call{}, "apply retention", func(t *tx) (err error) {
			n, err = run(t, now.Add(-after))
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		*count += n
		s.metrics.cleaned(byRetention, what, n)
		more = n == cleanBatch
	}
	return nil
}

// kinds of what is kept, apart: the index begins with them.
var keptKinds = []string{"full", "facts"}

// deleteEvidence deletes evidence of requests with an outcome. What an order that may still be decided
// rests on has no outcome yet.
func (t *tx) deleteEvidence(outcome policy.Outcome, before time.Time) (total int64, err error) {
	for _, kept := range keptKinds {
		n, err := t.exec(`DELETE FROM evidence WHERE id IN (SELECT id FROM evidence WHERE kept = ? AND kept <> 'none' AND outcome = ? AND received_at < ? LIMIT ?)`,
			kept, string(outcome), stamp(before), cleanBatch-total)
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// dropObjects removes the objects of evidence, and leaves the facts.
func (t *tx) dropObjects(outcome policy.Outcome, before, now time.Time) (int64, error) {
	return t.exec(`UPDATE evidence SET object = NULL, kept = 'facts', removed_at = ? WHERE id IN
			(SELECT id FROM evidence WHERE kept = 'full' AND kept <> 'none' AND outcome = ? AND received_at < ? LIMIT ?)`,
		stamp(now), string(outcome), stamp(before), cleanBatch)
}

// deleteDecisions deletes decisions that did not issue, but for those of a hold that waits.
func (t *tx) deleteDecisions(outcome policy.Outcome, before time.Time) (int64, error) {
	return t.exec(`DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE outcome <> 'issue' AND outcome = ? AND id < ?
			AND NOT EXISTS (SELECT 1 FROM holds WHERE holds.decision = decisions.id AND status <> 'used' AND status <> 'declined') LIMIT ?)`,
		string(outcome), issuance.FirstID[issuance.DecisionID](before), cleanBatch)
}

// dropIssued removes the objects of certificates' evidence (and of serials that were set aside for one),
// or with it the facts and what the decision rested on. The rows stay: the certificate, its decision and
// its reasons.
func (t *tx) dropIssued(before, now time.Time, facts bool) (int64, error) {
	type row struct{ id, order, decision string }
	var rows []row
	for _, kept := range keptKinds {
		if kept == "facts" && !facts {
			continue
		}
		for _, outcome := range []string{"", "issue"} {
			err := t.rows(func(r scanner) error {
				var one row
				err := r.Scan(&one.id, &one.order, &one.decision)
				rows = append(rows, one)
				return err
			}, `SELECT e.id, o.id, coalesce(o.decision, '') FROM evidence AS e JOIN orders AS o ON o.id = e.order_id
				WHERE e.kept = ? AND e.kept <> 'none' AND e.outcome = ? AND e.received_at < ? AND o.claimed_at <> 0 AND o.status <> 'processing' LIMIT ?`,
				kept, outcome, stamp(before), cleanBatch-len(rows))
			if err != nil {
				return 0, err
			}
		}
	}
	for _, one := range rows {
		if err := t.strip(one.id, one.decision, now, facts); err != nil {
			return 0, err
		}
	}
	return int64(len(rows)), nil
}

// strip removes the object of a piece of evidence and, if facts, everything else that is of the device.
func (t *tx) strip(evidence, decision string, now time.Time, facts bool) error {
	if !facts {
		err := t.write(`UPDATE evidence SET object = NULL, kept = 'facts', outcome = 'issue', removed_at = ? WHERE id = ?`, stamp(now), evidence)
		return err
	}
	err := t.write(`UPDATE evidence SET object = NULL, facts = NULL, device_error = '', token = '', key_auth = '', kept = 'none', removed_at = ? WHERE id = ?`,
		stamp(now), evidence)
	if err == nil && decision != "" {
		err = t.write(`UPDATE decisions SET input = NULL WHERE id = ?`, decision)
	}
	return err
}
