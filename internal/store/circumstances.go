package store

import (
	"context"
	"fmt"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// Circumstances gathers what is known around a request before the decision: the device, what happened
// to it and to the key before, and a person's approval.
func (s *Store) Circumstances(ctx context.Context, now time.Time, subject issuance.Subject) (issuance.Circumstances, error) {
	var c issuance.Circumstances
	var n namesakes
	err := s.reads.ask(ctx, n.byNames(subject.CodeDevice, subject.Serial, subject.UDID))
	device := subjectDevice(&n, subject)
	if device.ID != "" {
		c.Device = &device
	}
	if err == nil {
		err = s.history(ctx, now, subject, device.ID, &c)
	}
	if err != nil {
		return issuance.Circumstances{}, fmt.Errorf("gather circumstances: %w", err)
	}
	return c, nil
}

// subjectDevice is the attested device, else the one that the code is bound to; zero if no row is
// about it. A row that bars the request comes before both.
func subjectDevice(n *namesakes, subject issuance.Subject) issuance.Device {
	if barred := n.barred(); barred.ID != "" {
		return barred
	}
	if subject.Attested() {
		return n.device(subject.Serial)
	}
	return n.bound
}

// contestDevices makes sure that nobody bars or describes the device of a claim differently, by whatever row there
// is of it, until the transaction ends. For rows that come after it there are the locks of namesakes.byClaim.
func (t *tx) contestDevices(claimed issuance.CertificateID, serial, udid string) error {
	return t.contest(`UPDATE devices SET revision = revision WHERE id = `+boundRow+` OR serial = ?2 AND serial <> '' OR udid_key = ?3 AND udid_key <> ''`,
		string(claimed), serial, udidKey(udid))
}

// maxRefusals is how many refusals are counted of each kind: more make no difference. It stands in the
// statement, because SQLite compiles one whose LIMIT is a parameter anew each time.
const maxRefusals = "1000"

// history reads the credential of the code, what happened before and a live approval of the subject, in one
// statement: each part has its index, and a device has few rows of each. A certificate counts for the key whatever
// device it went to; one whose device is not known counts as another device's.
func (s *Store) history(ctx context.Context, now time.Time, subject issuance.Subject, device issuance.DeviceID, c *issuance.Circumstances) error {
	since := now.Add(-policy.RefusalWindow)
	own, ofCredential := holdSubjects(subject.Attested(), subject.Verified, device, subject.Code)
	var a policy.Approval
	var last, decided, expires int64
	err := s.reads.row(ctx, `SELECT
			coalesce(credential.id, ''), coalesce(credential.template, ''),
			(SELECT count(*) FROM certificates WHERE device = ?1 AND der IS NOT NULL),
			(SELECT count(*) FROM certificates WHERE device = ?1 AND status = 'valid' AND not_after > ?2),
			(SELECT coalesce(max(issued_at), 0) FROM certificates WHERE device = ?1),
			(SELECT count(*) FROM certificates WHERE spki_sha256 = ?3 AND der IS NOT NULL),
			(SELECT count(*) FROM certificates WHERE spki_sha256 = ?3 AND der IS NOT NULL AND (device IS NULL OR device IS DISTINCT FROM ?1)),
			(SELECT count(*) FROM (SELECT 1 FROM audit WHERE code = ?4 AND id >= ?5 AND outcome = 'refused' AND order_id IS NOT NULL LIMIT `+maxRefusals+`) AS r)
				+ (SELECT count(*) FROM (SELECT 1 FROM decisions WHERE device = ?1 AND id >= ?6 AND outcome <> 'issue' AND code IS DISTINCT FROM ?4 LIMIT `+maxRefusals+`) AS k),
			coalesce(hold.id, ''), coalesce(hold.decided_by, ''), coalesce(hold.decided_at, 0), coalesce(hold.expires_at, 0)
		FROM (SELECT 1) AS one LEFT JOIN documents ON documents.code = ?4
			LEFT JOIN device_credentials AS credential ON credential.id = documents.credential
			LEFT JOIN holds AS hold ON hold.directory = ?7 AND hold.status <> 'used' AND hold.status = 'approved' AND hold.expires_at > ?2
				AND hold.subject = CASE WHEN ?9 = '' OR credential.id IS NULL THEN ?8 ELSE ?9 || credential.id END`,
		null(device), stamp(now), subject.SPKISHA256, null(subject.Code),
		issuance.FirstID[issuance.AuditID](since), issuance.FirstID[issuance.DecisionID](since), subject.Directory, own, ofCredential).
		Scan(&c.Credential, &c.Template, &c.History.DeviceCertificates, &c.History.DeviceValid, &last,
			&c.History.KeyCertificates, &c.History.KeyOtherDevices, &c.History.Refusals, &a.Hold, &a.By, &decided, &expires)
	c.History.DeviceLastIssued = timeOf(last)
	if a.Hold != "" {
		a.At, a.ExpiresAt = timeOf(decided), timeOf(expires)
		c.Approval = &a
	}
	return err
}
