package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// attribute is something that expressions may read.
type attribute struct {
	name    string
	kind    *cel.Type
	meaning string
	// of is the attribute's value, in the Go type that kind stands for; nil: it is not known.
	of func(*Input) any
}

// Attribute describes something that expressions may read, for people.
type Attribute struct {
	Name    string
	Type    string
	Meaning string
}

// Attributes lists everything that expressions may read, beside the labels that a policy names.
func Attributes() []Attribute {
	out := make([]Attribute, 0, len(attributes))
	for i := range attributes {
		a := &attributes[i]
		out = append(out, Attribute{Name: a.name, Type: kindName(a.kind), Meaning: a.meaning})
	}
	return out
}

func kindName(kind *cel.Type) string {
	switch {
	case kind == cel.TimestampType:
		return "timestamp"
	case kind.IsExactType(stringsType):
		return "list of strings"
	}
	return kind.TypeName()
}

var stringsType = cel.ListType(cel.StringType)

// attributes is everything that expressions may read. The order is that of the documentation.
var attributes = slices.Concat(requestAttributes, evidenceAttributes, deviceAttributes, pastAttributes)

var requestAttributes = []attribute{
	{"now", cel.TimestampType, "The time of the decision.", func(in *Input) any { return in.Now }},
	{"directory", cel.StringType, "Name of the ACME directory.", func(in *Input) any { return in.Directory }},
	{"order.kind", cel.StringType, `What the order names: "code", "serial" or "udid".`, func(in *Input) any { return string(in.Identifier) }},
	{"order.claimed", cel.StringType, "The serial number or UDID that the order names; unknown for a code.", func(in *Input) any { return text(in.Claimed) }},

	{"code.bound", cel.BoolType, "Whether the code is bound to a serial number or UDID.", ofCode(func(c *Code) any { return c.Serial != "" || c.UDID != "" })},
	{"code.allowUnattested", cel.BoolType, "Whether the code was minted to allow devices without attestation.", ofCode(func(c *Code) any { return c.AllowUnattested })},
	{"code.createdAt", cel.TimestampType, "When the code was minted.", ofCode(func(c *Code) any { return instant(c.CreatedAt) })},
	{"code.tries", cel.IntType, "How often the code was refused before.", ofCode(func(c *Code) any { return c.Tries })},
	{"code.template", cel.StringType, "The credential template that the code belongs to; unknown for a code that was minted by hand.", ofCode(func(c *Code) any { return text(c.Template) })},

	{"request.keyType", cel.StringType, `"EC" or "RSA".`, ofRequest(func(r *csr.Request) any { return r.KeyType })},
	{"request.keySize", cel.IntType, "In bits: the curve, or the RSA modulus.", ofRequest(func(r *csr.Request) any { return r.KeySize })},
	{"request.commonName", cel.StringType, "The first common name of the requested subject.", ofSubject("2.5.4.3")},
	{"request.organization", cel.StringType, "The first organization of the requested subject.", ofSubject("2.5.4.10")},
	{"request.organizationalUnit", cel.StringType, "The first organizational unit of the requested subject.", ofSubject("2.5.4.11")},
	{"request.serialNumber", cel.StringType, "The first serialNumber attribute of the requested subject.", ofSubject("2.5.4.5")},
	{"request.emails", stringsType, "Requested rfc822Names.", ofAltNames(csr.AltEmail)},
	{"request.dnsNames", stringsType, "Requested dNSNames.", ofAltNames(csr.AltDNS)},
	{"request.uris", stringsType, "Requested uniformResourceIdentifiers.", ofAltNames(csr.AltURI)},
	{"request.principals", stringsType, "Requested ntPrincipalNames (UPN).", ofAltNames(csr.AltUPN)},
	{"request.extKeyUsage", stringsType, "Requested extended key usages, as dotted OIDs.", ofRequest(func(r *csr.Request) any { return list(r.ExtKeyUsage) })},
	{"request.keyUsage", cel.IntType, "Requested key usage bits, as UsageFlags has them; 0 for none.", ofRequest(func(r *csr.Request) any { return int(r.KeyUsage) })},
}

