package policy

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// attested is evidence of a device with these values; "" is what the evidence lacks.
func attested(serial, udid string) *attest.Facts {
	f := &attest.Facts{Format: attest.FormatApple, PublicKey: []byte("attested key"), Fresh: true, Root: attest.RootFact{SHA256: testRoot}}
	for kind, value := range map[deviceid.Kind]string{deviceid.Serial: serial, deviceid.UDID: udid} {
		if value != "" {
			f.Identifiers = append(f.Identifiers, deviceid.Identifier{Kind: kind, Value: value})
		}
	}
	return f
}

const testRoot = "0123abcd"

// sound is an input that is issued on.
func sound() Input {
	return Input{
		Formats: []string{attest.FormatApple}, Roots: []string{testRoot}, Identifier: ByCode, Evidence: attest.Attested, Facts: attested("S1", "U1"),
		Code: &Code{ID: "code_1", Live: true}, Request: &csr.Request{SPKI: []byte("attested key")},
	}
}

func TestDecide(t *testing.T) {
	unattested := func(kind attest.Kind, code Code) func(*Input) {
		return func(in *Input) { in.Evidence, in.Facts, in.Code = kind, nil, &code }
	}
	for name, test := range map[string]struct {
		change func(*Input)
		refuse string // the check; "": issue
	}{
		"attested, unbound code": {func(*Input) {}, ""},
		"bound to both":          {func(in *Input) { in.Code.Serial, in.Code.UDID = "S1", "u1" }, ""},
		"by serial": {func(in *Input) {
			in.Identifier, in.Claimed, in.Code, in.Device = BySerial, "S1", nil, &Device{ID: "dev_1", Known: true}
		}, ""},
		"by UDID in other case": {func(in *Input) {
			in.Identifier, in.Claimed, in.Code, in.Device = ByUDID, "u1", nil, &Device{ID: "dev_1", Known: true}
		}, ""},
		"by serial, not listed": {func(in *Input) {
			in.Identifier, in.Claimed, in.Code, in.Device = BySerial, "S1", nil, &Device{ID: "dev_1"}
		}, "require:listed-device"},
		"by UDID, no row":          {func(in *Input) { in.Identifier, in.Claimed, in.Code = ByUDID, "u1", nil }, "require:listed-device"},
		"none, allowed":            {unattested(attest.None, Code{Live: true, AllowUnattested: true}), ""},
		"failed, allowed":          {unattested(attest.Failed, Code{Live: true, AllowUnattested: true, Serial: "S1"}), ""},
		"none, not allowed":        {unattested(attest.None, Code{Live: true}), CheckEvidence},
		"failed, not allowed":      {unattested(attest.Failed, Code{Live: true}), CheckEvidence},
		"none, allowed, code dead": {unattested(attest.None, Code{AllowUnattested: true}), CheckCodeLive},
		"unknown kind of evidence": {unattested("hearsay", Code{Live: true, AllowUnattested: true}), CheckEvidence},
		"no kind of evidence":      {unattested("", Code{Live: true, AllowUnattested: true}), CheckEvidence},
		"none, by serial": {func(in *Input) {
			in.Evidence, in.Facts, in.Identifier, in.Claimed = attest.None, nil, BySerial, "S1"
			in.Code.AllowUnattested = true
		}, CheckEvidence},
		"code dead":                  {func(in *Input) { in.Code.Live = false }, CheckCodeLive},
		"no code":                    {func(in *Input) { in.Code = nil }, CheckCodeLive},
		"no facts":                   {func(in *Input) { in.Facts = nil }, CheckFacts},
		"no facts, unattested okay":  {func(in *Input) { in.Facts, in.Code.AllowUnattested = nil, true }, CheckFacts},
		"format not accepted":        {func(in *Input) { in.Formats = []string{"tpm"} }, CheckFormat},
		"no format accepted":         {func(in *Input) { in.Formats = nil }, CheckFormat},
		"root removed since":         {func(in *Input) { in.Roots = []string{"00"} }, CheckRoot},
		"no root accepted":           {func(in *Input) { in.Roots = nil }, CheckRoot},
		"facts without a root":       {func(in *Input) { in.Facts.Root.SHA256 = "" }, CheckRoot},
		"another serial":             {func(in *Input) { in.Code.Serial = "S2" }, CheckSerialMatches},
		"serial in other case":       {func(in *Input) { in.Code.Serial = "s1" }, CheckSerialMatches},
		"serial lacking":             {func(in *Input) { in.Code.Serial, in.Facts = "S1", attested("", "U1") }, CheckSerialAttested},
		"another UDID":               {func(in *Input) { in.Code.UDID = "U2" }, CheckUDIDMatches},
		"UDID lacking":               {func(in *Input) { in.Code.UDID, in.Facts = "U1", attested("S1", "") }, CheckUDIDAttested},
		"UDID right, serial wrong":   {func(in *Input) { in.Code.Serial, in.Code.UDID = "S2", "U1" }, CheckSerialMatches},
		"ordered serial is another":  {func(in *Input) { in.Identifier, in.Claimed = BySerial, "S2" }, CheckClaimedMatches},
		"ordered serial is empty":    {func(in *Input) { in.Identifier, in.Claimed = BySerial, "" }, CheckClaimedMatches},
		"ordered serial is the UDID": {func(in *Input) { in.Identifier, in.Claimed = BySerial, "U1" }, CheckClaimedMatches},
		"ordered UDID is another":    {func(in *Input) { in.Identifier, in.Claimed = ByUDID, "U2" }, CheckClaimedMatches},
		"ordered serial lacking":     {func(in *Input) { in.Identifier, in.Claimed, in.Facts = BySerial, "", attested("", "U1") }, CheckClaimedAttested},
		"ordered UDID lacking":       {func(in *Input) { in.Identifier, in.Claimed, in.Facts = ByUDID, "", attested("S1", "") }, CheckClaimedAttested},
		"unknown kind of identifier": {func(in *Input) { in.Identifier = "imei" }, CheckClaimedMatches},
		"evidence without key":       {func(in *Input) { in.Facts.PublicKey = nil }, CheckKeyAttested},
	} {
		t.Run(name, func(t *testing.T) {
			in := sound()
			test.change(&in)
			d := Builtin().Decide(t.Context(), in)
			if test.refuse == "" {
				if d.Outcome != Issue || d.Refused() != nil {
					t.Fatalf("%s: %+v", d.Outcome, d.Refused())
				}
				if d.Verified != (in.Facts != nil) || d.Key.Unattested != (in.Facts == nil) || (len(d.Key.Attested) > 0) != (in.Facts != nil) {
					t.Errorf("the decision is %+v", d)
				}
				return
			}
			refused := d.Refused()
			if d.Outcome != Refuse || refused == nil || refused.Check != test.refuse {
				t.Fatalf("%s because of %+v, want check %s", d.Outcome, refused, test.refuse)
			}
			if !cmp.Equal(d.Key, KeyBinding{}) {
				t.Errorf("a refusal permits keys: %+v", d.Key)
			}
		})
	}
}

