package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/mail"
	"strings"

	"assay/acme"
	"assay/internal/issuance"
)

// Limits on an account's contacts.
const (
	maxContacts      = 8
	maxContactLength = 256
	ordersPerPage    = 100
)

// directory answers GET directory (RFC 8555, section 7.1.1). Apple's client sends a body with it.
func (s *Server) directory(w http.ResponseWriter, r *http.Request) {
	dir, ok := s.Directories[r.PathValue("dir")]
	if !ok {
		s.noDirectory(r.Context(), w)
		return
	}
	body, err := json.Marshal(acme.Directory{
		NewNonce:   s.url(dir, "new-nonce"),
		NewAccount: s.url(dir, "new-account"),
		NewOrder:   s.url(dir, "new-order"),
		RevokeCert: s.url(dir, "revoke-cert"),
		KeyChange:  s.url(dir, "key-change"),
		Meta:       &acme.DirectoryMeta{TermsOfService: dir.Terms, Website: dir.Website, StandIn: dir.StandIn},
	})
	if err != nil {
		s.writeProblem(r.Context(), w, nil, s.internal(r.Context(), err))
		return
	}
	writeBody(w, http.StatusOK, "application/json", body)
}

// newNonce answers HEAD and GET newNonce (section 7.2) without touching the disk.
func (s *Server) newNonce(w http.ResponseWriter, r *http.Request) {
	dir, ok := s.Directories[r.PathValue("dir")]
	if !ok {
		s.noDirectory(r.Context(), w)
		return
	}
	if err := s.acmeHeaders(r.Context(), w, dir); err != nil {
		s.writeProblem(r.Context(), w, nil, s.internal(r.Context(), err))
		return
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// newAccount registers a key, or finds its account (section 7.3). A key registers once in a directory.
func (s *Server) newAccount(ctx context.Context, r *request) (*reply, error) {
	var in acme.NewAccount
	if problem := acme.DecodeStrict(r.payload, &in); problem != nil {
		return nil, problem
	}
	thumbprint, err := acme.Thumbprint(r.key)
	if err != nil {
		return nil, err
	}
	if in.OnlyReturnExisting {
		return s.existingAccount(ctx, r, thumbprint)
	}
	if err := checkContacts(in.Contact); err != nil {
		return nil, err
	}
	if r.dir.Terms != "" && !in.TermsOfServiceAgreed {
		return nil, acme.NewProblem(acme.UserActionRequired, "terms", "agree to the terms of service at "+r.dir.Terms)
	}
	jwk, err := acme.CanonicalJWK(r.key)
	if err != nil {
		return nil, err
	}
	account, created, err := s.Store.RegisterAccount(ctx, r.call, issuance.Account{
		Directory: r.dir.Name, Contacts: in.Contact, TermsAgreed: in.TermsOfServiceAgreed, JWK: jwk, Thumbprint: thumbprint,
	})
	if err != nil {
		return nil, err
	}
	s.keys.remember(jwk, r.key)
	status := http.StatusCreated
	if !created {
		status = http.StatusOK
	}
	return s.accountReply(r, account, status)
}

func (s *Server) existingAccount(ctx context.Context, r *request, thumbprint string) (*reply, error) {
	account, err := s.Store.AccountByKey(ctx, r.dir.Name, thumbprint)
	if errors.Is(err, issuance.ErrNotFound) {
		return nil, acme.NewProblem(acme.AccountDoesNotExist, "account", "no account has this key")
	} else if err != nil {
		return nil, err
	}
	if err := s.spend(ctx, r); err != nil {
		return nil, err
	}
	return s.accountReply(r, account, http.StatusOK)
}

// accountReply refuses a deactivated account, as every use of one (section 7.3.6).
func (s *Server) accountReply(r *request, a issuance.Account, status int) (*reply, error) {
	r.account = a
	if a.Status != issuance.AccountValid {
		return nil, deactivated(a)
	}
	return &reply{status: status, location: s.url(r.dir, "account", string(a.ID)), body: s.wireAccount(r.dir, a)}, nil
}

// ownAccount checks that the path names the signing account.
func ownAccount(r *request) error {
	if r.id != string(r.account.ID) {
		return acme.NewProblem(acme.Unauthorized, "account-owner", "the request is signed by another account")
	}
	return nil
}

// account reads, updates or deactivates an account (sections 7.3.2 and 7.3.6).
func (s *Server) account(ctx context.Context, r *request) (*reply, error) {
	if err := ownAccount(r); err != nil {
		return nil, err
	}
	var in acme.StatusUpdate
	if !r.postAsGet() {
		if problem := acme.DecodeStrict(r.payload, &in); problem != nil {
			return nil, problem
		}
	}
	account := r.account
	var err error
	switch {
	case in.Status == string(issuance.AccountDeactivated):
		if account, err = s.Store.DeactivateAccount(ctx, r.call, account.ID); err != nil {
			return nil, err
		}
		return &reply{status: http.StatusOK, body: s.wireAccount(r.dir, account)}, nil
	case in.Status != "" && in.Status != string(account.Status):
		return nil, acme.NewProblem(acme.Malformed, "account-status", "a client may only set the status deactivated")
	case in.Contact != nil:
		if err := checkContacts(*in.Contact); err != nil {
			return nil, err
		}
		account, err = s.Store.UpdateContacts(ctx, r.call, account.ID, *in.Contact)
	default:
		err = s.spend(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return s.accountReply(r, account, http.StatusOK)
}

// orders lists an account's orders by pages (section 7.1.2.1).
func (s *Server) orders(ctx context.Context, r *request) (*reply, error) {
	if err := ownAccount(r); err != nil {
		return nil, err
	}
	if !r.postAsGet() {
		return nil, acme.NewProblem(acme.Malformed, "post-as-get", "the orders list is read by POST-as-GET")
	}
	if err := s.spend(ctx, r); err != nil {
		return nil, err
	}
	ids, err := s.Store.OrdersOf(ctx, r.account.ID, issuance.OrderID(r.query("cursor")), ordersPerPage+1)
	if err != nil {
		return nil, err
	}
	out := &reply{status: http.StatusOK}
	if len(ids) > ordersPerPage {
		ids = ids[:ordersPerPage]
		out.links = []string{link(s.url(r.dir, "account", string(r.account.ID), "orders")+"?cursor="+string(ids[len(ids)-1]), "next")}
	}
	page := acme.Orders{Orders: make([]string, len(ids))}
	for i, id := range ids {
		page.Orders[i] = s.url(r.dir, "order", string(id))
	}
	out.body = page
	return out, nil
}

// keyChange rolls an account over to a new key (section 7.3.5).
func (s *Server) keyChange(ctx context.Context, r *request) (*reply, error) {
	inner, problem := acme.ParseInner(r.payload)
	if problem != nil {
		return nil, problem
	}
	payload, problem := inner.Verify(inner.Header.JWK)
	if problem != nil {
		return nil, problem
	}
	if inner.Header.URL != s.url(r.dir, "key-change") {
		return nil, acme.NewProblem(acme.Malformed, "key-change-url", "the inner url is not the outer one")
	}
	var in acme.KeyChange
	if problem := acme.DecodeStrict(payload, &in); problem != nil {
		return nil, problem
	}
	if in.Account != s.url(r.dir, "account", string(r.account.ID)) {
		return nil, acme.NewProblem(acme.Malformed, "key-change-account", "the inner account is not the one that signed")
	}
	oldKey, err := acme.ParseJWK(in.OldKey)
	if err != nil {
		return nil, acme.NewProblem(acme.Malformed, "key-change-old-key", "oldKey is no public JWK")
	}
	oldThumbprint, err := acme.Thumbprint(oldKey)
	if err != nil || oldThumbprint != r.account.Thumbprint {
		return nil, acme.NewProblem(acme.Malformed, "key-change-old-key", "oldKey is not the account's key")
	}
	newThumbprint, err := acme.Thumbprint(inner.Header.JWK)
	if err != nil {
		return nil, err
	}
	jwk, err := acme.CanonicalJWK(inner.Header.JWK)
	if err != nil {
		return nil, err
	}
	account, err := s.Store.ChangeKey(ctx, r.call, r.account.ID, oldThumbprint, jwk, newThumbprint)
	if used, ok := errors.AsType[*issuance.KeyInUseError](err); ok {
		p := acme.NewProblem(acme.Malformed, "key-change-in-use", "another account has the new key")
		p.Status = http.StatusConflict
		p.Location = s.url(r.dir, "account", string(used.Account))
		return nil, p
	} else if err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, body: s.wireAccount(r.dir, account)}, nil
}

// checkContacts accepts mailto URLs of one plain address (section 7.3).
func checkContacts(contacts []string) error {
	if len(contacts) > maxContacts {
		return acme.NewProblem(acme.InvalidContact, "contacts", "too many contacts")
	}
	for _, c := range contacts {
		address, ok := strings.CutPrefix(c, "mailto:")
		if !ok {
			return acme.NewProblem(acme.UnsupportedContact, "contacts", "contacts are mailto URLs")
		}
		parsed, err := mail.ParseAddress(address)
		if err != nil || parsed.Address != address || len(c) > maxContactLength || strings.ContainsAny(address, "?,") {
			return acme.NewProblem(acme.InvalidContact, "contacts", "a contact is not one plain address")
		}
	}
	return nil
}