var evidenceAttributes = []attribute{
	{"evidence.kind", cel.StringType, `"attested", "none" (the device sent no attestation) or "failed" (it reported that it could not).`, func(in *Input) any { return string(in.Evidence) }},
	{"evidence.attested", cel.BoolType, "Whether the device sent evidence, and it was verified.", func(in *Input) any { return in.Evidence == attest.Attested && in.Facts != nil }},
	{"facts.format", cel.StringType, `Attestation format, such as "apple".`, ofFacts(func(f *attest.Facts) any { return text(f.Format) })},
	{"facts.standIn", cel.BoolType, "Whether a stand-in authority attested it, which proves nothing about hardware.", ofFacts(func(f *attest.Facts) any { return f.Root.StandIn })},
	{"facts.rootSHA256", cel.StringType, "SHA-256 of the root that anchored the evidence, lower-case hex.", ofFacts(func(f *attest.Facts) any { return text(f.Root.SHA256) })},
	{"facts.serial", cel.StringType, "Attested serial number; User Enrollment omits it.", ofFacts(func(f *attest.Facts) any { return text(f.Identifier(deviceid.Serial)) })},
	{"facts.udid", cel.StringType, "Attested UDID, of a Mac the provisioning UDID; User Enrollment omits it.", ofFacts(func(f *attest.Facts) any { return text(f.Identifier(deviceid.UDID)) })},
	{"facts.keyType", cel.StringType, `Type of the attested key: "P-256" or "P-384".`, ofFacts(func(f *attest.Facts) any { return text(f.KeyType) })},
	{"facts.protection", cel.StringType, `What holds the key, such as "secure-enclave".`, ofFacts(func(f *attest.Facts) any { return text(string(f.Protection)) })},
	{"facts.productType", cel.StringType, "Software update device id, such as J514sAP.", ofPosture(func(p *attest.Posture) any { return text(p.ProductType) })},
	{"facts.osVersion", versionType, "Version of the operating system.", ofPosture(func(p *attest.Posture) any { return versionOf(p.OSVersion) })},
	{"facts.sepOSVersion", versionType, "Version of the Secure Enclave's system.", ofPosture(func(p *attest.Posture) any { return versionOf(p.SepOSVersion) })},
	{"facts.llbVersion", versionType, "Version of the low-level boot loader.", ofPosture(func(p *attest.Posture) any { return versionOf(p.LLBVersion) })},
	{"facts.sipEnabled", cel.BoolType, "Whether System Integrity Protection is on (Mac).", ofPosture(func(p *attest.Posture) any { return truth(p.SIPEnabled) })},
	{"facts.secureBoot", cel.StringType, `"Full Security", "Reduced Security" or "Permissive Security" (Mac).`, ofPosture(func(p *attest.Posture) any { return text(p.SecureBoot) })},
	{"facts.thirdPartyKexts", cel.BoolType, "Whether third-party kernel extensions are allowed (Mac).", ofPosture(func(p *attest.Posture) any { return truth(p.ThirdPartyKexts) })},
}

var deviceAttributes = []attribute{
	{"device.id", cel.StringType, "Id of the device's row; unknown if no row is about it.", ofDevice(func(d *Device) any { return text(d.ID) })},
	{"device.proven", cel.BoolType, "Whether this request's evidence names the device; else the code alone does.", func(in *Input) any { return in.Device != nil && in.Device.Proven }},
	{"device.known", cel.BoolType, "Whether the inventory lists the device: an operator, a list or Apple Business Manager.", func(in *Input) any { return in.Device != nil && in.Device.Known }},
	{"device.state", cel.StringType, `"expected", "active", "lost" or "retired"; unknown for a device that is not listed.`, ofDevice(func(d *Device) any { return text(string(d.State)) })},
	{"device.owner", cel.StringType, "Its label owner.", ofDevice(func(d *Device) any { return text(d.Labels["owner"]) })},
	{"device.model", cel.StringType, "Its label model.", ofDevice(func(d *Device) any { return text(d.Labels["model"]) })},
	{"device.attested", cel.BoolType, "Whether evidence established its serial number and UDID before.", func(in *Input) any { return in.Device != nil && in.Device.Attested }},
	{"device.createdAt", cel.TimestampType, "Since when there is a row about it.", ofDevice(func(d *Device) any { return instant(d.CreatedAt) })},
	{"device.lastSeen", cel.TimestampType, "When it last collected a certificate; unknown: never.", ofDevice(func(d *Device) any { return instant(d.LastSeen) })},
}

