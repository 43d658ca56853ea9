package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"time"

	"assay/internal/ca"
	"assay/internal/inventory/abm"
	"assay/internal/issuance"
	"assay/policy"
)

func (a *API) addInventory() {
	add(a, route{
		method: http.MethodPost, path: "/devices/import", id: "import-devices", tag: "devices", scope: DevicesWrite,
		summary:     "Take a part of a list into the inventory",
		description: "All or none. Asked again, it changes nothing, so a list can be taken in parts and again from the start. What evidence attested stays; what contradicts another source becomes a conflict.",
	}, a.importDevices)
	add(a, route{
		method: http.MethodPost, path: "/devices/{device}/state", id: "set-device-state", tag: "devices", scope: DevicesWrite,
		summary:     "Say where a device stands",
		description: "A lost or retired device gets no certificate, whatever the policy says. With revoke, its valid certificates are revoked in the same step; the token then needs certificates:write, too.",
		also: map[int]string{http.StatusNotFound: "There is no such device.",
			http.StatusPreconditionFailed: "The device was changed since the ETag in If-Match was answered."},
	}, a.setDeviceState)
	add(a, route{
		method: http.MethodGet, path: "/conflicts", id: "list-conflicts", tag: "devices", scope: DevicesRead,
		summary: "List what contradicts the inventory", description: "Oldest first; those that are open, unless all are asked for.",
	}, a.listConflicts)
	add(a, route{
		method: http.MethodPost, path: "/conflicts/{conflict}/resolve", id: "resolve-conflict", tag: "devices", scope: DevicesWrite,
		summary: "End a conflict", description: "Somebody looked at it. What is said again comes back as a new one.",
		also: map[int]string{http.StatusNotFound: "There is no such conflict.", http.StatusConflict: "It is over already."},
	}, a.resolveConflict)
}

// ImportDevices is a part of a list.
type ImportDevices struct {
	Source  string         `json:"source,omitempty" maxLength:"100" pattern:"^[a-z][a-z0-9-]*(:[^\\x00-\\x1f\\x7f]+)?$" patternDescription:"a word, or a word and a name behind a colon, such as csv:fleet.csv" doc:"Who says so. Default: the caller. A source replaces what it said itself before."`
	Devices []ListedDevice `json:"devices" nullable:"false" minItems:"1" maxItems:"500"`
}

// ListedDevice is a device as a list has it.
type ListedDevice struct {
	Serial string            `json:"serial,omitempty"`
	UDID   string            `json:"udid,omitempty" doc:"Of a Mac the provisioning UDID, which is the one that it attests."`
	State  string            `json:"state,omitempty" enum:"expected,active,lost,retired" doc:"Where it stands. Default: as it does; expected for a device that is new."`
	Labels map[string]string `json:"labels,omitempty" doc:"owner and model among them. One with an empty value stays as it is."`
}

// ImportedDevice is what became of one device of a list: a change, or an error.
type ImportedDevice struct {
	Device   string `json:"device,omitempty" doc:"Its id."`
	Change   string `json:"change,omitempty" enum:"added,updated,unchanged,conflict" doc:"conflict: something of it contradicts what is known, and the rest was taken."`
	Conflict string `json:"conflict,omitempty" enum:"not-listed,udid-claimed,udid-differs,serial-differs"`
}

// ImportedDevices is what became of each device, in the order of the request.
type ImportedDevices struct {
	Results []ImportedDevice `json:"results" nullable:"false"`
}

type importDevicesInput struct{ Body ImportDevices }

type importedDevices struct{ Body ImportedDevices }

// reservedSources are those that only Assay itself writes.
var reservedSources = []string{issuance.FromEvidence, "operator", "token", "server", abm.Source}

