package admin

import (
	"context"
	"errors"
	"net/http"

	"assay/attest"
	"assay/internal/audit"
	"assay/internal/issuance"
)

func (a *API) addPersonal() {
	missing := "There is no such device."
	add(a, route{
		method: http.MethodGet, path: "/devices/{device}/data", id: "show-device-data", tag: "devices", scope: PersonalRead,
		summary:     "Show everything that is stored about a device",
		description: "For whoever the device belongs to asks what is known: its row, codes, credentials, certificates, evidence, decisions with what they rested on, holds, conflicts, and the rows of the audit. Of each, at most the newest 1000.",
		also:        map[int]string{http.StatusNotFound: missing},
	}, a.deviceData)
	add(a, route{
		method: http.MethodPost, path: "/devices/{device}/forget", id: "forget-device", tag: "devices", scope: DevicesForget,
		summary:     "Erase what is stored about a device and its owner",
		description: "Serial number, UDID and labels wherever they stand, its evidence, what decisions rested on, its certificates themselves, and the personal values of the audit's rows about it, in one step that cannot be undone. That certificates were issued, decided on and revoked stays, and the audit still verifies. Unused codes are revoked, credentials withdrawn.",
		also: map[int]string{http.StatusNotFound: missing,
			http.StatusConflict: "The device has valid certificates and revoke was not asked for, or one is just being issued."},
	}, a.forgetDevice)
}

// maxData is how many of each kind are answered of a device.
const maxData = 1000

// DeviceData is everything that is stored about a device.
type DeviceData struct {
	Device       Device           `json:"device"`
	Codes        []Code           `json:"codes" nullable:"false"`
	Credentials  []Credential     `json:"credentials" nullable:"false"`
	Certificates []Certificate    `json:"certificates" nullable:"false"`
	Decisions    []Decision       `json:"decisions" nullable:"false"`
	Evidence     []StoredEvidence `json:"evidence" nullable:"false"`
	Holds        []Hold           `json:"holds" nullable:"false"`
	Conflicts    []Conflict       `json:"conflicts" nullable:"false"`
	Audit        []AuditRow       `json:"audit" nullable:"false"`
	Cut          bool             `json:"cut,omitempty" doc:"Whether there is more than is answered."`
}

// StoredEvidence is a piece of evidence as it is stored.
type StoredEvidence struct {
	ID          string        `json:"id" doc:"Opaque id (evid_…)."`
	Kind        string        `json:"kind"`
	Format      string        `json:"format,omitempty"`
	Object      []byte        `json:"object,omitempty" doc:"The attestation object as received."`
	DeviceError string        `json:"deviceError,omitempty" doc:"The device's own words."`
	Facts       *attest.Facts `json:"facts,omitempty"`
	Failed      string        `json:"failed,omitempty"`
}

type deviceDataAnswer struct{ Body DeviceData }

