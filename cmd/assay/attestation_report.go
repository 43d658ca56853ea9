package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/attest"
)

// inspectionReport is what inspect prints.
type inspectionReport struct {
	Kind        attest.Kind `json:"kind,omitempty"` // "" for certificates alone
	DeviceError string      `json:"deviceError,omitempty"`
	*attest.Inspection
}

// text explains the inspection to people.
func (r inspectionReport) text(now time.Time) string {
	var b strings.Builder
	switch r.Kind {
	case "":
		sayf(&b, "Certificates, %d bytes\n", r.Size)
	case attest.None:
		b.WriteString("Challenge response without evidence: the device did not attest\n")
	case attest.Failed:
		fmt.Fprintf(&b, "Attestation object, %d bytes, format %q, without certificates: attestation failed on the device\n", r.Size, r.Format)
	default:
		fmt.Fprintf(&b, "Attestation object, %d bytes, format %q\n", r.Size, r.Format)
	}
	if r.DeviceError != "" {
		sayf(&b, "  the device says  %s\n", r.DeviceError)
	}
	if len(r.Members) > 0 {
		sayf(&b, "  members          %s\n", strings.Join(r.Members, ", "))
	}
	for i, c := range r.Certificates {
		writeCertificate(&b, i+1, c, now)
	}
	if r.Anchor != "" {
		sayf(&b, "\nThe last certificate is signed by a known root: %s\n", r.Anchor)
	}
	b.WriteString("\n")
	for _, p := range r.Problems {
		sayf(&b, "PROBLEM: %s\n", p)
	}
	for _, w := range r.Warnings {
		sayf(&b, "WARNING: %s\n", w)
	}
	return b.String()
}

func writeCertificate(b *strings.Builder, number int, c attest.CertificateInfo, now time.Time) {
	sayf(b, "\nCertificate %d (%s)\n", number, c.Role)
	if c.Problem != "" {
		sayf(b, "  PROBLEM: cannot be read: %s\n  SHA-256          %s\n", c.Problem, c.SHA256)
		return
	}
	validity := ""
	switch {
	case now.Before(c.NotBefore):
		validity = " (not yet valid)"
	case now.After(c.NotAfter):
		validity = " (expired)"
	}
	for _, line := range [][2]string{
		{"subject", c.Subject}, {"issuer", c.Issuer}, {"serial", c.Serial},
		{"valid", rfc3339(c.NotBefore) + " to " + rfc3339(c.NotAfter) + validity},
		{"key", c.Key}, {"signed with", c.SignatureAlgorithm}, {"SHA-256", c.SHA256},
	} {
		sayf(b, "  %-16s %s\n", line[0], line[1])
	}
	for _, e := range c.Extensions {
		critical := ""
		if e.Critical {
			critical = ", critical"
		}
		sayf(b, "  %s (%s%s)\n    value          %s\n", e.Name, e.OID, critical, e.Value)
		if e.Meaning != "" {
			sayf(b, "    meaning        %s\n", e.Meaning)
		}
		if e.Problem != "" {
			sayf(b, "    PROBLEM: %s\n", e.Problem)
		}
	}
}

// verdict is what verify prints.
type verdict struct {
	Verified    bool          `json:"verified"`
	Kind        attest.Kind   `json:"kind"`
	Facts       *attest.Facts `json:"facts,omitempty"`
	Check       string        `json:"check,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	Meaning     string        `json:"meaning,omitempty"`
	Advice      string        `json:"advice,omitempty"`
	Source      string        `json:"source,omitempty"`
	DeviceError string        `json:"deviceError,omitempty"`
}

func (v verdict) refusedBy(r *attest.Refusal) verdict {
	check, _ := attest.LookupCheck(r.Check) // every check is registered; a test holds that
	v.Check, v.Detail = r.Check, r.Detail
	v.Meaning, v.Advice, v.Source = check.Meaning, check.Advice, check.Source
	return v
}

// printVerdict prints the verdict and turns it into the exit code.
func printVerdict(term *terminal, g *globals, v verdict) error {
	var err error
	if g.JSON {
		err = writeJSON(term.Out, v)
	} else {
		_, err = io.WriteString(term.Out, v.text())
	}
	if err != nil {
		return fmt.Errorf("print verdict: %w", err)
	}
	if !v.Verified {
		return no()
	}
	return nil
}

// text tells people the verdict.
func (v verdict) text() string {
	var b strings.Builder
	line := func(name, value string) { printLine(&b, name, value) }
	if !v.Verified {
		if v.Check == "" {
			fmt.Fprintf(&b, "REFUSED: evidence is of kind %q\n", v.Kind)
		} else {
			sayf(&b, "REFUSED by check %s\n", v.Check)
		}
		line("found", v.Detail)
		line("must hold", v.Meaning)
		line("source", v.Source)
		line("advice", v.Advice)
		line("the device says", v.DeviceError)
		return b.String()
	}
	b.WriteString("VERIFIED\n")
	printFacts(&b, v.Facts)
	if v.Facts.Root.StandIn {
		b.WriteString("WARNING: a STAND-IN root anchors this evidence: it proves nothing about real hardware\n")
	}
	b.WriteString("WARNING: that the certified key is this key, and that the token was used once only, was NOT checked\n")
	return b.String()
}

// printFacts writes what evidence established, a line each; what it did not say is left out.
func printFacts(w io.Writer, f *attest.Facts) {
	line := func(name, value string) { printLine(w, name, value) }
	line("format", f.Format)
	line("attested key", f.KeyType+" in "+string(f.Protection))
	line("public key", hex.EncodeToString(f.PublicKey))
	for _, id := range f.Identifiers {
		line(string(id.Kind), id.Value)
	}
	p := f.Posture
	line("product type", p.ProductType)
	line("OS version", p.OSVersion)
	line("SEP OS version", p.SepOSVersion)
	line("LLB version", p.LLBVersion)
	line("SIP", yesNo(p.SIPEnabled, "enabled", "disabled"))
	line("secure boot", p.SecureBoot)
	line("third-party kexts", yesNo(p.ThirdPartyKexts, "some kinds allowed", "not allowed"))
	line("attestation key", hex.EncodeToString(p.AttestationPublicKey))
	for _, oid := range slices.Sorted(maps.Keys(f.Opaque)) {
		line(oid, hex.EncodeToString(f.Opaque[oid])+" (meaning unknown)")
	}
	line("freshness", "matches the token")
	line("evidence valid", rfc3339(f.NotBefore)+" to "+rfc3339(f.NotAfter))
	line("root", f.Root.Name)
	line("root SHA-256", f.Root.SHA256)
}

// printLine writes a name and its value, if there is one.
func printLine(w io.Writer, name, value string) {
	if value != "" {
		sayf(w, "  %-18s %s\n", name, value)
	}
}

// yesNo words a value that may be unknown; "" if it is.
func yesNo(value *bool, yes, no string) string {
	switch {
	case value == nil:
		return ""
	case *value:
		return yes
	}
	return no
}