func (a *API) importDevices(ctx context.Context, in *importDevicesInput) (*importedDevices, error) {
	call := a.call(ctx)
	work := issuance.Import{Source: in.Body.Source, Listings: make([]issuance.Listing, len(in.Body.Devices))}
	if work.Source == "" {
		work.Source = call.From
	} else if word := sourceWord(work.Source); slices.Contains(reservedSources, word) {
		return nil, malformedMember("source", "body.source", fmt.Sprintf("%q is Assay's own word", word))
	}
	for i := range in.Body.Devices {
		d, at := &in.Body.Devices[i], fmt.Sprintf("body.devices[%d]", i)
		if d.Serial == "" && d.UDID == "" {
			return nil, malformedMember("device-named", at, "it has neither serial number nor UDID")
		}
		if p := checkDevice(d.Serial, d.UDID, d.Labels, at); p != nil {
			return nil, p
		}
		work.Listings[i] = issuance.Listing{Serial: d.Serial, UDID: d.UDID, State: policy.State(d.State), Labels: d.Labels}
	}
	results, err := a.config.Store.ImportDevices(ctx, call, work)
	if err != nil {
		return nil, err
	}
	out := &importedDevices{ImportedDevices{Results: make([]ImportedDevice, len(results))}}
	for i, r := range results {
		out.Body.Results[i] = ImportedDevice{Device: string(r.Device), Change: string(r.Change), Conflict: string(r.Conflict)}
	}
	return out, nil
}

func sourceWord(source string) string {
	for i, r := range source {
		if r == ':' {
			return source[:i]
		}
	}
	return source
}

// SetDeviceState says where a device stands.
type SetDeviceState struct {
	State  string `json:"state" enum:"expected,active,lost,retired"`
	Revoke bool   `json:"revoke,omitempty" doc:"Whether its valid certificates are revoked."`
	Reason string `json:"reason,omitempty" enum:"unspecified,keyCompromise,cACompromise,affiliationChanged,superseded,cessationOfOperation,certificateHold,privilegeWithdrawn,aACompromise" doc:"Why they are (RFC 5280, section 5.3.1). Default: cessationOfOperation."`
}

// DeviceState is a device, and what was done to it.
type DeviceState struct {
	Device
	Revoked int `json:"revoked" doc:"How many certificates were revoked."`
}

type setDeviceStateInput struct {
	DevicePath
	Conditions
	Body SetDeviceState
}

func (a *API) setDeviceState(ctx context.Context, in *setDeviceStateInput) (*tagged[DeviceState], error) {
	revision, p := in.revision()
	if p != nil {
		return nil, p
	}
	change := issuance.StateChange{State: policy.State(in.Body.State), Revoke: in.Body.Revoke, Reason: int(ca.CessationOfOperation)}
	if change.Revoke && !useOf(ctx).may(CertificatesWrite) {
		return nil, scopeMissing(CertificatesWrite)
	}
	if in.Body.Reason != "" {
		reason, err := ca.ParseReason(in.Body.Reason)
		if err != nil {
			return nil, malformedMember("reason", "body.reason", err.Error())
		}
		change.Reason = int(reason)
	}
	device, revoked, err := a.config.Store.SetDeviceState(ctx, a.call(ctx), issuance.DeviceID(in.Device), revision, change)
	if errors.Is(err, issuance.ErrConflict) && revision != 0 {
		return nil, changed()
	} else if err != nil {
		return nil, err
	}
	etag, err := etagOf(device.Revision, deviceOf(&device)) // as it is shown by itself
	if err != nil {
		return nil, err
	}
	return &tagged[DeviceState]{ETag: etag, Body: DeviceState{Device: deviceOf(&device), Revoked: revoked}}, nil
}

