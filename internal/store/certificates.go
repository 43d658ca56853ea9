package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"assay/internal/audit"
	"assay/internal/issuance"
)

const certificateColumns = `id, serial, status, directory, issuer, profile, profile_version, crl_shard, account, order_id,
	coalesce(code, ''), coalesce(device, ''), decision, coalesce(evidence, ''), device_serial, device_udid, expected_serial,
	expected_udid, attestation_root, spki_sha256, not_before, not_after, der, reserved_at, issued_at, collected_at,
	revoked_at, revoked_reason, coalesce(superseded_by, '')`

const certificateByID = `SELECT ` + certificateColumns + ` FROM certificates WHERE id = ?`

func scanCertificate(row scanner) (issuance.Certificate, error) {
	var c issuance.Certificate
	var notBefore, notAfter, reserved, issued, collected, revoked int64
	err := row.Scan(&c.ID, &c.Serial, &c.Status, &c.Directory, &c.Issuer, &c.Profile, &c.ProfileVersion, &c.CRLShard,
		&c.Account, &c.Order, &c.Code, &c.Device, &c.Decision, &c.Evidence, &c.DeviceSerial, &c.DeviceUDID,
		&c.ExpectedSerial, &c.ExpectedUDID, &c.AttestationRoot, &c.SPKISHA256, &notBefore, &notAfter, &c.DER, &reserved,
		&issued, &collected, &revoked, &c.RevokedReason, &c.SupersededBy)
	if err != nil {
		return issuance.Certificate{}, notFound(err)
	}
	c.NotBefore, c.NotAfter = timeOf(notBefore), timeOf(notAfter)
	c.ReservedAt, c.IssuedAt = timeOf(reserved), timeOf(issued)
	c.CollectedAt, c.RevokedAt = timeOf(collected), timeOf(revoked)
	return c, nil
}

