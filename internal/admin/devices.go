package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"iter"
	"net/http"
	"strings"

	"assay/internal/issuance"
	"assay/policy"
)

func (a *API) addDevices() {
	missing := "There is no such device."
	add(a, route{
		method: http.MethodGet, path: "/devices", id: "list-devices", tag: "devices", scope: DevicesRead,
		summary: "List devices", description: "Oldest first. With serial or udid: the one device that has it, or none. With a label, the whole inventory is read.",
	}, a.listDevices)
	add(a, route{
		method: http.MethodGet, path: "/devices/{device}", id: "show-device", tag: "devices", scope: DevicesRead,
		summary: "Show a device", description: "By its id.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showDevice)
	add(a, route{
		method: http.MethodPatch, path: "/devices/{device}", id: "change-device", tag: "devices", scope: DevicesWrite,
		summary: "Change a device", description: "Replaces what is given and leaves the rest. Serial number and UDID are established by orders and evidence, not here.",
		also: map[int]string{
			http.StatusNotFound:           missing,
			http.StatusConflict:           "The MDM certificate belongs to another device.",
			http.StatusPreconditionFailed: "The device was changed since the ETag in If-Match was answered.",
		},
	}, a.changeDevice)
}

// unlisted stands for devices that nobody lists.
const unlisted = "unlisted"

type listDevicesInput struct {
	Paging
	Serial string `query:"serial" maxLength:"255" doc:"Only the device with this serial number (compared exactly)."`
	UDID   string `query:"udid" maxLength:"255" doc:"Only the device with this UDID (compared without case)."`
	State  string `query:"state" enum:"expected,active,lost,retired,unlisted" doc:"Only devices that stand there; unlisted: those that attested themselves and nobody lists."`
	Label  string `query:"label" maxLength:"4200" doc:"Only devices with this label, as NAME=VALUE."`
}

func (a *API) listDevices(ctx context.Context, in *listDevicesInput) (*page[Device], error) {
	filter := issuance.DeviceFilter{Serial: in.Serial, UDID: in.UDID, State: policy.State(in.State)}
	if in.State == unlisted {
		filter.State, filter.NotListed = "", true
	}
	if in.Label != "" {
		var named bool
		if filter.LabelName, filter.LabelValue, named = strings.Cut(in.Label, "="); !named || filter.LabelName == "" {
			return nil, malformedMember("label", "query.label", "it is not written NAME=VALUE")
		}
	}
	list := listing[issuance.Device, Device]{
		prefix: "dev_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Device, error] {
			filter.Page = p
			return a.config.Store.Devices(ctx, filter)
		},
		id:   func(d *issuance.Device) string { return string(d.ID) },
		wire: func(d *issuance.Device) (Device, bool, error) { return deviceOf(d), true, nil },
	}
	return list.read(in.Paging)
}

// DevicePath is the path of one device. It is exported for huma, which reads no others that are embedded.
type DevicePath struct {
	Device string `path:"device" maxLength:"64" doc:"Id of the device (dev_…)."`
}

type showDeviceInput struct {
	DevicePath
	Known
}

func (a *API) showDevice(ctx context.Context, in *showDeviceInput) (*tagged[Device], error) {
	device, err := a.config.Store.Device(ctx, issuance.DeviceID(in.Device))
	if err != nil {
		return nil, err
	}
	return tag(device.Revision, deviceOf(&device))
}

type changeDeviceInput struct {
	DevicePath
	Conditions
	Body DeviceChange
}

func (a *API) changeDevice(ctx context.Context, in *changeDeviceInput) (*tagged[Device], error) {
	revision, p := in.revision()
	if p == nil {
		p = checkLabels(in.Body.Labels, "body")
	}
	if p != nil {
		return nil, p
	}
	fingerprint, p := fingerprintOf(in.Body.MDMFingerprint)
	if p != nil {
		return nil, p
	}
	device, err := a.config.Store.UpdateDevice(ctx, a.call(ctx), issuance.DeviceID(in.Device), revision, in.Body.Labels, fingerprint)
	if errors.Is(err, issuance.ErrConflict) && revision != 0 {
		return nil, changed()
	}
	if taken, ok := errors.AsType[*issuance.FingerprintInUseError](err); ok {
		return nil, refuse(http.StatusConflict, "fingerprint-free", "the MDM certificate belongs to device %s: take it from there first", taken.Device)
	}
	if err != nil {
		return nil, err
	}
	return tag(device.Revision, deviceOf(&device))
}

// fingerprintOf is a SHA-256 in the form in which it is compared: lower-case hex without colons. nil
// and "" stay what they are.
func fingerprintOf(given *string) (*string, *Problem) {
	if given == nil || *given == "" {
		return given, nil
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(*given, ":", ""))
	if err != nil || len(raw) != sha256.Size {
		return nil, malformedMember("fingerprint", "body.mdmFingerprint", "not the 64 hex digits of a SHA-256")
	}
	return new(hex.EncodeToString(raw)), nil
}

func deviceOf(d *issuance.Device) Device {
	return Device{
		ID: string(d.ID), Serial: d.Serial, UDID: d.UDID, Labels: d.Labels, Attested: d.Attested,
		MDMFingerprint: d.MDMFingerprint, State: string(d.State), Sources: d.Sources, LastSeen: d.SeenAt, CreatedAt: d.CreatedAt,
	}
}
