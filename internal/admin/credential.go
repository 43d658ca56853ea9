package admin

import (
	"context"
	"errors"

	"assay/internal/audit"
	"assay/internal/delivery"
	"assay/internal/issuance"
)

// maxTrail bounds the audit rows of one code that a diagnosis reads: its tries are limited, but not
// how often it is ordered with.
const maxTrail = 1000

// diagnose says where a credential stands, from all that the server has on record of it.
func (a *API) diagnose(ctx context.Context, d *issuance.Delivery) (delivery.Diagnosis, error) {
	known := delivery.Case{Delivery: *d, Now: a.config.Now()}
	var err error
	if known.Issued, err = a.certificateNamed(ctx, d.Code.Certificate); err != nil {
		return delivery.Diagnosis{}, err
	}
	if known.Held = known.Issued; d.Credential.Certificate != d.Code.Certificate {
		if known.Held, err = a.certificateNamed(ctx, d.Credential.Certificate); err != nil {
			return delivery.Diagnosis{}, err
		}
	}
	for row, err := range a.config.Store.Audit(ctx, audit.Filter{Code: string(d.Code.ID), Limit: maxTrail}) {
		if err != nil {
			return delivery.Diagnosis{}, err
		}
		known.Trail = append(known.Trail, row)
	}
	return delivery.Diagnose(known), nil
}

// certificateNamed is a certificate by its id; nil for none, and for one that is not kept any more.
func (a *API) certificateNamed(ctx context.Context, id issuance.CertificateID) (*issuance.Certificate, error) {
	if id == "" {
		return nil, nil
	}
	cert, err := a.config.Store.Certificate(ctx, id)
	if errors.Is(err, issuance.ErrNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return &cert, nil
}

// credentialOf is a credential's wire form, without its declarations.
func (a *API) credentialOf(ctx context.Context, d *issuance.Delivery) (Credential, error) {
	c, now := &d.Credential, a.config.Now()
	found, err := a.diagnose(ctx, d)
	if err != nil {
		return Credential{}, err
	}
	out := Credential{
		ID: string(c.ID), Template: c.Template, Directory: c.Directory, Device: string(c.Device), Serial: d.Device.Serial, UDID: d.Device.UDID,
		Revision: c.Revision, State: string(found.State), Diagnosis: Diagnosis{Stage: string(found.Stage), Text: found.Text, Advice: found.Advice},
		Code: string(c.Code), CodeStatus: string(d.Code.StatusAt(now)), ExpiresAt: d.Code.ExpiresAt, FetchedAt: d.Document.FetchedAt, Certificate: string(c.Certificate), RenderedAt: c.RenderedAt, WithdrawnAt: c.WithdrawnAt,
		AssetIdentifier: delivery.AssetIdentifier(c.ID), AssetToken: c.AssetToken,
		ConfigurationIdentifier: delivery.ConfigurationIdentifier(c.ID), ConfigurationToken: c.ConfigurationToken,
		PushedAt: c.PushedAt, PushError: c.PushError, Report: reportOf(c.Report),
	}
	if d.Code.Status == issuance.CodeConsumed { // before, DueAt is when an unfetched document ends
		out.RenewsAt = c.DueAt
	}
	return out, nil
}

func reportOf(r *issuance.StatusReport) *Report {
	if r == nil {
		return nil
	}
	return &Report{ReceivedAt: r.ReceivedAt, Asset: stateOf(r.Asset), Configuration: stateOf(r.Configuration), Installed: r.Installed, Uninstalled: r.Uninstalled}
}

func stateOf(s *issuance.DeclarationState) *DeclarationState {
	if s == nil {
		return nil
	}
	out := &DeclarationState{Identifier: s.Identifier, ServerToken: s.ServerToken, Active: s.Active, Valid: s.Valid}
	for _, reason := range s.Reasons {
		out.Reasons = append(out.Reasons, Reason{Code: reason.Code, Description: reason.Description, Details: reason.Details})
	}
	return out
}
