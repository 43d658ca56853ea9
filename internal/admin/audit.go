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
