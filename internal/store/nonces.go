package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// spend keeps a nonce as spent. The insert must be new; the zero Nonce spends nothing.
func (t *tx) spend(n issuance.Nonce) error {
	if n.IsZero() {
		return nil
	}
	t.nonce = n
	err := t.first(issuance.ErrNonceUsed, `INSERT INTO nonces (expires_at, id) VALUES (?, ?) ON CONFLICT DO NOTHING`, stamp(n.ExpiresAt), n.ID[:])
	if err != nil {
		return fmt.Errorf("spend nonce: %w", err)
	}
	return nil
}

// SpendNonce spends the nonce of a request that changes nothing: committed, not fsynced.
func (s *Store) SpendNonce(ctx context.Context, nonce issuance.Nonce) error {
	return s.noteStep(ctx, issuance.Call{Nonce: nonce}, "spend nonce", func(*tx) error { return nil })
}

// NonceKeys returns all keys under which a live nonce may have been made, oldest first.
func (s *Store) NonceKeys(ctx context.Context) ([]issuance.NonceKey, error) {
	var keys []issuance.NonceKey
	err := s.reads.rows(ctx, func(row scanner) error {
		key, err := s.scanNonceKey(row)
		if err != nil {
			return err
		}
		keys = append(keys, key)
		return nil
	}, `SELECT id, sealed, created_at FROM nonce_keys ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read nonce keys: %w", err)
	}
	return keys, nil
}

// AddNonceKey stores a new key behind the newest one that the caller knows (0 for none), or returns the newest
// one if another server was first. Keys that no live nonce can name any more leave: those whose successor is
// older than a nonce lives, from when it came into use.
func (s *Store) AddNonceKey(ctx context.Context, now time.Time, newest uint32, secret []byte) (key issuance.NonceKey, err error) {
	err = s.change(ctx, issuance.Call{Now: now}, "add nonce key", func(t *tx) error {
		found, err := s.scanNonceKey(t.row(`SELECT id, sealed, created_at FROM nonce_keys ORDER BY id DESC LIMIT 1`))
		if err == nil && found.ID > newest {
			key = found
			return nil
		}
		if err != nil && !errors.Is(err, issuance.ErrNotFound) {
			return err
		}
		key = issuance.NonceKey{ID: max(found.ID, newest) + 1, Secret: secret, CreatedAt: timeOf(stamp(now))}
		sealed, err := s.seal.seal(secret, nonceKeyName(int64(key.ID)))
		if err != nil {
			return err
		}
		if err := t.write(`INSERT INTO nonce_keys (id, sealed, created_at) VALUES (?, ?, ?)`, int64(key.ID), sealed, stamp(now)); err != nil {
			return err
		}
		err = t.write(`DELETE FROM nonce_keys WHERE EXISTS
			(SELECT 1 FROM nonce_keys AS newer WHERE newer.id > nonce_keys.id AND newer.created_at < ?)`,
			stamp(now.Add(-issuance.NonceLifetime-issuance.NonceKeyLead)))
		return err
	})
	if err != nil {
		return issuance.NonceKey{}, err
	}
	return key, nil
}

func (s *Store) scanNonceKey(row scanner) (issuance.NonceKey, error) {
	var id, created int64
	var sealed []byte
	if err := row.Scan(&id, &sealed, &created); err != nil {
		return issuance.NonceKey{}, notFound(err)
	}
	secret, err := s.seal.unseal(sealed, nonceKeyName(id))
	return issuance.NonceKey{ID: uint32(id), Secret: secret, CreatedAt: timeOf(created)}, err
}

// nonceKeyName is what a sealed nonce key belongs to.
func nonceKeyName(id int64) string {
	return "nonce key " + string(binary.BigEndian.AppendUint64(nil, uint64(id)))
}