func insertCertificate(t *tx, c *issuance.Certificate) error {
	err := t.write(`INSERT INTO certificates (id, serial, status, directory, issuer, profile, profile_version, crl_shard,
			account, order_id, code, device, decision, evidence, device_serial, device_udid, expected_serial, expected_udid,
			attestation_root, spki_sha256, not_before, not_after, reserved_at)
		VALUES (?, ?, 'reserved', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(c.ID), c.Serial, c.Directory, string(c.Issuer), c.Profile, c.ProfileVersion, c.CRLShard,
		string(c.Account), string(c.Order), null(c.Code), null(c.Device), string(c.Decision), null(c.Evidence),
		c.DeviceSerial, c.DeviceUDID, c.ExpectedSerial, c.ExpectedUDID,
		c.AttestationRoot, c.SPKISHA256, stamp(c.NotBefore), stamp(c.NotAfter), stamp(c.ReservedAt))
	if err != nil {
		return fmt.Errorf("reserve serial: %w", err)
	}
	return nil
}

// Certificate returns a certificate by id, whatever its status.
func (s *Store) Certificate(ctx context.Context, id issuance.CertificateID) (issuance.Certificate, error) {
	c, err := scanCertificate(s.reads.row(ctx, certificateByID, string(id)))
	if err != nil {
		return c, fmt.Errorf("read certificate: %w", err)
	}
	return c, nil
}

// CertificateBySerial returns a certificate by its serial number in lower-case hex.
func (s *Store) CertificateBySerial(ctx context.Context, serial string) (issuance.Certificate, error) {
	c, err := scanCertificate(s.reads.row(ctx, `SELECT `+certificateColumns+` FROM certificates WHERE serial = ?`, serial))
	if err != nil {
		return c, fmt.Errorf("read certificate by serial: %w", err)
	}
	return c, nil
}

// CollectCertificate returns a certificate if may, asked within the transaction, has no error, and
// notes its first download. If it is a device's credential's, it supersedes the ones before, and the
// renewal is fixed: that is fsynced, or a power failure could undo a revocation or lose the renewal.
// Other collections are not. issuance.ErrConflict if it was never signed.
func (s *Store) CollectCertificate(ctx context.Context, call issuance.Call, id issuance.CertificateID, may func(issuance.Certificate) error) (issuance.Certificate, error) {
	const what = "collect certificate"
	of, err := s.firstCollectionOf(ctx, id)
	if err != nil {
		return issuance.Certificate{}, fmt.Errorf("%s: %w", what, err)
	}
	kind := changeRelaxed | changeByRow
	if of.credential != "" {
		kind = changeDurable
	}
	var collected issuance.Certificate
	err = s.transaction(ctx, kind, call, what, func(t *tx) error {
		c, err := scanCertificate(t.locked(certificateByID, string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		}
		if err != nil {
			return err
		}
		if len(c.DER) == 0 { // never signed, or erased with its device
			return keep(issuance.ErrConflict)
		}
		if err := may(c); err != nil {
			return keep(err)
		}
		collected = c
		if !c.CollectedAt.IsZero() {
			return nil
		}
		collected.CollectedAt = timeOf(stamp(call.Now))
		err = t.must(errNotAsRead("certificate"), `UPDATE certificates SET collected_at = ? WHERE id = ? AND collected_at = 0`, stamp(call.Now), string(id))
		if err != nil {
			return err
		}
		if err := s.record(t, call, certificateRow(audit.CertificateCollected, &c), audit.Personal{}); err != nil || of.credential == "" {
			return err
		}
		return s.supersede(t, call, &c, of)
	})
	if err != nil {
		return issuance.Certificate{}, err
	}
	return collected, nil
}

func certificateRow(action audit.Action, c *issuance.Certificate) audit.Row {
	return audit.Row{
		Action: action, Directory: c.Directory, Account: string(c.Account), Order: string(c.Order), Code: string(c.Code),
		Certificate: string(c.ID), Device: string(c.Device), Issuer: string(c.Issuer),
	}
}

// RevokeCertificate revokes a valid certificate and marks the CRL of its shard stale, in one
// transaction. Its credential, if it is the present certificate of one, is not renewed by itself any
// more. issuance.ErrConflict if it is not valid (revoked already, reserved, abandoned).
func (s *Store) RevokeCertificate(ctx context.Context, call issuance.Call, r issuance.Revocation) (c issuance.Certificate, err error) {
	err = s.step(ctx, call, "revoke certificate", func(t *tx) error {
		c, err = scanCertificate(t.row(`UPDATE certificates SET status = 'revoked', revoked_at = ?, revoked_reason = ?
			WHERE id = ? AND status = 'valid' RETURNING `+certificateColumns, stamp(call.Now), r.Reason, string(r.Certificate)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.conflictOrMissing(`SELECT 1 FROM certificates WHERE id = ?`, string(r.Certificate))
		}
		if err != nil {
			return err
		}
		if err := s.leaveRevoked(t, call, &c); err != nil {
			return err
		}
		return s.recordRevocation(t, call, &c, r)
	})
	return c, err
}

// recordRevocation adds the audit row of a certificate that was just revoked, and has the CRL of its shard marked
// stale at the end of the transaction.
func (s *Store) recordRevocation(t *tx, call issuance.Call, c *issuance.Certificate, r issuance.Revocation) error {
	if t.revoked == nil {
		t.revoked = map[shard]int{}
	}
	t.revoked[shard{c.Issuer, c.CRLShard}]++
	row := certificateRow(audit.CertificateRevoked, c)
	row.Account = string(r.Account)
	row.Detail = map[string]string{"reason": strconv.Itoa(r.Reason), "certificateSerial": c.Serial}
	return s.record(t, call, row, audit.Personal{})
}

// Certificates lists certificates, oldest first.
func (s *Store) Certificates(ctx context.Context, f issuance.CertificateFilter) iter.Seq2[issuance.Certificate, error] {
	var q selection
	q.and("status = ?", string(f.Status), f.Status != "")
	q.and("directory = ?", f.Directory, f.Directory != "")
	q.and("device = ?", string(f.Device), f.Device != "")
	q.and("device = (SELECT id FROM devices WHERE serial = ? AND serial <> '')", f.DeviceSerial, f.DeviceSerial != "")
	q.and("code = ?", string(f.Code), f.Code != "")
	q.and("spki_sha256 = ?", f.SPKISHA256, f.SPKISHA256 != "")
	q.plain("status = 'valid' AND collected_at = 0", f.NeverCollected)
	q.and("not_after < ?", stamp(f.ExpiringBefore), !f.ExpiringBefore.IsZero())
	l := list[issuance.Certificate]{
		what: "list certificates", columns: `SELECT ` + certificateColumns + ` FROM certificates`, key: "id",
		scan: scanCertificate, keyOf: func(c *issuance.Certificate) []any { return []any{string(c.ID)} },
	}
	if !f.ExpiringBefore.IsZero() {
		l.key, l.keyOf = "not_after, id", func(c *issuance.Certificate) []any { return []any{stamp(c.NotAfter), string(c.ID)} }
		l.find = func(id string) (issuance.Certificate, error) {
			return scanCertificate(s.reads.row(ctx, certificateByID, id))
		}
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}
