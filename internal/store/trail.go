package store

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// maxDetail bounds one text in an audit row's detail, in bytes.
const maxDetail = 512

// record adds an audit row, with its personal values beside it. From is set from the call.
func (s *Store) record(t *tx, call issuance.Call, r audit.Row, p audit.Personal) error {
	id, err := newID[issuance.AuditID](s.random, call.Now)
	if err != nil {
		return err
	}
	var detail []byte
	if len(r.Detail) > 0 {
		for k, v := range r.Detail {
			r.Detail[k] = truncate(v, maxDetail)
		}
		if detail, err = json.Marshal(r.Detail); err != nil {
			return err
		}
	}
	p.From = call.From
	var commitment any
	var salt, values []byte
	if !p.IsZero() {
		p.DeviceError = truncate(p.DeviceError, maxDetail)
		salt = make([]byte, audit.SaltSize)
		if _, err := io.ReadFull(s.random, salt); err != nil {
			return fmt.Errorf("make salt: %w", err)
		}
		sum := audit.Commit(salt, p)
		commitment = sum[:]
		if values, err = json.Marshal(p); err != nil {
			return err
		}
	}
	if r.Outcome == "" {
		r.Outcome = audit.Done
	}
	err = t.write(`INSERT INTO audit (id, time, action, outcome, directory, account, order_id, code, certificate,
			device, issuer, failed, detail, commitment) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(id), stamp(call.Now), string(r.Action), string(r.Outcome), r.Directory, null(r.Account), null(r.Order),
		null(r.Code), null(r.Certificate), null(r.Device), null(r.Issuer), r.Check, string(detail), commitment)
	if err != nil {
		return fmt.Errorf("write audit row: %w", err)
	}
	t.audited, t.audit = append(t.audited, event{r.Action, r.Outcome}), string(id)
	if err := t.write(`INSERT INTO audit_unsealed (audit) VALUES (?)`, string(id)); err != nil {
		return fmt.Errorf("write audit row to seal: %w", err)
	}
	if salt != nil {
		err = t.write(`INSERT INTO audit_personal (audit, salt, "values") VALUES (?, ?, ?)`, string(id), salt, string(values))
		if err != nil {
			return fmt.Errorf("write personal values of audit row: %w", err)
		}
	}
	return nil
}

// refused fills in what a refusal adds to an audit row.
func refused(r audit.Row, why *issuance.Refusal) audit.Row {
	r.Outcome, r.Check = audit.Refused, why.Check
	r.Detail = map[string]string{"problem": why.Problem, "detail": why.Detail}
	return r
}

// RecordRefusal spends the call's nonce (one that was spent before is no error) and keeps an audit
// row if the refusal is tied to something known: a code, order, certificate, or an account that
// holds an order. Ids that name nothing are not kept: strangers choose them. Not fsynced.
func (s *Store) RecordRefusal(ctx context.Context, call issuance.Call, r issuance.ClientRefusal) (known bool, err error) {
	nonce := call.Nonce
	call.Nonce = issuance.Nonce{}
	err = s.noteStep(ctx, call, "record refusal", func(t *tx) error {
		known = false
		if !nonce.IsZero() {
			if err := t.write(`INSERT INTO nonces (expires_at, id) VALUES (?, ?) ON CONFLICT DO NOTHING`, stamp(nonce.ExpiresAt), nonce.ID[:]); err != nil {
				return err
			}
		}
		row := audit.Row{Action: audit.RequestRefused, Directory: r.Directory}
		for _, thing := range []struct {
			query, id string
			into      *string
		}{
			{`SELECT 1 FROM accounts WHERE id = ? AND orders > 0`, string(r.Account), &row.Account},
			{`SELECT 1 FROM orders WHERE id = ?`, string(r.Order), &row.Order},
			{`SELECT 1 FROM codes WHERE id = ?`, string(r.Code), &row.Code},
			{`SELECT 1 FROM certificates WHERE id = ?`, string(r.Certificate), &row.Certificate},
		} {
			if thing.id == "" {
				continue
			}
			found, err := t.exists(thing.query, thing.id)
			if err != nil {
				return err
			}
			if found {
				known, *thing.into = true, thing.id
			}
		}
		if !known {
			return nil
		}
		if row.Certificate != "" { // every row about a certificate names its order: the trail is indexed by it
			if err := t.row(`SELECT order_id FROM certificates WHERE id = ?`, row.Certificate).Scan(&row.Order); err != nil {
				return err
			}
		}
		return s.record(t, call, refused(row, &r.Refusal), audit.Personal{})
	})
	return known && err == nil, err
}

// RecordStrangers adds one audit row for all refusals of strangers in a period, by check. Not
// fsynced.
func (s *Store) RecordStrangers(ctx context.Context, now time.Time, byCheck map[string]int) error {
	if len(byCheck) == 0 {
		return nil
	}
	call := issuance.Call{Now: now}
	return s.note(ctx, call, "record strangers' refusals", func(t *tx) error {
		detail := make(map[string]string, len(byCheck))
		for check, n := range byCheck {
			detail[truncate(check, maxDetail)] = strconv.Itoa(n)
		}
		return s.record(t, call, audit.Row{Action: audit.StrangersRefused, Outcome: audit.Refused, Detail: detail}, audit.Personal{})
	})
}

// Audit lists audit rows, oldest first, with the personal values that were not erased.
func (s *Store) Audit(ctx context.Context, f audit.Filter) iter.Seq2[audit.Row, error] {
	var q selection
	q.and("a.time >= ?", stamp(f.Since), !f.Since.IsZero())
	q.and("a.time < ?", stamp(f.Until), !f.Until.IsZero())
	q.and("a.action = ?", string(f.Action), f.Action != "")
	q.and("a.account = ?", f.Account, f.Account != "")
	q.and("a.order_id = ?", f.Order, f.Order != "")
	q.and("a.code = ?", f.Code, f.Code != "")
	q.and("a.certificate = ?", f.Certificate, f.Certificate != "")
	q.and("a.order_id = (SELECT order_id FROM certificates WHERE id = ?)", f.Certificate, f.Certificate != "") // has the index
	q.and("a.device = ?", f.Device, f.Device != "")
	q.plain("a.outcome = 'refused'", f.Refused)
	const columns = `SELECT ` + auditColumns + `, p.salt, coalesce(p."values", '') FROM audit AS a LEFT JOIN audit_personal AS p ON p.audit = a.id`
	l := list[audit.Row]{
		what: "list audit rows", columns: columns, key: "a.id",
		scan: scanAudit, keyOf: func(r *audit.Row) []any { return []any{r.ID} },
	}
	return l.rows(ctx, s.reads, &q, issuance.Page{After: f.After, Limit: f.Limit})
}

const auditColumns = `a.id, a.time, a.action, a.outcome, a.directory, coalesce(a.account, ''), coalesce(a.order_id, ''),
		coalesce(a.code, ''), coalesce(a.certificate, ''), coalesce(a.device, ''), coalesce(a.issuer, ''), a.failed, a.detail, a.commitment`

func scanAudit(row scanner) (audit.Row, error) {
	var r audit.Row
	var at int64
	var detail, values string
	err := row.Scan(&r.ID, &at, &r.Action, &r.Outcome, &r.Directory, &r.Account, &r.Order, &r.Code, &r.Certificate,
		&r.Device, &r.Issuer, &r.Check, &detail, &r.Commitment, &r.Salt, &values)
	if err != nil {
		return r, err
	}
	r.Time = timeOf(at)
	if r.Detail, err = labelsOf(detail); err != nil {
		return r, fmt.Errorf("detail of %s: %w", r.ID, err)
	}
	if values != "" {
		r.Personal = new(audit.Personal)
		if err := json.Unmarshal([]byte(values), r.Personal); err != nil {
			return r, fmt.Errorf("personal values of %s: %w", r.ID, err)
		}
	}
	return r, nil
}

// exists reports whether a query finds a row.
func (t *tx) exists(query string, args ...any) (bool, error) {
	found := false
	err := t.rows(func(scanner) error { found = true; return nil }, query, args...)
	return found, err
}
