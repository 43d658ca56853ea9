package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"strings"
	"time"

	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
)

const deviceColumns = `devices.id, devices.serial, devices.udid, devices.labels, devices.attested,
	devices.mdm_fingerprint, devices.revision, devices.created_at`

// deviceFields takes deviceColumns, which are NULL where a left join found no device.
type deviceFields struct {
	id, serial, udid, labels, fingerprint sql.NullString
	attested, revision, created           sql.NullInt64
}

func (f *deviceFields) into() []any {
	return []any{&f.id, &f.serial, &f.udid, &f.labels, &f.attested, &f.fingerprint, &f.revision, &f.created}
}

func (f *deviceFields) device() (issuance.Device, error) {
	labels, err := labelsOf(f.labels.String)
	if err != nil {
		return issuance.Device{}, fmt.Errorf("labels of %s: %w", f.id.String, err)
	}
	return issuance.Device{
		ID: issuance.DeviceID(f.id.String), Serial: f.serial.String, UDID: f.udid.String, Labels: labels,
		Attested: f.attested.Int64 == 1, MDMFingerprint: f.fingerprint.String, Revision: int(f.revision.Int64),
		CreatedAt: timeOf(f.created.Int64),
	}, nil
}

func scanDevice(row scanner) (issuance.Device, error) {
	var f deviceFields
	if err := row.Scan(f.into()...); err != nil {
		return issuance.Device{}, notFound(err)
	}
	return f.device()
}

const (
	deviceByID     = `SELECT ` + deviceColumns + ` FROM devices WHERE id = ?`
	deviceBySerial = `SELECT ` + deviceColumns + ` FROM devices WHERE serial = ?1 AND serial <> ''`
	deviceByUDID   = `SELECT ` + deviceColumns + ` FROM devices WHERE udid_key = ?1 AND udid_key <> ''`
)

// Device returns a device by id.
func (s *Store) Device(ctx context.Context, id issuance.DeviceID) (issuance.Device, error) {
	d, err := scanDevice(s.reads.row(ctx, deviceByID, string(id)))
	if err != nil {
		return d, fmt.Errorf("read device: %w", err)
	}
	return d, nil
}

// DeviceLike finds a device by its serial (compared exactly), else by its UDID (compared without
// case): the one that a code with this serial and UDID would be bound to.
func (s *Store) DeviceLike(ctx context.Context, serial, udid string) (issuance.Device, error) {
	found, _, err := findDevice(func(query, value string) scanner { return s.reads.row(ctx, query, value) }, serial, udid)
	if err == nil && found.ID == "" {
		err = issuance.ErrNotFound
	}
	if err != nil {
		return issuance.Device{}, fmt.Errorf("find device: %w", err)
	}
	return found, nil
}

