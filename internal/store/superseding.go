package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// reasonSuperseded is RFC 5280's CRLReason of a certificate that another one replaces (section 5.3.1).
const reasonSuperseded = 4

// documentOf says which rendering of a device's credential brought a certificate; zero if none did.
type documentOf struct {
	credential issuance.CredentialID
	revision   int
}

// firstCollectionOf says whose credential a certificate is, if nobody collected it yet: that is known
// from the moment its code is minted, so it may be read before the transaction begins.
func (s *Store) firstCollectionOf(ctx context.Context, id issuance.CertificateID) (of documentOf, err error) {
	err = s.reads.row(ctx, `SELECT d.credential, d.revision FROM certificates AS c JOIN documents AS d ON d.code = c.code
		WHERE c.id = ? AND c.collected_at = 0 AND d.credential IS NOT NULL`, string(id)).Scan(&of.credential, &of.revision)
	if err = notFound(err); errors.Is(err, issuance.ErrNotFound) {
		err = nil
	}
	return of, err
}

// supersede notes in a device's credential that this certificate was collected: it is renewed in
// time, and takes the place of those that came of earlier renderings. A certificate that was revoked
// or superseded before anybody collected it takes nobody's place.
func (s *Store) supersede(t *tx, call issuance.Call, c *issuance.Certificate, of documentOf) error {
	if c.Status != issuance.CertificateValid || c.SupersededBy != "" {
		return nil
	}
	k, err := scanCredential(t.row(credentialByID, string(of.credential)))
	if err != nil {
		return fmt.Errorf("credential of a document: %w", err)
	}
	revoked, err := t.wasRevoked(&k)
	if err != nil {
		return err
	}
	earlier, err := t.earlierCertificates(of)
	if err != nil {
		return err
	}
	for i := range earlier {
		if err := s.supersedeOne(t, call, &earlier[i], c.ID, k.RevokeSuperseded); err != nil {
			return err
		}
	}
	if c.Code == k.Code && k.WithdrawnAt.IsZero() && !(revoked && k.DueAt.IsZero()) { // else what is due belongs to a later rendering, or a person ended it
		k.DueAt = renewalOf(c, k.RenewBefore)
	}
	n, err := t.exec(`UPDATE device_credentials SET certificate = ?, due_at = ? WHERE id = ?`, string(c.ID), stamp(k.DueAt), string(k.ID))
	return changedOne(n, err, "credential of a collected certificate")
}

// earlierCertificates are the valid certificates of a credential's earlier renderings that are not
// superseded yet.
func (t *tx) earlierCertificates(of documentOf) ([]issuance.Certificate, error) {
	var codes []string
	err := t.rows(func(row scanner) error {
		var code string
		err := row.Scan(&code)
		codes = append(codes, code)
		return err
	}, `SELECT code FROM documents WHERE credential = ? AND revision < ?`, string(of.credential), of.revision)
	if err != nil {
		return nil, err
	}
	var earlier []issuance.Certificate
	for _, code := range codes {
		// The index needs to be told what valid implies.
		c, err := scanCertificate(t.row(`SELECT `+certificateColumns+` FROM certificates
			WHERE code = ? AND status <> 'abandoned' AND status = 'valid' AND superseded_by IS NULL`, code))
		if errors.Is(err, issuance.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		earlier = append(earlier, c)
	}
	return earlier, nil
}

// renewalOf is when a certificate is renewed: so long before its end, but not in the first half of
// its life; the zero time for never.
func renewalOf(c *issuance.Certificate, before time.Duration) time.Time {
	if before == 0 {
		return time.Time{}
	}
	at, midpoint := c.NotAfter.Add(-before), c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)/2)
	if at.Before(midpoint) {
		at = midpoint
	}
	return at
}

// leaveRevoked keeps the credential of a certificate that somebody revoked from having the next one:
// the code of a renewal under way is revoked, and nothing is due any more.
func (s *Store) leaveRevoked(t *tx, call issuance.Call, c *issuance.Certificate) error {
	k, err := scanCredential(t.locked(`SELECT `+credentialColumns+` FROM device_credentials AS k
		WHERE k.id = (SELECT credential FROM documents WHERE code = ?1) AND (k.certificate = ?2 OR k.code = ?1)`, string(c.Code), string(c.ID)))
	if errors.Is(err, issuance.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.endCode(t, call, k.Code); err != nil && !errors.Is(err, issuance.ErrConflict) {
		return err
	}
	err = t.write(`UPDATE device_credentials SET due_at = 0 WHERE id = ?`, string(k.ID))
	return err
}

// wasRevoked reports whether somebody revoked the credential's present certificate.
func (t *tx) wasRevoked(k *issuance.DeviceCredential) (bool, error) {
	return t.exists(`SELECT 1 FROM certificates WHERE id = ? AND status = 'revoked' AND superseded_by IS NULL`, string(k.Certificate))
}

// supersedeOne marks a valid certificate as superseded by another one, and revokes it if asked to.
func (s *Store) supersedeOne(t *tx, call issuance.Call, c *issuance.Certificate, by issuance.CertificateID, revoke bool) error {
	n, err := t.exec(`UPDATE certificates SET superseded_by = ? WHERE id = ? AND status = 'valid'`, string(by), string(c.ID))
	if err := changedOne(n, err, "superseded certificate"); err != nil {
		return err
	}
	row := certificateRow(audit.CertificateSuperseded, c)
	row.Detail = map[string]string{"by": string(by), "certificateSerial": c.Serial}
	if err := s.record(t, call, row, audit.Personal{}); err != nil || !revoke {
		return err
	}
	n, err = t.exec(`UPDATE certificates SET status = 'revoked', revoked_at = ?, revoked_reason = ? WHERE id = ? AND status = 'valid'`,
		stamp(call.Now), reasonSuperseded, string(c.ID))
	if err := changedOne(n, err, "superseded certificate"); err != nil {
		return err
	}
	return s.recordRevocation(t, call, c, issuance.Revocation{Reason: reasonSuperseded})
}
