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

// MaxMint is the largest batch of MintCodes: a bigger one would hold the writer too long.
const MaxMint = 1000

// minCodeLength is the shortest value of a code that MintCodes takes: 128 random bits in base64url.
const minCodeLength = 22

const codeColumns = `id, directory, status, ifnull(device, ''), serial, udid, labels, allow_unattested, minted,
	ifnull(order_id, ''), ifnull(certificate, ''), tries, last_refusal, created_at, expires_at, used_at, revoked_at`

func scanCode(row scanner) (issuance.Code, error) {
	var c issuance.Code
	var labels, minted string
	var unattested, created, expires, used, revoked int64
	err := row.Scan(&c.ID, &c.Directory, &c.Status, &c.Device, &c.Serial, &c.UDID, &labels, &unattested, &minted,
		&c.Order, &c.Certificate, &c.Tries, &c.LastRefusal, &created, &expires, &used, &revoked)
	if err != nil {
		return issuance.Code{}, notFound(err)
	}
	c.AllowUnattested = unattested == 1
	c.CreatedAt, c.ExpiresAt, c.UsedAt, c.RevokedAt = timeOf(created), timeOf(expires), timeOf(used), timeOf(revoked)
	if c.Labels, err = labelsOf(labels); err != nil {
		return issuance.Code{}, fmt.Errorf("labels of %s: %w", c.ID, err)
	}
	if minted != "" {
		c.Minted = new(csr.Request)
		if err := json.Unmarshal([]byte(minted), c.Minted); err != nil {
			return issuance.Code{}, fmt.Errorf("minted request of %s: %w", c.ID, err)
		}
	}
	return c, nil
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
			if err := s.insertCode(t, call, &mints[i], &codes[i]); err != nil {
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

func (s *Store) insertCode(t *tx, call issuance.Call, m *issuance.Mint, c *issuance.Code) error {
	if m.Serial != "" || m.UDID != "" {
		device, err := s.knownDevice(t, call, issuance.Device{Serial: m.Serial, UDID: m.UDID, Labels: m.Labels}, false)
		if err != nil {
			return err
		}
		c.Device = device
	}
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
	_, err = t.exec(`INSERT INTO codes (id, directory, value_sha256, status, device, serial, udid, labels, allow_unattested,
			minted, created_at, expires_at) VALUES (?, ?, ?, 'unused', ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(c.ID), c.Directory, hash[:], null(c.Device), c.Serial, c.UDID, labels, flag(c.AllowUnattested),
		string(minted), stamp(c.CreatedAt), stamp(c.ExpiresAt))
	if err != nil {
		return fmt.Errorf("store code: %w", err)
	}
	if m.Document != nil {
		if err := s.insertDocument(t, call.Now, m.Document, c); err != nil {
			return err
		}
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

// CodeFilter selects codes; zero fields select all.
type CodeFilter struct {
	Directory string
	Status    issuance.CodeStatus // as of Now
	Now       time.Time           // tells unused, expired and exhausted apart; needed with those
	Device    issuance.DeviceID
	Serial    string // bound serial
}

// Codes lists codes, oldest first.
func (s *Store) Codes(ctx context.Context, f CodeFilter) iter.Seq2[issuance.Code, error] {
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
	return pages(ctx, s.reads, "list codes", &q, `SELECT `+codeColumns+` FROM codes`, "id", scanCode,
		func(c *issuance.Code) []any { return []any{string(c.ID)} })
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
		if err := t.eraseDocument(string(id)); err != nil {
			return err
		}
		return s.record(t, call, codeRow(audit.CodeRevoked, &c), audit.Personal{})
	})
	return c, err
}
