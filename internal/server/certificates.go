package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"assay/acme"
	"assay/internal/base64url"
	"assay/internal/ca"
	"assay/internal/issuance"
)

// certificate delivers a chain (RFC 8555, section 7.4.2), leaf first, root not included, and notes
// its first collection.
func (s *Server) certificate(ctx context.Context, r *request) (*reply, error) {
	if !r.postAsGet() {
		return nil, acme.NewProblem(acme.Malformed, "post-as-get", "a certificate is read by POST-as-GET")
	}
	var issuer *ca.Issuer
	cert, err := s.Store.CollectCertificate(ctx, r.call, issuance.CertificateID(r.id), func(cert issuance.Certificate) error {
		r.certificate, r.code, r.device = cert.ID, cert.Code, cert.DeviceSerial
		if cert.Account != r.account.ID || cert.Directory != r.dir.Name {
			return acme.NewProblem(acme.Unauthorized, "certificate-account", "the certificate belongs to another account")
		}
		var ok bool
		if issuer, ok = s.Issuers[cert.Issuer]; !ok {
			return fmt.Errorf("issuer %s of %s is not known", cert.Issuer, cert.ID)
		}
		return nil
	})
	if errors.Is(err, issuance.ErrNotFound) || errors.Is(err, issuance.ErrConflict) {
		return nil, notFound("certificate")
	} else if err != nil {
		return nil, err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER})
	for _, der := range issuer.Chain {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return &reply{status: http.StatusOK, raw: chain, rawType: "application/pem-certificate-chain"}, nil
}

// revokeCert revokes by the account that ordered, or by the certificate's own key (section 7.6).
func (s *Server) revokeCert(ctx context.Context, r *request) (*reply, error) {
	var in acme.RevokeCert
	if problem := acme.DecodeStrict(r.payload, &in); problem != nil {
		return nil, problem
	}
	der, err := base64url.Decode(in.Certificate)
	if err != nil {
		return nil, acme.NewProblem(acme.Malformed, "certificate-encoding", "certificate is not base64url without padding")
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, acme.NewProblem(acme.Malformed, "certificate-encoding", "certificate is no X.509 certificate")
	}
	cert, err := s.Store.CertificateBySerial(ctx, ca.FormatSerial(parsed.SerialNumber))
	if errors.Is(err, issuance.ErrNotFound) || err == nil && string(cert.DER) != string(der) {
		return nil, notFound("certificate")
	} else if err != nil {
		return nil, err
	}
	r.certificate, r.code, r.device = cert.ID, cert.Code, cert.DeviceSerial
	byOwner := r.account.ID != "" && r.account.ID == cert.Account
	byCertificateKey := r.account.ID == "" && accountKey(r.key.Key, parsed.PublicKey)
	if cert.Directory != r.dir.Name || !byOwner && !byCertificateKey {
		return nil, acme.NewProblem(acme.Unauthorized, "revoke-authority", "only the account that ordered a certificate, or the certificate's key, may revoke it here")
	}
	reason := 0
	if in.Reason != nil {
		reason = *in.Reason
	}
	if _, err := ca.ReasonOf(reason); err != nil {
		return nil, acme.NewProblem(acme.BadRevocationReason, "revocation-reason", err.Error())
	}
	_, err = s.Store.RevokeCertificate(ctx, r.call, issuance.Revocation{Certificate: cert.ID, Account: r.account.ID, Reason: reason})
	if errors.Is(err, issuance.ErrConflict) {
		return nil, acme.NewProblem(acme.AlreadyRevoked, "revoked", "the certificate is revoked already")
	} else if err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, raw: []byte{}, rawType: "application/json"}, nil
}

// issuerCertificate serves an issuing CA's certificate, where AIA points.
func (s *Server) issuerCertificate(w http.ResponseWriter, r *http.Request) {
	issuer, ok := s.Issuers[issuance.IssuerID(r.PathValue("issuer"))]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=86400")
	writeBody(w, http.StatusOK, "application/pkix-cert", issuer.Certificate.Raw)
}

// crl serves the CRL of an issuer and shard, where CRL distribution points point. One that is due or
// stale is renewed first.
func (s *Server) crl(w http.ResponseWriter, r *http.Request) {
	id := issuance.IssuerID(r.PathValue("issuer"))
	shard, err := strconv.Atoi(r.PathValue("shard"))
	if _, ok := s.Issuers[id]; !ok || err != nil || shard < 0 || shard >= s.Shards {
		http.NotFound(w, r)
		return
	}
	crl, err := s.currentCRL(r.Context(), id, shard)
	if err != nil {
		s.Log.ErrorContext(r.Context(), "serve CRL", "issuer", id, "shard", shard, "error", err)
		http.Error(w, "the CRL cannot be had now", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeBody(w, http.StatusOK, "application/pkix-crl", crl.DER)
}

// RenewCRLs signs anew every CRL that is due or stale. Call it every minute.
func (s *Server) RenewCRLs(ctx context.Context) error {
	var errs []error
	for id := range s.Issuers {
		for shard := range s.Shards {
			_, err := s.currentCRL(ctx, id, shard)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// currentCRL returns the stored CRL, or a new one where it is missing, stale or due.
func (s *Server) currentCRL(ctx context.Context, id issuance.IssuerID, shard int) (issuance.CRL, error) {
	now := s.Now()
	stored, err := s.Store.CRL(ctx, id, shard)
	if err != nil && !errors.Is(err, issuance.ErrNotFound) {
		return issuance.CRL{}, err
	}
	if err == nil && !stored.Stale && !ca.CRLDue(stored.ThisUpdate, now) {
		return stored, nil
	}
	revoked, err := s.Store.RevokedSerials(ctx, id, shard, now)
	if err != nil {
		return issuance.CRL{}, err
	}
	entries := make([]ca.Revoked, len(revoked))
	for i, e := range revoked {
		entries[i] = ca.Revoked{Serial: e.Serial, At: e.RevokedAt, Reason: ca.Reason(e.Reason)}
	}
	next := issuance.CRL{Issuer: id, Shard: shard, Number: stored.Number + 1, Revision: stored.Revision}
	next.ThisUpdate, next.NextUpdate = ca.CRLWindow(now)
	next.DER, err = s.Issuers[id].SignCRL(ctx, ca.CRL{
		Number: next.Number, ThisUpdate: next.ThisUpdate, NextUpdate: next.NextUpdate, Shard: shard, Revoked: entries,
	})
	if err != nil {
		return issuance.CRL{}, err
	}
	if err := s.Store.PutCRL(ctx, issuance.Call{Now: now, From: "server"}, next); errors.Is(err, issuance.ErrConflict) {
		return s.Store.CRL(ctx, id, shard) // another server was first
	} else if err != nil {
		return issuance.CRL{}, err
	}
	return next, nil
}
