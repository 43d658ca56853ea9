package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// spend keeps a nonce as spent. The insert must be new; the zero Nonce spends nothing.
func (t *tx) spend(n issuance.Nonce) error {
	if n.IsZero() {
		return nil
	}
	err := t.first(issuance.ErrNonceUsed, `INSERT INTO nonces (expires_at, id) VALUES (?, ?) ON CONFLICT DO NOTHING`, stamp(n.ExpiresAt), n.ID[:])
	if err != nil {
		return fmt.Errorf("spend nonce: %w", err)
	}
	return nil
}

// SpendNonce spends the nonce of a request that changes nothing: committed, not fsynced.
func (s *Store) SpendNonce(ctx context.Context, nonce issuance.Nonce) error {
	return s.note(ctx, issuance.Call{Nonce: nonce}, "spend nonce", func(*tx) error { return nil })
}

// NonceKeys returns all keys under which a live nonce may have been made, oldest first.
func (s *Store) NonceKeys(ctx context.Context) ([]issuance.NonceKey, error) {
	var keys []issuance.NonceKey
	err := s.reads.rows(ctx, func(row scanner) error {
		var id, created int64
		var sealed []byte
		if err := row.Scan(&id, &sealed, &created); err != nil {
			return err
		}
		secret, err := s.seal.unseal(sealed, nonceKeyName(id))
		if err != nil {
			return err
		}
		keys = append(keys, issuance.NonceKey{ID: uint32(id), Secret: secret, CreatedAt: timeOf(created)})
		return nil
	}, `SELECT id, sealed, created_at FROM nonce_keys ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read nonce keys: %w", err)
	}
	return keys, nil
}

// AddNonceKey stores a new key with the next free id. Keys that no live nonce can name any more
// leave: those whose successor is older than a nonce lives.
func (s *Store) AddNonceKey(ctx context.Context, now time.Time, secret []byte) (issuance.NonceKey, error) {
	key := issuance.NonceKey{Secret: secret, CreatedAt: timeOf(stamp(now))}
	err := s.change(ctx, issuance.Call{Now: now}, "add nonce key", func(t *tx) error {
		var id int64
		if err := t.row(`SELECT coalesce(max(id), 0) + 1 FROM nonce_keys`).Scan(&id); err != nil {
			return err
		}
		sealed, err := s.seal.seal(secret, nonceKeyName(id))
		if err != nil {
			return err
		}
		key.ID = uint32(id)
		if _, err := t.exec(`INSERT INTO nonce_keys (id, sealed, created_at) VALUES (?, ?, ?)`, id, sealed, stamp(now)); err != nil {
			return err
		}
		_, err = t.exec(`DELETE FROM nonce_keys WHERE EXISTS
			(SELECT 1 FROM nonce_keys AS newer WHERE newer.id > nonce_keys.id AND newer.created_at < ?)`,
			stamp(now.Add(-issuance.NonceLifetime)))
		return err
	})
	if err != nil {
		return issuance.NonceKey{}, err
	}
	return key, nil
}

// nonceKeyName is what a sealed nonce key belongs to.
func nonceKeyName(id int64) string {
	return "nonce key " + string(binary.BigEndian.AppendUint64(nil, uint64(id)))
}
