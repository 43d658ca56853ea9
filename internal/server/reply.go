package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"assay/acme"
	"assay/internal/issuance"
	"assay/internal/limits"
)

// writeReply writes a success and returns the status that was sent. Every one carries a fresh nonce: Apple's client ends without it.
func (s *Server) writeReply(ctx context.Context, w http.ResponseWriter, dir *Directory, out *reply) (status int) {
	if err := s.acmeHeaders(ctx, w, dir); err != nil {
		return s.writeProblem(ctx, w, nil, s.internal(ctx, err))
	}
	for _, link := range out.links {
		w.Header().Add("Link", link)
	}
	if out.location != "" {
		w.Header().Set("Location", out.location)
	}
	body, kind := out.raw, out.rawType
	if body == nil {
		var err error
		if body, err = json.Marshal(out.body); err != nil {
			return s.writeProblem(ctx, w, nil, s.internal(ctx, err))
		}
		kind = "application/json"
	}
	writeBody(w, out.status, kind, body)
	return out.status
}

// writeProblem writes a problem document and returns the status that was sent. Without a directory it carries no nonce.
func (s *Server) writeProblem(ctx context.Context, w http.ResponseWriter, dir *Directory, p *acme.Problem) (status int) {
	if dir != nil {
		if err := s.acmeHeaders(ctx, w, dir); err != nil {
			p = s.internal(ctx, err)
		}
	}
	if p.Location != "" {
		w.Header().Set("Location", p.Location)
	}
	if p.RetryAfter > 0 {
		limits.SetRetryAfter(w.Header(), p.RetryAfter)
	}
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, "problem document cannot be written", http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	writeBody(w, p.Status, "application/problem+json", body)
	return p.Status
}

// noDirectory refuses a request to a directory that there is not.
func (s *Server) noDirectory(ctx context.Context, w http.ResponseWriter) (status int) {
	p := notFound("directory")
	s.refused(ctx, "", p)
	return s.writeProblem(ctx, w, nil, p)
}

func (s *Server) acmeHeaders(ctx context.Context, w http.ResponseWriter, dir *Directory) error {
	nonce, err := s.nonces.mint(ctx, s.Now())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Replay-Nonce", nonce)
	h.Set("Cache-Control", "no-store")
	h.Set("Link", link(s.DirectoryURL(dir.Name), "index"))
	return nil
}

func writeBody(w http.ResponseWriter, status int, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client went away: nobody is left to tell
}

func link(url, rel string) string { return "<" + url + `>;rel="` + rel + `"` }

// The wire forms of accounts, orders, authorizations and challenges.

func (s *Server) wireAccount(dir *Directory, a issuance.Account) acme.Account {
	return acme.Account{
		Status:               string(a.Status),
		Contact:              a.Contacts,
		TermsOfServiceAgreed: a.TermsAgreed,
		Orders:               s.url(dir, "account", string(a.ID), "orders"),
	}
}

func (s *Server) wireOrder(dir *Directory, o issuance.Order) acme.Order {
	expires := o.ExpiresAt.UTC()
	out := acme.Order{
		Status:         string(o.StatusAt(s.Now())),
		Expires:        &expires,
		Identifiers:    []acme.Identifier{{Type: o.Identifier.Type, Value: o.Identifier.Value}},
		Error:          wireRefusal(o.Refusal),
		Authorizations: []string{s.url(dir, "authorization", string(o.ID))},
		Finalize:       s.url(dir, "order", string(o.ID), "finalize"),
	}
	if o.Status == issuance.OrderValid {
		out.Certificate = s.url(dir, "certificate", string(o.Certificate))
	}
	return out
}

func (s *Server) wireAuthorization(dir *Directory, o issuance.Order) acme.Authorization {
	expires := o.ExpiresAt.UTC()
	return acme.Authorization{
		Identifier: acme.Identifier{Type: o.Identifier.Type, Value: o.Identifier.Value},
		Status:     authorizationStatus(o, o.StatusAt(s.Now())),
		Expires:    &expires,
		Challenges: []acme.Challenge{s.wireChallenge(dir, o)},
	}
}

// authorizationStatus adds what is derived from time: a valid authorization expires, one that was
// never answered becomes invalid (RFC 8555, section 7.1.6).
func authorizationStatus(o issuance.Order, now issuance.OrderStatus) string {
	switch {
	case now != issuance.OrderInvalid || o.Status == issuance.OrderInvalid:
		return string(o.Authorization)
	case o.Authorization == issuance.AuthorizationValid:
		return "expired"
	case o.Authorization == issuance.AuthorizationPending:
		return string(issuance.AuthorizationInvalid)
	}
	return string(o.Authorization)
}

func (s *Server) wireChallenge(dir *Directory, o issuance.Order) acme.Challenge {
	out := acme.Challenge{
		Type:   acme.DeviceAttest01,
		URL:    s.url(dir, "challenge", string(o.ID)),
		Status: string(o.Challenge.Status),
		Token:  o.Challenge.Token,
		Error:  wireRefusal(o.Challenge.Refusal),
	}
	if !o.Challenge.ValidatedAt.IsZero() {
		validated := o.Challenge.ValidatedAt.UTC()
		out.Validated = &validated
	}
	return out
}

func wireRefusal(r *issuance.Refusal) *acme.Problem {
	if r == nil {
		return nil
	}
	return acme.NewProblem(r.Problem, r.Check, r.Detail)
}