// While a challenge is answered the same evidence is weighed, but not the code's life: it can end
// until finalize.
func TestAdmitWeighsEvidenceAlone(t *testing.T) {
	in := sound()
	in.Code.Live = false
	if failed := Builtin().Admit(in); failed != nil {
		t.Errorf("refused by %s", failed.Check)
	}
	in.Code.Serial = "S2"
	if failed := Builtin().Admit(in); failed == nil || failed.Check != CheckSerialMatches {
		t.Errorf("refused by %+v", failed)
	}
}

func TestStandInIsNamedInTheDecision(t *testing.T) {
	in := sound()
	if Builtin().Decide(t.Context(), in).StandIn {
		t.Error("a real root makes a stand-in decision")
	}
	in.Facts.Root.StandIn = true
	if d := Builtin().Decide(t.Context(), in); !d.StandIn || d.Outcome != Issue {
		t.Errorf("%+v", d)
	}
}

func TestExpectedDeviceOfUnattestedIsUnverified(t *testing.T) {
	for name, test := range map[string]struct {
		code Code
		want bool
	}{
		"bound to a serial": {Code{Live: true, AllowUnattested: true, Serial: "S1"}, true},
		"bound to a UDID":   {Code{Live: true, AllowUnattested: true, UDID: "U1"}, true},
		"unbound":           {Code{Live: true, AllowUnattested: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := sound()
			in.Evidence, in.Facts, in.Code = attest.None, nil, &test.code
			said := slices.ContainsFunc(Builtin().Decide(t.Context(), in).Reasons, func(r Reason) bool { return r.Passed && strings.HasPrefix(r.Detail, "unverified") })
			if said != test.want {
				t.Errorf("a reason says that the expected device is unverified: %v, want %v", said, test.want)
			}
		})
	}
}

// An operator sees whether a device sent nothing or said that it failed.
func TestMissingEvidenceSaysHowItIsMissing(t *testing.T) {
	in := sound()
	in.Facts = nil
	for kind, text := range map[attest.Kind]string{attest.None: "sent no attestation", attest.Failed: "its attestation failed"} {
		in.Evidence = kind
		d := Builtin().Decide(t.Context(), in)
		if failed := d.Refused(); failed == nil || !strings.Contains(failed.Detail, text) {
			t.Errorf("%s: refused by %+v", kind, failed)
		}
	}
}

