package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// Circumstances gathers what is known around a request before the decision: the device, what happened
// to it and to the key before, and a person's approval.
func (s *Store) Circumstances(ctx context.Context, now time.Time, subject issuance.Subject) (issuance.Circumstances, error) {
	var c issuance.Circumstances
	device, err := s.subjectDevice(ctx, subject)
	if err == nil && device.ID != "" {
		c.Device = &device
	}
	if err == nil {
		err = s.history(ctx, now, subject, device.ID, &c)
	}
	if err == nil {
		c.Approval, err = s.approval(ctx, now, subject, device.ID, c.Credential)
	}
	if err != nil {
		return issuance.Circumstances{}, fmt.Errorf("gather circumstances: %w", err)
	}
	return c, nil
}

// subjectDevice is the attested device, else the one that the code is bound to; zero if no row is
// about it. A row that bars the request comes before both.
func (s *Store) subjectDevice(ctx context.Context, subject issuance.Subject) (issuance.Device, error) {
	barred, err := scanDevice(s.reads.row(ctx, barredDevice, string(subject.CodeDevice), subject.Serial, udidKey(subject.UDID)))
	if !errors.Is(err, issuance.ErrNotFound) {
		return barred, err
	}
	if subject.Attested() {
		found, _, err := findDevice(func(query, value string) scanner { return s.reads.row(ctx, query, value) }, subject.Serial, subject.UDID)
		return found, err
	}
	if subject.CodeDevice == "" {
		return issuance.Device{}, nil
	}
	device, err := scanDevice(s.reads.row(ctx, deviceByID, string(subject.CodeDevice)))
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Device{}, nil
	}
	return device, err
}

// barredDevice finds a device that is lost or retired by whatever a request names it: the row that its code
// is bound to, the one with its serial number, the one with its UDID. One device may stand in the inventory
// twice, because lists know different names of it; it is enough that one of the rows bars it.
const barredDevice = `SELECT ` + deviceColumns + ` FROM devices WHERE id = ?1 AND (state = 'lost' OR state = 'retired')
	UNION ALL SELECT ` + deviceColumns + ` FROM devices WHERE serial = ?2 AND serial <> '' AND (state = 'lost' OR state = 'retired')
	UNION ALL SELECT ` + deviceColumns + ` FROM devices WHERE udid_key = ?3 AND udid_key <> '' AND (state = 'lost' OR state = 'retired')
	LIMIT 1`

// bars is the row by which the inventory bars a device, as of this very transaction: a person may have said so
// since the decision was taken. It is zero if there is none.
func (t *tx) bars(row, serial, udid string) (issuance.Device, error) {
	d, err := scanDevice(t.row(barredDevice, row, serial, udidKey(udid)))
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Device{}, nil
	}
	return d, err
}

// contestDevices makes sure that nobody bars or describes a device differently, whatever it is named by, until
// the transaction ends.
func (t *tx) contestDevices(row, serial, udid string) error {
	return t.contest(`UPDATE devices SET revision = revision WHERE id = ?1 OR serial = ?2 AND serial <> '' OR udid_key = ?3 AND udid_key <> ''`,
		row, serial, udidKey(udid))
}

// maxRefusals is how many refusals are counted of each kind: more make no difference. It stands in the
// statement, because SQLite compiles one whose LIMIT is a parameter anew each time.
const maxRefusals = "1000"

// history reads the credential of the code and what happened before, in one statement: each part has
// its index, and a device has few rows of each. A certificate counts for the key whatever device it went to;
// one whose device is not known counts as another device's.
func (s *Store) history(ctx context.Context, now time.Time, subject issuance.Subject, device issuance.DeviceID, c *issuance.Circumstances) error {
	since := now.Add(-policy.RefusalWindow)
	var last int64
	err := s.reads.row(ctx, `SELECT
			coalesce(credential.id, ''), coalesce(credential.template, ''),
			(SELECT count(*) FROM certificates WHERE device = ?1 AND der IS NOT NULL),
			(SELECT count(*) FROM certificates WHERE device = ?1 AND status = 'valid' AND not_after > ?2),
			(SELECT coalesce(max(issued_at), 0) FROM certificates WHERE device = ?1),
			(SELECT count(*) FROM certificates WHERE spki_sha256 = ?3 AND der IS NOT NULL),
			(SELECT count(*) FROM certificates WHERE spki_sha256 = ?3 AND der IS NOT NULL AND (device IS NULL OR device IS DISTINCT FROM ?1)),
			(SELECT count(*) FROM (SELECT 1 FROM audit WHERE code = ?4 AND id >= ?5 AND outcome = 'refused' AND order_id IS NOT NULL LIMIT `+maxRefusals+`) AS r)
				+ (SELECT count(*) FROM (SELECT 1 FROM decisions WHERE device = ?1 AND id >= ?6 AND outcome <> 'issue' AND code IS DISTINCT FROM ?4 LIMIT `+maxRefusals+`) AS k)
		FROM (SELECT 1) AS one LEFT JOIN documents ON documents.code = ?4
			LEFT JOIN device_credentials AS credential ON credential.id = documents.credential`,
		null(device), stamp(now), subject.SPKISHA256, null(subject.Code),
		issuance.FirstID[issuance.AuditID](since), issuance.FirstID[issuance.DecisionID](since)).
		Scan(&c.Credential, &c.Template, &c.History.DeviceCertificates, &c.History.DeviceValid, &last,
			&c.History.KeyCertificates, &c.History.KeyOtherDevices, &c.History.Refusals)
	c.History.DeviceLastIssued = timeOf(last)
	return err
}

// approval is the live approval of the subject; nil if there is none.
func (s *Store) approval(ctx context.Context, now time.Time, subject issuance.Subject, device issuance.DeviceID, credential issuance.CredentialID) (*policy.Approval, error) {
	var a policy.Approval
	var at, expires int64
	err := s.reads.row(ctx, `SELECT id, decided_by, decided_at, expires_at FROM holds
			WHERE directory = ? AND subject = ? AND status <> 'used' AND status = 'approved' AND expires_at > ?`,
		subject.Directory, holdSubject(subject.Attested(), subject.Verified, device, credential, subject.Code), stamp(now)).
		Scan(&a.Hold, &a.By, &at, &expires)
	if err = notFound(err); errors.Is(err, issuance.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	a.At, a.ExpiresAt = timeOf(at), timeOf(expires)
	return &a, nil
}
