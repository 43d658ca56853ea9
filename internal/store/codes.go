package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"assay/csr"
	"assay/internal/audit"
	"assay/internal/issuance"
)

// MaxMint is the largest batch of MintCodes and of RenderCredentials: a bigger one would hold the writer
// too long.
const MaxMint = 1000

// minCodeLength is the shortest value of a code that MintCodes takes: 128 random bits in base64url.
const minCodeLength = 22

const codeColumns = `codes.id, codes.directory, codes.status, coalesce(codes.device, ''), codes.serial, codes.udid,
	codes.labels, codes.allow_unattested, codes.minted, coalesce(codes.order_id, ''), coalesce(codes.certificate, ''),
	codes.tries, codes.last_refusal, codes.created_at, codes.expires_at, codes.used_at, codes.revoked_at`

// codeFields takes codeColumns.
type codeFields struct {
	c                                           issuance.Code
	labels, minted                              string
	unattested, created, expires, used, revoked int64
}

func (f *codeFields) into() []any {
	c := &f.c
	return []any{
		&c.ID, &c.Directory, &c.Status, &c.Device, &c.Serial, &c.UDID, &f.labels, &f.unattested, &f.minted,
		&c.Order, &c.Certificate, &c.Tries, &c.LastRefusal, &f.created, &f.expires, &f.used, &f.revoked,
	}
}

func (f *codeFields) code() (issuance.Code, error) {
	c := f.c
	c.AllowUnattested = f.unattested == 1
	c.CreatedAt, c.ExpiresAt, c.UsedAt, c.RevokedAt = timeOf(f.created), timeOf(f.expires), timeOf(f.used), timeOf(f.revoked)
	var err error
	if c.Labels, err = labelsOf(f.labels); err != nil {
		return issuance.Code{}, fmt.Errorf("labels of %s: %w", c.ID, err)
	}
	if f.minted != "" {
		c.Minted = new(csr.Request)
		if err := json.Unmarshal([]byte(f.minted), c.Minted); err != nil {
			return issuance.Code{}, fmt.Errorf("minted request of %s: %w", c.ID, err)
		}
	}
	return c, nil
}

func scanCode(row scanner) (issuance.Code, error) {
	var f codeFields
	if err := row.Scan(f.into()...); err != nil {
		return issuance.Code{}, notFound(err)
	}
	return f.code()
}