// Devices lists devices, oldest first.
func (s *Store) Devices(ctx context.Context, f issuance.DeviceFilter) iter.Seq2[issuance.Device, error] {
	var q selection
	q.and("serial <> '' AND serial = ?", f.Serial, f.Serial != "")
	q.and("udid_key <> '' AND udid_key = ?", udidKey(f.UDID), f.UDID != "")
	l := list[issuance.Device]{
		what: "list devices", columns: `SELECT ` + deviceColumns + ` FROM devices`, key: "id",
		scan: scanDevice, keyOf: func(d *issuance.Device) []any { return []any{string(d.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}

// findDevice finds the device with this serial, else the one with this UDID, unless that one has
// another serial: the serial decides. The device with the UDID is returned beside it. Either is zero
// if there is none.
func findDevice(read func(query, value string) scanner, serial, udid string) (found, byUDID issuance.Device, err error) {
	one := func(query, value string) (issuance.Device, error) {
		if value == "" {
			return issuance.Device{}, nil
		}
		d, err := scanDevice(read(query, value))
		if errors.Is(err, issuance.ErrNotFound) {
			return issuance.Device{}, nil
		}
		return d, err
	}
	if found, err = one(deviceBySerial, serial); err != nil {
		return found, byUDID, err
	}
	if byUDID, err = one(deviceByUDID, udidKey(udid)); err != nil {
		return found, byUDID, err
	}
	if found.ID == "" && byUDID.ID != "" && (serial == "" || byUDID.Serial == "") {
		found = byUDID
	}
	return found, byUDID, nil
}

// identification is how somebody came to say which serial and UDID belong together.
type identification int

const (
	// byMinting: whoever mints a code names its device. That tells nothing of a device that is known
	// already: by its UDID, for one, the document of another credential may be opened.
	byMinting   identification = iota
	byDeclaring                // whoever declares a credential describes its device
	byEvidence                 // the device attested it
)

// knownDevice finds or makes the row of the device with this serial (compared exactly), else with
// this UDID (compared without case). Where the two point to different devices the serial decides,
// and an audit row names the conflict. What evidence attested replaces what operators wrote down.
func (s *Store) knownDevice(t *tx, call issuance.Call, d issuance.Device, by identification) (issuance.DeviceID, error) {
	found, byUDID, err := findDevice(func(query, value string) scanner { return t.row(query, value) }, d.Serial, d.UDID)
	if err != nil {
		return "", err
	}
	conflict := byUDID.ID != "" && byUDID.ID != found.ID
	if conflict {
		d.UDID = "" // it stays with the other device
	}
	if found.ID == "" {
		found, err = s.insertDevice(t, call.Now, d, by)
	} else {
		err = t.updateDevice(found, d, by)
	}
	if err != nil {
		return "", err
	}
	if !conflict {
		return found.ID, nil
	}
	row := audit.Row{
		Action: audit.DeviceConflict, Device: string(found.ID),
		Detail: map[string]string{"udidOf": string(byUDID.ID), "chosen": "the serial's device"},
	}
	return found.ID, s.record(t, call, row, audit.Personal{Serial: d.Serial, UDID: byUDID.UDID})
}

func udidKey(udid string) string { return strings.ToLower(udid) }

func (s *Store) insertDevice(t *tx, now time.Time, d issuance.Device, by identification) (issuance.Device, error) {
	id, err := newID[issuance.DeviceID](s.random, now)
	if err != nil {
		return d, err
	}
	labels, err := labelsText(d.Labels)
	if err != nil {
		return d, err
	}
	d.ID = id
	_, err = t.exec(`INSERT INTO devices (id, serial, udid, udid_key, labels, attested, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		string(id), d.Serial, d.UDID, udidKey(d.UDID), labels, flag(by == byEvidence), stamp(now))
	if err != nil {
		return d, fmt.Errorf("store device: %w", err)
	}
	return d, nil
}

// updateDevice fills in what is not known yet; attested values also replace other ones.
func (t *tx) updateDevice(old, d issuance.Device, by identification) error {
	if by == byMinting {
		return nil
	}
	attested := by == byEvidence
	updated := old
	if d.Serial != "" && (old.Serial == "" && (attested || !old.Attested)) {
		updated.Serial = d.Serial
	}
	if d.UDID != "" && (attested && !deviceid.SameUDID(old.UDID, d.UDID) || old.UDID == "" && !old.Attested) {
		updated.UDID = d.UDID
	}
	updated.Attested = old.Attested || attested
	if updated.Serial == old.Serial && updated.UDID == old.UDID && updated.Attested == old.Attested {
		return nil
	}
	_, err := t.exec(`UPDATE devices SET serial = ?, udid = ?, udid_key = ?, attested = ?, revision = revision + 1 WHERE id = ?`,
		updated.Serial, updated.UDID, udidKey(updated.UDID), flag(updated.Attested), string(old.ID))
	if err != nil {
		return fmt.Errorf("update device: %w", err)
	}
	return nil
}

// UpdateDevice replaces a device's labels (nil leaves them) and the SHA-256, in lower-case hex, of
// the certificate that it shows to its MDM (nil leaves it, "" removes it), if the device is at
// ifRevision; 0 stands for any. issuance.ErrConflict if it is at another one;
// *issuance.FingerprintInUseError names the device that the certificate belongs to.
func (s *Store) UpdateDevice(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, labels map[string]string, mdmFingerprint *string) (d issuance.Device, err error) {
	err = s.change(ctx, call, "update device", func(t *tx) error {
		if d, err = scanDevice(t.row(deviceByID, string(id))); errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		} else if err != nil {
			return err
		}
		if ifRevision != 0 && d.Revision != ifRevision {
			return keep(issuance.ErrConflict)
		}
		detail := make(map[string]string)
		if labels != nil && !maps.Equal(labels, d.Labels) {
			d.Labels, detail["labels"] = labels, "replaced"
		}
		if mdmFingerprint != nil && *mdmFingerprint != d.MDMFingerprint {
			d.MDMFingerprint, detail["mdmFingerprint"] = *mdmFingerprint, "replaced"
			if err := t.fingerprintIsFree(d); err != nil {
				return err
			}
		}
		if len(detail) == 0 {
			return nil
		}
		text, err := labelsText(d.Labels)
		if err != nil {
			return err
		}
		d.Revision++
		n, err := t.exec(`UPDATE devices SET labels = ?, mdm_fingerprint = ?, revision = ? WHERE id = ?`, text, d.MDMFingerprint, d.Revision, string(id))
		if err := changedOne(n, err, "device"); err != nil {
			return err
		}
		detail["revision"] = strconv.Itoa(d.Revision)
		return s.record(t, call, audit.Row{Action: audit.DeviceUpdated, Device: string(id), Detail: detail}, audit.Personal{Serial: d.Serial, UDID: d.UDID})
	})
	if err != nil {
		return issuance.Device{}, err
	}
	return d, nil
}

// fingerprintIsFree checks that no other device has the MDM certificate that this one shall have.
func (t *tx) fingerprintIsFree(d issuance.Device) error {
	var owner issuance.DeviceID
	err := notFound(t.row(`SELECT id FROM devices WHERE mdm_fingerprint = ?1 AND mdm_fingerprint <> ''`, d.MDMFingerprint).Scan(&owner))
	switch {
	case errors.Is(err, issuance.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return keep(&issuance.FingerprintInUseError{Device: owner})
}
