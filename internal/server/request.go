package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"assay/acme"
	"assay/internal/issuance"
	"assay/internal/panics"
	"assay/internal/tracing"
	"assay/policy"

	"github.com/go-jose/go-jose/v4"
)

// signer says by which key a resource's requests are signed (RFC 8555, section 6.2).
type signer int

const (
	byAccount signer = iota // "kid" only
	byKey                   // "jwk" only: newAccount
	byEither                // revokeCert
)

// requestTimeout bounds the work on one request: Apple's client gives up after 15 s.
const requestTimeout = 14 * time.Second

// request is an authenticated request: its signature holds, its nonce was minted here and is in
// time, but is not yet spent.
type request struct {
	dir     *Directory
	call    issuance.Call
	key     *jose.JSONWebKey
	account issuance.Account // zero where the request is signed by "jwk"
	payload []byte           // empty: POST-as-GET
	id      string           // the {id} of the path
	query   func(string) string
	client  context.Context // ends when the client leaves: waiting ends with it, work that was begun does not

	// What the request turned out to be about, for the log and audit of a refusal.
	order       issuance.Order
	code        issuance.CodeID
	certificate issuance.CertificateID
	device      string // serial or UDID as attested or expected
}

// postAsGet reports whether the request only reads (RFC 8555, section 6.3).
func (r *request) postAsGet() bool { return len(r.payload) == 0 }

// reply is a success.
type reply struct {
	status   int
	location string
	links    []string // further Link header values
	body     any      // JSON, unless raw is set
	raw      []byte
	rawType  string
}

// signed wraps a handler with everything that comes before it: sizes, rate limits, JWS, nonce, account.
// The order of checks is nonce authenticity and age, signature, then consumption in the handler's own
// transaction, so unsigned traffic writes nothing.
func (s *Server) signed(name string, by signer, handle func(context.Context, *request) (*reply, error)) http.Handler {
	step := s.Metrics.step(name)
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		began := s.Now()
		hr, span := tracing.Request(hr, hr.Pattern)
		// A cut connection must not leave a step half done: what was begun is finished.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(hr.Context()), requestTimeout)
		defer cancel()
		status := s.answer(ctx, w, hr, name, by, handle)
		step.answered(status, s.Now().Sub(began))
		span.Answered(status)
	})
}

// answer admits a signed request, lets its handler answer it, and returns the status.
func (s *Server) answer(ctx context.Context, w http.ResponseWriter, hr *http.Request, name string, by signer, handle func(context.Context, *request) (*reply, error)) int {
	dir, ok := s.Directories[hr.PathValue("dir")]
	if !ok {
		return s.noDirectory(ctx, w)
	}
	var r *request
	var out *reply
	err := panics.Caught(func() (err error) {
		if r, err = s.authenticate(ctx, w, hr, dir, name, by); err == nil {
			out, err = handle(ctx, r)
		}
		return err
	})
	describe(ctx, dir, r)
	if err != nil {
		return s.writeProblem(ctx, w, dir, s.refuse(ctx, dir, hr, r, err))
	}
	return s.writeReply(ctx, w, dir, out)
}

// describe says in the trace what a request was about: ids of rows that were found, never what the client wrote. r
// is nil where its signature did not hold.
func describe(ctx context.Context, dir *Directory, r *request) {
	span := tracing.Current(ctx)
	span.Set(tracing.Directory, dir.Name)
	if r != nil {
		span.Set(tracing.Order, string(r.order.ID))
		span.Set(tracing.Certificate, string(r.certificate))
	}
}

// authenticate reads, parses, admits and verifies a signed request. On error the request is nil unless its
// signature holds.
func (s *Server) authenticate(ctx context.Context, w http.ResponseWriter, hr *http.Request, dir *Directory, name string, by signer) (*request, error) {
	message, err := receive(w, hr)
	later := err == nil && s.admittedLater(dir, name, message)
	if !later {
		if over := s.Limits.Pass(hr.Context(), strangersCharge(name, hr.RemoteAddr)); over != nil {
			return nil, over
		}
	}
	if err != nil {
		return nil, err
	}
	r, err := s.verify(ctx, hr, dir, by, message)
	if later {
		if over := s.admitVerified(hr, name, r, err); over != nil {
			return nil, over
		}
	}
	return r, err
}

// receive reads and parses a signed request.
func receive(w http.ResponseWriter, hr *http.Request) (*acme.Message, error) {
	if hr.Header.Get("Content-Type") != "application/jose+json" {
		p := acme.NewProblem(acme.Malformed, "content-type", "the content type must be application/jose+json (RFC 8555, section 6.2)")
		p.Status = http.StatusUnsupportedMediaType
		return nil, p
	}
	body, err := readBody(http.MaxBytesReader(w, hr.Body, acme.MaxRequestSize), hr.ContentLength)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		p := acme.NewProblem(acme.Malformed, "body-size", "the request is larger than 128 KiB")
		p.Status = http.StatusRequestEntityTooLarge
		return nil, p
	} else if err != nil {
		return nil, acme.NewProblem(acme.Malformed, "body-read", "the request did not arrive whole")
	}
	message, problem := acme.ParseMessage(body)
	if problem != nil {
		return nil, problem
	}
	return message, nil
}

