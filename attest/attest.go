// Package attest turns the evidence of a device-attest-01 challenge response into verified facts,
// or into a refusal that names the check that failed. One file per attestation format.
//
// It trusts the roots given to it, per format, and nothing else: no system pool, no network. It
// checks the evidence alone. Whether the facts suffice is for package policy; that the certified
// key is the attested key is for the caller, who compares Facts.PublicKey with the CSR's.
package attest

import (
	"crypto/x509"
	"time"

	"assay/deviceid"
)

// Kind tells the three things a device can answer a challenge with.
type Kind string

// The kinds of evidence. Each is a result, not a parse error.
const (
	Attested Kind = "attested" // an attestation object with a statement to verify
	None     Kind = "none"     // `{}`: Attest is false, or the chip ignores it
	Failed   Kind = "failed"   // the device tried and failed: an empty x5c and an error text
)

// Response is a parsed challenge response payload (draft-ietf-acme-device-attest, section 5).
type Response struct {
	Kind        Kind
	Format      string // the attestation statement format, "" if None
	Statement   []byte // CBOR of attStmt, nil if None
	Object      []byte // the whole attestation object as received, nil if None
	DeviceError string // the device's own error text: untrusted, bounded
}

// Root is a trust anchor for one format.
type Root struct {
	Certificate *x509.Certificate
	Name        string // subject for people
	SHA256      string // of the DER, lower-case hex
	StandIn     bool   // carries the stand-in marker extension: not a manufacturer's root
}

// Params is what a statement is verified against.
type Params struct {
	Token            string // the challenge's token, as sent in JSON
	KeyAuthorization string // token || '.' || account key thumbprint (RFC 8555, section 8.1); no Apple device attests it
	Roots            []Root // the roots configured for this format
	Now              time.Time
}

// Protection says what holds the attested private key.
type Protection string

// Protections that formats can establish.
const (
	SecureEnclave Protection = "secure-enclave"
)

// FactsSchema is the version of the JSON form of Facts; stored beside it.
const FactsSchema = 1

// Facts is what verification established, independent of the format. A zero field means that the
// evidence did not say, never "no": Apple leaves blank what it could not confirm.
type Facts struct {
	Format      string                `json:"format"`
	PublicKey   []byte                `json:"publicKey"` // DER SubjectPublicKeyInfo of the attested key
	KeyType     string                `json:"keyType"`   // "P-256", "P-384"
	Protection  Protection            `json:"protection"`
	Identifiers []deviceid.Identifier `json:"identifiers,omitempty"`
	Posture     Posture               `json:"posture"`
	Fresh       bool                  `json:"fresh"` // the freshness code matched this challenge; Verify refuses otherwise
	NotBefore   time.Time             `json:"notBefore"`
	NotAfter    time.Time             `json:"notAfter"`
	Root        RootFact              `json:"root"`
	// Opaque holds properties whose meaning is not known, by dotted OID, raw bytes.
	Opaque map[string][]byte `json:"opaque,omitempty"`
}

// Posture is the attested state of a device's software. Empty or nil means unknown.
type Posture struct {
	ProductType          string `json:"productType,omitempty"` // software update device id, e.g. J514sAP
	OSVersion            string `json:"osVersion,omitempty"`
	SepOSVersion         string `json:"sepOSVersion,omitempty"`
	LLBVersion           string `json:"llbVersion,omitempty"`
	SIPEnabled           *bool  `json:"sipEnabled,omitempty"`
	SecureBoot           string `json:"secureBoot,omitempty"` // Full Security, Reduced Security, Permissive Security
	ThirdPartyKexts      *bool  `json:"thirdPartyKexts,omitempty"`
	AttestationPublicKey []byte `json:"attestationPublicKey,omitempty"`
}

// RootFact names the trust anchor that anchored the evidence.
type RootFact struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"`
	StandIn bool   `json:"standIn,omitempty"`
}

// Identifier returns the value of the first identifier of the kind, or "" when the evidence lacks it.
func (f *Facts) Identifier(kind deviceid.Kind) string {
	for _, id := range f.Identifiers {
		if id.Kind == kind {
			return id.Value
		}
	}
	return ""
}

// Refusal is evidence that failed a check.
type Refusal struct {
	Check  string // stable kebab-case name, e.g. "freshness"; the list is Checks
	Detail string // what was found, safe to show to the client; no personal values
	Err    error  // the underlying cause for the log; may be nil
}

func (r *Refusal) Error() string {
	if r.Err != nil {
		return "attestation check " + r.Check + ": " + r.Detail + ": " + r.Err.Error()
	}
	return "attestation check " + r.Check + ": " + r.Detail
}

func (r *Refusal) Unwrap() error { return r.Err }
