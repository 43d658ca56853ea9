package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// defaultApproval is how long an approval lives where the policy does not say.
const defaultApproval = 7 * 24 * time.Hour

// holdSubject is what a hold is about, and its approval bound to: the device that evidence names, else
// the credential that the code belongs to, so that it outlives the code, else the code. What was said of a
// device that attests itself and leaves its name out (User Enrollment) was said of one with a key in
// hardware: it is not for whoever has the code and attests nothing, nor the other way round.
func holdSubject(named, verified bool, device issuance.DeviceID, credential issuance.CredentialID, code issuance.CodeID) string {
	own, ofCredential := holdSubjects(named, verified, device, code)
	if ofCredential == "" || credential == "" {
		return own
	}
	return ofCredential + string(credential)
}

// holdSubjects is holdSubject before the credential is known: what it is without one, and what the credential's
// id goes behind; "" if it makes no difference. Store.history joins them in a statement.
func holdSubjects(named, verified bool, device issuance.DeviceID, code issuance.CodeID) (own, ofCredential string) {
	evidence := ""
	if verified {
		evidence = "attested "
	}
	switch {
	case named && device != "":
		return "device:" + string(device), ""
	case named: // of a device without a row nobody can have approved anything
		return "", ""
	case code != "":
		return evidence + "code:" + string(code), evidence + "credential:"
	}
	return "", evidence + "credential:"
}

const holdColumns = `id, directory, status, decision, coalesce(device, ''), coalesce(code, ''), coalesce(credential, ''), tries, revision,
	created_at, held_at, decided_by, decided_at, expires_at, lifetime, coalesce(order_id, '')`

func scanHold(row scanner) (issuance.Hold, error) {
	var h issuance.Hold
	var created, held, decided, expires, lifetime int64
	err := row.Scan(&h.ID, &h.Directory, &h.Status, &h.Decision, &h.Device, &h.Code, &h.Credential, &h.Tries, &h.Revision,
		&created, &held, &h.DecidedBy, &decided, &expires, &lifetime, &h.Order)
	if err != nil {
		return issuance.Hold{}, notFound(err)
	}
	h.CreatedAt, h.HeldAt, h.DecidedAt, h.ExpiresAt = timeOf(created), timeOf(held), timeOf(decided), timeOf(expires)
	h.Lifetime = time.Duration(lifetime) * time.Microsecond
	return h, nil
}

const holdByID = `SELECT ` + holdColumns + ` FROM holds WHERE id = ?`

// Hold returns a hold by id.
func (s *Store) Hold(ctx context.Context, id issuance.HoldID) (issuance.Hold, error) {
	h, err := scanHold(s.reads.row(ctx, holdByID, string(id)))
	if err != nil {
		return h, fmt.Errorf("read hold: %w", err)
	}
	return h, nil
}

