package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// CRL returns the newest CRL of an issuer and shard. One with number 0, stale and without DER, stands
// for a shard that has revocations but no CRL yet.
func (s *Store) CRL(ctx context.Context, issuer issuance.IssuerID, shard int) (issuance.CRL, error) {
	c := issuance.CRL{Issuer: issuer, Shard: shard}
	var this, next, stale int64
	err := s.reads.row(ctx, `SELECT number, der, this_update, next_update, stale, revision FROM crls WHERE issuer = ? AND shard = ?`,
		string(issuer), shard).Scan(&c.Number, &c.DER, &this, &next, &stale, &c.Revision)
	if err != nil {
		return issuance.CRL{}, fmt.Errorf("read CRL: %w", notFound(err))
	}
	c.ThisUpdate, c.NextUpdate, c.Stale = timeOf(this), timeOf(next), stale == 1
	return c, nil
}

// RevokedSerials lists what the next CRL of an issuer and shard must name: every revoked
// certificate that had not expired when the stored CRL was made, so that each appears on one CRL
// after its expiry (RFC 5280, section 3.3). A stored CRL that is ahead of now was made by a wrong clock and
// says nothing of when: certificates that are valid still would be left out.
func (s *Store) RevokedSerials(ctx context.Context, issuer issuance.IssuerID, shard int, now time.Time) ([]issuance.RevokedSerial, error) {
	var revoked []issuance.RevokedSerial
	err := s.reads.rows(ctx, func(row scanner) error {
		var r issuance.RevokedSerial
		var at int64
		err := row.Scan(&r.Serial, &at, &r.Reason)
		r.RevokedAt = timeOf(at)
		revoked = append(revoked, r)
		return err
	}, `SELECT serial, revoked_at, revoked_reason FROM certificates WHERE status = 'revoked' AND issuer = ?1 AND crl_shard = ?2
		AND not_after > coalesce((SELECT this_update FROM crls WHERE issuer = ?1 AND shard = ?2 AND number > 0 AND this_update <= ?4), ?3) ORDER BY not_after, id`,
		string(issuer), shard, stamp(now.Add(-24*time.Hour)), stamp(now))
	if err != nil {
		return nil, fmt.Errorf("list revoked certificates: %w", err)
	}
	return revoked, nil
}

// shard is what one CRL is about.
type shard struct {
	issuer issuance.IssuerID
	number int
}

// endRevocations marks the CRL of every shard stale that the change revoked certificates of. Changes that revoke
// in one shard wait here for each other until they are committed: so it comes last, and in one order for all.
func (t *tx) endRevocations() error {
	inOrder := func(a, b shard) int {
		return cmp.Or(cmp.Compare(a.issuer, b.issuer), cmp.Compare(a.number, b.number))
	}
	for _, of := range slices.SortedFunc(maps.Keys(t.revoked), inOrder) {
		err := t.write(`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale, revision)
			VALUES (?1, ?2, 0, ?3, 0, 0, 1, ?4) ON CONFLICT (issuer, shard) DO UPDATE SET stale = 1, revision = crls.revision + ?4`,
			string(of.issuer), of.number, []byte{}, t.revoked[of])
		if err != nil {
			return fmt.Errorf("mark CRL stale: %w", err)
		}
	}
	return nil
}

// PutCRL stores a CRL whose number is the stored one's plus one (1 for the first), else
// issuance.ErrConflict. It is marked stale if a certificate was revoked since its revision was read:
// it may lack that certificate.
func (s *Store) PutCRL(ctx context.Context, call issuance.Call, crl issuance.CRL) error {
	return s.step(ctx, call, "store CRL", func(t *tx) error {
		n, err := t.exec(`INSERT INTO crls (issuer, shard, number, der, this_update, next_update, stale, revision)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6, 0, 0
			WHERE ?3 = 1 + coalesce((SELECT number FROM crls WHERE issuer = ?1 AND shard = ?2), 0)
			ON CONFLICT (issuer, shard) DO UPDATE SET number = excluded.number, der = excluded.der,
				this_update = excluded.this_update, next_update = excluded.next_update, stale = CASE WHEN crls.revision <> ?7 THEN 1 ELSE 0 END
				WHERE crls.number = excluded.number - 1`,
			string(crl.Issuer), crl.Shard, crl.Number, crl.DER, stamp(crl.ThisUpdate), stamp(crl.NextUpdate), crl.Revision)
		if err != nil {
			return err
		}
		if n != 1 {
			return keep(issuance.ErrConflict)
		}
		return s.record(t, call, audit.Row{
			Action: audit.CRLPublished, Issuer: string(crl.Issuer),
			Detail: map[string]string{"shard": fmt.Sprint(crl.Shard), "number": fmt.Sprint(crl.Number)},
		}, audit.Personal{})
	})
}
