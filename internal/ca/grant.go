package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"assay/csr"
	"assay/deviceid"
)

// The checks that Grant makes. Each is the Check of a *csr.Error.
const (
	CheckProfileKey           = "profile-key"                   // badPublicKey: the profile does not certify such keys
	CheckMintedKey            = "minted-key"                    // the key's type and size are what the credential says
	CheckMintedSubject        = "minted-subject"                // the subject is what the credential says
	CheckMintedAltNames       = "minted-alt-names"              // the alternative names of a kind are what the credential says
	CheckMintedKeyUsage       = "minted-key-usage"              // the key usage is what the credential says
	CheckMintedExtKeyUsage    = "minted-ext-key-usage"          // the extended key usage is what the credential says
	CheckAttestedPermanentID  = "attested-permanent-identifier" // a requested permanent identifier is an attested one, and a granted one fits the grammar
	CheckAttestedHardwareName = "attested-hardware-module"      // a requested hardware module is the attested one, and a granted one fits the grammar
)

// GrantInput is everything that a grant rests on.
type GrantInput struct {
	Request    *csr.Request          // from csr.Parse
	Minted     *csr.Request          // what the code's credential says; nil without a credential
	Attested   []deviceid.Identifier // what verified evidence established; nil for an unattested device
	IdentityID string                // opaque; the common name where no subject is granted
}

// Grant is what a certificate will say of its holder.
type Grant struct {
	RawSubject  []byte        // DER of the Name
	RawAltNames []byte        // DER of the GeneralNames; nil without any
	KeyUsage    x509.KeyUsage // never 0
	ExtKeyUsage []string      // dotted OIDs, never empty
	Dropped     []Dropped     // what was asked for and is not granted
}

// Dropped is something that was asked for and is not granted. It holds no value of a name.
type Dropped struct {
	Field string `json:"field"` // e.g. "subject.2.5.4.11", "subjectAltName.dNSName", "extKeyUsage.1.3.6.1.5.5.7.3.1"
	Why   string `json:"why"`   // for people
}

// granting is a grant in the making.
type granting struct {
	*Profile
	GrantInput
	grant Grant
}

// Grant decides each field of the certificate by the profile's rules. It refuses with a *csr.Error; any
// other error is a fault of the caller. The profile must be valid.
func (p *Profile) Grant(in GrantInput) (*Grant, error) {
	if in.Request == nil || in.IdentityID == "" {
		return nil, errors.New("grant certificate: no request or no identity")
	}
	g := &granting{Profile: p, GrantInput: in}
	if err := g.checkKey(); err != nil {
		return nil, err
	}
	names, err := g.altNames()
	if err != nil {
		return nil, err
	}
	if g.grant.RawAltNames, err = encodeAltNames(names); err != nil {
		return nil, fmt.Errorf("grant certificate: %w", err)
	}
	subject, empty, err := g.subject()
	if err != nil {
		return nil, err
	}
	if len(subject) == 0 && (!empty || len(names) == 0) {
		subject = csr.Name{{{Type: oidCommonName, Value: in.IdentityID}}}
	}
	if g.grant.RawSubject, err = encodeName(subject); err != nil {
		return nil, fmt.Errorf("grant certificate: %w", err)
	}
	if err := g.keyUsage(); err != nil {
		return nil, err
	}
	if err := g.extKeyUsage(); err != nil {
		return nil, err
	}
	for _, id := range in.Request.OtherExtensions {
		g.drop("extension."+id, "no extension but names and usages is granted")
	}
	return &g.grant, nil
}

