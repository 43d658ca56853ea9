package admin

import (
	"context"
	"encoding/pem"
	"errors"
	"iter"
	"math/big"
	"net/http"
	"strings"
	"time"

	"assay/internal/ca"
	"assay/internal/issuance"
)

func (a *API) addCertificates() {
	missing := "There is no such certificate."
	add(a, route{
		method: http.MethodGet, path: "/certificates", id: "list-certificates", tag: "certificates", scope: CertificatesRead,
		summary: "List certificates", description: "Oldest first; with expiringBefore, first to expire first. Rows without a signature (reserved, abandoned) are serial numbers that were set aside.",
	}, a.listCertificates)
	add(a, route{
		method: http.MethodGet, path: "/certificates/{certificate}", id: "show-certificate", tag: "certificates", scope: CertificatesRead,
		summary: "Show a certificate", description: "With the decision behind it and the facts that its evidence established.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showCertificate)
	add(a, route{
		method: http.MethodPost, path: "/certificates/{certificate}/revoke", id: "revoke-certificate", tag: "certificates", scope: CertificatesWrite,
		summary: "Revoke a certificate", description: "A new CRL is published at the next request for it.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusConflict: "The certificate is not valid: it was never signed, or is revoked already."},
	}, a.revokeCertificate)
}

type listCertificatesInput struct {
	Paging
	Status         string    `query:"status" enum:"reserved,valid,expired,revoked,abandoned" doc:"Only certificates of this status."`
	Directory      string    `query:"directory" maxLength:"63" doc:"Only certificates of this ACME directory."`
	Device         string    `query:"device" maxLength:"64" doc:"Only certificates of this device, by its id."`
	DeviceSerial   string    `query:"deviceSerial" maxLength:"255" doc:"Only certificates of the device with this serial number."`
	Code           string    `query:"code" maxLength:"64" doc:"Only certificates that this code was used for, by its id."`
	NeverCollected bool      `query:"neverCollected" doc:"Only valid certificates that nobody ever downloaded."`
	ExpiringBefore time.Time `query:"expiringBefore" doc:"Only valid certificates that end before this time."`
}

func (a *API) listCertificates(ctx context.Context, in *listCertificatesInput) (*page[Certificate], error) {
	filter := issuance.CertificateFilter{
		Status: issuance.CertificateStatus(in.Status), Directory: in.Directory, Device: issuance.DeviceID(in.Device), DeviceSerial: in.DeviceSerial,
		Code: issuance.CodeID(in.Code), NeverCollected: in.NeverCollected, ExpiringBefore: in.ExpiringBefore,
	}
	wanted := in.Status
	if !in.ExpiringBefore.IsZero() && wanted == "" {
		wanted = string(issuance.CertificateValid)
	}
	if wanted == expired || wanted == string(issuance.CertificateValid) {
		filter.Status = issuance.CertificateValid // the store tells the two apart by nothing but the time
	}
	list := listing[issuance.Certificate, Certificate]{
		prefix: "cert_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Certificate, error] {
			filter.Page = p
			return a.config.Store.Certificates(ctx, filter)
		},
		id: func(c *issuance.Certificate) string { return string(c.ID) },
		wire: func(c *issuance.Certificate) (Certificate, bool, error) {
			out := a.certificateOf(c)
			return out, wanted == "" || out.Status == wanted, nil
		},
		filtered: filter.Status == issuance.CertificateValid,
	}
	return list.read(in.Paging)
}

// CertificatePath is the path of one certificate. It is exported for huma, which reads no others that are embedded.
type CertificatePath struct {
	Certificate string `path:"certificate" maxLength:"128" doc:"Its id (cert_…) or serial number in hex, with or without colons and leading zeros, in either case."`
}

type showCertificateInput struct {
	CertificatePath
	Known
}

func (a *API) showCertificate(ctx context.Context, in *showCertificateInput) (*tagged[CertificateDetail], error) {
	cert, err := a.findCertificate(ctx, in.Certificate)
	if err != nil {
		return nil, err
	}
	out := CertificateDetail{Certificate: a.certificateOf(&cert)}
	if len(cert.DER) > 0 {
		out.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER}))
	}
	// Decision and evidence may have been erased after their retention.
	decision, err := a.config.Store.Decision(ctx, cert.Decision)
	if err == nil {
		out.Decided = &decision.Decision
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return nil, err
	}
	evidence, err := a.config.Store.Evidence(ctx, cert.Evidence)
	if err == nil {
		out.Facts = evidence.Facts
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return nil, err
	}
	out.Warnings = warningsOf(&out)
	return tag(0, out)
}

