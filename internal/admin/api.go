package admin

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/panics"
	"assay/internal/tracing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Config is what the API needs.
type Config struct {
	// Store keeps everything. Required.
	Store Store
	// Declarer gives devices their credentials. Required; its DirectoryURL and BaseURL also make the
	// documents that are published by hand, and its Templates are listed.
	Declarer *delivery.Declarer
	// Push brings a credential's declarations to the MDM, and returns why it could not. nil: no MDM is
	// configured, and the push route says so.
	Push func(ctx context.Context, call issuance.Call, id issuance.CredentialID) error
	// Syncs keep the inventory in step with a list elsewhere. nil: none is configured.
	Syncs Syncs
	// Directories are the names of the ACME directories. Required.
	Directories []string
	// Roots are the attestation roots that are accepted today, by format, to verify evidence again.
	Roots map[string][]attest.Root
	// AuditKey verifies the seals of the audit trail. nil: the routes for that say so.
	AuditKey ed25519.PublicKey
	// Organization is who profiles say that they are from; Trust are the CA certificates (DER) that they
	// bring along. ProfileKey signs them with the first certificate of ProfileChain; nil: unsigned.
	Organization string
	Trust        [][]byte
	ProfileChain []*x509.Certificate
	ProfileKey   crypto.Signer
	// Version is the program's, for the API's description.
	Version string

	Log     *slog.Logger     // default none
	Metrics *Metrics         // default: kept but not registered anywhere
	Now     func() time.Time // required
	Random  io.Reader        // default crypto/rand
}

// API is the admin API. It is safe for concurrent use.
type API struct {
	config   Config
	mux      *http.ServeMux
	huma     huma.API
	noted    sampler
	verifier *attest.Verifier
}

// New makes the API.
func New(c Config) (*API, error) {
	if c.Store == nil || c.Declarer == nil || c.Now == nil || len(c.Directories) == 0 {
		return nil, errors.New("make admin API: store, declarer, clock and directories are all needed")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics()
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	a := &API{config: c, mux: http.NewServeMux(), verifier: attest.NewVerifier()}
	a.huma = huma.NewAPI(description(c.Version, transformer), humago.NewAdapter(a.mux, Prefix))
	a.huma.UseMiddleware(a.admit)
	a.addCodes()
	a.addCertificates()
	a.addDecisions()
	a.addHolds()
	a.addDevices()
	a.addInventory()
	a.addInventorySyncs()
	a.addPersonal()
	a.addEvidence()
	a.addTemplates()
	a.addCredentials()
	a.addDeliveries()
	a.addReports()
	a.addAudit()
	if err := a.addDescription(); err != nil {
		return nil, fmt.Errorf("make admin API: %w", err)
	}
	return a, nil
}

// transformer keeps of a problem what log and audit say, just before it is written. An operator in this
// process has no log of a server to look into: he is told what failed.
func transformer(ctx huma.Context, _ string, v any) (any, error) {
	if p, ok := v.(*Problem); ok {
		u := useOf(ctx.Context())
		noteProblem(u, p)
		if u.operator != "" && p.Check == internalCheck && p.cause != nil {
			p.Detail = p.cause.Error()
		}
	}
	return v, nil
}

// Handler serves the API to the network: every route but its description and the health check needs a
// bearer token.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, "") })
}

// As serves the API within this process to an operator, who has every scope. Changes are kept as made
// by him, such as "operator:sam". It must never be reachable from a network.
func (a *API) As(operator string) http.Handler {
	if operator == "" {
		panic("admin: an operator without a name would be a stranger with every scope")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, operator) })
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, operator string) {
	u := &use{operator: operator}
	r = r.WithContext(context.WithValue(r.Context(), useKey{}, u))
	r.Header = r.Header.Clone()
	r.Header.Del("Accept") // there is one form of every answer
	out := &answer{ResponseWriter: w}
	if r.Method == http.MethodGet || r.Method == http.MethodHead { // a change that was made is always answered
		out.ifNoneMatch = r.Header.Get("If-None-Match")
	}
	out.Header().Set("Cache-Control", "no-store")
	out.Header().Set("X-Content-Type-Options", "nosniff")
	method, route := "none", "none"
	var span tracing.Span // of requests that a route fits
	err := panics.Caught(func() error {
		if _, pattern := a.mux.Handler(r); pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
			method, route, _ = strings.Cut(pattern, " ")
			r, span = tracing.Request(r, pattern)
			a.mux.ServeHTTP(out, r)
			return nil
		}
		p := a.noRoute(out.Header(), r)
		noteProblem(u, p)
		writeProblem(out, p)
		return nil
	})
	begun, status := out.status != 0, out.status
	if err != nil {
		p := refuse(http.StatusInternalServerError, internalCheck, internalDetail)
		p.cause, status = err, p.Status
		noteProblem(u, p)
		if !begun {
			writeProblem(out, p)
		}
	}
	a.config.Metrics.answered(method, route, status)
	a.account(r, u, route, status)
	span.Set(tracing.Check, u.check)
	span.Answered(status)
	if err != nil && begun {
		panic(http.ErrAbortHandler) // the client must not take what it got for the whole
	}
}

// noRoute says why no route fits: the path is unknown, or the method is not for it.
func (a *API) noRoute(header http.Header, r *http.Request) *Problem {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		probe := http.Request{Method: method, URL: &url.URL{Path: r.URL.Path}, Host: r.Host}
		if _, pattern := a.mux.Handler(&probe); pattern != "" && path.Clean(r.URL.Path) == r.URL.Path {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return refuse(http.StatusNotFound, "no-route", "there is no such route; %s/openapi.json describes all", Prefix)
	}
	header.Set("Allow", strings.Join(allowed, ", "))
	return refuse(http.StatusMethodNotAllowed, "method", "the method must be %s here", strings.Join(allowed, " or "))
}