// Conflict is something that contradicts the inventory.
type Conflict struct {
	ID          string    `json:"id" doc:"Opaque id (conflict_…)."`
	Kind        string    `json:"kind" enum:"not-listed,udid-claimed,udid-differs,serial-differs"`
	Device      string    `json:"device"`
	Serial      string    `json:"serial,omitempty" doc:"As the inventory has it."`
	UDID        string    `json:"udid,omitempty"`
	Other       string    `json:"other,omitempty" doc:"The other device that claims the same."`
	OtherSerial string    `json:"otherSerial,omitempty" doc:"Its serial number."`
	Source      string    `json:"source" doc:"Who says otherwise."`
	Said        string    `json:"said" doc:"What it says: a UDID or serial number."`
	Times       int       `json:"times" doc:"How often it was said."`
	CreatedAt   time.Time `json:"createdAt"`
	SeenAt      time.Time `json:"seenAt" doc:"Last."`
	ResolvedAt  time.Time `json:"resolvedAt,omitzero"`
	ResolvedBy  string    `json:"resolvedBy,omitempty"`
	Advice      string    `json:"advice" doc:"What to do about it."`
}

// conflictAdvice is what to do about conflicts.
var conflictAdvice = map[issuance.ConflictKind]string{
	issuance.NotListed:     "nobody lists the device, and it attested itself: list it, or revoke its certificates and find out how it got a code",
	issuance.UDIDClaimed:   "another device has this UDID: correct the list that is wrong; a UDID that was attested is right",
	issuance.UDIDDiffers:   "of a Mac, see whether the list has the hardware UUID where the provisioning UDID belongs; a UDID that was attested is right",
	issuance.SerialDiffers: "the device with this UDID has another serial number: correct the list that is wrong; one that was attested is right. `assay device forget` takes a row away whose serial number is mistyped",
}

type listConflictsInput struct {
	Paging
	Device string `query:"device" maxLength:"64" doc:"Only conflicts about this device, by its id."`
	All    bool   `query:"all" doc:"Also those that are over."`
}

func (a *API) listConflicts(ctx context.Context, in *listConflictsInput) (*page[Conflict], error) {
	list := listing[issuance.Conflict, Conflict]{
		prefix: "conflict_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Conflict, error] {
			return a.config.Store.Conflicts(ctx, issuance.ConflictFilter{Page: p, Device: issuance.DeviceID(in.Device), Open: !in.All})
		},
		id: func(c *issuance.Conflict) string { return string(c.ID) },
		wire: func(c *issuance.Conflict) (Conflict, bool, error) {
			out, err := a.conflictOf(ctx, c)
			return out, true, err
		},
	}
	return list.read(in.Paging)
}

type resolveConflictInput struct {
	Conflict string `path:"conflict" maxLength:"64" doc:"Id of the conflict (conflict_…)."`
}

type conflictAnswer struct{ Body Conflict }

func (a *API) resolveConflict(ctx context.Context, in *resolveConflictInput) (*conflictAnswer, error) {
	c, err := a.config.Store.ResolveConflict(ctx, a.call(ctx), issuance.ConflictID(in.Conflict))
	if err != nil {
		return nil, err
	}
	out, err := a.conflictOf(ctx, &c)
	if err != nil {
		return nil, err
	}
	return &conflictAnswer{out}, nil
}

func (a *API) conflictOf(ctx context.Context, c *issuance.Conflict) (Conflict, error) {
	out := Conflict{
		ID: string(c.ID), Kind: string(c.Kind), Device: string(c.Device), Other: string(c.Other), Source: c.Source, Said: c.Said,
		Times: c.Times, CreatedAt: c.CreatedAt, SeenAt: c.SeenAt, ResolvedAt: c.ResolvedAt, ResolvedBy: c.ResolvedBy, Advice: conflictAdvice[c.Kind],
	}
	device, err := a.config.Store.Device(ctx, c.Device)
	if err == nil {
		out.Serial, out.UDID = device.Serial, device.UDID
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return Conflict{}, err
	}
	if c.Other == "" {
		return out, nil
	}
	other, err := a.config.Store.Device(ctx, c.Other)
	if err == nil {
		out.OtherSerial = other.Serial
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return Conflict{}, err
	}
	return out, nil
}
