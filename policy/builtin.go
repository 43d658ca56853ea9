package policy

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"assay/attest"
	"assay/deviceid"
)

// Names of the built-in checks, as refusals, logs and the audit carry them.
const (
	CheckCodeLive        = "code-live"
	CheckEvidence        = "evidence"
	CheckFormat          = "format-accepted"
	CheckRoot            = "root-accepted"
	CheckFacts           = "evidence-verified"
	CheckSerialAttested  = "bound-serial-attested"
	CheckSerialMatches   = "bound-serial"
	CheckUDIDAttested    = "bound-udid-attested"
	CheckUDIDMatches     = "bound-udid"
	CheckClaimedAttested = "ordered-identifier-attested"
	CheckClaimedMatches  = "ordered-identifier"
	CheckKeyAttested     = "attested-key"
)

// Policy is a policy ready to decide. It is safe for concurrent use.
type Policy struct {
	version Version
}

// Builtin is the policy of a directory that names none.
func Builtin() *Policy {
	return &Policy{version: Version{Name: "builtin", SHA256: strings.Repeat("0", 64)}}
}

// Text is the policy as it was written.
func (p *Policy) Text() []byte { return nil }

// UsesOpinion reports whether the policy reads what a service outside says.
func (p *Policy) UsesOpinion() bool { return false }

// Version says which policy this is.
func (p *Policy) Version() Version { return p.version }

// Admit weighs the evidence alone, while a challenge is being answered: is it there where it must
// be, in an accepted format, and about the device that the code or the order names? It returns the
// first failed check, or nil.
func (p *Policy) Admit(in Input) *Reason {
	d := Decision{Reasons: weighEvidence(in)}
	return d.Refused()
}

// Decide is the decision on a request. Whatever the policy says, nothing is issued unless the code is
// live, the evidence is verified (or may be missing) and every binding matches. The context bounds how
// long it may take; a decision that it cuts off is a refusal.
func (p *Policy) Decide(_ context.Context, in Input) Decision {
	d := Decision{Outcome: Refuse, Policy: p.version, Reasons: append(weighIdentifier(in), weighEvidence(in)...)}
	d.Verified = in.Evidence == attest.Attested && in.Facts != nil
	d.StandIn = d.Verified && in.Facts.Root.StandIn
	if d.Verified {
		d.Reasons = append(d.Reasons, rule(CheckKeyAttested, len(in.Facts.PublicKey) > 0,
			"only the attested key may be certified", "the evidence names no key"))
	}
	if d.Refused() != nil {
		return d
	}
	if d.Verified {
		d.Key.Attested = bytes.Clone(in.Facts.PublicKey)
	} else {
		d.Reasons = append(d.Reasons, Reason{Check: CheckKeyAttested, Passed: true,
			Detail: "no attested key: the request's own key may be certified, because the code allows unattested devices"})
		d.Key.Unattested = true
	}
	d.Outcome = Issue
	return d
}

// Permits reports whether a key, as DER SubjectPublicKeyInfo, may be certified: the attested key
// byte for byte, or any key if the decision names that none was attested.
func (k KeyBinding) Permits(spki []byte) bool {
	if len(k.Attested) > 0 {
		return bytes.Equal(k.Attested, spki)
	}
	return k.Unattested && len(spki) > 0
}

// weighIdentifier judges what the order named.
func weighIdentifier(in Input) []Reason {
	if in.Identifier != ByCode {
		return nil // a serial or UDID proves nothing by itself: weighEvidence demands that it be attested
	}
	return []Reason{rule(CheckCodeLive, in.Code != nil && in.Code.Live,
		"the code is unused and in time", "the code was used, revoked or has expired since it was ordered")}
}

// weighEvidence judges the evidence and what it is bound to.
func weighEvidence(in Input) []Reason {
	if in.Evidence != attest.Attested {
		return weighNoEvidence(in)
	}
	if in.Facts == nil { // a nil here must never read as "nothing to compare"
		return []Reason{{Check: CheckFacts, Detail: "the evidence was not verified"}}
	}
	reasons := []Reason{
		{Check: CheckEvidence, Passed: true, Detail: "the device attested its key and itself"},
		rule(CheckFormat, slices.Contains(in.Formats, in.Facts.Format),
			"the directory accepts "+in.Facts.Format+" attestations",
			fmt.Sprintf("the directory does not accept %q attestations", in.Facts.Format)),
		// Facts are stored when the challenge is answered; a root may have been removed since.
		rule(CheckRoot, slices.Contains(in.Roots, in.Facts.Root.SHA256),
			"the root that anchored the evidence is accepted", "the root that anchored the evidence is not accepted any more"),
	}
	serial, udid := in.Facts.Identifier(deviceid.Serial), in.Facts.Identifier(deviceid.UDID)
	if in.Code != nil && in.Code.Serial != "" {
		reasons = append(reasons, matches(CheckSerialAttested, CheckSerialMatches, "the serial number that the code is bound to",
			in.Code.Serial, serial, deviceid.SameSerial)...)
	}
	if in.Code != nil && in.Code.UDID != "" {
		reasons = append(reasons, matches(CheckUDIDAttested, CheckUDIDMatches, "the UDID that the code is bound to",
			in.Code.UDID, udid, deviceid.SameUDID)...)
	}
	switch in.Identifier {
	case ByCode:
	case BySerial:
		reasons = append(reasons, matches(CheckClaimedAttested, CheckClaimedMatches, "the serial number that the order names",
			in.Claimed, serial, deviceid.SameSerial)...)
	case ByUDID:
		reasons = append(reasons, matches(CheckClaimedAttested, CheckClaimedMatches, "the UDID that the order names",
			in.Claimed, udid, deviceid.SameUDID)...)
	default:
		reasons = append(reasons, Reason{Check: CheckClaimedMatches, Detail: "the order names an identifier of no known kind"})
	}
	return reasons
}

// weighNoEvidence judges a device that sent none, or whose attestation failed. Why it failed
// cannot be believed: the one who reports it may be the compromised party.
func weighNoEvidence(in Input) []Reason {
	if in.Evidence != attest.None && in.Evidence != attest.Failed {
		return []Reason{{Check: CheckEvidence, Detail: "the challenge was not answered"}}
	}
	allowed := in.Identifier == ByCode && in.Code != nil && in.Code.AllowUnattested
	missing := "the device sent no attestation"
	if in.Evidence == attest.Failed {
		missing = "the device reported that its attestation failed"
	}
	reasons := []Reason{rule(CheckEvidence, allowed,
		missing+"; the code allows that", missing+" and nothing allows it to go without")}
	if allowed && (in.Code.Serial != "" || in.Code.UDID != "") {
		reasons = append(reasons, Reason{Check: CheckSerialMatches, Passed: true,
			Detail: "unverified: the code expects a device, and nothing attests that this is it"})
	}
	return reasons
}

// matches gives two reasons: the evidence holds the value, and it is the expected one.
func matches(presentCheck, equalCheck, what, want, got string, same func(a, b string) bool) []Reason {
	if got == "" {
		return []Reason{{Check: presentCheck, Detail: "the evidence lacks " + what}}
	}
	return []Reason{rule(equalCheck, same(want, got), what+" is the attested one", what+" is not the attested one")}
}

func rule(check string, passed bool, yes, no string) Reason {
	if passed {
		return Reason{Check: check, Passed: true, Detail: yes}
	}
	return Reason{Check: check, Detail: no}
}
