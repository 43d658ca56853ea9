package store

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// once notes that a change is made under its key. A key that is known ends the change: with
// *issuance.RepeatedError if the request is the same, else with issuance.ErrOnceReused. Nothing was
// written then that has to be rolled back.
func (s *Store) once(t *tx, now time.Time, o *issuance.Once) error {
	if o == nil {
		return nil
	}
	sealed, err := s.seal.seal(o.Keep, onceName(o))
	if err != nil {
		return err
	}
	fresh, err := t.exec(`INSERT INTO idempotency_keys (key, request, sealed, expires_at) VALUES (?1, ?2, ?3, ?4)
		ON CONFLICT (key) DO UPDATE SET request = ?2, sealed = ?3, expires_at = ?4 WHERE idempotency_keys.expires_at <= ?5`,
		o.Key[:], o.Request[:], sealed, stamp(now.Add(issuance.OnceLifetime)), stamp(now))
	if err != nil {
		return fmt.Errorf("keep idempotency key: %w", err)
	}
	if fresh == 1 {
		return nil
	}
	var request []byte
	if err := t.row(`SELECT request, sealed FROM idempotency_keys WHERE key = ?`, o.Key[:]).Scan(&request, &sealed); err != nil {
		return fmt.Errorf("read idempotency key: %w", err)
	}
	if string(request) != string(o.Request[:]) {
		return keep(issuance.ErrOnceReused)
	}
	kept, err := s.seal.unseal(sealed, onceName(o))
	if err != nil {
		return err
	}
	return keep(&issuance.RepeatedError{Kept: kept})
}

// forgetOnce forgets the key of a change that was refused, but whose refusal is kept: it was not
// made, so whoever asks again must not be told that it was.
func (t *tx) forgetOnce(o *issuance.Once, err error) error {
	if _, refused := errors.AsType[*kept](err); o == nil || !refused {
		return err
	}
	if err := t.write(`DELETE FROM idempotency_keys WHERE key = ?`, o.Key[:]); err != nil {
		return fmt.Errorf("forget idempotency key: %w", err)
	}
	return err
}

// onceName is what a sealed answer belongs to.
func onceName(o *issuance.Once) string { return "idempotency key " + hex.EncodeToString(o.Key[:]) }
