package store

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// sealBatch is how many rows one seal is over at most: on SQLite, enrolments wait for it that long.
const sealBatch = 500

// SealAudit seals what was committed since the last seal, in batches, off the path of requests. It returns
// how many rows it sealed. Of several servers that seal at once, one wins each batch.
func (s *Store) SealAudit(ctx context.Context, now time.Time, key ed25519.PrivateKey) (sealed int, err error) {
	for {
		before, err := s.LastSeal(ctx)
		if err != nil {
			return sealed, err
		}
		rows, err := s.sealable(ctx, before)
		if err != nil || len(rows) == 0 {
			return sealed, err
		}
		err = s.seal1(ctx, now, key, before, rows)
		if errors.Is(err, issuance.ErrConflict) {
			return sealed, nil // another server was first
		} else if err != nil {
			return sealed, err
		}
		sealed += len(rows)
	}
}

// sealable reads the oldest rows that no seal is over, and gives them the places behind the last seal's.
func (s *Store) sealable(ctx context.Context, before *audit.Seal) ([]audit.Sealed, error) {
	last := int64(0)
	if before != nil {
		last = before.Last
	}
	rows, err := s.trailRows(ctx, `SELECT 0, NULL, u.audit, `+auditColumns+`, p.salt, p."values" FROM audit_unsealed AS u
			JOIN audit AS a ON a.id = u.audit LEFT JOIN audit_personal AS p ON p.audit = a.id
		ORDER BY u.audit LIMIT ?`, sealBatch)
	for i := range rows {
		rows[i].Seq = last + int64(i) + 1
	}
	return rows, err
}

// sealedRows reads rows by their place: those behind after, up to last.
func (s *Store) sealedRows(ctx context.Context, after, last int64) ([]audit.Sealed, error) {
	return s.trailRows(ctx, `SELECT o.seq, o.leaf, o.audit, `+auditColumns+`, p.salt, p."values" FROM audit_places AS o
			LEFT JOIN audit AS a ON a.id = o.audit LEFT JOIN audit_personal AS p ON p.audit = a.id
		WHERE o.seq > ? AND o.seq <= ? ORDER BY o.seq`, after, last)
}

// trailRows reads rows with their places and hashes.
func (s *Store) trailRows(ctx context.Context, query string, args ...any) ([]audit.Sealed, error) {
	var rows []audit.Sealed
	err := s.reads.rows(ctx, func(row scanner) error {
		var one audit.Sealed
		var at sql.NullInt64
		var detail, id, action, outcome, directory, failed, values sql.NullString
		r := &one.Row
		err := row.Scan(&one.Seq, &one.Leaf, &r.ID, &id, &at, &action, &outcome, &directory, &r.Account, &r.Order, &r.Code, &r.Certificate,
			&r.Device, &r.Issuer, &failed, &detail, &r.Commitment, &r.Salt, &values)
		if err == nil && values.Valid {
			r.Personal = new(audit.Personal)
			err = json.Unmarshal([]byte(values.String), r.Personal)
		}
		if err != nil {
			return err
		}
		one.Gone = !id.Valid
		r.Time, r.Action, r.Outcome, r.Directory, r.Check = timeOf(at.Int64), audit.Action(action.String), audit.Outcome(outcome.String), directory.String, failed.String
		r.Detail, err = labelsOf(detail.String)
		rows = append(rows, one)
		return err
	}, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read audit rows: %w", err)
	}
	return rows, nil
}

