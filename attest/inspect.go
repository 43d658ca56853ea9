package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Inspection explains an attestation object to people.
//
// WARNING: nothing in it is verified; Warnings says what was not.
type Inspection struct {
	Format       string            `json:"format,omitempty"`
	Supported    bool              `json:"supported"` // Verify knows the format
	Failed       bool              `json:"failed"`    // the device says that its attestation failed
	Size         int               `json:"size"`      // bytes
	Members      []string          `json:"members,omitempty"`
	Certificates []CertificateInfo `json:"certificates"`
	// Anchor names the known root whose key signed the last certificate; "" if there is none.
	Anchor   string   `json:"anchor,omitempty"`
	StandIn  bool     `json:"standIn,omitempty"` // a certificate carries the stand-in marker
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings"`
}

// CertificateInfo is one certificate of a chain.
type CertificateInfo struct {
	Role               string          `json:"role"` // leaf or issuer
	SHA256             string          `json:"sha256"`
	Subject            string          `json:"subject,omitempty"`
	Issuer             string          `json:"issuer,omitempty"`
	Serial             string          `json:"serial,omitempty"` // lower-case hex
	NotBefore          time.Time       `json:"notBefore,omitzero"`
	NotAfter           time.Time       `json:"notAfter,omitzero"`
	Key                string          `json:"key,omitempty"`
	SignatureAlgorithm string          `json:"signatureAlgorithm,omitempty"`
	Extensions         []ExtensionInfo `json:"extensions,omitempty"`
	Problem            string          `json:"problem,omitempty"` // why it could not be read
}

// ExtensionInfo is one extension of a certificate.
type ExtensionInfo struct {
	Name     string `json:"name"`
	OID      string `json:"oid"`
	Critical bool   `json:"critical,omitempty"`
	Value    string `json:"value"` // decoded; hex where it is not text
	Meaning  string `json:"meaning,omitempty"`
	Problem  string `json:"problem,omitempty"` // how the value breaks its encoding
}

// explanation is what a format says of an extension.
type explanation struct{ name, value, meaning, problem string }

// Inspect explains any attestation object, trusted or not. The error is a *Refusal for an object that
// cannot be read at all; a faulty statement or certificate is among the Problems. Certificates of
// formats that keep them in x5c are shown for unknown formats too.
func Inspect(data []byte) (*Inspection, error) {
	o, err := decodeObject(data)
	if err != nil {
		return nil, err
	}
	i := &Inspection{Format: o.Format, Size: len(data)}
	f, known := formats[o.Format]
	i.Supported = known
	i.Failed = known && f.failed(o.Statement)
	i.Members = append(memberNames(data, ""), memberNames(o.Statement, "attStmt.")...)
	if !known {
		i.Problems = append(i.Problems, "the format is not supported, so Verify refuses the object")
	}
	ders, err := decodeX5C(o.Statement)
	if err != nil {
		i.Problems = append(i.Problems, err.Error())
	}
	i.explainChain(ders)
	return i, nil
}

// InspectChain explains certificates that came outside of an attestation object, leaf first.
func InspectChain(ders [][]byte) *Inspection {
	i := &Inspection{}
	for _, der := range ders {
		i.Size += len(der)
	}
	i.explainChain(ders)
	return i
}

// memberNames lists the text keys of a CBOR map with what they hold.
func memberNames(data []byte, prefix string) []string {
	var m map[string]cbor.RawMessage
	if err := strictCBOR.Unmarshal(data, &m); err != nil {
		return nil
	}
	var names []string
	for key, item := range m {
		kinds := [...]string{"integer", "negative integer", "bytes", "text", "array", "map", "tag", "simple value"}
		names = append(names, fmt.Sprintf("%s%s (%s)", prefix, cleanText(key), kinds[item[0]>>5]))
	}
	slices.Sort(names)
	return names
}

func (i *Inspection) explainChain(ders [][]byte) {
	if len(ders) > maxChain {
		i.Problems = append(i.Problems, fmt.Sprintf("%d certificates, of which Verify takes at most %d", len(ders), maxChain))
		ders = ders[:maxChain]
	}
	i.Certificates = []CertificateInfo{}
	var last *x509.Certificate
	for n, der := range ders {
		info, certificate := explainCertificate(der)
		info.Role = "issuer"
		if n == 0 {
			info.Role = "leaf"
		}
		if certificate != nil && isMarked(certificate) {
			i.StandIn = true
		}
		if last != nil && certificate != nil && !bytes.Equal(last.RawIssuer, certificate.RawSubject) {
			i.Problems = append(i.Problems, fmt.Sprintf("certificate %d is not named as the issuer of the one before it", n+1))
		}
		i.Certificates = append(i.Certificates, info)
		last = certificate
	}
	if root := AppleRoot(); last != nil && signedBy(last, root.Certificate) {
		i.Anchor = root.Name
	}
	i.warn(len(ders))
}

