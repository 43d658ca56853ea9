package delivery

import (
	"context"
	"errors"

	"assay/deviceid"
	"assay/internal/issuance"
)

// device finds the device that a request names, with what the request adds to what is known of it:
// without an id if it is new, or if the request names none. What contradicts what is known is a
// *RefusedError: the credential would go to another device than somebody means.
func (d *Declarer) device(ctx context.Context, r Request) (issuance.Device, error) {
	bySerial, err := d.known(ctx, r.Serial, "")
	if err != nil {
		return issuance.Device{}, err
	}
	byUDID, err := d.known(ctx, "", r.UDID)
	if err != nil {
		return issuance.Device{}, err
	}
	if bySerial.ID != "" && byUDID.ID != "" && bySerial.ID != byUDID.ID {
		return issuance.Device{}, refuse(CheckDeviceConflict, "serial number %s is of device %s, UDID %s is of device %s: give the one that is right, or correct the other device",
			quote(r.Serial), bySerial.ID, quote(r.UDID), byUDID.ID)
	}
	known := bySerial
	if known.ID == "" {
		known = byUDID
	}
	if known.Serial != "" && r.Serial != "" && !deviceid.SameSerial(known.Serial, r.Serial) {
		return issuance.Device{}, refuse(CheckDeviceConflict, "UDID %s is of device %s, whose serial number is %s, not %s",
			quote(r.UDID), known.ID, quote(known.Serial), quote(r.Serial))
	}
	if known.UDID != "" && r.UDID != "" && !deviceid.SameUDID(known.UDID, r.UDID) {
		return issuance.Device{}, refuse(CheckDeviceConflict, "serial number %s is of device %s, whose UDID is %s, not %s; of a Mac give the provisioning UDID",
			quote(r.Serial), known.ID, quote(known.UDID), quote(r.UDID))
	}
	known = merge(known, r)
	if len(known.Labels) > issuance.MaxLabels || issuance.LabelBytes(known.Labels) > issuance.MaxLabelBytes {
		return issuance.Device{}, refuse(CheckLabels, "device %s would have %d labels of together %d bytes; the limit is %d of %d: remove some",
			quote(deviceName(known)), len(known.Labels), issuance.LabelBytes(known.Labels), issuance.MaxLabels, issuance.MaxLabelBytes)
	}
	return known, nil
}

// known is the device of a serial number or UDID; zero if there is none, or nothing was given.
func (d *Declarer) known(ctx context.Context, serial, udid string) (issuance.Device, error) {
	if serial == "" && udid == "" {
		return issuance.Device{}, nil
	}
	device, err := d.Store.DeviceLike(ctx, serial, udid)
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Device{}, nil
	}
	return device, err
}

// merge fills in what is not known of a device yet, and merges the request's labels into its own.
func merge(known issuance.Device, r Request) issuance.Device {
	if known.Serial == "" {
		known.Serial = r.Serial
	}
	if known.UDID == "" {
		known.UDID = r.UDID
	}
	known.Labels = issuance.MergeLabels(known.Labels, r.Labels)
	return known
}
