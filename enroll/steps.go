package enroll

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"assay/acme"
)

// What a device reads of each object, and nothing else: a member that it does not read cannot end
// the run.
type (
	directory struct {
		NewNonce   string `json:"newNonce"`
		NewAccount string `json:"newAccount"`
		NewOrder   string `json:"newOrder"`
	}
	account struct {
		Status string `json:"status"`
		Orders string `json:"orders"`
	}
	order struct {
		Status         string   `json:"status"`
		Authorizations []string `json:"authorizations"`
		Finalize       string   `json:"finalize"`
		Certificate    string   `json:"certificate"`
	}
	authorization struct {
		Status     string      `json:"status"`
		Challenges []challenge `json:"challenges"`
	}
	challenge struct {
		Type   string `json:"type"`
		URL    string `json:"url"`
		Token  string `json:"token"`
		Status string `json:"status"`
	}
)

// Statuses of ACME objects (RFC 8555, section 7.1.6).
const (
	statusPending = "pending"
	statusValid   = "valid"
	statusInvalid = "invalid"
)

// getDirectory demands no Replay-Nonce: the next request asks for one, and servers that serve
// Apple's devices send none here.
func (r *run) getDirectory(ctx context.Context) *Abort {
	a, abort := r.plain(ctx, StepDirectory, http.MethodGet, r.credential.DirectoryURL)
	if abort != nil {
		return abort
	}
	if abort := a.decode(&r.directory); abort != nil {
		return abort
	}
	if r.directory.NewNonce == "" || r.directory.NewAccount == "" || r.directory.NewOrder == "" {
		return a.abort(ReasonMissing, "directory lacks newNonce, newAccount or newOrder")
	}
	return nil
}

func (r *run) getNonce(ctx context.Context) *Abort {
	a, abort := r.plain(ctx, StepNonce, http.MethodHead, r.directory.NewNonce)
	if abort != nil {
		return abort
	}
	if a.nonce == "" {
		return a.abort(ReasonNoNonce, "newNonce gave no Replay-Nonce")
	}
	r.nonce = a.nonce
	return nil
}

func (r *run) newAccount(ctx context.Context) *Abort {
	a, abort := r.post(ctx, StepAccount, r.directory.NewAccount, []byte(`{"termsOfServiceAgreed":true}`))
	if abort != nil {
		return abort
	}
	var got account
	if abort := a.decode(&got); abort != nil {
		return abort
	}
	if got.Status != statusValid {
		return a.abort(ReasonStatus, "account is not valid")
	}
	if got.Orders == "" {
		return a.abort(ReasonMissing, "account has no orders URL")
	}
	if a.location == "" {
		return a.abort(ReasonNoLocation, "account has no Location")
	}
	r.accountURL = a.location
	thumbprint, err := acme.Thumbprint(r.accountJWK())
	if err != nil {
		return &Abort{Reason: ReasonEvidence, Detail: "account key has no thumbprint", Err: err}
	}
	r.client.observe(AccountMade{URL: a.location, Thumbprint: thumbprint})
	return nil
}

func (r *run) newOrder(ctx context.Context) *Abort {
	payload, err := json.Marshal(struct {
		Identifiers []acme.Identifier `json:"identifiers"`
	}{[]acme.Identifier{{Type: acme.PermanentIdentifier, Value: r.credential.ClientIdentifier}}})
	if err != nil {
		return &Abort{Reason: ReasonTransport, Detail: "order cannot be written", Err: err}
	}
	a, abort := r.post(ctx, StepOrder, r.directory.NewOrder, payload)
	if abort != nil {
		return abort
	}
	if abort := a.decode(&r.order); abort != nil {
		return abort
	}
	if r.order.Status != statusPending {
		return a.withError(a.abort(ReasonStatus, "order is not pending"))
	}
	if len(r.order.Authorizations) == 0 || r.order.Authorizations[0] == "" || r.order.Finalize == "" {
		return a.abort(ReasonMissing, "order has no authorization or no finalize URL")
	}
	if a.location == "" {
		return a.abort(ReasonNoLocation, "order has no Location")
	}
	r.orderURL, r.result.OrderURL = a.location, a.location
	r.client.observe(OrderMade{URL: a.location})
	return nil
}

