package store

import (
	"context"
	"fmt"
	"strconv"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// ForgetDevice erases what is stored about a device and its owner, in one transaction: serial number, UDID
// and labels wherever they stand, its evidence, what decisions rested on, its certificates themselves, and
// the personal values of the audit's rows about it. What remains are opaque rows: that a certificate with a
// serial number of the CA's was issued, decided on and revoked, and when. The audit still verifies. Unused
// codes are revoked and credentials withdrawn.
//
// *issuance.HasCertificatesError while the device has valid certificates, unless they are to be revoked;
// issuance.ErrConflict while one is being issued. Done again, it erases what came since.
func (s *Store) ForgetDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, revoke bool) (issuance.Forgotten, error) {
	device, err := s.Device(ctx, id)
	if err != nil {
		return issuance.Forgotten{}, err
	}
	strays, err := s.strays(ctx, device)
	if err != nil {
		return issuance.Forgotten{}, fmt.Errorf("forget device: %w", err)
	}
	var done issuance.Forgotten
	err = s.change(ctx, call, "forget device", func(t *tx) error {
		f := forgetting{store: s, t: t, call: call, device: device}
		err := f.run(strays, revoke)
		done = f.done
		return err
	})
	if err != nil {
		return issuance.Forgotten{}, err
	}
	return done, s.db.erased(ctx)
}

// found are rows that hold personal values of a device.
type found struct{ evidence, decisions, audit map[string]bool }

// forgetting is one device being forgotten.
type forgetting struct {
	store  *Store
	t      *tx
	call   issuance.Call
	device issuance.Device
	done   issuance.Forgotten
}

func (f *forgetting) run(rows found, revoke bool) error {
	id := string(f.device.ID)
	// Who revokes and withdraws now stays on record: what the audit has is gathered first.
	if err := f.gather(&rows); err != nil {
		return err
	}
	if err := f.endCertificates(revoke); err != nil {
		return err
	}
	if err := f.endCredentials(); err != nil {
		return err
	}
	if err := f.eraseRows(&rows); err != nil {
		return err
	}
	for _, statement := range []string{
		`UPDATE codes SET serial = '', udid = '', labels = '', minted = '' WHERE device = ?`,
		`UPDATE device_credentials SET report = '' WHERE device = ?`,
		`UPDATE certificates SET device_serial = '', device_udid = '', expected_serial = '', expected_udid = '' WHERE device = ?`,
		`DELETE FROM device_conflicts WHERE device = ?`,
		`DELETE FROM device_conflicts WHERE other = ?`,
		`DELETE FROM holds WHERE device = ?`,
		// The row stays for those that refer to it, under a name that says nothing.
		`UPDATE devices SET serial = 'forgotten ' || id, udid = '', udid_key = '', labels = '', mdm_fingerprint = '', sources = '',
			state = 'retired', revision = revision + 1 WHERE id = ?`,
	} {
		if err := f.t.write(statement, id); err != nil {
			return err
		}
	}
	if err := f.t.write(`UPDATE certificates SET der = ? WHERE device = ? AND der IS NOT NULL`, []byte{}, id); err != nil {
		return err
	}
	for _, expected := range expectations(f.device) { // by certificates that went to another one
		if err := f.t.write(`UPDATE certificates SET `+expected.column+` = '' WHERE `+expected.condition, expected.value); err != nil {
			return err
		}
	}
	// Conflicts of other devices, with which a list once took this one for.
	for _, value := range []string{f.device.Serial, f.device.UDID} {
		if err := f.t.write(`DELETE FROM device_conflicts WHERE said <> '' AND lower(said) = ?`, lowerASCII(value)); err != nil {
			return err
		}
	}
	row := audit.Row{Action: audit.DeviceForgotten, Device: id, Detail: map[string]string{
		"evidence": strconv.Itoa(f.done.Evidence), "certificates": strconv.Itoa(f.done.Certificates), "auditRows": strconv.Itoa(f.done.AuditRows)}}
	return f.store.record(f.t, f.call, row, audit.Personal{})
}