// Holds lists holds, oldest first.
func (s *Store) Holds(ctx context.Context, f issuance.HoldFilter) iter.Seq2[issuance.Hold, error] {
	var q selection
	q.and("status = ?", string(f.Status), f.Status != "")
	q.and("directory = ?", f.Directory, f.Directory != "")
	q.and("device = ?", string(f.Device), f.Device != "")
	l := list[issuance.Hold]{
		what: "list holds", columns: `SELECT ` + holdColumns + ` FROM holds`, key: "id",
		scan: scanHold, keyOf: func(h *issuance.Hold) []any { return []any{string(h.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}

// hold makes a hold of a decision, or counts one more try of the one that its subject has. An approval
// that has expired is forgotten by it; what a person declined stays declined.
func (s *Store) hold(t *tx, call issuance.Call, o *issuance.Order, d *decisionRow, attested issuance.Device) (err error) {
	named := attested.Serial != "" || attested.UDID != ""
	if named {
		if d.Device, err = s.knownDevice(t, call, attested, byEvidence); err != nil {
			return err
		}
	}
	credential, err := t.credentialOf(o.Code)
	if err != nil {
		return err
	}
	subject := holdSubject(named, attested.Attested, d.Device, credential, o.Code)
	if subject == "" {
		return errors.New("hold a request that is about no device and no code")
	}
	id, err := newID[issuance.HoldID](s.random, call.Now)
	if err != nil {
		return err
	}
	lifetime := time.Duration(d.Decision.Decision.ApprovalLifetime)
	if lifetime <= 0 {
		lifetime = defaultApproval
	}
	err = t.write(`INSERT INTO holds (id, directory, subject, status, decision, device, code, credential, tries, revision, created_at, held_at, lifetime)
			VALUES (?1, ?2, ?3, 'held', ?4, ?5, ?6, ?7, 1, 1, ?8, ?8, ?9)
		ON CONFLICT (directory, subject) WHERE status <> 'used' DO UPDATE SET
			decision = ?4, device = ?5, code = ?6, credential = ?7, held_at = ?8, lifetime = ?9, tries = holds.tries + 1, revision = holds.revision + 1,
			status = CASE WHEN holds.status = 'approved' AND holds.expires_at <= ?8 THEN 'held' ELSE holds.status END`,
		string(id), o.Directory, subject, string(d.ID), null(d.Device), null(o.Code), null(credential), stamp(call.Now), lifetime.Microseconds())
	if err != nil {
		return fmt.Errorf("store hold: %w", err)
	}
	return t.row(`SELECT id FROM holds WHERE directory = ? AND subject = ? AND status <> 'used'`, o.Directory, subject).Scan(&d.Hold)
}

// credentialOf is the device's credential that a code belongs to; "" for none.
func (t *tx) credentialOf(code issuance.CodeID) (id issuance.CredentialID, err error) {
	err = notFound(t.row(`SELECT coalesce(credential, '') FROM documents WHERE code = ?`, string(code)).Scan(&id))
	if errors.Is(err, issuance.ErrNotFound) {
		return "", nil
	}
	return id, err
}

// SayOfHold keeps a person's word about a hold that is at ifRevision (0: at any): approved, the device's
// next try succeeds, once and until the approval expires; declined, it stays refused. Said again, an
// approval is renewed. issuance.ErrConflict if the hold is at another revision, or if a certificate is
// being issued or was issued for it.
func (s *Store) SayOfHold(ctx context.Context, call issuance.Call, id issuance.HoldID, ifRevision int, w issuance.Word) (h issuance.Hold, err error) {
	err = s.change(ctx, call, "decide hold", func(t *tx) error {
		if h, err = scanHold(t.row(holdByID, string(id))); errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		} else if err != nil {
			return err
		}
		if ifRevision != 0 && h.Revision != ifRevision || h.Status == issuance.HoldClaimed || h.Status == issuance.HoldUsed {
			return keep(issuance.ErrConflict)
		}
		action := audit.HoldDeclined
		h.Status, h.ExpiresAt = issuance.HoldDeclined, time.Time{}
		if w.Approve {
			action = audit.HoldApproved
			h.Status, h.ExpiresAt = issuance.HoldApproved, timeOf(stamp(call.Now.Add(max(w.Lifetime, 0))))
			if w.Lifetime <= 0 {
				h.ExpiresAt = timeOf(stamp(call.Now.Add(h.Lifetime)))
			}
		}
		h.DecidedBy, h.DecidedAt = w.By, timeOf(stamp(call.Now))
		before := h.Revision
		h.Revision++
		n, err := t.exec(`UPDATE holds SET status = ?, decided_by = ?, decided_at = ?, expires_at = ?, revision = ? WHERE id = ? AND revision = ?`,
			string(h.Status), h.DecidedBy, stamp(h.DecidedAt), stamp(h.ExpiresAt), h.Revision, string(id), before)
		if err := changedOne(n, err, "hold"); err != nil {
			return err
		}
		return s.record(t, call, holdRow(action, &h), audit.Personal{})
	})
	if err != nil {
		return issuance.Hold{}, err
	}
	return h, nil
}

func holdRow(action audit.Action, h *issuance.Hold) audit.Row {
	row := audit.Row{Action: action, Directory: h.Directory, Code: string(h.Code), Device: string(h.Device),
		Detail: map[string]string{"hold": string(h.ID), "decision": string(h.Decision)}}
	if !h.ExpiresAt.IsZero() {
		row.Detail["expiresAt"] = h.ExpiresAt.Format(time.RFC3339)
	}
	return row
}

// claimApproval takes the approval that a decision rests on. If it was used, taken back or is over, the
// order becomes invalid and the error is issuance.ErrApprovalTaken, which is kept.
func (s *Store) claimApproval(t *tx, call issuance.Call, o *issuance.Order, hold issuance.HoldID) error {
	n, err := t.exec(`UPDATE holds SET status = 'claimed', order_id = ?, revision = revision + 1
		WHERE id = ? AND directory = ? AND status = 'approved' AND expires_at > ?`, string(o.ID), string(hold), o.Directory, stamp(call.Now))
	if err != nil || n == 1 {
		return err
	}
	why := &issuance.Refusal{Problem: "unauthorized", Check: "approval-live", Detail: "the approval is no longer usable"}
	return s.loseClaim(t, call, o, why, issuance.ErrApprovalTaken)
}

// returnApproval gives back the approval of a claim that is undone, if it has one.
func (t *tx) returnApproval(order issuance.OrderID) error {
	return t.write(`UPDATE holds SET status = 'approved', order_id = NULL, revision = revision + 1 WHERE order_id = ? AND status = 'claimed'`, string(order))
}