// seal1 stores the seal over some rows, and their hashes. issuance.ErrConflict if another one did.
func (s *Store) seal1(ctx context.Context, now time.Time, key ed25519.PrivateKey, before *audit.Seal, rows []audit.Sealed) error {
	seal := audit.Seal{Number: 1, First: rows[0].Seq, Last: rows[len(rows)-1].Seq, SealedAt: timeOf(stamp(now))}
	if before != nil {
		seal.Number, seal.Previous = before.Number+1, before.Hash()
	}
	leaves := make([]audit.Hash, len(rows))
	for i := range rows {
		leaves[i] = audit.Leaf(rows[i].Seq, &rows[i].Row)
	}
	seal.Root = audit.Root(leaves)
	seal.Sign(key)
	return s.change(ctx, issuance.Call{Now: now}, "seal audit", func(t *tx) error {
		n, err := t.exec(`INSERT INTO audit_seals (number, first_seq, last_seq, root, previous, sealed_at, signature) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			seal.Number, seal.First, seal.Last, seal.Root[:], seal.Previous[:], stamp(seal.SealedAt), seal.Signature)
		if err == nil && n == 0 {
			return keep(issuance.ErrConflict)
		}
		for i := range rows {
			if err == nil {
				err = t.write(`INSERT INTO audit_places (seq, audit, leaf) VALUES (?, ?, ?)`, rows[i].Seq, rows[i].Row.ID, leaves[i][:])
			}
			if err == nil {
				err = t.write(`DELETE FROM audit_unsealed WHERE audit = ?`, rows[i].Row.ID)
			}
		}
		return err
	})
}

const sealColumns = `number, first_seq, last_seq, root, previous, sealed_at, signature`

func scanSeal(row scanner) (audit.Seal, error) {
	var s audit.Seal
	var root, previous []byte
	var at int64
	err := row.Scan(&s.Number, &s.First, &s.Last, &root, &previous, &at, &s.Signature)
	copy(s.Root[:], root)
	copy(s.Previous[:], previous)
	s.SealedAt = timeOf(at)
	return s, notFound(err)
}

// LastSeal returns the newest seal; nil if there is none.
func (s *Store) LastSeal(ctx context.Context) (*audit.Seal, error) {
	seal, err := scanSeal(s.reads.row(ctx, `SELECT `+sealColumns+` FROM audit_seals ORDER BY number DESC LIMIT 1`))
	if errors.Is(err, issuance.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read seal: %w", err)
	}
	return &seal, nil
}

// Seal returns a seal by its number.
func (s *Store) Seal(ctx context.Context, number int64) (audit.Seal, error) {
	seal, err := scanSeal(s.reads.row(ctx, `SELECT `+sealColumns+` FROM audit_seals WHERE number = ?`, number))
	if err != nil {
		return seal, fmt.Errorf("read seal %d: %w", number, err)
	}
	return seal, nil
}

// CheckSeals holds the seals behind a number, at most so many, against their rows and each other. It returns
// what is wrong, and the seals that it checked.
func (s *Store) CheckSeals(ctx context.Context, key ed25519.PublicKey, after int64, most int) (faults []audit.Fault, seals []audit.Seal, err error) {
	var before *audit.Seal
	if after > 0 {
		one, err := s.Seal(ctx, after)
		if err != nil {
			return nil, nil, err
		}
		before = &one
	}
	err = s.reads.rows(ctx, func(row scanner) error {
		one, err := scanSeal(row)
		seals = append(seals, one)
		return err
	}, `SELECT `+sealColumns+` FROM audit_seals WHERE number > ? ORDER BY number LIMIT ?`, after, most)
	if err != nil {
		return nil, nil, fmt.Errorf("read seals: %w", err)
	}
	for i := range seals {
		rows, err := s.sealedRows(ctx, seals[i].First-1, seals[i].Last)
		if err != nil {
			return nil, nil, err
		}
		faults = append(faults, seals[i].Check(before, rows, key)...)
		before = &seals[i]
	}
	return faults, seals, nil
}

// CheckUnsealed counts the rows that no seal is over yet, and finds what no program of ours leaves behind the last
// seal: rows that are neither sealed nor wait for it, rows that are gone or stand twice, and rows whose seal was deleted.
func (s *Store) CheckUnsealed(ctx context.Context) (unsealed int64, faults []audit.Fault, err error) {
	var rows, places, added, gone, lost int64
	err = s.reads.row(ctx, `SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM audit_places), (SELECT count(*) FROM audit_unsealed),
			(SELECT count(*) FROM audit AS a LEFT JOIN audit_places AS o ON o.audit = a.id LEFT JOIN audit_unsealed AS u ON u.audit = a.id
				WHERE o.audit IS NULL AND u.audit IS NULL),
			(SELECT count(*) FROM audit_places AS o LEFT JOIN audit AS a ON a.id = o.audit WHERE a.id IS NULL) +
				(SELECT count(*) FROM audit_unsealed AS u LEFT JOIN audit AS a ON a.id = u.audit WHERE a.id IS NULL),
			(SELECT count(*) FROM audit_places WHERE leaf IS NOT NULL AND seq > coalesce((SELECT max(last_seq) FROM audit_seals), 0))`).
		Scan(&rows, &places, &unsealed, &added, &gone, &lost)
	if err != nil {
		return 0, nil, fmt.Errorf("check unsealed audit rows: %w", err)
	}
	twice := (places + unsealed - gone) - (rows - added)
	for _, one := range []struct {
		rows int64
		what string
	}{{added, "added"}, {gone, "deleted"}, {twice, "given a second place"}} {
		if one.rows > 0 {
			faults = append(faults, audit.Fault{What: fmt.Sprintf("%d rows were %s by something else than this program", one.rows, one.what)})
		}
	}
	if lost > 0 {
		faults = append(faults, audit.Fault{What: fmt.Sprintf("seals were deleted: %d rows were sealed, and no seal is over them any more", lost)})
	}
	return unsealed, faults, nil
}
