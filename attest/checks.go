package attest

// Check is one thing that evidence must satisfy. A Refusal names the first that failed.
type Check struct {
	Name    string // stable kebab-case name
	Meaning string // what must hold
	Advice  string // what an operator can do when it does not
	Source  string // where the rule comes from
}

// Names of the checks, in the order in which they are made.
const (
	CheckObjectSize            = "object-size"
	CheckObjectWellFormed      = "object-well-formed"
	CheckFormatKnown           = "format-known"
	CheckFormatRoots           = "format-roots"
	CheckStatementWellFormed   = "statement-well-formed"
	CheckChainLength           = "chain-length"
	CheckCertificateSize       = "certificate-size"
	CheckDuplicateExtension    = "duplicate-extension"
	CheckCertificateWellFormed = "certificate-well-formed"
	CheckSignatureAlgorithm    = "signature-algorithm"
	CheckCriticalExtension     = "critical-extension"
	CheckChainOrder            = "chain-order"
	CheckIssuerIsCA            = "issuer-is-ca"
	CheckPathLength            = "path-length"
	CheckChainValidity         = "chain-validity"
	CheckChainAnchored         = "chain-anchored"
	CheckChainSignature        = "chain-signature"
	CheckStandInMarker         = "stand-in-marker"
	CheckLeafNotCA             = "leaf-not-ca"
	CheckLeafUsage             = "leaf-usage"
	CheckKeyType               = "key-type"
	CheckKeyName               = "key-name"
	CheckFreshnessPresent      = "freshness-present"
	CheckFreshness             = "freshness"
	CheckPropertyEncoding      = "property-encoding"
)

const (
	sourceDraft    = "draft-ietf-acme-device-attest, section 5"
	sourceWebAuthn = "WebAuthn Level 2, section 6.5.4"
	sourceApple    = "Apple, Validating device attestations"
	sourceAppleCA  = "Apple, Managed Device Attestation; certificates as devices send them"
	sourceRFC5280  = "RFC 5280, section "
	adviceForged   = "No device makes such evidence: look for a faulty or hostile client."
	adviceClock    = "Compare the server's clock; a device's evidence is good for 90 days, so an older one is a replay."
)

// Checks is every check in the order in which they are made. Documentation, the hostile stand-in
// evidence and the tests are derived from it.
var Checks = []Check{
	{CheckObjectSize, "the attestation object is at most 64 KiB", adviceForged, "limit of this server"},
	{CheckObjectWellFormed, "the attestation object is one strict CBOR map with a text fmt of at most 32 characters and a map attStmt", adviceForged, sourceWebAuthn},
	{CheckFormatKnown, "the attestation format is one that can be verified", "Find out what kind of device this is; its format is not supported.", sourceDraft},
	{CheckFormatRoots, "roots are configured for the attestation format", "Configure an attestation root for this format.", sourceDraft},
	{CheckStatementWellFormed, "the statement has the members and types that its format demands", adviceForged, sourceWebAuthn},
	{CheckChainLength, "the statement carries one to four certificates", adviceForged, "limit of this server"},
	{CheckCertificateSize, "each certificate is at most 8 KiB", adviceForged, "limit of this server"},
	{CheckDuplicateExtension, "no certificate carries an extension twice", adviceForged, sourceRFC5280 + "4.2"},
	{CheckCertificateWellFormed, "each certificate is well-formed DER", adviceForged, sourceRFC5280 + "4.1"},
	{CheckSignatureAlgorithm, "each certificate is signed with ECDSA by a P-256 or P-384 key over SHA-256 or SHA-384", adviceForged, sourceAppleCA},
	{CheckCriticalExtension, "no certificate carries a critical extension that is not understood here", "If many devices fail so, the manufacturer has changed its certificates: look for a newer version of this server.", sourceRFC5280 + "4.2"},
	{CheckChainOrder, "the leaf comes first and each certificate names the next as its issuer", adviceForged, sourceWebAuthn},
	{CheckIssuerIsCA, "each issuing certificate, the root included, is a CA that may sign certificates", adviceForged, sourceRFC5280 + "4.2.1.9 and 4.2.1.3"},
	{CheckPathLength, "no more intermediates than each CA's path length allows", adviceForged, sourceRFC5280 + "4.2.1.9"},
	{CheckChainValidity, "every certificate, the root included, is valid at the present time", adviceClock, sourceRFC5280 + "6.1.3"},
	{CheckChainAnchored, "the last certificate is issued by a configured root", "Compare the configured attestation roots with the manufacturer's; a stand-in's evidence needs the stand-in's root.", sourceApple},
	{CheckChainSignature, "each certificate's signature verifies with its issuer's key", adviceForged, sourceRFC5280 + "6.1.3"},
	{CheckStandInMarker, "a certificate with the stand-in marker is anchored by a root that has the marker too", "Remove the root that issued stand-in certificates without being marked.", "rule of this server"},
	{CheckLeafNotCA, "the leaf has critical basic constraints that say it is no CA", adviceForged, sourceAppleCA},
	{CheckLeafUsage, "the leaf's key usage allows digital signatures", adviceForged, sourceAppleCA},
	{CheckKeyType, "the attested key is on the curve P-256 or P-384", "Ask for such a key in the credential: the Secure Enclave holds no others.", sourceApple},
	{CheckKeyName, "the leaf's common name is the SHA-256 of the attested key", adviceForged, sourceAppleCA},
	{CheckFreshnessPresent, "the evidence carries a freshness code", adviceForged, sourceApple},
	{CheckFreshness, "the freshness code is the SHA-256 of this challenge's token", "The evidence was made for another challenge. A device makes new evidence for each: look for a replay.", sourceApple},
	{CheckPropertyEncoding, "each attested property has the encoding that the manufacturer documents", "If many devices fail so, the manufacturer has changed its certificates: look for a newer version of this server.", sourceApple},
}

// LookupCheck finds a check by its name.
func LookupCheck(name string) (Check, bool) {
	for _, c := range Checks {
		if c.Name == name {
			return c, true
		}
	}
	return Check{}, false
}

// refuse makes the refusal of a named check. detail goes to the client, cause to the log only.
func refuse(check, detail string, cause error) *Refusal {
	return &Refusal{Check: check, Detail: detail, Err: cause}
}
