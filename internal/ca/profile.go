package ca

import (
	"time"

	"assay/deviceid"
)

// Rule says where a field of the certificate comes from.
type Rule string

// The rules. Not every field takes every rule.
const (
	AsRequested Rule = "asRequested" // from the request, where it matches the pattern or the list of the field
	AsMinted    Rule = "asMinted"    // from the request, which must equal what the code's credential says, else badCSR; dropped where the code carries no credential
	AsAttested  Rule = "asAttested"  // from verified evidence, whatever the request says; absent where nothing was attested
	Fixed       Rule = "fixed"       // the profile's own value
	DropField   Rule = "dropped"     // never in the certificate
)

// Profile is a certificate profile: what a certificate may say, whoever asks. A field that is left
// out has the value that DefaultProfile gives it. What a request asks for and no rule grants is
// dropped, and listed in the decision.
type Profile struct {
	// Name of the profile: 1 to 64 lower-case letters, digits and hyphens. Kept with each certificate.
	Name string `yaml:"name"`
	// Version of the profile, 1 or more. Kept with each certificate: raise it with every change.
	Version int `yaml:"version"`
	// Lifetime of a certificate from the time of its issue, a minute to 20 years. It never passes the issuer's own end.
	Lifetime time.Duration `yaml:"lifetime"`
	// Backdate is how long before its issue a certificate begins to be valid, for devices whose clock is slow: up to 48h; 0 stands for the default.
	Backdate time.Duration `yaml:"backdate"`
	// Keys that are certified; others are refused with badPublicKey. Where the code carries a credential, the key must also have the type and size that it says, else badCSR.
	Keys KeyRule `yaml:"keys"`
	// Subject of the certificate. Where none is granted, it is one common name: the identity's opaque id.
	Subject SubjectRule `yaml:"subject"`
	// SubjectAltName has one rule for each kind of name. Kinds that are not here are always dropped, as are names that RFC 5280 does not allow.
	SubjectAltName AltNameRules `yaml:"subjectAltName"`
	// KeyUsage of the certificate. keyCertSign, cRLSign, encipherOnly and decipherOnly are never granted; keyEncipherment and dataEncipherment not for EC keys, keyAgreement not for RSA keys. Where nothing is granted: digitalSignature.
	KeyUsage KeyUsageRule `yaml:"keyUsage"`
	// ExtKeyUsage of the certificate. Where nothing is granted: clientAuth.
	ExtKeyUsage ExtKeyUsageRule `yaml:"extKeyUsage"`
}

// KeyRule says which keys are certified.
type KeyRule struct {
	// Allow lists the kinds of key: P-256, P-384, P-521, RSA.
	Allow []string `yaml:"allow"`
	// RSAMinBits is the smallest RSA modulus, 1024 to 4096. Below 2048 is weak: only for devices that can do no better.
	RSAMinBits int `yaml:"rsaMinBits"`
}

// SubjectRule is the rule of the subject.
type SubjectRule struct {
	// Rule is asRequested, asMinted, fixed or dropped.
	Rule Rule `yaml:"rule"`
	// Attributes are granted with asRequested: those whose type and whole value match one of these.
	Attributes []AttributeRule `yaml:"attributes,omitempty"`
	// Value with fixed, in the form of Apple's documents: a list of RDNs, each a list of [type, value]. `{identity.id}` in a value stands for the identity's opaque id. An empty list is an empty subject, where an alternative name is granted.
	Value [][][]string `yaml:"value,omitempty"`
}

// AttributeRule matches attributes of a requested subject.
type AttributeRule struct {
	// Type of the attribute: C, L, ST, O, OU, CN or a dotted OID.
	Type string `yaml:"type"`
	// Pattern is a regular expression (RE2) that the whole value must match.
	Pattern Pattern `yaml:"pattern"`
}

// AltNameRules has the rule of each kind of alternative name.
type AltNameRules struct {
	// Email is the rule of mail addresses (rfc822Name). The three kinds below have the same fields.
	Email AltNameRule `yaml:"rfc822Name"`
	// DNS is the rule of host names (dNSName). Wildcards are never granted.
	DNS AltNameRule `yaml:"dNSName"`
	// URI is the rule of uniformResourceIdentifiers.
	URI AltNameRule `yaml:"uniformResourceIdentifier"`
	// UPN is the rule of Microsoft's user principal names (ntPrincipalName).
	UPN AltNameRule `yaml:"ntPrincipalName"`
	// PermanentIdentifier is the rule of the device's permanent identifier (RFC 4043). A request that names one must name an attested one, octet for octet, else badCSR.
	PermanentIdentifier PermanentIdentifierRule `yaml:"permanent-identifier"`
	// HardwareModule is the rule of the secure cryptoprocessor's name (RFC 4108). A request that names one must name the attested one, octet for octet, else badCSR.
	HardwareModule HardwareModuleRule `yaml:"hardware-module"`
}