// verify checks the URL, the nonce and the signature of a parsed request. On error the request is nil unless
// its signature holds.
func (s *Server) verify(ctx context.Context, hr *http.Request, dir *Directory, by signer, message *acme.Message) (*request, error) {
	if message.Header.URL != s.BaseURL+hr.URL.RequestURI() {
		return nil, acme.NewProblem(acme.Unauthorized, "jws-url", "the signed url is not the requested one (RFC 8555, section 6.4)")
	}
	now := s.Now()
	nonce, err := s.nonces.authenticate(ctx, now, message.Header.Nonce)
	if errors.Is(err, errNonceForm) || errors.Is(err, errNonceExpired) {
		return nil, acme.NewProblem(acme.BadNonce, "nonce", err.Error())
	} else if err != nil {
		return nil, err
	}
	r := &request{dir: dir, id: hr.PathValue("id"), query: hr.URL.Query().Get, client: hr.Context(),
		call: issuance.Call{Now: now, Nonce: nonce, From: hr.RemoteAddr}}
	if err := s.findKey(ctx, r, message.Header, by); err != nil {
		return nil, err
	}
	payload, problem := message.Verify(r.key)
	if problem != nil {
		return nil, problem
	}
	r.payload = payload
	if r.account.ID != "" && r.account.Status != issuance.AccountValid {
		return r, deactivated(r.account)
	}
	return r, nil
}

// readBody reads a body whose length the client announced, or not: then it is -1.
func readBody(body io.Reader, announced int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(max(announced, 0), acme.MaxRequestSize)) + bytes.MinRead)
	_, err := b.ReadFrom(body)
	return b.Bytes(), err
}

// findKey finds the key that must have signed: the account's, or the one that the request brings.
func (s *Server) findKey(ctx context.Context, r *request, h acme.Header, by signer) error {
	if h.JWK != nil {
		if by == byAccount {
			return acme.NewProblem(acme.Malformed, "jws-key", "this resource takes requests signed by an account (kid), not by a bare key (jwk)")
		}
		r.key = h.JWK
		return nil
	}
	if by == byKey {
		return acme.NewProblem(acme.Malformed, "jws-key", "this resource takes requests signed by a bare key (jwk), not by an account (kid)")
	}
	id, ok := strings.CutPrefix(h.KeyID, s.url(r.dir, "account", ""))
	if !ok {
		return acme.NewProblem(acme.AccountDoesNotExist, "account", "the kid is no account of this directory")
	}
	account, err := s.Store.Account(ctx, issuance.AccountID(id))
	if errors.Is(err, issuance.ErrNotFound) || err == nil && account.Directory != r.dir.Name {
		return acme.NewProblem(acme.AccountDoesNotExist, "account", "the kid is no account of this directory")
	} else if err != nil {
		return err
	}
	key, err := s.keys.parse(account.JWK)
	if err != nil {
		return err
	}
	r.account, r.key = account, key
	return nil
}

// deactivated is the problem for every use of an account that is not valid: the one unauthorized that
// has status 401 (RFC 8555, section 7.3.6).
func deactivated(a issuance.Account) *acme.Problem {
	p := acme.NewProblem(acme.Unauthorized, "account-status", "the account is "+string(a.Status))
	p.Status = http.StatusUnauthorized
	return p
}

// spend spends the nonce of a request that changes nothing.
func (s *Server) spend(ctx context.Context, r *request) error {
	return s.Store.SpendNonce(ctx, r.call.Nonce)
}

// ownOrder loads the order that the path names and checks that it is the account's. A POST-as-GET
// changes nothing after it, so its nonce is spent with the read.
func (s *Server) ownOrder(ctx context.Context, r *request) (issuance.Order, error) {
	var order issuance.Order
	var err error
	if r.postAsGet() {
		order, err = s.Store.ReadOrder(ctx, r.call, issuance.OrderID(r.id))
	} else {
		order, err = s.Store.Order(ctx, issuance.OrderID(r.id))
	}
	if err == nil {
		err = r.owns(order)
	}
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Order{}, notFound("order")
	}
	return order, err
}

// ownEnrolment is ownOrder with the order's code and evidence, for what changes it.
func (s *Server) ownEnrolment(ctx context.Context, r *request) (issuance.Enrolment, error) {
	e, err := s.Store.Enrolment(ctx, issuance.OrderID(r.id))
	if err == nil {
		err = r.owns(e.Order)
	}
	switch {
	case errors.Is(err, issuance.ErrNotFound):
		return issuance.Enrolment{}, notFound("order")
	case err == nil && e.Order.Identifier.Kind == policy.ByCode && e.Code.ID == "":
		return issuance.Enrolment{}, fmt.Errorf("the code %s of order %s is missing", e.Order.Code, e.Order.ID)
	}
	return e, err
}

// owns checks that an order is the account's, and notes that the request is about it.
func (r *request) owns(order issuance.Order) error {
	r.order, r.code = order, order.Code
	if order.Account != r.account.ID || order.Directory != r.dir.Name {
		return acme.NewProblem(acme.Unauthorized, "order-account", "the order belongs to another account")
	}
	return nil
}

// notFound is the problem for a resource that does not exist.
func notFound(what string) *acme.Problem {
	p := acme.NewProblem(acme.Malformed, what+"-exists", "there is no such "+what)
	p.Status = http.StatusNotFound
	return p
}
