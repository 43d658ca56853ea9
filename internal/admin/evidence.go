package admin

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/http"
	"time"

	"assay/attest"
	"assay/internal/audit"
	"assay/internal/evidence"
	"assay/internal/issuance"

	"github.com/danielgtaylor/huma/v2"
)

func (a *API) addEvidence() {
	missing := "There is no such evidence: it never was, or its retention is over."
	add(a, route{
		method: http.MethodGet, path: "/evidence", id: "list-evidence", tag: "evidence", scope: EvidenceRead,
		summary: "List evidence", description: "What devices answered challenges with, oldest first.",
	}, a.listEvidence)
	add(a, route{
		method: http.MethodGet, path: "/evidence/{evidence}", id: "show-evidence", tag: "evidence", scope: EvidenceRead,
		summary: "Show evidence", description: "As it was received, with what it established.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showEvidence)
	add(a, route{
		method: http.MethodGet, path: "/evidence/{evidence}/verification", id: "verify-evidence", tag: "evidence", scope: EvidenceRead,
		summary:     "Verify evidence again",
		description: "Today's checks and today's roots on what was stored, as of the time when it came; and whether the certificate's key is the attested one.",
		also:        map[int]string{http.StatusNotFound: missing},
	}, a.verifyEvidence)
	add(a, route{
		method: http.MethodGet, path: "/evidence/{evidence}/bundle", id: "export-evidence", tag: "evidence", scope: EvidenceRead,
		summary:     "Export evidence",
		description: "A ZIP file that somebody else can verify with OpenSSL alone: the attestation object, its certificates, the token, what was established and decided, and the certificate; for a token with audit:read also the audit's rows about the order. The same bytes as long as nothing of it changes. It holds personal values.",
		also:        map[int]string{http.StatusNotFound: missing, http.StatusConflict: "It holds no attestation object."},
	}, a.exportEvidence)
	describeRaw(a.huma.OpenAPI().Paths["/evidence/{evidence}/bundle"].Get, bundleType, &huma.Schema{Type: huma.TypeString, Format: "binary"})
}

const bundleType = "application/zip"

// Evidence is what a device answered a challenge with.
type Evidence struct {
	ID         string    `json:"id" doc:"Opaque id (evid_…)."`
	Order      string    `json:"order"`
	ReceivedAt time.Time `json:"receivedAt"`
	Kind       string    `json:"kind" enum:"attested,none,failed"`
	Format     string    `json:"format,omitempty"`
	Failed     string    `json:"failed,omitempty" doc:"The check that refused it."`
	Kept       string    `json:"kept,omitempty" enum:"full,facts,none" doc:"What is still kept of it."`
	RemovedAt  time.Time `json:"removedAt,omitzero" doc:"When something of it was removed."`
}

// EvidenceDetail is everything that is kept of a piece of evidence.
type EvidenceDetail struct {
	Evidence
	Object           []byte        `json:"object,omitempty" doc:"The attestation object as received."`
	Token            string        `json:"token,omitempty" doc:"The challenge's token, which it must be fresh for."`
	KeyAuthorization string        `json:"keyAuthorization,omitempty"`
	DeviceError      string        `json:"deviceError,omitempty" doc:"The device's own words: untrusted."`
	Facts            *attest.Facts `json:"facts,omitempty" doc:"What it established."`
	Certificate      string        `json:"certificate,omitempty" doc:"The certificate that was issued on it."`
	Decision         string        `json:"decision,omitempty"`
}

type listEvidenceInput struct {
	Paging
	Since  time.Time `query:"since" doc:"Only what came from this time on."`
	Kind   string    `query:"kind" enum:"attested,none,failed" doc:"Only evidence of this kind."`
	Failed bool      `query:"failed" doc:"Only what a check refused."`
	Device string    `query:"device" maxLength:"64" doc:"Only what this device, by its id, gave: what its certificates and decisions rest on, and what came for codes that are bound to it."`
}

func (a *API) listEvidence(ctx context.Context, in *listEvidenceInput) (*page[Evidence], error) {
	list := listing[issuance.EvidenceLine, Evidence]{
		prefix: "evid_",
		rows: func(p issuance.Page) iter.Seq2[issuance.EvidenceLine, error] {
			return a.config.Store.EvidenceList(ctx, issuance.EvidenceFilter{Page: p, Since: in.Since, Kind: attest.Kind(in.Kind), Failed: in.Failed, Device: issuance.DeviceID(in.Device)})
		},
		id: func(e *issuance.EvidenceLine) string { return string(e.ID) },
		wire: func(e *issuance.EvidenceLine) (Evidence, bool, error) {
			return Evidence{ID: string(e.ID), Order: string(e.Order), ReceivedAt: e.ReceivedAt, Kind: string(e.Kind), Format: e.Format,
				Failed: e.Failed, Kept: e.Kept, RemovedAt: e.RemovedAt}, true, nil
		},
	}
	return list.read(in.Paging)
}

// EvidencePath is the path of one piece of evidence. It is exported for huma, which reads no others that are embedded.
type EvidencePath struct {
	Evidence string `path:"evidence" maxLength:"64" doc:"Id of the evidence (evid_…)."`
}

type showEvidenceInput struct {
	EvidencePath
	Known
}

func (a *API) showEvidence(ctx context.Context, in *showEvidenceInput) (*tagged[EvidenceDetail], error) {
	e, order, err := a.evidence(ctx, in.Evidence)
	if err != nil {
		return nil, err
	}
	out := EvidenceDetail{
		Evidence: Evidence{ID: string(e.ID), Order: string(e.Order), ReceivedAt: e.ReceivedAt, Kind: string(e.Kind), Format: e.Format, Failed: e.Failed, RemovedAt: e.RemovedAt},
		Object:   e.Object, Token: e.Token, KeyAuthorization: e.KeyAuth, DeviceError: e.DeviceError, Facts: e.Facts, Certificate: string(order.Certificate),
	}
	cert, err := a.certificateOn(ctx, &order)
	if err != nil {
		return nil, err
	}
	decision, err := a.decisionOn(ctx, &e, cert)
	if err != nil {
		return nil, err
	}
	if decision != nil {
		out.Decision = string(decision.ID)
	}
	return tag(0, out)
}

// evidence reads evidence and its order; a zero order if that has left.
func (a *API) evidence(ctx context.Context, id string) (issuance.Evidence, issuance.Order, error) {
	e, err := a.config.Store.Evidence(ctx, issuance.EvidenceID(id))
	if err != nil {
		return e, issuance.Order{}, err
	}
	order, err := a.config.Store.Order(ctx, e.Order)
	if errors.Is(err, issuance.ErrNotFound) {
		return e, issuance.Order{}, nil
	}
	return e, order, err
}

// certificateOn is the certificate that was issued on evidence; nil if none was.
func (a *API) certificateOn(ctx context.Context, order *issuance.Order) (*issuance.Certificate, error) {
	if order.Certificate == "" {
		return nil, nil
	}
	cert, err := a.config.Store.Certificate(ctx, order.Certificate)
	return &cert, err
}

// decisionOn is what was decided on evidence; nil if nothing was, or it is not kept.
func (a *API) decisionOn(ctx context.Context, e *issuance.Evidence, cert *issuance.Certificate) (*issuance.Decision, error) {
	if cert != nil {
		decision, err := a.config.Store.Decision(ctx, cert.Decision)
		if errors.Is(err, issuance.ErrNotFound) {
			return nil, nil
		}
		return &decision, err
	}
	for decision, err := range a.config.Store.Decisions(ctx, issuance.DecisionFilter{Evidence: e.ID}) {
		return &decision, err
	}
	return nil, nil
}

type verifyEvidenceAnswer struct{ Body evidence.Verdict }

func (a *API) verifyEvidence(ctx context.Context, in *EvidencePath) (*verifyEvidenceAnswer, error) {
	e, order, err := a.evidence(ctx, in.Evidence)
	if err != nil {
		return nil, err
	}
	cert, err := a.certificateOn(ctx, &order)
	if err != nil {
		return nil, err
	}
	var der []byte
	if cert != nil {
		der = cert.DER
	}
	verdict, err := evidence.Verify(a.verifier, a.config.Roots, &e, der)
	if err != nil {
		return nil, err
	}
	return &verifyEvidenceAnswer{verdict}, nil
}

func (a *API) exportEvidence(ctx context.Context, in *EvidencePath) (*rawAnswer, error) {
	e, order, err := a.evidence(ctx, in.Evidence)
	if err != nil {
		return nil, err
	}
	b := evidence.Bundle{Evidence: e, Root: a.rootOf(&e)}
	if b.Certificate, err = a.certificateOn(ctx, &order); err != nil {
		return nil, err
	}
	if err := a.addDecided(ctx, &b); err != nil {
		return nil, err
	}
	if useOf(ctx).may(AuditRead) {
		for row, err := range a.config.Store.Audit(ctx, audit.Filter{Order: string(e.Order), Limit: maxData}) {
			if err != nil {
				return nil, err
			}
			row.Salt = nil
			b.Audit = append(b.Audit, row)
		}
	}
	var zip bytes.Buffer
	if err := evidence.Write(&zip, &b); errors.Is(err, evidence.ErrNoObject) || errors.Is(err, evidence.ErrNoChain) {
		return nil, refuse(http.StatusConflict, "evidence-object", "%v", err)
	} else if err != nil {
		return nil, err
	}
	return &rawAnswer{ContentType: bundleType, Body: zip.Bytes()}, nil
}

// addDecided adds what was decided and why, and who issued the certificate.
func (a *API) addDecided(ctx context.Context, b *evidence.Bundle) error {
	var err error
	if b.Decision, err = a.decisionOn(ctx, &b.Evidence, b.Certificate); err != nil {
		return err
	}
	if b.Decision != nil {
		decided, err := a.config.Store.Policy(ctx, b.Decision.Decision.Policy.SHA256)
		if err != nil && !errors.Is(err, issuance.ErrNotFound) {
			return err
		}
		b.Policy = decided.Text
	}
	if b.Certificate == nil {
		return nil
	}
	issuers, err := a.config.Store.Issuers(ctx)
	for _, issuer := range issuers {
		if issuer.ID == b.Certificate.Issuer {
			b.Issuers = issuer.Chain
		}
	}
	return err
}

// rootOf is the root that anchored evidence, if it is still accepted.
func (a *API) rootOf(e *issuance.Evidence) *attest.Root {
	for _, root := range a.config.Roots[e.Format] {
		if e.Facts != nil && root.SHA256 == e.Facts.Root.SHA256 {
			return &root
		}
	}
	return nil
}
