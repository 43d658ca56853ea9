package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strconv"
	"strings"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

const deviceColumns = `devices.id, devices.serial, devices.udid, devices.labels, devices.attested,
	devices.mdm_fingerprint, devices.revision, devices.created_at, devices.state, devices.sources, devices.seen_at`

// deviceFields takes deviceColumns, which are NULL where a left join found no device.
type deviceFields struct {
	id, serial, udid, labels, fingerprint, state, sources sql.NullString
	attested, revision, created, seen                     sql.NullInt64
}

func (f *deviceFields) into() []any {
	return []any{&f.id, &f.serial, &f.udid, &f.labels, &f.attested, &f.fingerprint, &f.revision, &f.created, &f.state, &f.sources, &f.seen}
}

func (f *deviceFields) device() (issuance.Device, error) {
	labels, err := labelsOf(f.labels.String)
	if err != nil {
		return issuance.Device{}, fmt.Errorf("labels of %s: %w", f.id.String, err)
	}
	sources, err := sourcesOf(f.sources.String)
	if err != nil {
		return issuance.Device{}, fmt.Errorf("sources of %s: %w", f.id.String, err)
	}
	return issuance.Device{
		ID: issuance.DeviceID(f.id.String), Serial: f.serial.String, UDID: f.udid.String, Labels: labels,
		Attested: f.attested.Int64 == 1, MDMFingerprint: f.fingerprint.String, Revision: int(f.revision.Int64),
		CreatedAt: timeOf(f.created.Int64), State: policy.State(f.state.String), Sources: sources, SeenAt: timeOf(f.seen.Int64),
	}, nil
}

// sourcesText is where values came from as JSON, "" for nothing.
func sourcesText(sources map[string]issuance.Source) (string, error) {
	if len(sources) == 0 {
		return "", nil
	}
	text, err := json.Marshal(sources)
	return string(text), err
}

// sourcesOf is what sourcesText stored.
func sourcesOf(text string) (map[string]issuance.Source, error) {
	if text == "" {
		return nil, nil
	}
	var sources map[string]issuance.Source
	err := json.Unmarshal([]byte(text), &sources)
	return sources, err
}

func scanDevice(row scanner) (issuance.Device, error) {
	var f deviceFields
	if err := row.Scan(f.into()...); err != nil {
		return issuance.Device{}, notFound(err)
	}
	return f.device()
}

const deviceByID = `SELECT ` + deviceColumns + ` FROM devices WHERE id = ?`

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
	var n namesakes
	err := s.reads.ask(ctx, n.byNames("", serial, udid))
	found := n.device(serial)
	if err == nil && found.ID == "" {
		err = issuance.ErrNotFound
	}
	if err != nil {
		return issuance.Device{}, fmt.Errorf("find device: %w", notFound(err))
	}
	return found, nil
}

// Devices lists devices, oldest first.
func (s *Store) Devices(ctx context.Context, f issuance.DeviceFilter) iter.Seq2[issuance.Device, error] {
	var q selection
	q.and("serial <> '' AND serial = ?", f.Serial, f.Serial != "")
	q.and("udid_key <> '' AND udid_key = ?", udidKey(f.UDID), f.UDID != "")
	q.and("state = ?", string(f.State), f.State != "")
	q.plain("state = ''", f.NotListed)
	if f.LabelName != "" {
		q.and(s.db.labelIs(), f.LabelName, true)
		q.args = append(q.args, f.LabelValue)
	}
	l := list[issuance.Device]{
		what: "list devices", columns: `SELECT ` + deviceColumns + ` FROM devices`, key: "id",
		scan: scanDevice, keyOf: func(d *issuance.Device) []any { return []any{string(d.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
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
			d.Sources = relabelled(d, labels, issuance.Source{From: call.From, At: timeOf(stamp(call.Now))})
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
		sources, err := sourcesText(d.Sources)
		if err != nil {
			return err
		}
		d.Revision++
		n, err := t.exec(`UPDATE devices SET labels = ?, mdm_fingerprint = ?, sources = ?, revision = ? WHERE id = ?`,
			text, d.MDMFingerprint, sources, d.Revision, string(id))
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

// relabelled is where a device's values come from once it has other labels.
func relabelled(d issuance.Device, labels map[string]string, source issuance.Source) map[string]issuance.Source {
	sources := make(map[string]issuance.Source, len(d.Sources)+len(labels))
	for name, s := range d.Sources {
		if label, isLabel := strings.CutPrefix(name, issuance.LabelSource); !isLabel || labels[label] != "" {
			sources[name] = s
		}
	}
	for name, value := range labels {
		if old, had := d.Labels[name]; !had || old != value {
			sources[issuance.LabelSource+name] = source
		}
	}
	return sources
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
