package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// CRLJump is what a restore adds to the number of every CRL, so that the next one is above all that were
// published since the backup (RFC 5280, section 5.2.3): more than any server signs, and little of what
// the number can hold.
const CRLJump = 1 << 32

// Restoring says what a restored database came from, and what of it may go on.
type Restoring struct {
	TakenAt time.Time // when the backup was taken
	Shards  int       // CRLs per issuer
	// KeepCodes leaves unused codes, live orders and approvals as they are, and KeepTokens the tokens.
	// WARNING: only where the original did nothing any more after the backup was taken.
	KeepCodes, KeepTokens bool
}

// Ended counts what MarkRestored ended.
type Ended struct {
	Claims    int64 `json:"claims"`    // certificates that were being issued
	Codes     int64 `json:"codes"`     // unused codes, revoked
	Orders    int64 `json:"orders"`    // live orders, invalid
	Approvals int64 `json:"approvals"` // approvals, which wait for a person again
	Tokens    int64 `json:"tokens"`    // tokens of the admin API, revoked
	CRLs      int64 `json:"crls"`      // CRLs whose number was raised
}

// offline marks statements that may read whole tables: nobody waits while a database is being restored.
const offline = " /* offline */"

// MarkRestored makes a database from a backup safe to serve, before anybody uses it. The backup has
// forgotten what was used up since: a code, an order and an approval could give a second certificate, a
// nonce could be spent again, a token that was revoked would open again. So all of these end, CRL
// numbers jump, and an audit row says so. All or nothing, but for claims, which are over in any case.
func (s *Store) MarkRestored(ctx context.Context, call issuance.Call, r Restoring) (e Ended, err error) {
	claims, err := s.UndoDeadClaims(ctx, call, call.Now.AddDate(100, 0, 0))
	if err != nil {
		return Ended{}, fmt.Errorf("mark database as restored: %w", err)
	}
	err = s.transaction(ctx, changeOffline, call, "mark database as restored", func(t *tx) error {
		e = Ended{Claims: int64(claims)}
		steps := []func() error{
			func() error { return s.forgetRequests(t) },
			func() (err error) { e.CRLs, err = t.raiseCRLs(r.Shards); return err },
		}
		if !r.KeepCodes {
			steps = append(steps,
				func() (err error) { e.Codes, err = s.endUnusedCodes(t, call); return err },
				func() (err error) { e.Orders, err = t.endLiveOrders(); return err },
				func() (err error) { e.Approvals, err = t.takeBackApprovals(); return err })
		}
		if !r.KeepTokens {
			steps = append(steps, func() (err error) { e.Tokens, err = s.endTokens(t, call); return err })
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return s.record(t, call, restoredRow(r, e), audit.Personal{})
	})
	if err != nil {
		return Ended{}, err
	}
	return e, nil
}

// NewestAudit is when the newest audit row was written; zero if there is none.
func (s *Store) NewestAudit(ctx context.Context) (time.Time, error) {
	var newest int64
	err := s.reads.row(ctx, `SELECT coalesce((SELECT time FROM audit ORDER BY id DESC LIMIT 1), 0)`).Scan(&newest)
	if err != nil {
		return time.Time{}, fmt.Errorf("read newest audit row: %w", err)
	}
	return timeOf(newest), nil
}

func restoredRow(r Restoring, e Ended) audit.Row {
	detail := map[string]string{"backup": r.TakenAt.UTC().Format(time.RFC3339), "crlJump": strconv.Itoa(CRLJump)}
	for name, n := range map[string]int64{"claims": e.Claims, "codes": e.Codes, "orders": e.Orders, "approvals": e.Approvals, "tokens": e.Tokens, "crls": e.CRLs} {
		detail[name] = strconv.FormatInt(n, 10)
	}
	if r.KeepCodes {
		detail["codes"] = "kept"
	}
	if r.KeepTokens {
		detail["tokens"] = "kept"
	}
	return audit.Row{Action: audit.InstallationRestored, Detail: detail}
}

// forgetRequests drops the keys of nonces, so that no nonce from before the restore is good, and the
// answers under idempotency keys, which may hold codes that end now.
func (s *Store) forgetRequests(t *tx) error {
	for _, table := range []string{"nonce_keys", "nonces", "idempotency_keys"} {
		if err := t.write(`DELETE FROM ` + table + offline); err != nil {
			return fmt.Errorf("forget %s: %w", table, err)
		}
	}
	return nil
}

// raiseCRLs raises the number of every CRL, also of those that were first published since the backup.
func (t *tx) raiseCRLs(shards int) (int64, error) {
	for shard := range shards {
		err := t.write(`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale)
			SELECT id, ?, 0, ?, 0, 0, 1 FROM issuers WHERE true ON CONFLICT DO NOTHING`, shard, []byte{})
		if err != nil {
			return 0, fmt.Errorf("raise CRL numbers: %w", err)
		}
	}
	return t.exec(`UPDATE crls SET number = number + ?, stale = 1`+offline, CRLJump)
}

// endUnusedCodes revokes every code that the backup has as unused, also those that expired: the clock
// may be wrong. Credentials of devices wait for a person to renew them.
func (s *Store) endUnusedCodes(t *tx, call issuance.Call) (int64, error) {
	var ids []issuance.CodeID
	err := t.rows(func(row scanner) error {
		var id issuance.CodeID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM codes WHERE status = 'unused'`+offline)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := s.endCode(t, call, id); err != nil {
			return 0, fmt.Errorf("revoke code %s: %w", id, err)
		}
		if err := t.write(`UPDATE device_credentials SET due_at = 0 WHERE code = ?`, string(id)); err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), nil
}

// endLiveOrders ends orders that could still be finalized, or were since.
func (t *tx) endLiveOrders() (int64, error) {
	why, err := refusalText(&issuance.Refusal{
		Problem: "serverInternal", Check: "installation-restored", Detail: "the server was restored from a backup that was taken before the order ended",
	})
	if err != nil {
		return 0, err
	}
	return t.exec(`UPDATE orders SET status = 'invalid', authz = CASE WHEN authz = 'pending' THEN 'invalid' ELSE authz END, refusal = ?1,
			challenge_refusal = CASE WHEN challenge = 'pending' THEN ?1 ELSE challenge_refusal END, challenge = CASE WHEN challenge = 'pending' THEN 'invalid' ELSE challenge END
		WHERE status = 'pending' OR status = 'ready'`+offline, why)
}

// takeBackApprovals lets every approval that is not used up wait for a person again.
func (t *tx) takeBackApprovals() (int64, error) {
	return t.exec(`UPDATE holds SET status = 'held', decided_by = '', decided_at = 0, expires_at = 0, revision = revision + 1 WHERE status = 'approved'` + offline)
}

// endTokens revokes every token of the admin API.
func (s *Store) endTokens(t *tx, call issuance.Call) (int64, error) {
	var ids []issuance.TokenID
	err := t.rows(func(row scanner) error {
		var id issuance.TokenID
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `UPDATE tokens SET revoked_at = ? WHERE revoked_at = 0 RETURNING id`+offline, stamp(call.Now))
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := s.record(t, call, tokenRow(audit.TokenRevoked, id), audit.Personal{}); err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), nil
}
