package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"assay/attest"
	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/policy"
)

type certificateCommand struct {
	List   certificateList   `cmd:"" help:"List certificates."`
	Show   certificateShow   `cmd:"" help:"Show a certificate and why it was issued."`
	Revoke certificateRevoke `cmd:"" help:"Revoke a certificate."`
}

// certificateLine is a certificate as lists show it.
type certificateLine struct {
	ID              string `json:"id"`
	Serial          string `json:"serial"`
	Status          string `json:"status"` // valid, expired, revoked, reserved, abandoned
	DeviceSerial    string `json:"deviceSerial"`
	DeviceUDID      string `json:"deviceUDID"`
	ExpectedSerial  string `json:"expectedSerial,omitempty"`
	ExpectedUDID    string `json:"expectedUDID,omitempty"`
	Code            string `json:"code"`
	Device          string `json:"device,omitempty"`
	Directory       string `json:"directory"`
	Profile         string `json:"profile"`
	Issuer          string `json:"issuer"`
	Root            string `json:"root"` // SHA-256 of the root that anchored the evidence; "" if unattested
	SPKISHA256      string `json:"spkiSHA256"`
	NotBefore       string `json:"notBefore"`
	NotAfter        string `json:"notAfter"`
	CollectedAt     string `json:"collectedAt"` // "": never collected by the device
	RevokedAt       string `json:"revokedAt,omitempty"`
	RevocationCause string `json:"revocationReason,omitempty"`
	SupersededBy    string `json:"supersededBy,omitempty"`
}

func lineOf(c admin.Certificate) certificateLine {
	return certificateLine{
		ID: c.ID, Serial: c.Serial, Status: c.Status, DeviceSerial: c.DeviceSerial, DeviceUDID: c.DeviceUDID,
		ExpectedSerial: c.ExpectedSerial, ExpectedUDID: c.ExpectedUDID, Code: c.Code, Device: c.Device,
		Directory: c.Directory, Profile: c.Profile + " v" + strconv.Itoa(c.ProfileVersion), Issuer: c.Issuer,
		Root: c.AttestationRoot, SPKISHA256: c.SPKISHA256, NotBefore: rfc3339(c.NotBefore), NotAfter: rfc3339(c.NotAfter),
		CollectedAt: rfc3339(c.CollectedAt), RevokedAt: rfc3339(c.RevokedAt), RevocationCause: c.RevokedReason,
		SupersededBy: c.SupersededBy,
	}
}

type certificateList struct {
	connection
	Status         string       `enum:",valid,expired,revoked,reserved,abandoned" default:"" placeholder:"STATUS" help:"Only certificates of this status (valid, expired, revoked, reserved, abandoned)."`
	Serial         string       `placeholder:"S" help:"Only certificates of the device with this attested serial number."`
	NeverCollected bool         `help:"Only valid certificates that no device ever downloaded."`
	ExpiringWithin lifetimeFlag `placeholder:"AGE" help:"Only valid certificates that end within this time, e.g. 30d."`
}

