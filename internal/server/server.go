// Package server is the ACME server: RFC 8555 for the identifiers and the challenge of
// draft-ietf-acme-device-attest, answered synchronously within each request, because Apple's
// client neither polls nor retries.
//
// It trusts nothing that a client says: not the Host header (URLs come from the configured base),
// not a URL's ids (rows are checked against the signing account), not the code (it only names a
// row), not the CSR (the certificate profile decides). It refuses by name; each refusal is one log
// line and, where it concerns something known, one audit row.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"assay/acme"
	"assay/attest"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/limits"
	"assay/internal/tracing"
	"assay/policy"
)

// Config is everything that a server needs. Fields without a default are required.
type Config struct {
	// BaseURL is the https URL that clients reach the server at, without a path, such as
	// "https://id.example.com". All URLs in replies begin with it, and signed URLs must.
	BaseURL string
	// Directories are the ACME directories by name; at least one.
	Directories map[string]*Directory
	// Issuers are all issuing CAs, for chains and CRLs of certificates issued before.
	Issuers map[issuance.IssuerID]*ca.Issuer
	// Shards is the number of CRL shards that new certificates are spread over; default 1.
	Shards int
	// Opinion asks a service outside about a request, for policies that use its word; nil: there is none.
	// It never fails: what it could not learn stands in its answer.
	Opinion func(context.Context, policy.Input) *policy.Opinion
	// Documents serves credential documents under /credential/; nil serves none.
	Documents http.Handler

	// Limits says how much clients may ask; default: as much as they like.
	Limits *limits.Gate

	Store    Store
	Verifier *attest.Verifier
	Log      *slog.Logger
	Metrics  *Metrics         // default: kept but not registered anywhere
	Now      func() time.Time // default time.Now
	Random   io.Reader        // default crypto/rand
}

// Directory is a named ACME directory: its own certificate profile, accepted evidence and issuing CA.
type Directory struct {
	Name        string
	Profile     *ca.Profile
	Profiles    map[string]*ca.Profile   // those that a policy's outcomes may choose, by name
	Issuer      issuance.IssuerID        // the CA that signs new certificates
	Roots       map[string][]attest.Root // accepted attestation formats, each with its roots
	Identifiers []policy.IdentifierKind  // what an order may name
	Policy      func() *policy.Policy    // the policy in use; default policy.Builtin
	Terms       string                   // URL of terms of service; "" for none
	Website     string
	StandIn     bool // accepts stand-in attestation roots: said in the directory's meta
}

// accepted lists the attestation formats that the directory accepts, and the SHA-256 of their roots.
func (d *Directory) accepted() (formats, roots []string) {
	for format, anchors := range d.Roots {
		formats = append(formats, format)
		for _, root := range anchors {
			roots = append(roots, root.SHA256)
		}
	}
	return formats, roots
}