// gather adds the rows that references lead to.
func (f *forgetting) gather(rows *found) error {
	id := string(f.device.ID)
	add := func(into map[string]bool) func(scanner) error {
		return func(row scanner) error {
			var one string
			err := row.Scan(&one)
			if one != "" {
				into[one] = true
			}
			return err
		}
	}
	for _, part := range []struct {
		into  map[string]bool
		query string
	}{
		{rows.evidence, `SELECT coalesce(evidence, '') FROM certificates WHERE device = ?`},
		{rows.evidence, `SELECT coalesce(evidence, '') FROM decisions WHERE device = ?`},
		{rows.decisions, `SELECT id FROM decisions WHERE device = ?`},
		{rows.decisions, `SELECT decision FROM certificates WHERE device = ?`},
		{rows.decisions, `SELECT decisions.id FROM codes JOIN decisions ON decisions.code = codes.id WHERE codes.device = ?`},
		{rows.evidence, `SELECT coalesce(decisions.evidence, '') FROM codes JOIN decisions ON decisions.code = codes.id WHERE codes.device = ?`},
		{rows.audit, `SELECT id FROM audit WHERE device = ?`},
		{rows.audit, `SELECT audit.id FROM codes JOIN audit ON audit.code = codes.id WHERE codes.device = ?`},
		{rows.audit, `SELECT audit.id FROM certificates JOIN audit ON audit.order_id = certificates.order_id WHERE certificates.device = ?`},
		// What a list said of another device, and was this one's.
		{rows.audit, `SELECT audit.id FROM device_conflicts AS c JOIN audit ON audit.device = c.device
			WHERE c.other = ?1 AND audit.action = '` + string(audit.DeviceConflict) + `' AND instr(audit.detail, ?1) > 0`},
	} {
		if err := f.t.rows(add(part.into), part.query, id); err != nil {
			return err
		}
	}
	return nil
}

// endCertificates revokes what is valid, if that is wanted.
func (f *forgetting) endCertificates(revoke bool) error {
	var valid, reserved int
	err := f.t.row(`SELECT count(*) FILTER (WHERE status = 'valid' AND not_after > ?), count(*) FILTER (WHERE status = 'reserved'),
			count(*) FILTER (WHERE der IS NOT NULL) FROM certificates WHERE device = ?`, stamp(f.call.Now), string(f.device.ID)).
		Scan(&valid, &reserved, &f.done.Certificates)
	switch {
	case err != nil:
		return err
	case reserved > 0:
		return keep(issuance.ErrConflict)
	case valid > 0 && !revoke:
		return keep(&issuance.HasCertificatesError{Device: f.device.ID, Valid: valid})
	}
	const cessationOfOperation = 5 // RFC 5280, section 5.3.1
	f.done.Revoked, err = f.store.revokeOf(f.t, f.call, f.device.ID, cessationOfOperation)
	return err
}

// endCredentials withdraws the device's credentials and revokes its unused codes.
func (f *forgetting) endCredentials() error {
	var credentials []issuance.DeviceCredential
	err := f.t.rows(func(row scanner) error {
		k, err := scanCredential(row)
		credentials = append(credentials, k)
		return err
	}, `SELECT `+credentialColumns+` FROM device_credentials AS k WHERE k.device = ?`, string(f.device.ID))
	if err != nil {
		return err
	}
	for i := range credentials {
		if err := f.store.withdraw(f.t, f.call, &credentials[i]); err != nil {
			return err
		}
	}
	var codes []issuance.CodeID
	err = f.t.rows(func(row scanner) error {
		var id issuance.CodeID
		err := row.Scan(&id)
		codes = append(codes, id)
		return err
	}, `SELECT id FROM codes WHERE device = ?`, string(f.device.ID))
	if err != nil {
		return err
	}
	for _, id := range codes {
		if err := f.store.endCode(f.t, f.call, id); err != nil {
			return err
		}
	}
	return nil
}

// eraseRows erases what was gathered.
func (f *forgetting) eraseRows(rows *found) error {
	now := stamp(f.call.Now)
	for id := range rows.evidence {
		n, err := f.t.exec(`UPDATE evidence SET object = NULL, facts = NULL, device_error = '', token = '', key_auth = '', kept = 'none', removed_at = ? WHERE id = ?`, now, id)
		if err != nil {
			return err
		}
		f.done.Evidence += int(n)
	}
	for id := range rows.decisions {
		if err := f.t.write(`UPDATE decisions SET input = NULL WHERE id = ?`, id); err != nil {
			return err
		}
	}
	for id := range rows.audit {
		n, err := f.t.exec(`DELETE FROM audit_personal WHERE audit = ?`, id)
		if err != nil {
			return err
		}
		f.done.AuditRows += int(n)
	}
	return f.forgetOrders(rows)
}

// forgetOrders takes serial numbers and UDIDs out of the orders that named them.
func (f *forgetting) forgetOrders(rows *found) error {
	var orders []string
	add := func(row scanner) error {
		var id string
		err := row.Scan(&id)
		orders = append(orders, id)
		return err
	}
	if err := f.t.rows(add, `SELECT order_id FROM certificates WHERE device = ?`, string(f.device.ID)); err != nil {
		return err
	}
	for id := range rows.evidence { // of orders that came to nothing
		if err := f.t.rows(add, `SELECT id FROM orders WHERE id = (SELECT order_id FROM evidence WHERE id = ?)`, id); err != nil {
			return err
		}
	}
	for _, id := range orders {
		sealed, err := f.store.seal.seal(nil, id)
		if err != nil {
			return err
		}
		if err := f.t.write(`UPDATE orders SET identifier_sealed = ? WHERE id = ?`, sealed, id); err != nil {
			return err
		}
	}
	return nil
}