// MintCodes stores codes, with the documents that deliver them, all or none; at most MaxMint. A
// bound serial or UDID finds or makes its device's row.
func (s *Store) MintCodes(ctx context.Context, call issuance.Call, mints []issuance.Mint) ([]issuance.Code, error) {
	if len(mints) > MaxMint {
		return nil, fmt.Errorf("mint codes: %d at once, but the limit is %d", len(mints), MaxMint)
	}
	codes := make([]issuance.Code, len(mints))
	for i := range mints {
		var err error
		if codes[i], err = s.newCode(call.Now, &mints[i]); err != nil {
			return nil, fmt.Errorf("mint code %d of %d: %w", i+1, len(mints), err)
		}
	}
	err := s.change(ctx, call, "mint codes", func(t *tx) error {
		for i := range mints {
			if err := s.mint(t, call, &mints[i], &codes[i]); err != nil {
				return fmt.Errorf("code %d of %d: %w", i+1, len(mints), err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return codes, nil
}

func (s *Store) newCode(now time.Time, m *issuance.Mint) (issuance.Code, error) {
	if len(m.Value) < minCodeLength {
		return issuance.Code{}, fmt.Errorf("value has %d characters; 128 random bits need at least %d", len(m.Value), minCodeLength)
	}
	if m.Directory == "" {
		return issuance.Code{}, errors.New("no directory")
	}
	if m.Lifetime <= 0 {
		return issuance.Code{}, fmt.Errorf("lifetime %v is not positive", m.Lifetime)
	}
	id, err := newID[issuance.CodeID](s.random, now)
	if err != nil {
		return issuance.Code{}, err
	}
	return issuance.Code{
		ID: id, Directory: m.Directory, Status: issuance.CodeUnused, Serial: m.Serial, UDID: m.UDID, Labels: m.Labels,
		AllowUnattested: m.AllowUnattested, Minted: m.Minted,
		CreatedAt: timeOf(stamp(now)), ExpiresAt: timeOf(stamp(now.Add(m.Lifetime))),
	}, nil
}

// mint stores one code with its document and the row of the device that it is bound to.
func (s *Store) mint(t *tx, call issuance.Call, m *issuance.Mint, c *issuance.Code) (err error) {
	if m.Serial != "" || m.UDID != "" {
		c.Device, err = s.knownDevice(t, call, issuance.Device{Serial: m.Serial, UDID: m.UDID, Labels: m.Labels}, byMinting)
		if err != nil {
			return err
		}
	}
	if err := s.insertCode(t, call, m, c); err != nil || m.Document == nil {
		return err
	}
	d := *m.Document
	d.Credential = "" // only a rendering makes a document of a device's credential
	if d.ID, err = newID[issuance.DocumentID](s.random, call.Now); err != nil {
		return err
	}
	return s.insertDocument(t, &d, c, 0)
}

func (s *Store) insertCode(t *tx, call issuance.Call, m *issuance.Mint, c *issuance.Code) error {
	labels, err := labelsText(m.Labels)
	if err != nil {
		return err
	}
	var minted []byte
	if m.Minted != nil {
		if minted, err = json.Marshal(m.Minted); err != nil {
			return err
		}
	}
	hash := sha256.Sum256([]byte(m.Value))
	err = t.write(`INSERT INTO codes (id, directory, value_sha256, status, device, serial, udid, labels, allow_unattested,
			minted, created_at, expires_at) VALUES (?, ?, ?, 'unused', ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(c.ID), c.Directory, hash[:], null(c.Device), c.Serial, c.UDID, labels, flag(c.AllowUnattested),
		string(minted), stamp(c.CreatedAt), stamp(c.ExpiresAt))
	if err != nil {
		return fmt.Errorf("store code: %w", err)
	}
	return s.record(t, call, codeRow(audit.CodeMinted, c), audit.Personal{Serial: c.Serial, UDID: c.UDID})
}

func codeRow(action audit.Action, c *issuance.Code) audit.Row {
	return audit.Row{Action: action, Directory: c.Directory, Code: string(c.ID), Device: string(c.Device)}
}

// Code returns a code by id.
func (s *Store) Code(ctx context.Context, id issuance.CodeID) (issuance.Code, error) {
	c, err := scanCode(s.reads.row(ctx, `SELECT `+codeColumns+` FROM codes WHERE id = ?`, string(id)))
	if err != nil {
		return c, fmt.Errorf("read code: %w", err)
	}
	return c, nil
}

// CodeByValue returns a directory's code by its value.
func (s *Store) CodeByValue(ctx context.Context, directory, value string) (issuance.Code, error) {
	hash := sha256.Sum256([]byte(value))
	c, err := scanCode(s.reads.row(ctx, `SELECT `+codeColumns+` FROM codes WHERE directory = ? AND value_sha256 = ?`, directory, hash[:]))
	if err != nil {
		return c, fmt.Errorf("read code by value: %w", err)
	}
	return c, nil
}

// Codes lists codes, oldest first.
func (s *Store) Codes(ctx context.Context, f issuance.CodeFilter) iter.Seq2[issuance.Code, error] {
	var q selection
	q.and("directory = ?", f.Directory, f.Directory != "")
	switch f.Status {
	case "":
	case issuance.CodeUnused:
		q.and("status = 'unused' AND expires_at > ?", stamp(f.Now), true)
		q.and("tries < ?", issuance.MaxTriesPerCode, true)
	case issuance.CodeExhausted:
		q.and("status = 'unused' AND expires_at > ?", stamp(f.Now), true)
		q.and("tries >= ?", issuance.MaxTriesPerCode, true)
	case issuance.CodeExpired:
		q.and("status = 'unused' AND expires_at <= ?", stamp(f.Now), true)
	default:
		q.and("status = ?", string(f.Status), true)
	}
	q.and("device = ?", string(f.Device), f.Device != "")
	q.and("serial = ?", f.Serial, f.Serial != "")
	l := list[issuance.Code]{
		what: "list codes", columns: `SELECT ` + codeColumns + ` FROM codes`, key: "id",
		scan: scanCode, keyOf: func(c *issuance.Code) []any { return []any{string(c.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}

// RevokeCode revokes a code that nobody used (expired or not) and erases its document.
// issuance.ErrConflict if it is being used, was used or was revoked.
func (s *Store) RevokeCode(ctx context.Context, call issuance.Call, id issuance.CodeID) (c issuance.Code, err error) {
	err = s.change(ctx, call, "revoke code", func(t *tx) error {
		c, err = scanCode(t.row(`UPDATE codes SET status = 'revoked', revoked_at = ? WHERE id = ? AND status = 'unused' RETURNING `+codeColumns,
			stamp(call.Now), string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.conflictOrMissing(`SELECT 1 FROM codes WHERE id = ?`, string(id))
		}
		if err != nil {
			return err
		}
		// Whoever revoked it did not want the device to get another one by itself.
		if err := t.write(`UPDATE device_credentials SET due_at = 0 WHERE code = ?`, string(id)); err != nil {
			return err
		}
		return s.endRevokedCode(t, call, &c)
	})
	return c, err
}

// endRevokedCode erases the document of a code that was just revoked, and adds the audit row.
func (s *Store) endRevokedCode(t *tx, call issuance.Call, c *issuance.Code) error {
	if err := t.eraseDocument(string(c.ID)); err != nil {
		return err
	}
	return s.record(t, call, codeRow(audit.CodeRevoked, c), audit.Personal{})
}
