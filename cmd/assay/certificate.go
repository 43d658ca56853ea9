package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/audit"
	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/store"
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
}

func lineOf(c issuance.Certificate, now time.Time) certificateLine {
	line := certificateLine{
		ID: string(c.ID), Serial: c.Serial, Status: string(c.Status), DeviceSerial: c.DeviceSerial, DeviceUDID: c.DeviceUDID,
		ExpectedSerial: c.ExpectedSerial, ExpectedUDID: c.ExpectedUDID, Code: string(c.Code), Device: string(c.Device),
		Directory: c.Directory, Profile: c.Profile + " v" + strconv.Itoa(c.ProfileVersion), Issuer: string(c.Issuer),
		Root: c.AttestationRoot, SPKISHA256: c.SPKISHA256, NotBefore: rfc3339(c.NotBefore), NotAfter: rfc3339(c.NotAfter),
		CollectedAt: rfc3339(c.CollectedAt), RevokedAt: rfc3339(c.RevokedAt),
	}
	if c.Status == issuance.CertificateValid && !now.Before(c.NotAfter) {
		line.Status = "expired"
	}
	if c.Status == issuance.CertificateRevoked {
		line.RevocationCause = ca.Reason(c.RevokedReason).String()
	}
	return line
}

type certificateList struct {
	Dir            string   `required:"" placeholder:"DIR" help:"The installation's folder."`
	Status         string   `enum:",valid,expired,revoked,reserved,abandoned" default:"" help:"Only certificates of this status (valid, expired, revoked, reserved, abandoned)."`
	Serial         string   `placeholder:"S" help:"Only certificates of the device with this attested serial number."`
	NeverCollected bool     `help:"Only valid certificates that no device ever downloaded."`
	ExpiringWithin lifetime `placeholder:"AGE" help:"Only valid certificates that end within this time, e.g. 30d."`
}

func (certificateList) Help() string {
	return `Oldest first. A serial number shown is an attested one; of an unattested device only the expected
one is known, and marked so.

Examples:
  assay certificate list --dir ./a
  assay certificate list --dir ./a --expiring-within 30d --json

Exit codes: 0 listed; 2 wrong flags; 3 failed.`
}

func (c *certificateList) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	filter := store.CertificateFilter{DeviceSerial: c.Serial, NeverCollected: c.NeverCollected}
	switch {
	case c.Status == "expired":
		filter.Status = issuance.CertificateValid
	case c.Status != "":
		filter.Status = issuance.CertificateStatus(c.Status)
	}
	if c.ExpiringWithin != 0 {
		filter.Status = issuance.CertificateValid
		filter.ExpiringBefore = term.Now().Add(time.Duration(c.ExpiringWithin))
	}
	table := newTable(term.Out, "certificates", "ID", "STATUS", "DEVICE SERIAL", "NOT AFTER", "COLLECTED", "CODE", "SERIAL")
	uncollected := 0
	for cert, err := range i.Store.Certificates(ctx, filter) {
		if err != nil {
			return err
		}
		line := lineOf(cert, term.Now())
		if c.Status != "" && line.Status != c.Status || c.ExpiringWithin != 0 && line.Status != "valid" {
			continue
		}
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
		table.row(line.ID, line.Status, device, line.NotAfter, line.CollectedAt, line.Code, line.Serial)
	}
	if g.JSON {
		return nil
	}
	if err := table.flush(); err != nil {
		return err
	}
	if uncollected > 0 {
		fmt.Fprintf(term.Out, "\n%d issued, never collected: the device does not have it and cannot ask again. Mint a new code and push the credential again.\n", uncollected)
	}
	return nil
}

type certificateShow struct {
	Dir         string `required:"" placeholder:"DIR" help:"The installation's folder."`
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

func (c *certificateShow) Run(ctx context.Context, term *terminal, g *globals) error {
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	cert, err := findCertificate(ctx, i, c.Certificate)
	if err != nil {
		return err
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.DER}))
	if cert.DER == nil {
		text = ""
	}
	if c.PEM && !g.JSON {
		fmt.Fprint(term.Out, text)
		return nil
	}
	detail := certificateDetail{certificateLine: lineOf(cert, term.Now()), PEM: text}
	if detail.History, err = auditOf(ctx, i, store.AuditFilter{Certificate: cert.ID}); err != nil {
		return err
	}
	decision, err := i.Store.Decision(ctx, cert.Decision)
	if err == nil {
		detail.Decision = &decision.Decision
	} else if !errors.Is(err, issuance.ErrNotFound) {
		return err
	}
	evidence, err := i.Store.Evidence(ctx, cert.Evidence)
	if err == nil {
		detail.Facts = evidence.Facts
	} else if !errors.Is(err, issuance.ErrNotFound) {
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
	list.flush()
	if d.Status == "valid" && d.CollectedAt == "" {
		fmt.Fprintln(term.Out, "  issued, never collected: mint a new code and push the credential again")
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
func findCertificate(ctx context.Context, i *installation.Installation, name string) (issuance.Certificate, error) {
	var cert issuance.Certificate
	var err error
	if strings.HasPrefix(name, "cert_") {
		cert, err = i.Store.Certificate(ctx, issuance.CertificateID(name))
	} else {
		serial, ok := new(big.Int).SetString(strings.ReplaceAll(name, ":", ""), 16)
		if !ok {
			return issuance.Certificate{}, noSuchCertificate()
		}
		cert, err = i.Store.CertificateBySerial(ctx, ca.FormatSerial(serial))
	}
	if errors.Is(err, issuance.ErrNotFound) {
		return issuance.Certificate{}, noSuchCertificate()
	}
	return cert, err
}

func noSuchCertificate() error {
	return noBecause(withHint(errors.New("there is no such certificate"), "`assay certificate list` shows all"))
}

type certificateRevoke struct {
	Dir         string `required:"" placeholder:"DIR" help:"The installation's folder."`
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
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	cert, err := findCertificate(ctx, i, c.Certificate)
	if err != nil {
		return err
	}
	revoked, err := i.Store.RevokeCertificate(ctx, issuance.Call{Now: term.Now(), From: operator()},
		issuance.Revocation{Certificate: cert.ID, Reason: int(reason)})
	if errors.Is(err, issuance.ErrConflict) {
		return noBecause(fmt.Errorf("certificate %s is %s: only a valid one can be revoked", cert.ID, cert.Status))
	} else if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, lineOf(revoked, term.Now()))
	}
	fmt.Fprintf(term.Out, "Revoked %s (%s)\n", cert.ID, reason)
	return nil
}