// profile is the certificate profile that a decision chose; "" is the directory's own. Policies are
// checked when they are loaded, so one that is missing here is a fault of the program.
func (d *Directory) profile(name string) (*ca.Profile, error) {
	if name == "" {
		return d.Profile, nil
	}
	if p := d.Profiles[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("directory %s: the policy chose the certificate profile %q, which there is not", d.Name, name)
}

// Server answers ACME requests. Make one with New.
type Server struct {
	Config
	nonces    nonces
	keys      accountKeys
	strangers strangers
	policies  keptPolicies
	counts    map[string]directoryCounts // by directory
	handler   http.Handler
}

// New checks the configuration and returns a server. It opens nothing.
func New(cfg Config) (*Server, error) {
	base, err := url.Parse(cfg.BaseURL)
	if err != nil || base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("base URL %q is not an https URL without a path", cfg.BaseURL)
	}
	cfg.BaseURL = "https://" + base.Host
	if len(cfg.Directories) == 0 {
		return nil, errors.New("no directory is configured")
	}
	for name, d := range cfg.Directories {
		if _, ok := cfg.Issuers[d.Issuer]; !ok {
			return nil, fmt.Errorf("directory %s: issuer %s is not known", name, d.Issuer)
		}
		if d.Policy == nil {
			d.Policy = policy.Builtin
		}
	}
	if cfg.Store == nil || cfg.Verifier == nil || cfg.Log == nil {
		return nil, errors.New("store, verifier and log are required")
	}
	if cfg.Shards <= 0 {
		cfg.Shards = 1
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	if cfg.Limits == nil {
		cfg.Limits = limits.New(limits.Options{Now: cfg.Now})
	}
	s := &Server{Config: cfg, nonces: nonces{store: cfg.Store, random: cfg.Random}, counts: map[string]directoryCounts{}}
	for name := range cfg.Directories {
		s.counts[name] = cfg.Metrics.directory(name)
	}
	s.handler = s.routes()
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// routes is the whole surface of the ACME listener.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /acme/{dir}/directory", s.measured("directory", s.directory))
	mux.HandleFunc("GET /acme/{dir}/new-nonce", s.measured("new-nonce", s.newNonce)) // HEAD too

	for _, route := range []struct {
		path   string
		step   string // its name in the metrics
		by     signer
		handle func(context.Context, *request) (*reply, error)
	}{
		{stepNewAccount, stepNewAccount, byKey, s.newAccount},
		{"account/{id}", "account", byAccount, s.account},
		{"account/{id}/orders", "orders", byAccount, s.orders},
		{"key-change", "key-change", byAccount, s.keyChange},
		{stepNewOrder, stepNewOrder, byAccount, s.newOrder},
		{"order/{id}", "order", byAccount, s.order},
		{"authorization/{id}", "authorization", byAccount, s.authorization},
		{"challenge/{id}", "challenge", byAccount, s.challenge},
		{"order/{id}/finalize", "finalize", byAccount, s.finalize},
		{"certificate/{id}", "certificate", byAccount, s.certificate},
		{"revoke-cert", "revoke-cert", byEither, s.revokeCert},
	} {
		mux.Handle("POST /acme/{dir}/"+route.path, s.signed(route.step, route.by, route.handle))
		mux.Handle("/acme/{dir}/"+route.path, tracing.Handler(s.unsigned(s.methodNotAllowed)))
	}

	mux.HandleFunc("GET /crl/{issuer}/{shard}", s.measured("crl", s.crl))
	mux.HandleFunc("GET /issuer/{issuer}", s.measured("issuer", s.issuerCertificate))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if s.Documents != nil {
		address := func(r *http.Request) string { return r.RemoteAddr }
		mux.Handle("GET /credential/{secret}", tracing.Handler(s.Limits.Guard(limits.Reads, address, s.Documents)))
	}
	return mux
}

// methodNotAllowed refuses every method but POST where requests are signed (RFC 8555, section 6.3).
func (s *Server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", http.MethodPost)
	p := acme.NewProblem(acme.Malformed, "method", "this resource is read by POST-as-GET (RFC 8555, section 6.3)")
	p.Status = http.StatusMethodNotAllowed
	dir := s.Directories[r.PathValue("dir")]
	name := ""
	if dir != nil {
		name = dir.Name
	}
	s.refused(r.Context(), name, p)
	s.writeProblem(r.Context(), w, dir, p)
}

// DirectoryURL is the URL of a directory, as a credential document names it.
func (s *Server) DirectoryURL(name string) string { return DirectoryURL(s.BaseURL, name) }

// DirectoryURL is the URL of a directory under a base URL.
func DirectoryURL(base, name string) string { return base + "/acme/" + name + "/directory" }

// url is a resource's URL within a directory.
func (s *Server) url(dir *Directory, parts ...string) string {
	return s.BaseURL + "/acme/" + dir.Name + "/" + strings.Join(parts, "/")
}