// checkKey holds the key against the profile and the credential.
func (g *granting) checkKey() error {
	kind := keyRSA
	if g.Request.KeyType == csr.EC {
		kind = fmt.Sprintf("P-%d", g.Request.KeySize)
	}
	if !slices.Contains(g.Keys.Allow, kind) {
		return &csr.Error{Problem: csr.BadPublicKey, Check: CheckProfileKey, Detail: "the certificate profile does not certify " + kind + " keys"}
	}
	if kind == keyRSA && g.Request.KeySize < g.Keys.RSAMinBits {
		return &csr.Error{Problem: csr.BadPublicKey, Check: CheckProfileKey,
			Detail: fmt.Sprintf("the RSA key has %d bits, and the certificate profile wants %d", g.Request.KeySize, g.Keys.RSAMinBits)}
	}
	// Held whatever the rules of the names: the kind of key is part of what the operator minted.
	if g.Minted != nil && (g.Request.KeyType != g.Minted.KeyType || g.Request.KeySize != g.Minted.KeySize) {
		return badCSR(CheckMintedKey, "the key is %s with %d bits, and the credential says %s with %d",
			g.Request.KeyType, g.Request.KeySize, g.Minted.KeyType, g.Minted.KeySize)
	}
	return nil
}

// subject is the granted subject. empty: the profile itself says that there is none.
func (g *granting) subject() (subject csr.Name, empty bool, err error) {
	const field = "subject."
	rule := g.Subject.Rule
	switch {
	case rule == Fixed:
		for _, attribute := range attributesOf(g.Request.Subject) {
			g.drop(field+attribute.Type, "the certificate profile fixes the subject")
		}
		subject, err := g.fixedSubject()
		return subject, len(g.Subject.Value) == 0, err
	case rule == AsMinted && g.Minted != nil:
		if !g.Request.Subject.Equal(g.Minted.Subject) {
			return nil, false, badCSR(CheckMintedSubject, "the subject is not what the credential says")
		}
		return g.keepAttributes(func(csr.Attribute) string { return "" }), false, nil
	case rule == AsMinted:
		return g.keepAttributes(func(csr.Attribute) string { return noCredential }), false, nil
	case rule == AsRequested:
		return g.keepAttributes(g.unmatched), false, nil
	}
	return g.keepAttributes(func(csr.Attribute) string { return ruleDrops }), false, nil
}

// Why names are dropped.
const (
	noCredential = "the code carries no credential that says it"
	ruleDrops    = "the certificate profile drops it"
	noMatch      = "it matches no pattern of the certificate profile"
)

// unmatched says why the profile's patterns do not grant an attribute, "" if they do.
func (g *granting) unmatched(a csr.Attribute) string {
	for _, rule := range g.Subject.Attributes {
		if id, err := attributeOID(rule.Type); err == nil && id == a.Type && rule.Pattern.match(a.Value) {
			return ""
		}
	}
	return noMatch
}

// keepAttributes is the requested subject without the attributes for which why gives a reason, and
// without those that RFC 5280 does not allow. RDNs keep their order.
func (g *granting) keepAttributes(why func(csr.Attribute) string) csr.Name {
	var kept csr.Name
	for _, rdn := range g.Request.Subject {
		var set []csr.Attribute
		for _, attribute := range rdn {
			reason := why(attribute)
			if reason == "" {
				reason = attributeProblem(attribute)
			}
			if reason != "" {
				g.drop("subject."+attribute.Type, reason)
				continue
			}
			set = append(set, attribute)
		}
		if len(set) > 0 {
			kept = append(kept, set)
		}
	}
	return kept
}

// fixedSubject is the profile's own subject.
func (g *granting) fixedSubject() (csr.Name, error) {
	var subject csr.Name
	for _, rdn := range g.Subject.Value {
		var set []csr.Attribute
		for _, pair := range rdn {
			id, err := attributeOID(pair[0])
			if err != nil {
				return nil, fmt.Errorf("grant certificate: %w", err)
			}
			set = append(set, csr.Attribute{Type: id, Value: fillIn(pair[1], g.IdentityID)})
		}
		subject = append(subject, set)
	}
	return subject, nil
}

func (g *granting) drop(field, why string) {
	g.grant.Dropped = append(g.grant.Dropped, Dropped{Field: field, Why: why})
}

func attributesOf(name csr.Name) []csr.Attribute { return slices.Concat(name...) }

func badCSR(check, format string, args ...any) error {
	return &csr.Error{Problem: csr.BadCSR, Check: check, Detail: fmt.Sprintf(format, args...)}
}
