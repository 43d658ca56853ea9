package store

import (
	"context"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// orderRetention is how long an order that never claimed a serial is kept after it expired. Its evidence and
// decision stay as ApplyRetention has it, and what the audit trail says of it for ever.
const orderRetention = 24 * time.Hour

// codeRetention is how long a code that was never used is kept after it expired. What the audit trail says of it
// stays.
const codeRetention = 90 * 24 * time.Hour

// nonceRetention is how long a spent nonce is kept after it expired. A request's nonce is
// authenticated when the request arrives, and spent by its transaction, which may wait for as long as
// requests are worked on (seconds): within that time a nonce that expired can still be presented.
const nonceRetention = time.Minute

// cleanBatch is how many rows leave in one transaction: enrolments wait for it at most that long.
const cleanBatch = 200

// Cleaned counts what CleanUp removed.
type Cleaned struct {
	Nonces    int64 // spent, and expired long enough ago
	Documents int64 // erased because their code expired
	Codes     int64 // never used, and expired long ago
	Orders    int64 // expired long ago, without a certificate
	Accounts  int64 // old and without an order
	Keys      int64 // idempotency keys, older than issuance.OnceLifetime
}

// CleanUp removes what is over by now, in small transactions between which others write. Not
// fsynced: what a power failure brings back leaves the next time.
func (s *Store) CleanUp(ctx context.Context, now time.Time) (Cleaned, error) {
	var c Cleaned
	defer s.accounts.forgetAll()
	for _, step := range []struct {
		what  string
		count *int64
		run   func(*tx) (int64, error)
	}{
		{"expired nonces", &c.Nonces, func(t *tx) (int64, error) {
			return t.exec(`DELETE FROM nonces WHERE (expires_at, id) IN
				(SELECT expires_at, id FROM nonces WHERE expires_at < ? LIMIT ?)`, stamp(now.Add(-nonceRetention)), cleanBatch)
		}},
		{"documents of expired codes", &c.Documents, func(t *tx) (int64, error) {
			return t.exec(`UPDATE documents SET sealed = NULL WHERE id IN
				(SELECT id FROM documents WHERE sealed IS NOT NULL AND expires_at <= ? LIMIT ?)`, stamp(now), cleanBatch)
		}},
		{"expired orders", &c.Orders, func(t *tx) (int64, error) { return t.deleteOrders(now.Add(-orderRetention)) }},
		{"unused codes", &c.Codes, func(t *tx) (int64, error) { return t.deleteCodes(now.Add(-codeRetention)) }},
		{"idle accounts", &c.Accounts, func(t *tx) (int64, error) {
			return t.exec(`DELETE FROM accounts WHERE id IN
				(SELECT id FROM accounts WHERE orders = 0 AND created_at < ? LIMIT ?)`,
				stamp(now.Add(-issuance.IdleAccountLifetime)), cleanBatch)
		}},
		{"idempotency keys", &c.Keys, func(t *tx) (int64, error) {
			return t.exec(`DELETE FROM idempotency_keys WHERE key IN
				(SELECT key FROM idempotency_keys WHERE expires_at <= ? LIMIT ?)`, stamp(now), cleanBatch)
		}},
	} {
		for more := true; more; {
			var n int64
			err := s.note(ctx, issuance.Call{}, "clean up", func(t *tx) (err error) {
				n, err = step.run(t)
				return err
			})
			if err != nil {
				return c, fmt.Errorf("%s: %w", step.what, err)
			}
			*step.count += n
			s.metrics.cleaned(byCleanUp, step.what, n)
			more = n == cleanBatch
		}
	}
	return c, nil
}

// deleteCodes deletes codes that expired before the time and were never used, with their documents: but for one
// whose order reserved a serial, and for the last one of a device's credential.
func (t *tx) deleteCodes(expiredBefore time.Time) (int64, error) {
	var codes []string
	err := t.rows(func(row scanner) error {
		var id string
		err := row.Scan(&id)
		codes = append(codes, id)
		return err
	}, `SELECT id FROM codes WHERE (status = 'unused' OR status = 'revoked') AND expires_at < ?
			AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.code = codes.id)
			AND NOT EXISTS (SELECT 1 FROM device_credentials WHERE device_credentials.code = codes.id)
		LIMIT ?`, stamp(expiredBefore), cleanBatch)
	for _, id := range codes {
		if err == nil {
			err = t.write(`DELETE FROM documents WHERE code = ?`, id)
		}
		if err == nil {
			err = t.write(`DELETE FROM codes WHERE id = ?`, id)
		}
	}
	return int64(len(codes)), err
}

// deleteOrders deletes orders that expired before the time and never claimed a serial. Evidence that nobody
// asked for a decision on was refused by that.
func (t *tx) deleteOrders(expiredBefore time.Time) (int64, error) {
	type order struct{ id, account, evidence string }
	var orders []order
	err := t.rows(func(row scanner) error {
		var o order
		err := row.Scan(&o.id, &o.account, &o.evidence)
		orders = append(orders, o)
		return err
	}, `SELECT id, account, coalesce(evidence, '') FROM orders WHERE claimed_at = 0 AND expires_at < ? LIMIT ?`,
		stamp(expiredBefore), cleanBatch)
	if err != nil {
		return 0, err
	}
	for _, o := range orders {
		for _, statement := range []struct{ text, id string }{
			{`DELETE FROM orders WHERE id = ?`, o.id},
			{`UPDATE evidence SET outcome = 'refuse' WHERE id = ? AND outcome = ''`, o.evidence},
			{`UPDATE accounts SET orders = orders - 1 WHERE id = ?`, o.account},
		} {
			if err := t.write(statement.text, statement.id); err != nil {
				return 0, err
			}
		}
	}
	return int64(len(orders)), nil
}
