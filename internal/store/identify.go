package store

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// identification is how somebody came to say which serial and UDID belong together.
type identification int

const (
	// byMinting: whoever mints a code names its device. That tells nothing of a device that is known
	// already: by its UDID, for one, the document of another credential may be opened.
	byMinting     identification = iota
	byDeclaring                  // whoever declares a credential describes its device
	byEvidence                   // the device attested it
	byCertificate                // the device attested it, and got a certificate on that
)

// attested reports whether evidence says so.
func (by identification) attested() bool { return by == byEvidence || by == byCertificate }

// knownDevice finds or makes the row of the device with this serial (compared exactly), else with
// this UDID (compared without case). Where the two point to different devices the serial decides,
// and a conflict is on record. What evidence attested replaces what people and lists say; whoever mints
// a code for a device or declares its credential lists it.
func (s *Store) knownDevice(t *tx, call issuance.Call, d issuance.Device, by identification) (issuance.DeviceID, error) {
	var n namesakes
	if err := t.ask(n.byNames("", d.Serial, d.UDID)); err != nil {
		return "", err
	}
	return s.identified(t, call, &n, d, by)
}

// identified is knownDevice for what the inventory has by the device's names.
func (s *Store) identified(t *tx, call issuance.Call, n *namesakes, d issuance.Device, by identification) (_ issuance.DeviceID, err error) {
	found, byUDID := n.device(d.Serial), n.byUDID
	source := issuance.Source{From: call.From, At: timeOf(stamp(call.Now))}
	if by.attested() {
		source.From = issuance.FromEvidence
	}
	claimed := ""
	if byUDID.ID != "" && byUDID.ID != found.ID {
		claimed, d.UDID = d.UDID, "" // it stays with the other device
	}
	dispute := s.conflict
	if found.ID == "" {
		found, err = s.insertDevice(t, call.Now, newDevice(d, by, source))
		dispute = s.openConflict // of a new row there is none open
	} else {
		found, err = s.identify(t, call, found, d, by, source)
	}
	if err == nil && claimed != "" {
		err = dispute(t, call, issuance.Conflict{Kind: issuance.UDIDClaimed, Device: found.ID, Other: byUDID.ID, Source: source.From, Said: claimed}, d.Serial)
	}
	if err == nil && by.attested() && !found.Listed() {
		err = dispute(t, call, issuance.Conflict{Kind: issuance.NotListed, Device: found.ID, Source: source.From, Said: deviceText(found)}, found.Serial)
	}
	return found.ID, err
}

// deviceText names a device: its serial number, else its UDID.
func deviceText(d issuance.Device) string {
	if d.Serial != "" {
		return d.Serial
	}
	return d.UDID
}

func udidKey(udid string) string { return strings.ToLower(udid) }

// newDevice is a device that is new, with where its values come from.
func newDevice(d issuance.Device, by identification, source issuance.Source) issuance.Device {
	d.Attested, d.State = by.attested(), policy.Expected
	if by.attested() {
		d.State = ""
	}
	if by == byCertificate {
		d.SeenAt = source.At
	}
	d.Sources = sourcesFor(d, source)
	return d
}

// sourcesFor says of every value that a device has that it came from one source.
func sourcesFor(d issuance.Device, source issuance.Source) map[string]issuance.Source {
	sources := map[string]issuance.Source{}
	for name, value := range map[string]string{issuance.SerialSource: d.Serial, issuance.UDIDSource: d.UDID, issuance.StateSource: string(d.State)} {
		if value != "" {
			sources[name] = source
		}
	}
	for name := range d.Labels {
		sources[issuance.LabelSource+name] = source
	}
	return sources
}

