package ca

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/csr"
	"assay/deviceid"
)

// The kinds of key that a profile can allow.
const (
	keyP256 = "P-256"
	keyP384 = "P-384"
	keyP521 = "P-521"
	keyRSA  = "RSA"
)

// Limits on a profile's values.
const (
	minLifetime = time.Minute
	maxLifetime = 20 * 365 * 24 * time.Hour
	maxBackdate = 48 * time.Hour
)

// placeholder stands for the identity's opaque id in fixed values; there is no other.
const placeholder = "{identity.id}"

var profileName = regexp.MustCompile(`\A[a-z0-9-]{1,64}\z`)

// Validate reports every problem of the profile at once, each with its field as configuration names
// it. A profile that is not valid must not be used: Grant relies on what is checked here.
func (p *Profile) Validate() error {
	var v problems
	v.check(profileName.MatchString(p.Name), "name", "is not 1 to 64 lower-case letters, digits and hyphens")
	v.check(p.Version >= 1, "version", "is not 1 or more")
	v.check(p.Lifetime >= minLifetime && p.Lifetime <= maxLifetime, "lifetime", "is not a minute to 20 years")
	v.check(p.Backdate >= 0 && p.Backdate <= maxBackdate, "backdate", "is not 0 to 48h")
	p.validateKeys(&v)
	p.validateSubject(&v)
	names := p.SubjectAltName
	for _, kind := range []csr.AltKind{csr.AltEmail, csr.AltDNS, csr.AltURI, csr.AltUPN} {
		validateAltName(&v, kind, *names.of(kind))
	}
	field := "subjectAltName.permanent-identifier"
	v.rule(field, names.PermanentIdentifier.Rule, AsAttested, DropField)
	if names.PermanentIdentifier.Rule == AsAttested {
		source := names.PermanentIdentifier.Source
		v.check(source == deviceid.Serial || source == deviceid.UDID, field+".source", "is neither serial nor udid")
	} else {
		v.check(names.PermanentIdentifier.Source == "", field+".source", "belongs to asAttested only")
	}
	v.rule("subjectAltName.hardware-module", names.HardwareModule.Rule, AsAttested, DropField)
	validateUsages(&v, "keyUsage", p.KeyUsage.Rule, p.KeyUsage.Allow, p.KeyUsage.Value, false, func(name string) bool {
		_, known := keyUsageBits[name]
		return known
	})
	validateUsages(&v, "extKeyUsage", p.ExtKeyUsage.Rule, p.ExtKeyUsage.Allow, p.ExtKeyUsage.Value, true, func(name string) bool {
		_, err := extKeyUsageOID(name)
		return err == nil
	})
	return errors.Join(v...)
}

func (p *Profile) validateKeys(v *problems) {
	v.check(len(p.Keys.Allow) > 0, "keys.allow", "is empty, so no key could ever be certified")
	for _, kind := range p.Keys.Allow {
		v.check(slices.Contains([]string{keyP256, keyP384, keyP521, keyRSA}, kind), "keys.allow", "holds %q, which is none of P-256, P-384, P-521 and RSA", kind)
	}
	v.check(p.Keys.RSAMinBits >= csr.MinRSABits && p.Keys.RSAMinBits <= csr.MaxRSABits, "keys.rsaMinBits", "is not %d to %d", csr.MinRSABits, csr.MaxRSABits)
}

func (p *Profile) validateSubject(v *problems) {
	s := p.Subject
	v.rule("subject", s.Rule, AsRequested, AsMinted, Fixed, DropField)
	v.check((s.Rule == AsRequested) == (len(s.Attributes) > 0), "subject.attributes", "belong to asRequested, and asRequested needs them")
	v.check((s.Rule == Fixed) == (s.Value != nil), "subject.value", "belongs to fixed, and fixed needs it")
	for _, a := range s.Attributes {
		_, err := attributeOID(a.Type)
		v.check(err == nil, "subject.attributes", "type %q is neither C, L, ST, O, OU, CN nor a dotted OID", a.Type)
		v.check(!a.Pattern.IsZero(), "subject.attributes", "type %s has no pattern", a.Type)
	}
	for _, rdn := range s.Value {
		v.check(len(rdn) > 0, "subject.value", "holds an empty RDN")
		for _, pair := range rdn {
			if len(pair) != 2 {
				v.check(false, "subject.value", "holds something that is no [type, value]")
				continue
			}
			id, err := attributeOID(pair[0])
			v.check(err == nil, "subject.value", "type %q is neither C, L, ST, O, OU, CN nor a dotted OID", pair[0])
			v.template("subject.value", pair[1])
			if err == nil {
				why := attributeProblem(csr.Attribute{Type: id, Value: sample(pair[1])})
				v.check(why == "", "subject.value", "%s %s", pair[0], why)
			}
		}
	}
}

func validateAltName(v *problems, kind csr.AltKind, r AltNameRule) {
	field := "subjectAltName." + string(kind)
	v.rule(field, r.Rule, AsRequested, AsMinted, Fixed, DropField)
	v.check((r.Rule == AsRequested) == !r.Pattern.IsZero(), field+".pattern", "belongs to asRequested, and asRequested needs it")
	v.check((r.Rule == Fixed) == (len(r.Value) > 0), field+".value", "belongs to fixed, and fixed needs it")
	for _, value := range r.Value {
		v.template(field+".value", value)
		why := altNameProblem(kind, sample(value))
		v.check(why == "", field+".value", "%q %s", value, why)
	}
}

// validateUsages holds both usage rules. allowAsMinted: the list widens asMinted too.
func validateUsages(v *problems, field string, rule Rule, allow, value []string, allowAsMinted bool, known func(string) bool) {
	v.rule(field, rule, AsRequested, AsMinted, Fixed, DropField)
	v.check(rule != AsRequested || len(allow) > 0, field+".allow", "is missing: asRequested needs it")
	v.check(rule == AsRequested || rule == AsMinted && allowAsMinted || len(allow) == 0, field+".allow", "does not belong to %s", rule)
	v.check((rule == Fixed) == (len(value) > 0), field+".value", "belongs to fixed, and fixed needs it")
	for _, usage := range slices.Concat(allow, value) {
		v.check(known(usage), field, "names %q, which is no usage that can be granted", usage)
	}
}

// of is the rule of a kind of text name; nil for every other kind.
func (r *AltNameRules) of(kind csr.AltKind) *AltNameRule {
	switch kind {
	case csr.AltEmail:
		return &r.Email
	case csr.AltDNS:
		return &r.DNS
	case csr.AltURI:
		return &r.URI
	case csr.AltUPN:
		return &r.UPN
	}
	return nil
}

// problems gathers what is wrong with a profile.
type problems []error

func (v *problems) check(ok bool, field, format string, args ...any) {
	if !ok {
		*v = append(*v, fmt.Errorf("profile field %s %s", field, fmt.Sprintf(format, args...)))
	}
}

func (v *problems) rule(field string, rule Rule, legal ...Rule) {
	v.check(slices.Contains(legal, rule), field+".rule", "is %q, none of %q", rule, legal)
}

// template checks that a fixed value has no braces but the placeholder's, so that a mistyped one
// is not certified as it stands.
func (v *problems) template(field, value string) {
	v.check(!strings.ContainsAny(strings.ReplaceAll(value, placeholder, ""), "{}"), field, "%q has a placeholder other than %s", value, placeholder)
}

// sample is a fixed value with an id as long as real ones are in it.
func sample(value string) string { return fillIn(value, "cert-00000000000000000000000000") }

func fillIn(value, identityID string) string {
	return strings.ReplaceAll(value, placeholder, identityID)
}