func TestKeyBindingPermits(t *testing.T) {
	for name, test := range map[string]struct {
		binding KeyBinding
		spki    string
		want    bool
	}{
		"zero":                      {KeyBinding{}, "key", false},
		"zero, no key":              {KeyBinding{}, "", false},
		"the attested":              {KeyBinding{Attested: []byte("key")}, "key", true},
		"another":                   {KeyBinding{Attested: []byte("key")}, "kez", false},
		"a prefix":                  {KeyBinding{Attested: []byte("key")}, "ke", false},
		"none":                      {KeyBinding{Attested: []byte("key")}, "", false},
		"unattested":                {KeyBinding{Unattested: true}, "key", true},
		"unattested, none":          {KeyBinding{Unattested: true}, "", false},
		"both set: attested counts": {KeyBinding{Attested: []byte("key"), Unattested: true}, "other", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.binding.Permits([]byte(test.spki)); got != test.want {
				t.Errorf("permitted %v", got)
			}
		})
	}
}

// inputs draws any input, sound or not.
func inputs() *rapid.Generator[Input] {
	value := rapid.SampledFrom([]string{"", "S1", "s1", "S2", "U1", "u1", "U2"})
	return rapid.Custom(func(t *rapid.T) Input {
		in := Input{
			Formats:    rapid.SliceOfN(rapid.SampledFrom([]string{attest.FormatApple, "tpm"}), 0, 2).Draw(t, "formats"),
			Roots:      rapid.SliceOfN(rapid.SampledFrom([]string{testRoot, "ffff"}), 0, 2).Draw(t, "roots"),
			Identifier: rapid.SampledFrom([]IdentifierKind{ByCode, BySerial, ByUDID, "", "imei"}).Draw(t, "identifier"),
			Claimed:    value.Draw(t, "claimed"),
			Evidence:   rapid.SampledFrom([]attest.Kind{attest.Attested, attest.None, attest.Failed, "", "other"}).Draw(t, "evidence"),
		}
		if rapid.Bool().Draw(t, "has facts") {
			in.Facts = attested(value.Draw(t, "serial"), value.Draw(t, "udid"))
			if rapid.Bool().Draw(t, "no key") {
				in.Facts.PublicKey = nil
			}
		}
		if rapid.Bool().Draw(t, "has code") {
			in.Code = &Code{Live: rapid.Bool().Draw(t, "live"), AllowUnattested: rapid.Bool().Draw(t, "allow"),
				Serial: value.Draw(t, "bound serial"), UDID: value.Draw(t, "bound udid")}
		}
		return in
	})
}

func TestDecisionsHoldWhateverTheInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := inputs().Draw(t, "input")
		d := Builtin().Decide(t.Context(), in)
		if (d.Outcome == Issue) != (d.Refused() == nil) {
			t.Fatalf("outcome %q with refusal %+v", d.Outcome, d.Refused())
		}
		other := rapid.SliceOf(rapid.Byte()).Draw(t, "other key")
		if d.Outcome != Issue {
			if d.Key.Permits(other) || d.Key.Permits([]byte("attested key")) {
				t.Fatal("a refusal permits a key")
			}
			return
		}
		if failed := Builtin().Admit(in); failed != nil {
			t.Fatalf("issued although the challenge would be refused by %s", failed.Check)
		}
		switch {
		case in.Evidence == attest.Attested && in.Facts == nil:
			t.Fatal("issued on nil facts")
		case in.Evidence != attest.Attested && !(in.Code != nil && in.Code.AllowUnattested && in.Identifier == ByCode):
			t.Fatal("issued without evidence, and nothing allows that")
		case in.Identifier == ByCode && (in.Code == nil || !in.Code.Live):
			t.Fatal("issued on a dead code")
		}
		if in.Evidence != attest.Attested {
			if !d.Key.Unattested || d.Verified {
				t.Fatalf("an unattested decision is %+v", d)
			}
			return
		}
		if d.Key.Permits(other) != bytes.Equal(other, in.Facts.PublicKey) {
			t.Fatalf("permits key %x, attested is %x", other, in.Facts.PublicKey)
		}
		serial, udid := in.Facts.Identifier(deviceid.Serial), in.Facts.Identifier(deviceid.UDID)
		if in.Code != nil && (in.Code.Serial != "" && in.Code.Serial != serial || in.Code.UDID != "" && !strings.EqualFold(in.Code.UDID, udid)) {
			t.Fatal("issued to another device than the code is bound to")
		}
		if in.Identifier == BySerial && in.Claimed != serial || in.Identifier == ByUDID && !strings.EqualFold(in.Claimed, udid) {
			t.Fatal("issued to another device than the order names")
		}
	})
}

// What the caller does with its facts afterwards changes no decision.
func TestDecisionKeepsItsOwnKey(t *testing.T) {
	in := sound()
	d := Builtin().Decide(t.Context(), in)
	in.Facts.PublicKey[0] ^= 1
	if !d.Key.Permits([]byte("attested key")) {
		t.Error("the decision's key changed with the facts")
	}
}