func (certificateList) Help() string {
	return `Oldest first. A serial number shown is an attested one; of an unattested device only the expected
one is known, and marked so. A superseded certificate is valid to its end: its device has a newer one.

Examples:
  assay certificate list --dir ./a
  assay certificate list --dir ./a --expiring-within 30d --json

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *certificateList) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	filter := client.CertificateFilter{Status: c.Status, DeviceSerial: c.Serial, NeverCollected: c.NeverCollected}
	if c.ExpiringWithin != 0 {
		filter.ExpiringBefore = term.Now().Add(time.Duration(c.ExpiringWithin))
	}
	table := newTable(term.Out, "certificates", "ID", "STATUS", "DEVICE SERIAL", "NOT AFTER", "COLLECTED", "CODE", "SERIAL")
	uncollected := 0
	for cert, err := range api.Certificates(ctx, filter) {
		if err != nil {
			return refusedInput(err)
		}
		line := lineOf(cert)
		if g.JSON {
			if err := writeJSON(term.Out, line); err != nil {
				return err
			}
			continue
		}
		if line.Status == "valid" && line.CollectedAt == "" {
			uncollected++
		}
		device := line.DeviceSerial
		if device == "" && line.ExpectedSerial != "" {
			device = line.ExpectedSerial + " (expected)"
		}
		status := line.Status
		if status == "valid" && line.SupersededBy != "" { // else a renewed device seems to have two alike
			status = "valid, superseded"
		}
		table.row(line.ID, status, device, line.NotAfter, line.CollectedAt, line.Code, line.Serial)
	}
	if g.JSON {
		return nil
	}
	if err := table.flush(); err != nil {
		return err
	}
	if uncollected > 0 {
		fmt.Fprintf(term.Out, "\n%d issued, never collected: the device does not have it and cannot ask again. Renew the credential, or mint a new code.\n", uncollected)
	}
	return nil
}

type certificateShow struct {
	connection
	Certificate string `arg:"" help:"Its id (cert_…) or serial number in hex."`
	PEM         bool   `name:"pem" help:"Print the certificate itself."`
}

func (certificateShow) Help() string {
	return `Shows a certificate, the evidence and decision behind it, and its history.

Example:
  assay certificate show --dir ./a cert_06e3…

Exit codes: 0 shown; 1 there is no such certificate; 2 wrong flags; 3 failed.`
}

// certificateDetail is everything that is known of one certificate.
type certificateDetail struct {
	certificateLine
	Decision *policy.Decision `json:"decision,omitempty"`
	Facts    *attest.Facts    `json:"facts,omitempty"`
	History  []audit.Row      `json:"history"`
	PEM      string           `json:"pem,omitempty"`
}

func (c *certificateShow) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	cert, err := findCertificate(ctx, api, c.Certificate)
	if err != nil {
		return err
	}
	if c.PEM && !g.JSON {
		fmt.Fprint(term.Out, cert.PEM)
		return nil
	}
	detail := certificateDetail{certificateLine: lineOf(cert.Certificate), Decision: cert.Decided, Facts: cert.Facts, PEM: cert.PEM}
	if detail.History, err = auditOf(ctx, api, client.AuditFilter{Certificate: cert.ID}); err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, detail)
	}
	c.print(term, detail)
	return nil
}

func (c *certificateShow) print(term *terminal, d certificateDetail) {
	list := newFields(term.Out)
	list.add("certificate", d.ID)
	list.add("status", d.Status)
	list.add("revoked", d.RevokedAt, d.RevocationCause)
	list.add("serial", d.Serial)
	list.add("device serial", d.DeviceSerial, "attested")
	list.add("device UDID", d.DeviceUDID, "attested")
	list.add("device serial", d.ExpectedSerial, "expected by the code, NOT attested")
	list.add("device UDID", d.ExpectedUDID, "expected by the code, NOT attested")
	list.add("code", d.Code)
	list.add("directory", d.Directory)
	list.add("profile", d.Profile)
	list.add("issuer", d.Issuer)
	list.add("not before", d.NotBefore)
	list.add("not after", d.NotAfter)
	list.add("collected", d.CollectedAt)
	list.add("superseded by", d.SupersededBy)
	list.flush()
	if d.Status == "valid" && d.CollectedAt == "" {
		fmt.Fprintln(term.Out, "  issued, never collected: renew the credential, or mint a new code")
	}
	if d.Facts != nil {
		fmt.Fprintln(term.Out, "\nEvidence")
		printFacts(term.Out, d.Facts)
	}
	if d.Decision != nil {
		fmt.Fprintln(term.Out, "\nDecision")
		printDecision(term.Out, d.Decision)
	}
	printHistory(term.Out, d.History, d.ID, d.Code, d.Issuer)
}

// findCertificate finds a certificate by its id or its serial number, as any program writes it: with
// or without colons and leading zeros, in either case.
func findCertificate(ctx context.Context, api *client.Client, name string) (admin.CertificateDetail, error) {
	cert, err := api.Certificate(ctx, name)
	if isProblem(err, http.StatusNotFound, http.StatusUnprocessableEntity) {
		return admin.CertificateDetail{}, noSuchCertificate()
	}
	return cert, refused(err)
}

func noSuchCertificate() error {
	return noBecause(withHint(errors.New("there is no such certificate"), "`assay certificate list` shows all"))
}

type certificateRevoke struct {
	connection
	Certificate string `arg:"" help:"Its id (cert_…) or serial number in hex."`
	Reason      string `default:"unspecified" help:"RFC 5280 reason, e.g. keyCompromise, cessationOfOperation, superseded."`
}

func (certificateRevoke) Help() string {
	return `Revokes a certificate. A running server publishes a new CRL at the next request for it.

Example:
  assay certificate revoke --dir ./a cert_06e3… --reason cessationOfOperation

Exit codes: 0 revoked; 1 there is no such certificate, or it is not valid; 2 wrong flags; 3 failed.`
}

func (c *certificateRevoke) Run(ctx context.Context, term *terminal, g *globals) error {
	reason, err := ca.ParseReason(c.Reason)
	if err != nil {
		return usage(withHint(err, "reasons of RFC 5280: unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn"))
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	cert, err := findCertificate(ctx, api, c.Certificate)
	if err != nil {
		return err
	}
	revoked, err := api.RevokeCertificate(ctx, cert.ID, reason.String())
	if isProblem(err, http.StatusConflict) {
		return noBecause(fmt.Errorf("certificate %s is %s: only a valid one can be revoked", cert.ID, cert.Status))
	} else if err != nil {
		return refused(err)
	}
	if g.JSON {
		return writeJSON(term.Out, lineOf(revoked))
	}
	sayf(term.Out, "Revoked %s (%s)\n", cert.ID, reason)
	tellOpenCredentials(ctx, term.Out, api, revoked.Device)
	return nil
}

// tellOpenCredentials names the credentials with which a device whose certificate was revoked can
// still get another one. A token that may not list them hears nothing of them.
func tellOpenCredentials(ctx context.Context, out io.Writer, api *client.Client, device string) {
	if device == "" {
		return
	}
	for credential, err := range api.Credentials(ctx, client.CredentialFilter{Device: device}) {
		if err != nil {
			return
		}
		if credential.CodeStatus == string(issuance.CodeUnused) {
			sayf(out, "The device can still enrol with %s (%s). If it shall not: assay credential withdraw %s\n",
				credential.ID, credential.Template, credential.ID)
		}
	}
}