func (a *API) deviceData(ctx context.Context, in *DevicePath) (*deviceDataAnswer, error) {
	id := issuance.DeviceID(in.Device)
	device, err := a.config.Store.Device(ctx, id)
	if err != nil {
		return nil, err
	}
	d := DeviceData{Device: deviceOf(&device), Codes: []Code{}, Credentials: []Credential{}, Certificates: []Certificate{}, Decisions: []Decision{},
		Evidence: []StoredEvidence{}, Holds: []Hold{}, Conflicts: []Conflict{}, Audit: []AuditRow{}}
	page := issuance.Page{Limit: maxData + 1}
	evidence := map[issuance.EvidenceID]bool{}
	for c, err := range a.config.Store.Codes(ctx, issuance.CodeFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		d.Codes = append(d.Codes, a.codeOf(&c))
	}
	for k, err := range a.config.Store.DeviceCredentials(ctx, issuance.CredentialFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		delivery, err := a.config.Store.Delivery(ctx, k.ID)
		if err != nil {
			return nil, err
		}
		credential, err := a.credentialOf(ctx, &delivery)
		if err != nil {
			return nil, err
		}
		d.Credentials = append(d.Credentials, credential)
	}
	for c, err := range a.config.Store.Certificates(ctx, issuance.CertificateFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		d.Certificates, evidence[c.Evidence] = append(d.Certificates, a.certificateOf(&c)), true
	}
	for one, err := range a.config.Store.Decisions(ctx, issuance.DecisionFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		d.Decisions, evidence[one.Evidence] = append(d.Decisions, decisionOf(&one)), true
	}
	for h, err := range a.config.Store.Holds(ctx, issuance.HoldFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		hold, err := a.holdOf(ctx, &h)
		if err != nil {
			return nil, err
		}
		d.Holds = append(d.Holds, hold)
	}
	for c, err := range a.config.Store.Conflicts(ctx, issuance.ConflictFilter{Page: page, Device: id}) {
		if err != nil {
			return nil, err
		}
		conflict, err := a.conflictOf(ctx, &c)
		if err != nil {
			return nil, err
		}
		conflict.OtherSerial = "" // somebody else's
		d.Conflicts = append(d.Conflicts, conflict)
	}
	for row, err := range a.config.Store.Audit(ctx, audit.Filter{Device: string(id), Limit: maxData + 1}) {
		if err != nil {
			return nil, err
		}
		row.Salt = nil
		d.Audit = append(d.Audit, row)
	}
	if err := a.addStored(ctx, &d, evidence); err != nil {
		return nil, err
	}
	d.cut()
	return &deviceDataAnswer{d}, nil
}

// addStored reads the evidence that certificates and decisions name. What retention removed is left out.
func (a *API) addStored(ctx context.Context, d *DeviceData, ids map[issuance.EvidenceID]bool) error {
	for id := range ids {
		e, err := a.config.Store.Evidence(ctx, id)
		if errors.Is(err, issuance.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		d.Evidence = append(d.Evidence, StoredEvidence{ID: string(e.ID), Kind: string(e.Kind), Format: e.Format, Object: e.Object,
			DeviceError: e.DeviceError, Facts: e.Facts, Failed: e.Failed})
	}
	return nil
}

// cut keeps of every kind as many as are answered.
func (d *DeviceData) cut() {
	d.Cut = len(d.Codes) > maxData || len(d.Certificates) > maxData || len(d.Decisions) > maxData || len(d.Audit) > maxData
	d.Codes, d.Certificates = newest(d.Codes), newest(d.Certificates)
	d.Decisions, d.Audit = newest(d.Decisions), newest(d.Audit)
}

func newest[T any](all []T) []T { return all[max(0, len(all)-maxData):] }

// ForgetDevice says how far a device is forgotten.
type ForgetDevice struct {
	Revoke bool `json:"revoke,omitempty" doc:"Whether its valid certificates are revoked first. Without, a device that has some is not forgotten: they could not be found again."`
}

// ForgottenDevice counts what was erased.
type ForgottenDevice struct {
	Device       string `json:"device" doc:"Its id, which stays."`
	Certificates int    `json:"certificates" doc:"Whose content was erased."`
	Revoked      int    `json:"revoked" doc:"Of these, which were valid."`
	Evidence     int    `json:"evidence"`
	AuditRows    int    `json:"auditRows" doc:"Whose personal values were erased."`
}

type forgetDeviceInput struct {
	DevicePath
	Body ForgetDevice
}

type forgottenDevice struct{ Body ForgottenDevice }

func (a *API) forgetDevice(ctx context.Context, in *forgetDeviceInput) (*forgottenDevice, error) {
	done, err := a.config.Store.ForgetDevice(ctx, a.call(ctx), issuance.DeviceID(in.Device), in.Body.Revoke)
	if has, ok := errors.AsType[*issuance.HasCertificatesError](err); ok {
		return nil, refuse(http.StatusConflict, "certificates-revoked", "the device has valid certificates (%d), which could not be found again to revoke them: ask for revoke", has.Valid)
	} else if err != nil {
		return nil, err
	}
	return &forgottenDevice{ForgottenDevice{Device: in.Device, Certificates: done.Certificates, Revoked: done.Revoked, Evidence: done.Evidence, AuditRows: done.AuditRows}}, nil
}
