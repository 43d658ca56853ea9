package admin

import (
	"context"
	"iter"
	"net/http"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

func (a *API) addAudit() {
	add(a, route{
		method: http.MethodGet, path: "/audit", id: "list-audit", tag: "audit", scope: AuditRead,
		summary: "List audit rows", description: "Oldest first, with the personal values that were not erased. A refused device is found here by its code or order: the device itself shows nothing of why.",
	}, a.listAudit)
	add(a, route{
		method: http.MethodGet, path: "/audit/verification", id: "verify-audit", tag: "audit", scope: AuditRead,
		summary:     "Verify a part of the audit trail",
		description: "Holds seals against their rows and each other: finds rows that were changed, deleted, or put in another order, seals that were deleted, and personal values that were changed. The answer's next, as after, goes on; without it the end is reached. Values that were erased are no fault.",
		also:        map[int]string{http.StatusNotFound: "There is no seal with the number after.", http.StatusConflict: "The audit is not sealed here."},
	}, a.verifyAudit)
	add(a, route{
		method: http.MethodGet, path: "/audit/checkpoint", id: "show-checkpoint", tag: "audit", scope: AuditRead,
		summary:     "Fetch a seal as text, to keep it elsewhere",
		description: "The newest, unless a number is given. Whoever has it can tell later that nothing up to it was changed, even by somebody who holds the server's keys.",
		also:        map[int]string{http.StatusNotFound: "There is no such seal."},
	}, a.checkpoint)
}

// sealsPerPage is how many seals one answer is about.
const sealsPerPage = 200

// AuditVerification is what verifying a part of the trail came to.
type AuditVerification struct {
	Seals     int           `json:"seals" doc:"How many were verified."`
	Rows      int64         `json:"rows" doc:"Under them."`
	Faults    []audit.Fault `json:"faults" nullable:"false" doc:"What is not as it was sealed, and where."`
	Next      int64         `json:"next,omitempty" doc:"Number of the last seal that was verified, if more follow."`
	Unsealed  int64         `json:"unsealed,omitempty" doc:"At the end: rows that are not sealed yet; what was changed in them is not found."`
	PublicKey []byte        `json:"publicKey" doc:"Ed25519, that verifies the seals."`
}

type verifyAuditInput struct {
	After int64 `query:"after" minimum:"0" doc:"Number of the seal behind which to go on. Default: from the start."`
}

type auditVerification struct{ Body AuditVerification }

func (a *API) verifyAudit(ctx context.Context, in *verifyAuditInput) (*auditVerification, error) {
	if a.config.AuditKey == nil {
		return nil, refuse(http.StatusConflict, "audit-sealed", "the audit is not sealed here")
	}
	faults, seals, err := a.config.Store.CheckSeals(ctx, a.config.AuditKey, in.After, sealsPerPage)
	if err != nil {
		return nil, err
	}
	out := AuditVerification{Faults: append([]audit.Fault{}, faults...), Seals: len(seals), PublicKey: a.config.AuditKey}
	if len(seals) > 0 {
		out.Rows = seals[len(seals)-1].Last - seals[0].First + 1
	}
	if len(seals) == sealsPerPage {
		out.Next = seals[len(seals)-1].Number
		return &auditVerification{out}, nil
	}
	unsealed, faults, err := a.config.Store.CheckUnsealed(ctx)
	if err != nil {
		return nil, err
	}
	out.Unsealed, out.Faults = unsealed, append(out.Faults, faults...)
	return &auditVerification{out}, nil
}

type checkpointInput struct {
	Number int64 `query:"number" minimum:"0" doc:"Of the seal. Default: the newest."`
}

// Checkpoint is a seal to keep elsewhere.
type Checkpoint struct {
	Number int64  `json:"number"`
	Text   string `json:"text" doc:"The seal and its signature, in lines."`
}

type checkpointAnswer struct{ Body Checkpoint }

func (a *API) checkpoint(ctx context.Context, in *checkpointInput) (*checkpointAnswer, error) {
	var seal *audit.Seal
	if in.Number > 0 {
		one, err := a.config.Store.Seal(ctx, in.Number)
		if err != nil {
			return nil, err
		}
		seal = &one
	} else {
		var err error
		if seal, err = a.config.Store.LastSeal(ctx); err != nil {
			return nil, err
		} else if seal == nil {
			return nil, issuance.ErrNotFound
		}
	}
	return &checkpointAnswer{Checkpoint{Number: seal.Number, Text: seal.Checkpoint()}}, nil
}

type listAuditInput struct {
	Paging
	Since       time.Time `query:"since" doc:"Only rows from this time on."`
	Until       time.Time `query:"until" doc:"Only rows before this time."`
	Action      string    `query:"action" maxLength:"64" doc:"Only rows of this action, such as challenge.answered."`
	Refused     bool      `query:"refused" doc:"Only refusals."`
	Account     string    `query:"account" maxLength:"64" doc:"Only rows of this ACME account."`
	Order       string    `query:"order" maxLength:"64" doc:"Only rows of this order."`
	Code        string    `query:"code" maxLength:"64" doc:"Only rows of this code."`
	Certificate string    `query:"certificate" maxLength:"64" doc:"Only rows of this certificate."`
	Device      string    `query:"device" maxLength:"64" doc:"Only rows of this device."`
}

func (a *API) listAudit(ctx context.Context, in *listAuditInput) (*page[AuditRow], error) {
	list := listing[audit.Row, AuditRow]{
		prefix: "audit_",
		rows: func(p issuance.Page) iter.Seq2[audit.Row, error] {
			return a.config.Store.Audit(ctx, audit.Filter{
				Since: in.Since, Until: in.Until, Action: audit.Action(in.Action), Refused: in.Refused, Account: in.Account, Order: in.Order,
				Code: in.Code, Certificate: in.Certificate, Device: in.Device, After: p.After, Limit: p.Limit,
			})
		},
		id: func(r *audit.Row) string { return r.ID },
		wire: func(r *audit.Row) (AuditRow, bool, error) {
			row := *r
			row.Salt = nil // with it, values that were erased could be guessed from the commitment
			return row, true, nil
		},
	}
	return list.read(in.Paging)
}