// AltNameRule is the rule of one kind of alternative name.
type AltNameRule struct {
	// Rule is asRequested, asMinted, fixed or dropped.
	Rule Rule `yaml:"rule"`
	// Pattern with asRequested: a regular expression (RE2) that the whole name must match.
	Pattern Pattern `yaml:"pattern,omitempty"`
	// Value with fixed: the names. `{identity.id}` in a name stands for the identity's opaque id.
	Value []string `yaml:"value,omitempty"`
}

// PermanentIdentifierRule is the rule of permanent identifiers.
type PermanentIdentifierRule struct {
	// Rule is asAttested or dropped.
	Rule Rule `yaml:"rule"`
	// Source with asAttested: which attested identifier it is, serial or udid. Personal: everyone who sees the certificate sees it.
	Source deviceid.Kind `yaml:"source,omitempty"`
}

// HardwareModuleRule is the rule of hardware module names.
type HardwareModuleRule struct {
	// Rule is asAttested or dropped.
	Rule Rule `yaml:"rule"`
}

// KeyUsageRule is the rule of the key usage.
type KeyUsageRule struct {
	// Rule is asRequested, asMinted, fixed or dropped.
	Rule Rule `yaml:"rule"`
	// Allow with asRequested: the usages that may be granted, of digitalSignature, nonRepudiation, keyEncipherment, dataEncipherment, keyAgreement.
	Allow []string `yaml:"allow,omitempty"`
	// Value with fixed: the usages, by the same names.
	Value []string `yaml:"value,omitempty"`
}

// ExtKeyUsageRule is the rule of the extended key usage.
type ExtKeyUsageRule struct {
	// Rule is asRequested, asMinted, fixed or dropped.
	Rule Rule `yaml:"rule"`
	// Allow lists usages by name or dotted OID. With asRequested only these are granted. With asMinted these are granted although they make more than a client of the device: serverAuth, anyExtendedKeyUsage, codeSigning and their like are dropped otherwise.
	Allow []string `yaml:"allow,omitempty"`
	// Value with fixed: the usages, by name or dotted OID.
	Value []string `yaml:"value,omitempty"`
}

// DefaultProfile grants what the code's credential says, and only to devices that ask for just that;
// without a credential, a certificate for client authentication that names nobody.
func DefaultProfile() *Profile {
	minted := AltNameRule{Rule: AsMinted}
	return &Profile{
		Name:     "default",
		Version:  1,
		Lifetime: 365 * 24 * time.Hour,
		Backdate: time.Hour,
		Keys:     KeyRule{Allow: []string{keyP256, keyP384, keyP521, keyRSA}, RSAMinBits: 2048},
		Subject:  SubjectRule{Rule: AsMinted},
		SubjectAltName: AltNameRules{
			Email: minted, DNS: minted, URI: minted, UPN: minted,
			PermanentIdentifier: PermanentIdentifierRule{Rule: DropField},
			HardwareModule:      HardwareModuleRule{Rule: DropField},
		},
		KeyUsage:    KeyUsageRule{Rule: AsMinted},
		ExtKeyUsage: ExtKeyUsageRule{Rule: AsMinted},
	}
}

// FillDefaults gives each field that is left out (its zero value) the value of DefaultProfile.
func (p *Profile) FillDefaults() {
	d := DefaultProfile()
	fill(&p.Name, d.Name)
	fill(&p.Version, d.Version)
	fill(&p.Lifetime, d.Lifetime)
	fill(&p.Backdate, d.Backdate)
	fill(&p.Keys.RSAMinBits, d.Keys.RSAMinBits)
	if len(p.Keys.Allow) == 0 {
		p.Keys.Allow = d.Keys.Allow
	}
	fill(&p.Subject.Rule, d.Subject.Rule)
	fill(&p.SubjectAltName.Email.Rule, d.SubjectAltName.Email.Rule)
	fill(&p.SubjectAltName.DNS.Rule, d.SubjectAltName.DNS.Rule)
	fill(&p.SubjectAltName.URI.Rule, d.SubjectAltName.URI.Rule)
	fill(&p.SubjectAltName.UPN.Rule, d.SubjectAltName.UPN.Rule)
	fill(&p.SubjectAltName.PermanentIdentifier.Rule, d.SubjectAltName.PermanentIdentifier.Rule)
	fill(&p.SubjectAltName.HardwareModule.Rule, d.SubjectAltName.HardwareModule.Rule)
	fill(&p.KeyUsage.Rule, d.KeyUsage.Rule)
	fill(&p.ExtKeyUsage.Rule, d.ExtKeyUsage.Rule)
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
