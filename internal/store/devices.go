package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
)

const deviceColumns = `id, serial, udid, labels, attested, created_at`

func scanDevice(row scanner) (issuance.Device, error) {
	var d issuance.Device
	var labels string
	var attested, created int64
	err := row.Scan(&d.ID, &d.Serial, &d.UDID, &labels, &attested, &created)
	if err != nil {
		return issuance.Device{}, notFound(err)
	}
	d.Attested, d.CreatedAt = attested == 1, timeOf(created)
	d.Labels, err = labelsOf(labels)
	return d, err
}

// Device returns a device by id.
func (s *Store) Device(ctx context.Context, id issuance.DeviceID) (issuance.Device, error) {
	d, err := scanDevice(s.reads.row(ctx, `SELECT `+deviceColumns+` FROM devices WHERE id = ?`, string(id)))
	if err != nil {
		return d, fmt.Errorf("read device: %w", err)
	}
	return d, nil
}

// knownDevice finds or makes the row of the device with this serial (compared exactly), else with
// this UDID (compared without case). Where the two point to different devices the serial decides,
// and an audit row names the conflict. What evidence attested replaces what operators wrote down.
func (s *Store) knownDevice(t *tx, call issuance.Call, d issuance.Device, attested bool) (issuance.DeviceID, error) {
	bySerial, err := t.findDevice(`SELECT `+deviceColumns+` FROM devices WHERE serial = ?1 AND serial <> ''`, d.Serial)
	if err != nil {
		return "", err
	}
	byUDID, err := t.findDevice(`SELECT `+deviceColumns+` FROM devices WHERE udid_key = ?1 AND udid_key <> ''`, udidKey(d.UDID))
	if err != nil {
		return "", err
	}
	found := bySerial
	if found.ID == "" && byUDID.ID != "" && (d.Serial == "" || byUDID.Serial == "") {
		found = byUDID
	}
	conflict := byUDID.ID != "" && byUDID.ID != found.ID
	if conflict {
		d.UDID = "" // it stays with the other device
	}
	if found.ID == "" {
		found, err = s.insertDevice(t, call.Now, d, attested)
	} else {
		err = t.updateDevice(found, d, attested)
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

func (t *tx) findDevice(query, value string) (issuance.Device, error) {
	if value == "" {
		return issuance.Device{}, nil
	}
	d, err := scanDevice(t.row(query, value))
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Device{}, nil
	}
	return d, err
}

func (s *Store) insertDevice(t *tx, now time.Time, d issuance.Device, attested bool) (issuance.Device, error) {
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
		string(id), d.Serial, d.UDID, udidKey(d.UDID), labels, flag(attested), stamp(now))
	if err != nil {
		return d, fmt.Errorf("store device: %w", err)
	}
	return d, nil
}

// updateDevice fills in what is not known yet; attested values also replace other ones.
func (t *tx) updateDevice(old, d issuance.Device, attested bool) error {
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
	_, err := t.exec(`UPDATE devices SET serial = ?, udid = ?, udid_key = ?, attested = ? WHERE id = ?`,
		updated.Serial, updated.UDID, udidKey(updated.UDID), flag(updated.Attested), string(old.ID))
	if err != nil {
		return fmt.Errorf("update device: %w", err)
	}
	return nil
}