func (s *Store) insertDevice(t *tx, now time.Time, d issuance.Device) (issuance.Device, error) {
	id, err := newID[issuance.DeviceID](s.random, now)
	if err != nil {
		return d, err
	}
	labels, err := labelsText(d.Labels)
	if err != nil {
		return d, err
	}
	sources, err := sourcesText(d.Sources)
	if err != nil {
		return d, err
	}
	d.ID, d.Revision, d.CreatedAt = id, 1, timeOf(stamp(now))
	err = t.write(`INSERT INTO devices (id, serial, udid, udid_key, labels, attested, state, sources, seen_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		string(id), d.Serial, d.UDID, udidKey(d.UDID), labels, flag(d.Attested), string(d.State), sources, stamp(d.SeenAt), stamp(now))
	if err != nil {
		return d, fmt.Errorf("store device: %w", err)
	}
	return d, nil
}

// identify fills in what is not known of a device yet; attested values also replace other ones, and a list
// that said otherwise is on record as a conflict.
func (s *Store) identify(t *tx, call issuance.Call, old, d issuance.Device, by identification, source issuance.Source) (issuance.Device, error) {
	updated := old
	updated.Sources = maps.Clone(old.Sources)
	if updated.Sources == nil {
		updated.Sources = map[string]issuance.Source{}
	}
	attested := by.attested()
	if d.Serial != "" && by != byMinting && old.Serial == "" && (attested || !old.Attested) {
		updated.Serial, updated.Sources[issuance.SerialSource] = d.Serial, source
	}
	replaced := false
	if d.UDID != "" && by != byMinting && (attested && !deviceid.SameUDID(old.UDID, d.UDID) || old.UDID == "" && !old.Attested) {
		updated.UDID, updated.Sources[issuance.UDIDSource] = d.UDID, source
		replaced = old.UDID != ""
	}
	if !attested && !old.Listed() {
		updated.State, updated.Sources[issuance.StateSource] = policy.Expected, source
	}
	updated.Attested = old.Attested || attested
	if by == byCertificate {
		updated.SeenAt = source.At
		if old.State == policy.Expected {
			updated.State, updated.Sources[issuance.StateSource] = policy.Active, source
		}
	}
	if updated.Serial == old.Serial && updated.UDID == old.UDID && updated.Attested == old.Attested && updated.State == old.State {
		return old, t.seen(&updated)
	}
	if err := t.writeDevice(&updated); err != nil {
		return old, err
	}
	if !attested && !old.Listed() {
		if err := t.resolve(call, old.ID, issuance.NotListed); err != nil {
			return old, err
		}
	}
	if !replaced {
		return updated, nil
	}
	return updated, s.conflict(t, call, issuance.Conflict{Kind: issuance.UDIDDiffers, Device: old.ID, Source: issuance.FromEvidence, Said: old.UDID}, updated.Serial)
}

// writeDevice writes what the inventory knows of a device, and raises its revision.
func (t *tx) writeDevice(d *issuance.Device) error {
	labels, err := labelsText(d.Labels)
	if err != nil {
		return err
	}
	sources, err := sourcesText(d.Sources)
	if err != nil {
		return err
	}
	err = t.must(fmt.Errorf("device %s changed meanwhile", d.ID), `UPDATE devices SET serial = ?, udid = ?, udid_key = ?, labels = ?, attested = ?, state = ?, sources = ?, seen_at = ?,
		revision = revision + 1 WHERE id = ? AND revision = ?`,
		d.Serial, d.UDID, udidKey(d.UDID), labels, flag(d.Attested), string(d.State), sources, stamp(d.SeenAt), string(d.ID), d.Revision)
	if err != nil {
		return fmt.Errorf("update device: %w", err)
	}
	d.Revision++
	return nil
}

// seen notes when a device of which nothing else changed last got a certificate on its evidence. It writes the row
// in any case: whoever is about to bar the device begins again because of that, and finds the certificate.
func (t *tx) seen(d *issuance.Device) error {
	return t.write(`UPDATE devices SET seen_at = CASE WHEN seen_at < ?1 THEN ?1 ELSE seen_at END WHERE id = ?2`, stamp(d.SeenAt), string(d.ID))
}

// conflict puts something on record that contradicts the inventory: once while it is open, with an audit
// row for the first time.
func (s *Store) conflict(t *tx, call issuance.Call, c issuance.Conflict, serial string) error {
	n, err := t.exec(`UPDATE device_conflicts SET times = times + 1, seen_at = ?, other = ?, said = ? WHERE device = ? AND kind = ? AND source = ? AND resolved_at = 0`,
		stamp(call.Now), null(c.Other), c.Said, string(c.Device), string(c.Kind), c.Source)
	if err != nil || n > 0 {
		return err
	}
	return s.openConflict(t, call, c, serial)
}

// openConflict puts a conflict on record of which none is open.
func (s *Store) openConflict(t *tx, call issuance.Call, c issuance.Conflict, serial string) error {
	id, err := newID[issuance.ConflictID](s.random, call.Now)
	if err != nil {
		return err
	}
	err = t.write(`INSERT INTO device_conflicts (id, kind, device, other, source, said, times, created_at, seen_at) VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?)`,
		string(id), string(c.Kind), string(c.Device), null(c.Other), c.Source, c.Said, stamp(call.Now), stamp(call.Now))
	if err != nil {
		return fmt.Errorf("store conflict: %w", err)
	}
	kind, name := sourceParts(c.Source)
	row := audit.Row{Action: audit.DeviceConflict, Device: string(c.Device), Detail: map[string]string{"kind": string(c.Kind), "source": kind}}
	if c.Other != "" {
		row.Detail["other"] = string(c.Other)
	}
	p := audit.Personal{Serial: serial, Names: name}
	if c.Kind != issuance.NotListed {
		p.UDID = c.Said
	}
	return s.record(t, call, row, p)
}

// resolve ends the open conflicts of a kind about a device, because what they were about is so no more.
func (t *tx) resolve(call issuance.Call, device issuance.DeviceID, kind issuance.ConflictKind) error {
	var ids []string
	err := t.rows(func(row scanner) error {
		var id string
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM device_conflicts WHERE device = ? AND kind = ? AND resolved_at = 0`, string(device), string(kind))
	for _, id := range ids {
		if err == nil {
			err = t.write(`UPDATE device_conflicts SET resolved_at = ?, resolved_by = ? WHERE id = ?`, stamp(call.Now), call.From, id)
		}
	}
	return err
}
