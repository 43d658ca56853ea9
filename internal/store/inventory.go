package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"assay/deviceid"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// ImportDevices takes a part of a list into the inventory, all or none. Taken again, it changes nothing.
//
// What evidence attested stays. A list replaces what it said itself before, and what other lists said of
// labels and states; a serial number or UDID that another source has otherwise becomes a conflict. What a
// person wrote down stays where the import is automatic. A value that the list does not give stays. A dry
// run does all of this and undoes it: what it says of a device that is new holds no id that will be its.
func (s *Store) ImportDevices(ctx context.Context, call issuance.Call, in issuance.Import) ([]issuance.ImportResult, error) {
	if len(in.Listings) > issuance.MaxListings {
		return nil, fmt.Errorf("import devices: %d at once, but the limit is %d", len(in.Listings), issuance.MaxListings)
	}
	results := make([]issuance.ImportResult, len(in.Listings))
	err := s.change(ctx, call, "import devices", func(t *tx) error {
		for i := range in.Listings {
			var err error
			if results[i], err = s.importOne(t, call, &in, &in.Listings[i]); err != nil {
				return fmt.Errorf("device %d of %d: %w", i+1, len(in.Listings), err)
			}
		}
		if in.DryRun {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	if !in.DryRun {
		for i := range results {
			s.metrics.imported.WithLabelValues(string(results[i].Change)).Inc()
		}
	}
	return results, nil
}

// errDryRun undoes a dry run.
var errDryRun = errors.New("a dry run is undone")

func (s *Store) importOne(t *tx, call issuance.Call, in *issuance.Import, l *issuance.Listing) (issuance.ImportResult, error) {
	if l.Serial == "" && l.UDID == "" {
		return issuance.ImportResult{}, errors.New("it has neither serial number nor UDID")
	}
	var n namesakes
	err := t.ask(n.byNames("", l.Serial, l.UDID))
	if err != nil {
		return issuance.ImportResult{}, err
	}
	found, byUDID := n.device(l.Serial), n.byUDID
	source := issuance.Source{From: in.Source, At: timeOf(stamp(call.Now))}
	udid, conflict := l.UDID, issuance.Conflict{Source: in.Source}
	if byUDID.ID != "" && byUDID.ID != found.ID {
		udid, conflict.Kind, conflict.Other, conflict.Said = "", issuance.UDIDClaimed, byUDID.ID, l.UDID
	}
	var result issuance.ImportResult
	if found.ID == "" {
		device := issuance.Device{Serial: l.Serial, UDID: udid, Labels: issuance.MergeLabels(nil, l.Labels), State: policy.Expected}
		if l.State != "" {
			device.State = l.State
		}
		device.Sources = sourcesFor(device, source)
		if found, err = s.insertDevice(t, call.Now, device); err != nil {
			return result, err
		}
		result = issuance.ImportResult{Device: found.ID, Change: issuance.ImportAdded}
	} else if result, err = s.importInto(t, call, found, l, udid, in, source, &conflict); err != nil {
		return result, err
	}
	if result.Change == issuance.ImportAdded || result.Change == issuance.ImportUpdated {
		kind, name := sourceParts(in.Source)
		row := audit.Row{Action: audit.DeviceListed, Device: string(found.ID), Detail: map[string]string{"source": kind, "change": string(result.Change)}}
		if err := s.record(t, call, row, audit.Personal{Serial: found.Serial, UDID: found.UDID, Names: name}); err != nil {
			return result, err
		}
	}
	if conflict.Kind != "" {
		conflict.Device = found.ID
		result.Change, result.Conflict = issuance.ImportConflict, conflict.Kind
		err = s.conflict(t, call, conflict, found.Serial)
	}
	return result, err
}

// importInto merges a listing into the row of its device.
func (s *Store) importInto(t *tx, call issuance.Call, old issuance.Device, l *issuance.Listing, udid string, in *issuance.Import, source issuance.Source, conflict *issuance.Conflict) (issuance.ImportResult, error) {
	d := old
	d.Sources = maps.Clone(old.Sources)
	if d.Sources == nil {
		d.Sources = map[string]issuance.Source{}
	}
	own := func(name string) bool { return d.Sources[name].From == in.Source }
	switch { // the serial decides which device it is: it differs only where the UDID found the row
	case l.Serial == "" || l.Serial == old.Serial:
	case old.Serial == "" && !old.Attested:
		d.Serial, d.Sources[issuance.SerialSource] = l.Serial, source
	default:
		conflict.Kind, conflict.Said = issuance.SerialDiffers, l.Serial
	}
	switch {
	case udid == "" || deviceid.SameUDID(udid, old.UDID):
	case !old.Attested && (old.UDID == "" || own(issuance.UDIDSource)):
		d.UDID, d.Sources[issuance.UDIDSource] = udid, source
	default:
		conflict.Kind, conflict.Said = issuance.UDIDDiffers, udid
	}
	labels := maps.Clone(old.Labels)
	for _, name := range slices.Sorted(maps.Keys(l.Labels)) {
		value := l.Labels[name]
		if value == "" || old.Labels[name] == value || in.Automatic && written(d.Sources[issuance.LabelSource+name]) {
			continue
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[name], d.Sources[issuance.LabelSource+name] = value, source
	}
	d.Labels = labels
	state := l.State
	if state == "" && !old.Listed() {
		state = policy.Expected
	}
	if state == policy.Expected && old.State == policy.Active { // a list does not know what the device did since
		state = ""
	}
	// Whoever said that a device is lost or retired, in a list of his own perhaps, is not contradicted by a
	// list that nobody chose.
	stays := written(d.Sources[issuance.StateSource]) || (old.State == policy.Lost || old.State == policy.Retired) && !own(issuance.StateSource)
	if state != "" && state != old.State && !(in.Automatic && stays) {
		d.State, d.Sources[issuance.StateSource] = state, source
	}
	if len(d.Labels) > issuance.MaxLabels || issuance.LabelBytes(d.Labels) > issuance.MaxLabelBytes {
		return issuance.ImportResult{}, fmt.Errorf("it would have %d labels of together %d bytes; the limit is %d of %d",
			len(d.Labels), issuance.LabelBytes(d.Labels), issuance.MaxLabels, issuance.MaxLabelBytes)
	}
	result := issuance.ImportResult{Device: old.ID, Change: issuance.ImportUnchanged}
	if d.Serial == old.Serial && d.UDID == old.UDID && d.State == old.State && maps.Equal(d.Labels, old.Labels) {
		return result, nil
	}
	if err := t.writeDevice(&d); err != nil {
		return result, err
	}
	result.Change = issuance.ImportUpdated
	if !old.Listed() {
		return result, t.resolve(call, old.ID, issuance.NotListed)
	}
	return result, nil
}

// sourceParts are the kind of a source, such as csv, and its name, such as csv:sams-laptop.csv, if that says more:
// people choose it, so it is one of an audit row's values that can be erased.
func sourceParts(source string) (kind string, name []string) {
	kind, _, named := strings.Cut(source, ":")
	if named {
		name = []string{source}
	}
	return kind, name
}

// written reports whether a person wrote a value down.
func written(s issuance.Source) bool {
	return s.From == "operator" || strings.HasPrefix(s.From, "operator:") || strings.HasPrefix(s.From, "token:")
}

// SetDeviceState says where a device that is at ifRevision (0: at any) stands from now on, and revokes its
// valid certificates if that is asked for, in one transaction. It returns the device and how many were
// revoked. issuance.ErrConflict if it is at another revision.
func (s *Store) SetDeviceState(ctx context.Context, call issuance.Call, id issuance.DeviceID, ifRevision int, change issuance.StateChange) (d issuance.Device, revoked int, err error) {
	err = s.change(ctx, call, "set device state", func(t *tx) error {
		revoked = 0
		if d, err = scanDevice(t.row(deviceByID, string(id))); errors.Is(err, issuance.ErrNotFound) {
			return keep(err)
		} else if err != nil {
			return err
		}
		if ifRevision != 0 && d.Revision != ifRevision {
			return keep(issuance.ErrConflict)
		}
		if change.Revoke {
			if revoked, err = s.revokeOf(t, call, id, change.Reason); err != nil {
				return err
			}
		}
		if d.State == change.State {
			return nil
		}
		row := audit.Row{Action: audit.DeviceStateChanged, Device: string(id), Detail: map[string]string{"from": string(d.State), "to": string(change.State)}}
		if err := t.resolve(call, id, issuance.NotListed); err != nil {
			return err
		}
		d.Sources = maps.Clone(d.Sources)
		if d.Sources == nil {
			d.Sources = map[string]issuance.Source{}
		}
		d.State, d.Sources[issuance.StateSource] = change.State, issuance.Source{From: call.From, At: timeOf(stamp(call.Now))}
		if err := t.writeDevice(&d); err != nil {
			return err
		}
		return s.record(t, call, row, audit.Personal{Serial: d.Serial, UDID: d.UDID})
	})
	if err != nil {
		return issuance.Device{}, 0, err
	}
	return d, revoked, nil
}

// revokeOf revokes the valid certificates of a device.
func (s *Store) revokeOf(t *tx, call issuance.Call, device issuance.DeviceID, reason int) (int, error) {
	var certificates []issuance.Certificate
	err := t.rows(func(row scanner) error {
		c, err := scanCertificate(row)
		certificates = append(certificates, c)
		return err
	}, `UPDATE certificates SET status = 'revoked', revoked_at = ?, revoked_reason = ?
		WHERE device = ? AND status = 'valid' AND not_after > ? RETURNING `+certificateColumns,
		stamp(call.Now), reason, string(device), stamp(call.Now))
	if err != nil {
		return 0, err
	}
	for i := range certificates {
		c := &certificates[i]
		if err := s.leaveRevoked(t, call, c); err != nil {
			return 0, err
		}
		if err := s.recordRevocation(t, call, c, issuance.Revocation{Certificate: c.ID, Reason: reason}); err != nil {
			return 0, err
		}
	}
	return len(certificates), nil
}

const conflictColumns = `id, kind, device, coalesce(other, ''), source, said, times, created_at, seen_at, resolved_at, resolved_by`

func scanConflict(row scanner) (issuance.Conflict, error) {
	var c issuance.Conflict
	var created, seen, resolved int64
	err := row.Scan(&c.ID, &c.Kind, &c.Device, &c.Other, &c.Source, &c.Said, &c.Times, &created, &seen, &resolved, &c.ResolvedBy)
	if err != nil {
		return issuance.Conflict{}, notFound(err)
	}
	c.CreatedAt, c.SeenAt, c.ResolvedAt = timeOf(created), timeOf(seen), timeOf(resolved)
	return c, nil
}

// Conflicts lists what contradicts the inventory, oldest first.
func (s *Store) Conflicts(ctx context.Context, f issuance.ConflictFilter) iter.Seq2[issuance.Conflict, error] {
	var q selection
	q.plain("resolved_at = 0", f.Open)
	q.and("device = ?", string(f.Device), f.Device != "")
	l := list[issuance.Conflict]{
		what: "list conflicts", columns: `SELECT ` + conflictColumns + ` FROM device_conflicts`, key: "id",
		scan: scanConflict, keyOf: func(c *issuance.Conflict) []any { return []any{string(c.ID)} },
	}
	return l.rows(ctx, s.reads, &q, f.Page)
}

// ResolveConflict ends an open conflict: somebody looked at it. Said again, it comes back as a new one.
// issuance.ErrConflict if it is over already.
func (s *Store) ResolveConflict(ctx context.Context, call issuance.Call, id issuance.ConflictID) (c issuance.Conflict, err error) {
	err = s.change(ctx, call, "resolve conflict", func(t *tx) error {
		c, err = scanConflict(t.updated(`SELECT `+conflictColumns+` FROM device_conflicts WHERE id = ?`, string(id),
			`UPDATE device_conflicts SET resolved_at = ?, resolved_by = ? WHERE id = ? AND resolved_at = 0`, stamp(call.Now), call.From, string(id)))
		if errors.Is(err, issuance.ErrNotFound) {
			return t.conflictOrMissing(`SELECT 1 FROM device_conflicts WHERE id = ?`, string(id))
		} else if err != nil {
			return err
		}
		kind, name := sourceParts(c.Source)
		row := audit.Row{Action: audit.ConflictResolved, Device: string(c.Device), Detail: map[string]string{"kind": string(c.Kind), "source": kind}}
		return s.record(t, call, row, audit.Personal{Names: name})
	})
	return c, err
}

// SyncState returns how far a source was read; of one that never was, issuance.ErrNotFound.
func (s *Store) SyncState(ctx context.Context, source string) (issuance.Sync, error) {
	y, err := scanSync(s.reads.row(ctx, `SELECT `+syncColumns+` FROM inventory_syncs WHERE source = ?`, source))
	if err != nil {
		return issuance.Sync{}, fmt.Errorf("read sync of %s: %w", source, err)
	}
	return y, nil
}

// Syncs returns how far every source was read, by name.
func (s *Store) Syncs(ctx context.Context) (syncs []issuance.Sync, err error) {
	err = s.reads.rows(ctx, func(row scanner) error {
		y, err := scanSync(row)
		syncs = append(syncs, y)
		return err
	}, `SELECT `+syncColumns+` FROM inventory_syncs ORDER BY source LIMIT 100`)
	if err != nil {
		return nil, fmt.Errorf("read syncs: %w", err)
	}
	return syncs, nil
}

const syncColumns = `source, cursor, began_at, finished_at, failed_at, error, devices, changed`

func scanSync(row scanner) (issuance.Sync, error) {
	var y issuance.Sync
	var began, finished, failed int64
	err := row.Scan(&y.Source, &y.Cursor, &began, &finished, &failed, &y.Error, &y.Devices, &y.Changed)
	if err != nil {
		return issuance.Sync{}, notFound(err)
	}
	y.BeganAt, y.FinishedAt, y.FailedAt = timeOf(began), timeOf(finished), timeOf(failed)
	return y, nil
}

// PutSyncState keeps how far a source was read.
func (s *Store) PutSyncState(ctx context.Context, call issuance.Call, y issuance.Sync) error {
	return s.change(ctx, call, "keep sync", func(t *tx) error {
		err := t.write(`INSERT INTO inventory_syncs (`+syncColumns+`) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
			ON CONFLICT (source) DO UPDATE SET cursor = ?2, began_at = ?3, finished_at = ?4, failed_at = ?5, error = ?6, devices = ?7, changed = ?8`,
			y.Source, y.Cursor, stamp(y.BeganAt), stamp(y.FinishedAt), stamp(y.FailedAt), truncate(y.Error, maxDetail), y.Devices, y.Changed)
		return err
	})
}