// getAuthorization reads the first authorization only, and takes its device-attest-01 challenge; if
// there is none, the last one listed.
func (r *run) getAuthorization(ctx context.Context) *Abort {
	a, abort := r.post(ctx, StepAuthorization, r.order.Authorizations[0], nil)
	if abort != nil {
		return abort
	}
	var got authorization
	if abort := a.decode(&got); abort != nil {
		return abort
	}
	if got.Status != statusPending {
		return a.abort(ReasonStatus, "authorization is not pending")
	}
	for _, offered := range got.Challenges {
		r.challenge = offered
		if offered.Type == acme.DeviceAttest01 {
			break
		}
	}
	if r.challenge.URL == "" || r.challenge.Token == "" {
		return a.abort(ReasonMissing, "challenge has no url or no token")
	}
	r.client.observe(ChallengeFound{Type: r.challenge.Type, URL: r.challenge.URL, Token: r.challenge.Token})
	return nil
}

// answerChallenge sends the evidence. If the server has not decided, the device sleeps once and
// goes on without looking again.
func (r *run) answerChallenge(ctx context.Context) *Abort {
	a, abort := r.post(ctx, StepChallenge, r.challenge.URL, r.evidence.payload)
	if abort != nil {
		return abort
	}
	var got challenge
	if abort := a.decode(&got); abort != nil {
		return abort
	}
	r.client.observe(ChallengeAnswered{Status: got.Status})
	switch got.Status {
	case statusValid:
		return nil
	case statusInvalid:
		return a.withError(a.abort(ReasonChallenge, "challenge is invalid"))
	}
	return r.wait(ctx, StepChallenge)
}

// finalize sends the request. If the order is not valid at once, the device sleeps once before the
// one look at the order that it takes in any case.
func (r *run) finalize(ctx context.Context) *Abort {
	payload, err := json.Marshal(acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(r.csr)})
	if err != nil {
		return &Abort{Reason: ReasonCSR, Detail: "request cannot be written", Err: err}
	}
	a, abort := r.post(ctx, StepFinalize, r.order.Finalize, payload)
	if abort != nil {
		return abort
	}
	var got order
	if abort := a.decode(&got); abort != nil {
		return abort
	}
	r.client.observe(Finalized{Status: got.Status})
	if got.Status == statusValid {
		return nil
	}
	return r.wait(ctx, StepFinalize)
}

func (r *run) wait(ctx context.Context, step Step) *Abort {
	r.client.observe(Waited{Step: step, For: pause})
	if err := r.client.sleep(ctx, pause); err != nil {
		return &Abort{Reason: ReasonTransport, Detail: "time is up", Err: err}
	}
	return nil
}

func (r *run) getOrder(ctx context.Context) *Abort {
	a, abort := r.post(ctx, StepStatus, r.orderURL, nil)
	if abort != nil {
		return abort
	}
	var got order
	if abort := a.decode(&got); abort != nil {
		return abort
	}
	if got.Status != statusValid {
		return a.withError(a.abort(ReasonStatus, "order is not valid"))
	}
	if got.Certificate == "" {
		return a.abort(ReasonMissing, "order has no certificate URL")
	}
	r.order.Certificate = got.Certificate
	return nil
}

func (r *run) getCertificate(ctx context.Context) *Abort {
	a, abort := r.post(ctx, StepCertificate, r.order.Certificate, nil)
	if abort != nil {
		return abort
	}
	certificate, err := firstCertificate(a.body, r.key.Public())
	if err != nil {
		abort := a.abort(ReasonCertificate, "no usable certificate")
		abort.Err = err
		return abort
	}
	r.result.Certificate, r.result.Chain = certificate, a.body
	return nil
}

// withError adds the error member of the reply's object, which a device does not read.
func (a *reply) withError(abort *Abort) *Abort {
	var object struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(a.body, &object) == nil {
		abort.Problem = readProblem(object.Error)
	}
	return abort
}