var pastAttributes = []attribute{
	{"history.deviceCertificates", cel.IntType, "Certificates issued to the device before, whatever became of them.", ofHistory(func(h *History) any { return h.DeviceCertificates })},
	{"history.deviceValid", cel.IntType, "Of these, neither revoked nor expired now.", ofHistory(func(h *History) any { return h.DeviceValid })},
	{"history.deviceLastIssued", cel.TimestampType, "When the last of these was issued; unknown: never.", ofHistory(func(h *History) any { return instant(h.DeviceLastIssued) })},
	{"history.keyCertificates", cel.IntType, "Certificates issued before for the very key that asks now: a device makes a fresh one each time.", ofHistory(func(h *History) any { return h.KeyCertificates })},
	{"history.keyOtherDevices", cel.IntType, "Of these, to another device, or to none that is known.", ofHistory(func(h *History) any { return h.KeyOtherDevices })},
	{"history.refusals", cel.IntType, "Refusals of this code and this device within 24 hours.", ofHistory(func(h *History) any { return h.Refusals })},
	{"opinion.verdict", cel.StringType, "The word of the service outside; unknown if it did not answer.", ofOpinion(func(o *Opinion) any { return text(o.Verdict) })},
	{"opinion.score", cel.IntType, "The number of the service outside; unknown if it did not answer.", ofOpinion(func(o *Opinion) any { return o.Score })},
	{"opinion.tags", stringsType, "The words that the service outside attached; unknown if it did not answer.", ofOpinion(func(o *Opinion) any { return list(o.Tags) })},
}

// Prefixes of the attributes that labels become: `labels: [owner]` makes device.labels.owner and
// code.labels.owner.
const (
	deviceLabels  = "device.labels."
	codeLabels    = "code.labels."
	opinionPrefix = "opinion."
)

// labelAttributes are the attributes of a label.
func labelAttributes(name string) []attribute {
	return []attribute{
		{deviceLabels + name, cel.StringType, "The device's label " + name + ".", ofDevice(func(d *Device) any { return text(d.Labels[name]) })},
		{codeLabels + name, cel.StringType, "The code's label " + name + ".", ofCode(func(c *Code) any { return text(c.Labels[name]) })},
	}
}

func ofCode(of func(*Code) any) func(*Input) any {
	return func(in *Input) any {
		if in.Code == nil {
			return nil
		}
		return of(in.Code)
	}
}

func ofRequest(of func(*csr.Request) any) func(*Input) any {
	return func(in *Input) any {
		if in.Request == nil {
			return nil
		}
		return of(in.Request)
	}
}

// ofSubject is the first value of a subject attribute.
func ofSubject(oid string) func(*Input) any {
	return ofRequest(func(r *csr.Request) any {
		for _, rdn := range r.Subject {
			for _, a := range rdn {
				if a.Type == oid {
					return text(a.Value)
				}
			}
		}
		return nil
	})
}

func ofAltNames(kind csr.AltKind) func(*Input) any {
	return ofRequest(func(r *csr.Request) any {
		values := []string{}
		for _, n := range r.AltNames {
			if n.Kind == kind {
				values = append(values, n.Value)
			}
		}
		return values
	})
}

func ofFacts(of func(*attest.Facts) any) func(*Input) any {
	return func(in *Input) any {
		if in.Facts == nil {
			return nil
		}
		return of(in.Facts)
	}
}

func ofPosture(of func(*attest.Posture) any) func(*Input) any {
	return ofFacts(func(f *attest.Facts) any { return of(&f.Posture) })
}

func ofDevice(of func(*Device) any) func(*Input) any {
	return func(in *Input) any {
		if in.Device == nil {
			return nil
		}
		return of(in.Device)
	}
}

func ofHistory(of func(*History) any) func(*Input) any {
	return func(in *Input) any {
		if in.History == nil {
			return nil
		}
		return of(in.History)
	}
}

func ofOpinion(of func(*Opinion) any) func(*Input) any {
	return func(in *Input) any {
		if in.Opinion == nil || !in.Opinion.Answered {
			return nil
		}
		return of(in.Opinion)
	}
}

// text is a string that is known unless it is empty: Apple leaves blank what it could not confirm.
func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func truth(b *bool) any {
	if b == nil {
		return nil
	}
	return *b
}

func instant(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

func list(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

// versionOf is a version that is known if it is one.
func versionOf(s string) any {
	v, err := parseVersion(s)
	if s == "" || err != nil {
		return nil
	}
	return v
}

// celValue is a value of an attribute as expressions have it.
func celValue(v any) ref.Val {
	switch v := v.(type) {
	case bool:
		return types.Bool(v)
	case int:
		return types.Int(v)
	case string:
		return types.String(v)
	case time.Time:
		return types.Timestamp{Time: v}
	case []string:
		return types.NewStringList(types.DefaultTypeAdapter, v)
	case version:
		return v
	}
	panic(fmt.Sprintf("policy: an attribute is of type %T", v)) // the table is wrong
}

// byName sorts attributes.
func byName(a, b *attribute) int { return cmp.Compare(a.name, b.name) }

// isOpinion reports whether the attribute comes from outside.
func (a *attribute) isOpinion() bool { return strings.HasPrefix(a.name, opinionPrefix) }
