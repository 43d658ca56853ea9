package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"

	"assay/internal/delivery"
	"assay/internal/issuance"
)

const noCredential = "There is no such credential."

func (a *API) addCredentials() {
	add(a, route{
		method: http.MethodPost, path: "/credentials", id: "declare-credential", tag: "credentials", scope: CredentialsWrite,
		summary:     "Declare a device's credential",
		description: "Answers the device's credential with its declarations, for the MDM to deliver. What stands already (its code is alive, or was used for a certificate) is answered unchanged; otherwise a code, a document and the declarations are made. What a person ended (the credential was withdrawn, or its code revoked) is refused: renewing is what brings it back.",
		also: map[int]string{
			http.StatusCreated: "Rendered now.", http.StatusOK: "It stood already, unchanged.",
			http.StatusConflict: "Serial number and UDID belong to different devices, the credential was withdrawn, its code was revoked, or others keep changing it.",
		},
	}, a.declare)
	add(a, route{
		method: http.MethodPost, path: "/credentials/batch", id: "declare-credentials", tag: "credentials", scope: CredentialsWrite, limit: 4 << 20,
		summary:     "Declare the credentials of several devices",
		description: "Each device for itself: the results stand in the order of the request, each with a credential or an error. Asked for again, what stands is answered unchanged.",
	}, a.declareBatch)
	add(a, route{
		method: http.MethodGet, path: "/credentials", id: "list-credentials", tag: "credentials", scope: CredentialsRead,
		summary: "List credentials", description: "Oldest first, without their declarations. A state is not kept but found anew, from what is known of each credential: with one, every credential (of the device, of the template) is read, and a page may hold fewer things than its limit and still name a next one.",
	}, a.listCredentials)
	add(a, route{
		method: http.MethodGet, path: "/credentials/{credential}", id: "show-credential", tag: "credentials", scope: CredentialsRead,
		summary: "Show a credential", description: "Where it stands, what the device last reported, and what to do.",
		also: map[int]string{http.StatusNotFound: noCredential, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showCredential)
	add(a, route{
		method: http.MethodPost, path: "/credentials/{credential}/renew", id: "renew-credential", tag: "credentials", scope: CredentialsWrite,
		summary:     "Renew a credential",
		description: "A new code, document and declarations under the same Identifiers. The old certificate stays valid until the new one is collected. A credential that was withdrawn, or whose code was revoked, comes back by it.",
		also: map[int]string{
			http.StatusNotFound: noCredential, http.StatusConflict: "A certificate is just being issued for its code.",
			http.StatusPreconditionFailed: "The credential was changed since the ETag in If-Match was answered.",
		},
	}, a.renew)
	add(a, route{
		method: http.MethodDelete, path: "/credentials/{credential}", id: "withdraw-credential", tag: "credentials", scope: CredentialsWrite,
		summary:     "Withdraw a credential",
		description: "Its unused code is revoked, its document and declarations are erased, and nothing is renewed any more. Certificates stay valid: revoke them. Renewed, it comes back under the same Identifiers.",
		also: map[int]string{
			http.StatusNotFound: noCredential, http.StatusConflict: "A certificate is just being issued for its code.",
			http.StatusPreconditionFailed: "The credential was changed since the ETag in If-Match was answered.",
		},
	}, a.withdraw)
}

type declareInput struct {
	Idempotency
	Body DeclareOne
}

type declared struct {
	Status int
	ETag   string `header:"ETag" doc:"Strong entity tag."`
	Body   Credential
}

func (a *API) declare(ctx context.Context, in *declareInput) (*declared, error) {
	if p := checkDevice(in.Body.Serial, in.Body.UDID, in.Body.Labels, "body"); p != nil {
		return nil, p
	}
	o, err := a.once(ctx, in.Idempotency, "POST /credentials", in.Body)
	if err != nil {
		return nil, err
	}
	results, err := a.config.Declarer.Declare(ctx, o.call, []delivery.Request{requestOf(in.Body.Template, &in.Body.Declare)})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		return nil, err
	}
	return a.declared(ctx, results[0].Declared)
}

// declared answers a credential with its declarations.
func (a *API) declared(ctx context.Context, d *delivery.Declared) (*declared, error) {
	credential, err := a.credentialOf(ctx, &d.Delivery)
	if err != nil {
		return nil, err
	}
	etag, err := etagOf(credential.Revision, credential) // as it is shown, which is without declarations
	if err != nil {
		return nil, err
	}
	credential.Declarations = delivery.Declarations(&d.Delivery, false)
	out := &declared{Status: http.StatusOK, ETag: etag, Body: credential}
	if d.Fresh {
		out.Status = http.StatusCreated
	}
	return out, nil
}

func requestOf(template string, d *Declare) delivery.Request {
	return delivery.Request{Template: template, Serial: d.Serial, UDID: d.UDID, Labels: d.Labels}
}

type declareBatchInput struct {
	Idempotency
	Body DeclareBatch
}

type declaredBatch struct{ Body DeclaredBatch }

func (a *API) declareBatch(ctx context.Context, in *declareBatchInput) (*declaredBatch, error) {
	out := &declaredBatch{Body: DeclaredBatch{Results: make([]DeclareResult, len(in.Body.Devices))}}
	var requests []delivery.Request
	var of []int // the device of each request
	for i := range in.Body.Devices {
		device := &in.Body.Devices[i]
		if p := checkDevice(device.Serial, device.UDID, device.Labels, fmt.Sprintf("body.devices[%d]", i)); p != nil {
			out.Body.Results[i] = failed(p)
			continue
		}
		requests, of = append(requests, requestOf(in.Body.Template, device)), append(of, i)
	}
	o, err := a.once(ctx, in.Idempotency, "POST /credentials/batch", in.Body)
	if err != nil {
		return nil, err
	}
	results, err := a.config.Declarer.Declare(ctx, o.call, requests)
	if err != nil {
		return nil, err
	}
	for n, r := range results {
		result := &out.Body.Results[of[n]]
		if r.Err != nil {
			p := problemOf(r.Err)
			if p.Status >= http.StatusInternalServerError {
				return nil, r.Err
			}
			*result = failed(p)
			continue
		}
		credential, err := a.credentialOf(ctx, &r.Declared.Delivery)
		if err != nil {
			return nil, err
		}
		credential.Declarations = delivery.Declarations(&r.Declared.Delivery, false)
		*result = DeclareResult{Credential: &credential, Fresh: r.Declared.Fresh}
	}
	return out, nil
}

func failed(p *Problem) DeclareResult { return DeclareResult{Error: p.Detail, Check: p.Check} }

type listCredentialsInput struct {
	Paging
	Device   string `query:"device" maxLength:"64" doc:"Only credentials of this device, by its id."`
	Template string `query:"template" maxLength:"63" doc:"Only credentials of this template."`
	State    string `query:"state" enum:"delivered,fetched,refused,enrolled,renewing,dead,withdrawn" doc:"Only credentials in this state."`
}

func (a *API) listCredentials(ctx context.Context, in *listCredentialsInput) (*page[Credential], error) {
	list := listing[issuance.DeviceCredential, Credential]{
		prefix: "cred_",
		rows: func(p issuance.Page) iter.Seq2[issuance.DeviceCredential, error] {
			return a.config.Store.DeviceCredentials(ctx, issuance.CredentialFilter{Page: p, Device: issuance.DeviceID(in.Device), Template: in.Template})
		},
		id: func(c *issuance.DeviceCredential) string { return string(c.ID) },
		wire: func(c *issuance.DeviceCredential) (Credential, bool, error) {
			d, err := a.config.Store.Delivery(ctx, c.ID)
			if err != nil {
				return Credential{}, false, err
			}
			out, err := a.credentialOf(ctx, &d)
			return out, in.State == "" || out.State == in.State, err
		},
		filtered: in.State != "",
	}
	return list.read(in.Paging)
}

// CredentialPath is the path of one credential. It is exported for huma, which reads no others that are embedded.
type CredentialPath struct {
	Credential string `path:"credential" maxLength:"64" doc:"Id of the credential (cred_…)."`
}

func (c *CredentialPath) id() issuance.CredentialID { return issuance.CredentialID(c.Credential) }

type showCredentialInput struct {
	CredentialPath
	Known
}

func (a *API) showCredential(ctx context.Context, in *showCredentialInput) (*tagged[Credential], error) {
	return a.credential(ctx, in.id())
}

// credential answers a credential without its declarations.
func (a *API) credential(ctx context.Context, id issuance.CredentialID) (*tagged[Credential], error) {
	d, err := a.config.Store.Delivery(ctx, id)
	if err != nil {
		return nil, err
	}
	out, err := a.credentialOf(ctx, &d)
	if err != nil {
		return nil, err
	}
	return tag(out.Revision, out)
}

type renewInput struct {
	CredentialPath
	Conditions
	Idempotency
}

func (a *API) renew(ctx context.Context, in *renewInput) (*declared, error) {
	revision, p := in.revision()
	if p != nil {
		return nil, p
	}
	o, err := a.once(ctx, in.Idempotency, "POST /credentials/"+in.Credential+"/renew", nil)
	if err != nil {
		return nil, err
	}
	d, err := a.config.Declarer.Renew(ctx, o.call, in.id(), revision)
	if err != nil {
		return nil, a.conditional(ctx, in.id(), revision, err)
	}
	d.Fresh = false // what is answered is the same thing, changed: 200
	return a.declared(ctx, d)
}

// conditional tells a change whose If-Match failed from one that is impossible now.
func (a *API) conditional(ctx context.Context, id issuance.CredentialID, revision int, err error) error {
	if revision == 0 || !errors.Is(err, issuance.ErrConflict) {
		return err
	}
	if d, readErr := a.config.Store.Delivery(ctx, id); readErr == nil && d.Credential.Revision == revision {
		return err
	}
	return changed()
}

type withdrawInput struct {
	CredentialPath
	Conditions
}

func (a *API) withdraw(ctx context.Context, in *withdrawInput) (*tagged[Credential], error) {
	revision, p := in.revision()
	if p != nil {
		return nil, p
	}
	if _, err := a.config.Store.WithdrawCredential(ctx, a.call(ctx), in.id(), revision); err != nil {
		return nil, a.conditional(ctx, in.id(), revision, err)
	}
	return a.credential(ctx, in.id())
}