// warn says what an inspection leaves open.
func (i *Inspection) warn(certificates int) {
	switch {
	case i.Failed:
		i.Warnings = append(i.Warnings, "the device says that its attestation failed: this proves nothing")
		return
	case certificates == 0:
		i.Warnings = append(i.Warnings, "there are no certificates: this proves nothing")
		return
	}
	i.Warnings = append(i.Warnings,
		"signatures inside the chain, constraints and validity were NOT checked",
		"freshness was NOT checked: the token of the challenge is not in the evidence",
		"whether the certified key is the attested key was NOT checked",
		"revocation was NOT checked: there is no source for attestation certificates")
	if i.StandIn {
		i.Warnings = append(i.Warnings, "a stand-in attestation authority made this: it proves nothing about real hardware")
	} else if i.Anchor == "" {
		i.Warnings = append(i.Warnings, "no known root signed the last certificate: anybody may have made it")
	}
}

// signedBy reports whether the issuer is named by the certificate and signed it, or is itself it.
func signedBy(c, issuer *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, issuer.RawSubject) && acceptableKey(issuer.PublicKey) &&
		issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func explainCertificate(der []byte) (CertificateInfo, *x509.Certificate) {
	sum := sha256.Sum256(der)
	info := CertificateInfo{SHA256: hex.EncodeToString(sum[:])}
	if len(der) > maxCertificate {
		info.Problem = fmt.Sprintf("%d bytes, the limit is %d", len(der), maxCertificate)
		return info, nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		info.Problem = cleanText(err.Error())
		return info, nil
	}
	info.Subject, info.Issuer = cleanText(c.Subject.String()), cleanText(c.Issuer.String())
	info.Serial = hex.EncodeToString(c.SerialNumber.Bytes())
	info.NotBefore, info.NotAfter = c.NotBefore.UTC(), c.NotAfter.UTC()
	info.Key = keyName(c)
	info.SignatureAlgorithm = c.SignatureAlgorithm.String()
	for _, e := range c.Extensions {
		oid := e.Id.String()
		x := explainExtension(c, oid, e.Value)
		info.Extensions = append(info.Extensions, ExtensionInfo{Name: x.name, OID: oid, Critical: e.Critical,
			Value: x.value, Meaning: x.meaning, Problem: x.problem})
	}
	return info, c
}

func keyName(c *x509.Certificate) string {
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
		return fmt.Sprintf("RSA-%d", k.N.BitLen())
	}
	if name := curveName(c.PublicKey); name != "" {
		return name
	}
	return c.PublicKeyAlgorithm.String()
}

func explainExtension(c *x509.Certificate, oid string, value []byte) explanation {
	for _, f := range formats {
		if f.explain == nil {
			continue
		}
		if x, ok := f.explain(oid, value); ok {
			return x
		}
	}
	x := explanation{name: "unknown extension", value: hex.EncodeToString(value)}
	switch oid {
	case oidBasicConstraints.String():
		x.name, x.meaning = "basicConstraints", "whether the certificate may issue others"
		x.value = describeConstraints(c)
	case oidKeyUsage.String():
		x.name, x.meaning, x.value = "keyUsage", "what the key may be used for", describeUsage(c.KeyUsage)
	case oidExtKeyUsage.String():
		x.name, x.meaning = "extKeyUsage", "purposes; any is accepted"
	case "2.5.29.14":
		x.name, x.meaning = "subjectKeyIdentifier", "short name of this key"
	case "2.5.29.35":
		x.name, x.meaning = "authorityKeyIdentifier", "short name of the issuer's key"
	case StandInMarker.String():
		x.name, x.value = "stand-in marker", cleanText(string(value))
		x.meaning = "made by a stand-in attestation authority, not by a manufacturer"
	}
	return x
}

func describeConstraints(c *x509.Certificate) string {
	switch {
	case !c.IsCA:
		return "no CA"
	case c.MaxPathLen > 0 || c.MaxPathLenZero:
		return fmt.Sprintf("CA, at most %d intermediates below", c.MaxPathLen)
	}
	return "CA"
}

func describeUsage(usage x509.KeyUsage) string {
	names := []string{"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement",
		"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly"}
	var set []string
	for bit, name := range names {
		if usage&(1<<bit) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ", ")
}