// warningsOf is what an operator should know of a certificate at first sight.
func warningsOf(c *CertificateDetail) []string {
	var warnings []string
	if c.Status == string(issuance.CertificateValid) && c.CollectedAt.IsZero() {
		warnings = append(warnings, "issued, never collected: the device does not have it and cannot ask again; renew the credential, or mint a new code")
	}
	if c.Decided != nil && !c.Decided.Verified {
		warnings = append(warnings, "no evidence ties the certificate to a device: whoever had the code could have it")
	}
	if c.Decided != nil && c.Decided.StandIn {
		warnings = append(warnings, "the evidence was anchored by a stand-in root, not by a manufacturer's")
	}
	return warnings
}

// findCertificate finds a certificate by its id or serial number.
func (a *API) findCertificate(ctx context.Context, name string) (issuance.Certificate, error) {
	if strings.HasPrefix(name, "cert_") {
		return a.config.Store.Certificate(ctx, issuance.CertificateID(name))
	}
	serial, ok := new(big.Int).SetString(strings.ReplaceAll(name, ":", ""), 16)
	if !ok || serial.Sign() < 0 {
		return issuance.Certificate{}, issuance.ErrNotFound
	}
	return a.config.Store.CertificateBySerial(ctx, ca.FormatSerial(serial))
}

type revokeCertificateInput struct {
	CertificatePath
	Body RevokeCertificate
}

type certificateAnswer struct{ Body Certificate }

func (a *API) revokeCertificate(ctx context.Context, in *revokeCertificateInput) (*certificateAnswer, error) {
	reason := ca.Unspecified
	if in.Body.Reason != "" {
		var err error
		if reason, err = ca.ParseReason(in.Body.Reason); err != nil {
			return nil, malformedMember("reason", "body.reason", err.Error())
		}
	}
	cert, err := a.findCertificate(ctx, in.Certificate)
	if err != nil {
		return nil, err
	}
	revoked, err := a.config.Store.RevokeCertificate(ctx, a.call(ctx), issuance.Revocation{Certificate: cert.ID, Reason: int(reason)})
	if errors.Is(err, issuance.ErrConflict) {
		return nil, refuse(http.StatusConflict, "certificate-valid", "only a certificate that was signed and is not revoked can be revoked")
	} else if err != nil {
		return nil, err
	}
	return &certificateAnswer{a.certificateOf(&revoked)}, nil
}

// expired is the status of a valid certificate whose time is over; it is never stored.
const expired = "expired"

func (a *API) certificateOf(c *issuance.Certificate) Certificate {
	out := Certificate{
		ID: string(c.ID), Serial: c.Serial, Status: string(c.Status), Directory: c.Directory, Issuer: string(c.Issuer),
		Profile: c.Profile, ProfileVersion: c.ProfileVersion, Device: string(c.Device), DeviceSerial: c.DeviceSerial, DeviceUDID: c.DeviceUDID,
		ExpectedSerial: c.ExpectedSerial, ExpectedUDID: c.ExpectedUDID, Code: string(c.Code), Order: string(c.Order), Decision: string(c.Decision),
		SPKISHA256: c.SPKISHA256, AttestationRoot: c.AttestationRoot, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		IssuedAt: c.IssuedAt, CollectedAt: c.CollectedAt, RevokedAt: c.RevokedAt, SupersededBy: string(c.SupersededBy),
	}
	if c.Status == issuance.CertificateValid && !a.config.Now().Before(c.NotAfter) {
		out.Status = expired
	}
	if c.Status == issuance.CertificateRevoked {
		out.RevokedReason = ca.Reason(c.RevokedReason).String()
	}
	return out
}
