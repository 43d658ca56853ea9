package policy

import (
	"bytes"
	"fmt"
	"slices"

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
	CheckDeviceState     = "device-state"
	CheckOpinion         = "outside-opinion"
	CheckHeld            = "held"
	CheckOutcome         = "outcome"      // the policy's outcome was to refuse, or it has none that fits
	CheckError           = "policy-error" // an expression failed
	CheckTime            = "policy-time"  // the decision took too long
)

// Permits reports whether a key, as DER SubjectPublicKeyInfo, may be certified: the attested key
// byte for byte, or any key if the decision names that none was attested.
func (k KeyBinding) Permits(spki []byte) bool {
	if len(k.Attested) > 0 {
		return bytes.Equal(k.Attested, spki)
	}
	return k.Unattested && len(spki) > 0
}

// weighIdentifier judges what the order named.
func weighIdentifier(in *Input) []Reason {
	if in.Identifier != ByCode {
		return nil // a serial or UDID proves nothing by itself: weighEvidence demands that it be attested
	}
	return []Reason{rule(CheckCodeLive, in.Code != nil && in.Code.Live,
		"the code is unused and in time", "the code was used, revoked or has expired since it was ordered")}
}

// weighDevice judges where the device stands in the inventory. That a lost or retired device gets nothing
// is not for a policy to change: an operator takes the device back, or nobody does.
func weighDevice(in *Input) []Reason {
	if in.Device == nil {
		return nil
	}
	r := rule(CheckDeviceState, in.Device.State != Lost && in.Device.State != Retired,
		"the device is neither lost nor retired", fmt.Sprintf("the device is %s, says the inventory of %s", in.Device.State, in.Device.ID))
	if !r.Passed { // one device may stand there twice, once with a name that is mistyped
		r.Advice = fmt.Sprintf("`assay device show %s` shows what says so. If the device came back, `assay device expect %s` takes it back. "+
			"If its serial number or UDID is wrong there and it is another device, `assay device forget %s`, and list it anew", in.Device.ID, in.Device.ID, in.Device.ID)
	}
	return []Reason{r}
}

// weighEvidence judges the evidence and what it is bound to.
func weighEvidence(in *Input, unattested Unattested) []Reason {
	if in.Evidence != attest.Attested {
		return weighNoEvidence(in, unattested)
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
func weighNoEvidence(in *Input, unattested Unattested) []Reason {
	if in.Evidence != attest.None && in.Evidence != attest.Failed {
		return []Reason{{Check: CheckEvidence, Detail: "the challenge was not answered"}}
	}
	allowed, by := false, ""
	if in.Identifier == ByCode && in.Code != nil { // a serial or UDID that nothing attests could be anybody's
		switch {
		case unattested == UnattestedAllow:
			allowed, by = true, "the policy"
		case unattested == UnattestedByCode && in.Code.AllowUnattested:
			allowed, by = true, "the code"
		}
	}
	missing := "the device sent no attestation"
	if in.Evidence == attest.Failed {
		missing = "the device reported that its attestation failed"
	}
	reasons := []Reason{rule(CheckEvidence, allowed,
		missing+"; "+by+" allows that", missing+" and nothing allows it to go without")}
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
