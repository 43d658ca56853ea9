package admin

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"maps"
	"net/http"
	"slices"

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
	device, err := a.config.Store.Device(ctx, issuance.DeviceID(in.Device))
	if err != nil {
		return nil, err
	}
	g := gathering{API: a, device: device.ID, evidence: map[issuance.EvidenceID]bool{}, orders: map[issuance.OrderID]bool{}}
	g.data.Device = deviceOf(&device)
	for _, gather := range []func(context.Context) error{g.codes, g.credentials, g.certificates, g.decisions, g.holds, g.conflicts, g.audit, g.stored} {
		if err := gather(ctx); err != nil {
			return nil, err
		}
	}
	return &deviceDataAnswer{g.data}, nil
}

// gathering collects what is stored about a device: what names it, and what its codes and orders lead to,
// because a request that was refused early names its code alone.
type gathering struct {
	*API
	device   issuance.DeviceID
	data     DeviceData
	evidence map[issuance.EvidenceID]bool // that is to be shown
	orders   map[issuance.OrderID]bool    // whose evidence is to be shown, too
}

// newest are the last rows of a list, as wire has them; at most maxData, and cut says whether there are more.
func newest[Row, Wire any](rows iter.Seq2[Row, error], cut *bool, wire func(*Row) (Wire, error)) ([]Wire, error) {
	var kept []Row
	for row, err := range rows {
		if err != nil {
			return nil, err
		}
		if kept = append(kept, row); len(kept) > 2*maxData {
			kept, *cut = slices.Clone(kept[maxData:]), true
		}
	}
	if len(kept) > maxData {
		kept, *cut = kept[len(kept)-maxData:], true
	}
	out := make([]Wire, len(kept))
	for i := range kept {
		var err error
		if out[i], err = wire(&kept[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// merged are two lists as one, oldest first, without what both have; ids sort by time.
func merged[T any](all, more []T, cut *bool, id func(*T) string) []T {
	all = append(all, more...)
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(id(&a), id(&b)) })
	all = slices.CompactFunc(all, func(a, b T) bool { return id(&a) == id(&b) })
	if len(all) > maxData {
		all, *cut = all[len(all)-maxData:], true
	}
	return all
}

func (g *gathering) codes(ctx context.Context) (err error) {
	g.data.Codes, err = newest(g.config.Store.Codes(ctx, issuance.CodeFilter{Device: g.device}), &g.data.Cut,
		func(c *issuance.Code) (Code, error) { return g.codeOf(c), nil })
	return err
}

func (g *gathering) credentials(ctx context.Context) (err error) {
	g.data.Credentials, err = newest(g.config.Store.DeviceCredentials(ctx, issuance.CredentialFilter{Device: g.device}), &g.data.Cut,
		func(k *issuance.DeviceCredential) (Credential, error) {
			delivery, err := g.config.Store.Delivery(ctx, k.ID)
			if err != nil {
				return Credential{}, err
			}
			return g.credentialOf(ctx, &delivery)
		})
	return err
}

func (g *gathering) certificates(ctx context.Context) (err error) {
	g.data.Certificates, err = newest(g.config.Store.Certificates(ctx, issuance.CertificateFilter{Device: g.device}), &g.data.Cut,
		func(c *issuance.Certificate) (Certificate, error) {
			g.evidence[c.Evidence], g.orders[c.Order] = true, true
			return g.certificateOf(c), nil
		})
	return err
}

func (g *gathering) decisions(ctx context.Context) error {
	filters := []issuance.DecisionFilter{{Device: g.device}}
	for _, c := range g.data.Codes {
		filters = append(filters, issuance.DecisionFilter{Code: issuance.CodeID(c.ID)})
	}
	g.data.Decisions = []Decision{}
	for _, f := range filters {
		more, err := newest(g.config.Store.Decisions(ctx, f), &g.data.Cut, func(d *issuance.Decision) (Decision, error) {
			g.evidence[d.Evidence] = true
			return decisionOf(d), nil
		})
		if err != nil {
			return err
		}
		g.data.Decisions = merged(g.data.Decisions, more, &g.data.Cut, func(d *Decision) string { return d.ID })
	}
	return nil
}

func (g *gathering) holds(ctx context.Context) (err error) {
	g.data.Holds, err = newest(g.config.Store.Holds(ctx, issuance.HoldFilter{Device: g.device}), &g.data.Cut,
		func(h *issuance.Hold) (Hold, error) { return g.holdOf(ctx, h) })
	return err
}

func (g *gathering) conflicts(ctx context.Context) (err error) {
	g.data.Conflicts, err = newest(g.config.Store.Conflicts(ctx, issuance.ConflictFilter{Device: g.device}), &g.data.Cut,
		func(c *issuance.Conflict) (Conflict, error) {
			conflict, err := g.conflictOf(ctx, c)
			conflict.OtherSerial = "" // somebody else's
			return conflict, err
		})
	return err
}

func (g *gathering) audit(ctx context.Context) error {
	filters := []audit.Filter{{Device: string(g.device)}}
	for _, c := range g.data.Codes {
		filters = append(filters, audit.Filter{Code: c.ID})
	}
	for order := range g.orders {
		filters = append(filters, audit.Filter{Order: string(order)})
	}
	g.data.Audit = []AuditRow{}
	for _, f := range filters {
		more, err := newest(g.config.Store.Audit(ctx, f), &g.data.Cut, func(r *audit.Row) (AuditRow, error) {
			if r.Order != "" {
				g.orders[issuance.OrderID(r.Order)] = true
			}
			r.Salt = nil
			return *r, nil
		})
		if err != nil {
			return err
		}
		g.data.Audit = merged(g.data.Audit, more, &g.data.Cut, func(r *AuditRow) string { return r.ID })
	}
	return nil
}

// stored reads the evidence that was found, also of orders that were refused before a decision. What
// retention removed is left out.
func (g *gathering) stored(ctx context.Context) error {
	for id := range g.orders {
		order, err := g.config.Store.Order(ctx, id)
		if err == nil {
			g.evidence[order.Evidence] = true
		} else if !errors.Is(err, issuance.ErrNotFound) {
			return err
		}
	}
	g.data.Evidence = []StoredEvidence{}
	for _, id := range slices.Sorted(maps.Keys(g.evidence)) {
		e, err := g.config.Store.Evidence(ctx, id)
		if errors.Is(err, issuance.ErrNotFound) {
			continue
		} else if err != nil {
			return err
		}
		g.data.Evidence = append(g.data.Evidence, StoredEvidence{ID: string(e.ID), Kind: string(e.Kind), Format: e.Format, Object: e.Object,
			DeviceError: e.DeviceError, Facts: e.Facts, Failed: e.Failed})
	}
	return nil
}

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
