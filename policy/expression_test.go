package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/attest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// parsed is a policy of these lines behind the version.
func parsed(t testing.TB, lines ...string) *Policy {
	t.Helper()
	p, err := Parse("test", []byte("version: 1\n"+strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantTruth checks what a condition comes to on an input.
func wantTruth(t testing.TB, in Input, condition string, want SignalValue, unknown ...string) {
	t.Helper()
	p := parsed(t, "labels: [owner, cost-center, abm.color]", fmt.Sprintf("signals: [{name: s, that: %q, points: 1}]", condition), "outcomes: [{outcome: issue}]")
	d := p.Decide(t.Context(), in)
	if failed := d.Refused(); failed != nil {
		t.Errorf("%s: %+v", condition, failed)
		return
	}
	s := d.Signals[0]
	if s.Value != want || !slices.Equal(s.Unknown, unknown) {
		t.Errorf("%s is %s for want of %v, want %s for want of %v", condition, s.Value, s.Unknown, want, unknown)
	}
}

// known is an input of which much is known.
func known() Input {
	in := sound()
	in.Now = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	in.Facts.Posture = attest.Posture{OSVersion: "18.10.1", SepOSVersion: "22A3354", SIPEnabled: new(false), SecureBoot: "Full Security"}
	in.Device = &Device{ID: "dev_1", Known: true, State: Active, Proven: true, CreatedAt: in.Now.Add(-48 * time.Hour),
		Labels: map[string]string{"owner": "sam", "abm.color": "blue", "cost-center": "7"}}
	in.History = &History{DeviceValid: 2, KeyCertificates: 1}
	in.Code.CreatedAt = in.Now.Add(-time.Hour)
	return in
}

func TestConditionsReadWhatIsKnown(t *testing.T) {
	for condition, want := range map[string]SignalValue{
		`facts.osVersion >= "18.9"`:                               True, // 10 is more than 9
		`facts.osVersion < "18.10.2"`:                             True,
		`facts.osVersion > "18.10.1.0"`:                           False, // the same
		`facts.osVersion == version("18.10.1.0")`:                 True,
		`facts.osVersion != version("18.10.1.0")`:                 False,
		`facts.osVersion <= version("17") || device.known`:        True,
		`facts.sipEnabled`:                                        False,
		`facts.secureBoot in ["Full Security", "Reduced"]`:        True,
		`device.state == "active" && device.proven`:               True,
		`device.owner == "sam"`:                                   True,
		`device.labels.owner.startsWith("s")`:                     True,
		`device.labels.abm.color == "blue"`:                       True,
		"device.labels.`cost-center` == '7'":                      True,
		`now - device.createdAt > days(1)`:                        True,
		`now - code.createdAt > duration("2h")`:                   False,
		`history.deviceValid == 2 && history.keyCertificates > 0`: True,
		`request.emails.exists(e, e.endsWith("@example.com"))`:    False,
		`size(request.emails) == 0`:                               True,
		`evidence.kind == "attested" && evidence.attested`:        True,
		`known(facts.osVersion)`:                                  True,
		`known(facts.thirdPartyKexts)`:                            False,
		`known(device.lastSeen) || known(code.labels.owner)`:      False,
	} {
		wantTruth(t, known(), condition, want)
	}
}

func TestWhatIsNotKnownIsNotFalse(t *testing.T) {
	for condition, want := range map[string][]string{
		`facts.thirdPartyKexts`:                            {"facts.thirdPartyKexts"},
		`!facts.thirdPartyKexts`:                           {"facts.thirdPartyKexts"},
		`facts.sepOSVersion < "18"`:                        {"facts.sepOSVersion"}, // attested, but no version
		`facts.llbVersion >= "18" && device.known`:         {"facts.llbVersion"},
		`device.lastSeen > now && facts.productType == ""`: {"device.lastSeen", "facts.productType"},
		`code.labels.owner == "sam"`:                       {"code.labels.owner"},
	} {
		wantTruth(t, known(), condition, Unknown, want...)
	}
	wantTruth(t, known(), `facts.thirdPartyKexts && facts.sipEnabled`, False)
	wantTruth(t, known(), `facts.thirdPartyKexts || device.known`, True)
	wantTruth(t, known(), `known(facts.thirdPartyKexts) && facts.thirdPartyKexts`, False)
}

func TestAnUnknownRequirementDoesNotHold(t *testing.T) {
	p := parsed(t, "require: [{name: kexts, that: '!facts.thirdPartyKexts', message: no kexts}]", "outcomes: [{outcome: issue}]")
	d := p.Decide(t.Context(), known())
	failed := d.Refused()
	if d.Outcome != Refuse || failed == nil || failed.Check != "require:kexts" || failed.Detail != "no kexts" || !slices.Equal(failed.Unknown, []string{"facts.thirdPartyKexts"}) {
		t.Errorf("%+v", d)
	}
	in := known()
	in.Facts.Posture.ThirdPartyKexts = new(false)
	if d := p.Decide(t.Context(), in); d.Outcome != Issue {
		t.Errorf("%+v", d)
	}
}

func TestARequirementAppliesWhereItsConditionIsNotFalse(t *testing.T) {
	p := parsed(t, "require: [{name: boot, when: facts.thirdPartyKexts, that: 'facts.secureBoot == \"x\"', message: m}]", "outcomes: [{outcome: issue}]")
	for name, test := range map[string]struct {
		kexts *bool
		want  Outcome
	}{"applies": {new(true), Refuse}, "does not": {new(false), Issue}, "cannot be told": {nil, Refuse}} {
		in := known()
		in.Facts.Posture.ThirdPartyKexts = test.kexts
		if d := p.Decide(t.Context(), in); d.Outcome != test.want {
			t.Errorf("%s: %s", name, d.Outcome)
		}
	}
}

func TestInDoubtTheStricterOutcomeFits(t *testing.T) {
	for _, strict := range []Outcome{Hold, Refuse} {
		p := parsed(t, fmt.Sprintf("outcomes: [{outcome: %s, when: facts.thirdPartyKexts}, {outcome: issue}]", strict))
		if d := p.Decide(t.Context(), known()); d.Outcome != strict {
			t.Errorf("%s with an unknown condition, and the decision is %s", strict, d.Outcome)
		}
	}
	p := parsed(t, "outcomes: [{outcome: issue, when: '!facts.thirdPartyKexts'}, {outcome: hold}]")
	if d := p.Decide(t.Context(), known()); d.Outcome != Hold {
		t.Errorf("issue with an unknown condition, and the decision is %s", d.Outcome)
	}
}

func TestScoreChoosesTheOutcome(t *testing.T) {
	p := parsed(t, "signals:", "- {name: a, that: device.known, points: 30, message: why}", "- {name: b, that: facts.sipEnabled, points: 50}",
		"- {name: c, that: facts.thirdPartyKexts, points: -99, unknown: -5}",
		"outcomes:", "- {outcome: issue, score: 26}", "- {outcome: issue, score: 25, profile: weak, lifetime: 7d}", "- {outcome: hold, score: 20, approval: 2d}", "- {outcome: refuse, message: too little, advice: do more}")
	d := p.Decide(t.Context(), known())
	want := []Signal{{Name: "a", Value: True, Points: 30, Detail: "why"}, {Name: "b", Value: False}, {Name: "c", Value: Unknown, Points: -5, Unknown: []string{"facts.thirdPartyKexts"}}}
	if diff := cmp.Diff(want, d.Signals); diff != "" {
		t.Error(diff)
	}
	if d.Outcome != Issue || d.Score != 25 || d.Profile != "weak" || d.Lifetime != Lifetime(7*day) || d.Policy != p.Version() || string(d.Key.Attested) != "attested key" {
		t.Errorf("%+v", d)
	}
	in := known()
	in.Device.Known = false
	d = p.Decide(t.Context(), in)
	if failed := d.Refused(); d.Outcome != Refuse || failed.Check != CheckOutcome || failed.Detail != "too little" || failed.Advice != "do more" || d.Key.Attested != nil {
		t.Errorf("%+v", d)
	}
	if diff := cmp.Diff([]string{"weak"}, p.Profiles()); diff != "" {
		t.Error(diff)
	}
}

func TestNoOutcomeThatFitsRefuses(t *testing.T) {
	p := parsed(t, "outcomes: [{outcome: issue, when: 'false'}]")
	if d := p.Decide(t.Context(), known()); d.Outcome != Refuse || d.Refused().Check != CheckOutcome {
		t.Errorf("%+v", d)
	}
}

func TestAHoldWaitsForALiveApproval(t *testing.T) {
	p := parsed(t, "outcomes: [{outcome: hold, approval: 2d, lifetime: 3d, profile: short, message: ask sam}]")
	in := known()
	d := p.Decide(t.Context(), in)
	if failed := d.Refused(); d.Outcome != Hold || failed.Check != CheckHeld || failed.Detail != "ask sam" || d.ApprovalLifetime != Lifetime(2*day) || d.Key.Permits([]byte("attested key")) {
		t.Errorf("%+v", d)
	}
	in.Approval = &Approval{Hold: "hold_1", ExpiresAt: in.Now.Add(time.Second)}
	d = p.Decide(t.Context(), in)
	if d.Outcome != Issue || d.Approval != "hold_1" || d.Lifetime != Lifetime(3*day) || d.Profile != "short" || d.Refused() != nil {
		t.Errorf("%+v", d)
	}
	in.Approval.ExpiresAt = in.Now
	if d := p.Decide(t.Context(), in); d.Outcome != Hold || d.Approval != "" {
		t.Errorf("an approval that expired: %+v", d)
	}
	in.Approval.ExpiresAt, in.Device.State = in.Now.Add(time.Hour), Lost
	if d := p.Decide(t.Context(), in); d.Outcome != Refuse || d.Refused().Check != CheckDeviceState {
		t.Errorf("approved, but lost: %+v", d)
	}
}

func TestLostAndRetiredDevicesGetNothing(t *testing.T) {
	for state, want := range map[State]Outcome{Lost: Refuse, Retired: Refuse, Active: Issue, Expected: Issue, "": Issue} {
		in := known()
		in.Device.State = state
		if d := Builtin().Decide(t.Context(), in); d.Outcome != want {
			t.Errorf("%q: %+v", state, d)
		}
	}
}

func TestAnOpinionThatMustBeThereIsMissed(t *testing.T) {
	asks := parsed(t, "signals: [{name: o, that: 'opinion.score > 5', points: 5}]", "outcomes: [{outcome: issue}]")
	does := parsed(t, "outcomes: [{outcome: issue}]")
	if !asks.UsesOpinion() || does.UsesOpinion() || Builtin().UsesOpinion() {
		t.Fatal("UsesOpinion is wrong")
	}
	for name, test := range map[string]struct {
		opinion *Opinion
		want    Outcome
		value   SignalValue
	}{
		"nobody asked":          {nil, Refuse, Unknown},
		"answered":              {&Opinion{Answered: true, Required: true, Score: 6}, Issue, True},
		"required, no answer":   {&Opinion{Required: true, Failure: "timeout", Score: 6}, Refuse, Unknown},
		"neutral, no answer":    {&Opinion{Failure: "timeout", Score: 6}, Issue, Unknown},
		"neutral, other answer": {&Opinion{Answered: true, Score: 1}, Issue, False},
	} {
		in := known()
		in.Opinion = test.opinion
		d := asks.Decide(t.Context(), in)
		if d.Outcome != test.want || d.Signals[0].Value != test.value || test.want == Refuse && d.Refused().Check != CheckOpinion {
			t.Errorf("%s: %+v", name, d)
		}
		if d := does.Decide(t.Context(), in); d.Outcome != Issue {
			t.Errorf("%s, and the policy does not ask: %+v", name, d)
		}
	}
}

func TestUnattestedDevicesAsThePolicySays(t *testing.T) {
	for _, test := range []struct {
		unattested Unattested
		code       bool
		want       Outcome
	}{
		{UnattestedByCode, true, Issue}, {UnattestedByCode, false, Refuse}, {UnattestedAllow, false, Issue}, {UnattestedNever, true, Refuse},
	} {
		p := parsed(t, "unattested: "+string(test.unattested), "outcomes: [{outcome: issue}]")
		in := known()
		in.Evidence, in.Facts, in.Code.AllowUnattested = attest.None, nil, test.code
		d := p.Decide(t.Context(), in)
		if d.Outcome != test.want || d.Key.Unattested != (test.want == Issue) {
			t.Errorf("%s, code says %t: %+v", test.unattested, test.code, d)
		}
		if failed := p.Admit(in); (failed == nil) != (test.want == Issue) {
			t.Errorf("%s, code says %t: admitted with %+v", test.unattested, test.code, failed)
		}
		in.Identifier, in.Claimed, in.Code = BySerial, "S1", nil
		if d := p.Decide(t.Context(), in); d.Outcome != Refuse {
			t.Errorf("%s, by serial: %+v", test.unattested, d)
		}
	}
}

func TestABrokenExpressionRefusesByName(t *testing.T) {
	for name, condition := range map[string]string{
		"error":      `1 / history.keyOtherDevices > 0`,
		"no version": `facts.osVersion > version(facts.secureBoot)`,
		"index":      `request.emails[5] == "x"`,
		"costs much": "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a+b+c+d > history.keyOtherDevices))))",
		"days":       `now - device.createdAt > days(99999999)`,
	} {
		for _, policy := range []string{
			fmt.Sprintf("signals: [{name: broken, that: %q, points: 1}]", condition),
			fmt.Sprintf("require: [{name: broken, that: %q, message: m}]", condition),
			fmt.Sprintf("require: [{name: broken, when: %q, that: 'true', message: m}]", condition),
		} {
			d := parsed(t, policy, "outcomes: [{outcome: issue}]").Decide(t.Context(), known())
			failed := d.Refused()
			if d.Outcome != Refuse || failed == nil {
				t.Fatalf("%s in %s: %+v", name, policy, d)
			}
			if last := d.Reasons[len(d.Reasons)-1]; last.Check != CheckError || !strings.Contains(last.Detail, "broken") || strings.Contains(last.Detail, "Full Security") {
				t.Errorf("%s in %s: %+v", name, policy, last)
			}
		}
		d := parsed(t, fmt.Sprintf("outcomes: [{outcome: refuse, when: %q}, {outcome: issue}]", condition)).Decide(t.Context(), known())
		if d.Outcome != Refuse || d.Refused().Check != CheckError {
			t.Errorf("%s in an outcome: %+v", name, d)
		}
	}
}

func TestAllExpressionsTogetherHaveALimit(t *testing.T) {
	lines := []string{"signals:"}
	dear := "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, a+b+c > history.keyOtherDevices)))"
	for i := range 60 {
		lines = append(lines, fmt.Sprintf("- {name: s%d, that: %q, points: 1}", i, dear))
	}
	d := parsed(t, append(lines, "outcomes: [{outcome: issue}]")...).Decide(t.Context(), known())
	if d.Outcome != Refuse || d.Refused().Check != CheckError || !strings.Contains(d.Refused().Detail, "cost too much") {
		t.Errorf("%+v", d.Refused())
	}
}

func TestADecisionThatIsCutOffRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := parsed(t, "signals: [{name: s, that: device.known, points: 1}]", "outcomes: [{outcome: issue}]")
	if d := p.Decide(ctx, known()); d.Outcome != Refuse || d.Refused().Check != CheckTime {
		t.Errorf("%+v", d)
	}
}

func TestAPanicOfAnExpressionRefuses(t *testing.T) {
	p := parsed(t, "signals: [{name: s, that: device.known, points: 1}]", "outcomes: [{outcome: issue}]")
	p.signals[0].that.program = nil // as if the library had a fault
	if d := p.Decide(t.Context(), known()); d.Outcome != Refuse || d.Refused().Check != CheckError {
		t.Errorf("%+v", d)
	}
}

func TestParseNamesEveryFault(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"no version":  {"outcomes: [{outcome: issue}]", []string{"version is 0"}},
		"no outcome":  {"version: 1", []string{"outcomes: at least one"}},
		"unknown key": {"version: 1\nrequires: []\noutcomes: [{outcome: issue}]", []string{`line 2: unknown key "requires"`}},
		"not YAML":    {"version: [1", []string{"line 2"}},
		"typo in a name": {"version: 1\nrequire:\n- name: a\n  that: facts.osVerison > \"1\"\n  message: m\noutcomes: [{outcome: issue}]",
			[]string{"line 4: requirement a: that: column 6: there is no facts.osVerison"}},
		"many": {"version: 1\nunattested: maybe\nsignals:\n- {name: A, that: 'true', points: 1}\n- {name: b, that: '1', points: 9999999}\n- {name: b, that: ''}\noutcomes: [{outcome: perhaps, lifetime: 1s}, {outcome: refuse, profile: x}, {outcome: issue, approval: 1d}]",
			[]string{"none of code, allow, never", `"A" is no name`, "is a int, but must be true or false", "9999999 points", "the name is used twice", "is empty", `"perhaps" is none of`, "not between 1m", "refuses, so there is no profile", "approval belongs to hold"}},
		"no message":           {"version: 1\nrequire: [{name: a, that: 'true'}]\noutcomes: [{outcome: issue}]", []string{"has no message"}},
		"line end in message":  {"version: 1\nrequire: [{name: a, that: 'true', message: \"a\\nb\"}]\noutcomes: [{outcome: issue}]", []string{"control characters"}},
		"no version literal":   {"version: 1\nsignals: [{name: a, that: 'facts.osVersion > \"18.x\"', points: 1}]\noutcomes: [{outcome: issue}]", []string{`"18.x" is no version`}},
		"equals text":          {"version: 1\nsignals: [{name: a, that: 'facts.osVersion == \"18\"', points: 1}]\noutcomes: [{outcome: issue}]", []string{`write == version("18.1")`}},
		"has":                  {"version: 1\nsignals: [{name: a, that: 'has(facts.osVersion)', points: 1}]\noutcomes: [{outcome: issue}]", []string{"ask with known()"}},
		"known of a sum":       {"version: 1\nsignals: [{name: a, that: 'known(1 + 1)', points: 1}]\noutcomes: [{outcome: issue}]", []string{"known() asks about one attribute"}},
		"unnamed label":        {"version: 1\nsignals: [{name: a, that: 'device.labels.ownr == \"x\"', points: 1}]\noutcomes: [{outcome: issue}]", []string{"must be named under labels"}},
		"no label is named":    {"version: 1\nrequire: [{name: a, that: 'device.labels.foo == \"x\"', message: m}]\noutcomes: [{outcome: issue}]", []string{"must be named under labels"}},
		"known is not written": {"version: 1\nsignals: [{name: a, that: '@known.facts.osVersion', points: 1}]\noutcomes: [{outcome: issue}]", []string{"requirement", "signal a"}[1:]},
		"label":                {"version: 1\nlabels: [a, a, 'x y']\noutcomes: [{outcome: issue}]", []string{`"a" is named twice`, `"x y" is named twice, or no name`}},
		"case":                 {"version: 1\noutcomes: [{outcome: issue}]\ntests:\n- {given: {facts.nothing: 1, device.known: 5}, expect: x}", []string{"a case has no name", `expect: "x"`, "there is no attribute", "device.known: must be a bool"}},
		"too large":            {strings.Repeat("#", MaxSize+1), []string{"larger than 256 KiB"}},
		"deep":                 {"version: 1\nsignals: [{name: a, that: '" + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + "', points: 1}]\noutcomes: [{outcome: issue}]", []string{"signal a"}},
	} {
		_, err := Parse("test", []byte(test.text))
		faulty, ok := errors.AsType[*ParseError](err)
		if !ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(faulty.Error(), want) {
				t.Errorf("%s: %v\nlacks %s", name, faulty, want)
			}
		}
	}
}

func TestWarningsNameWhatIsMostLikelyAMistake(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"score too high":      {"signals: [{name: a, that: device.known, points: 5}]\noutcomes: [{outcome: issue, score: 6}, {outcome: refuse}]", "outcome 1 (issue): is never reached: it needs a score of 6"},
		"taken before":        {"signals: [{name: a, that: device.known, points: 5}]\noutcomes: [{outcome: issue}, {outcome: refuse, score: 3}]", "outcome 2 (refuse): is never reached: an outcome before it"},
		"never":               {"outcomes: [{outcome: issue, when: 'false'}, {outcome: refuse}]", "condition is always false"},
		"only refuses":        {"outcomes: [{outcome: refuse}]", "every outcome refuses"},
		"open end":            {"signals: [{name: a, that: device.known, points: 5}]\noutcomes: [{outcome: issue, score: 3}]", "some requests fit none"},
		"always":              {"require: [{name: a, that: '1 < 2', message: m}]\noutcomes: [{outcome: issue}]", "requirement a: always holds"},
		"never holds":         {"require: [{name: a, that: '1 > 2', message: m}]\noutcomes: [{outcome: issue}]", "requirement a: never holds"},
		"no points":           {"signals: [{name: a, that: device.known}]\noutcomes: [{outcome: issue}]", "signal a: gives no points"},
		"constant signal":     {"signals: [{name: a, that: 'true', points: 5}]\noutcomes: [{outcome: issue}]", "signal a: is always true"},
		"label not read":      {"labels: [owner]\noutcomes: [{outcome: issue}]", "no expression reads the label owner"},
		"opposites":           {"require: [{name: a, that: device.known, message: m}, {name: b, that: '!(device.known)', message: m}]\noutcomes: [{outcome: issue}]", "requirement b: contradicts the requirement a"},
		"two values at once":  {"require: [{name: a, that: 'device.state == \"active\" && (device.known && \"lost\" == device.state)', message: m}]\noutcomes: [{outcome: issue}]", "requirement a: never holds: device.state cannot equal two things"},
		"two values in when":  {"require: [{name: a, when: 'device.state == \"active\" && device.state == \"lost\"', that: device.known, message: m}]\noutcomes: [{outcome: issue}]", "requirement a: never applies: device.state cannot equal two things"},
		"two values, signal":  {"signals: [{name: a, that: 'device.state == \"active\" && device.state == \"lost\"', points: 5}]\noutcomes: [{outcome: issue}]", "signal a: is never true: device.state cannot equal two things"},
		"two values, outcome": {"outcomes: [{outcome: hold, when: 'device.state == \"active\" && device.state == \"lost\"'}, {outcome: issue}]", "outcome 1 (hold): is never reached: device.state cannot equal two things"},
		"two values":          {"require: [{name: a, that: 'device.state == \"active\"', message: m}, {name: b, that: 'device.known && device.state == \"lost\"', message: m}]\noutcomes: [{outcome: issue}]", "requirement b: contradicts the requirement a"},
	} {
		var said []string
		for _, w := range parsed(t, test.text).Warnings() {
			said = append(said, w.String())
		}
		if !strings.Contains(strings.Join(said, "\n"), test.want) {
			t.Errorf("%s: warnings %q", name, said)
		}
	}
	if w := Builtin().Warnings(); len(w) != 0 {
		t.Errorf("the built-in policy: %v", w)
	}
}

// A case that expects a refusal must not pass because time is over.
func TestCasesThatTakeTooLongFail(t *testing.T) {
	p := parsed(t, "outcomes: [{outcome: refuse, when: device.known}, {outcome: refuse}]", "tests: [{name: a, expect: refuse}]")
	if results := p.testCases(t.Context(), p.cases, 0); results[0].Passed || !strings.Contains(results[0].Faults[0], "took longer than 0s") {
		t.Errorf("%+v", results)
	}
	if results := p.TestCases(t.Context(), p.cases); !results[0].Passed {
		t.Errorf("%+v", results)
	}
}

func TestCasesSayWhatCameInstead(t *testing.T) {
	p := parsed(t, "signals: [{name: a, that: device.known, points: 5}]", "outcomes: [{outcome: issue, score: 5, profile: x}, {outcome: refuse}]",
		"tests:", "- {name: right, given: {device.known: true}, expect: issue, score: 5, profile: x}", "- {name: wrong, expect: issue, score: 9, failed: other, profile: y}")
	results := p.Test(t.Context())
	if !results[0].Passed || results[1].Passed {
		t.Fatalf("%+v", results)
	}
	want := []string{"outcome is refuse, not issue", "score is 0, not 9", "failed check is outcome, not other", "profile is , not y", "because outcome: the policy refuses with this score"}
	if diff := cmp.Diff(want, results[1].Faults); diff != "" {
		t.Error(diff)
	}
	more, err := p.ParseCases([]byte("tests: [{name: beside, expect: refuse, given: {device.state: retired}, failed: device-state}]"))
	if err != nil || !p.TestCases(t.Context(), more)[0].Passed {
		t.Errorf("cases of a file beside: %v", err)
	}
	if _, err := p.ParseCases([]byte("tests: [{name: x, given: {no.such: 1}, expect: issue}]\nother: 1")); err == nil {
		t.Error("faulty cases were read")
	}
}

func TestCompareNamesWhatMadeTheDifference(t *testing.T) {
	in := known()
	decide := func(lines ...string) Decision { return parsed(t, lines...).Decide(t.Context(), in) }
	issue := decide("signals: [{name: a, that: device.known, points: 5}]", "outcomes: [{outcome: issue}]")
	for name, test := range map[string]struct {
		to   Decision
		want Difference
	}{
		"nothing":     {decide("outcomes: [{outcome: issue}]"), Difference{From: Issue, To: Issue}},
		"requirement": {decide("require: [{name: r, that: facts.sipEnabled, message: m}]", "outcomes: [{outcome: issue}]"), Difference{From: Issue, To: Refuse, Changed: true, Because: []string{"require:r", "signal:a"}}},
		"signal":      {decide("signals: [{name: a, that: device.known, points: 2}]", "outcomes: [{outcome: issue, score: 5}, {outcome: hold}]"), Difference{From: Issue, To: Hold, Changed: true, Because: []string{"signal:a"}}},
		"lifetime":    {decide("signals: [{name: a, that: device.known, points: 5}]", "outcomes: [{outcome: issue, lifetime: 1d}]"), Difference{From: Issue, To: Issue, Changed: true, Because: []string{"lifetime of the profile → 1d"}}},
		"profile":     {decide("signals: [{name: a, that: device.known, points: 5}]", "outcomes: [{outcome: issue, profile: short}]"), Difference{From: Issue, To: Issue, Changed: true, Because: []string{"profile of the directory → short"}}},
		"held":        {decide("signals: [{name: a, that: device.known, points: 5}]", "outcomes: [{outcome: hold, profile: short}]"), Difference{From: Issue, To: Hold, Changed: true, Because: []string{"outcomes"}}},
	} {
		if diff := cmp.Diff(test.want, Compare(issue, test.to)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// drawn is an input with much or little known.
func drawn(t *rapid.T) Input {
	in := known()
	if rapid.Bool().Draw(t, "no device") {
		in.Device = nil
	}
	in.Facts.Posture = attest.Posture{OSVersion: rapid.SampledFrom([]string{"", "17", "18.5", "x"}).Draw(t, "os")}
	if rapid.Bool().Draw(t, "kexts known") {
		in.Facts.Posture.ThirdPartyKexts = new(rapid.Bool().Draw(t, "kexts"))
	}
	in.Code.AllowUnattested, in.Code.Live = rapid.Bool().Draw(t, "allowed"), rapid.Bool().Draw(t, "live")
	if rapid.Bool().Draw(t, "unattested") {
		in.Evidence, in.Facts = attest.None, nil
	}
	in.History.Refusals = rapid.IntRange(0, 9).Draw(t, "refusals")
	if rapid.Bool().Draw(t, "approved") {
		in.Approval = &Approval{Hold: "hold_1", ExpiresAt: in.Now.Add(time.Hour)}
	}
	return in
}

// drawnConditions are conditions of every kind: known, unknown, failing.
var drawnConditions = rapid.SampledFrom([]string{
	"device.known", "!device.known", `facts.osVersion >= "18"`, "facts.thirdPartyKexts", "!facts.thirdPartyKexts", "history.refusals > 4",
	"known(facts.osVersion)", "evidence.attested", "true", "false", "1 / history.refusals > 0", `device.owner == "sam"`,
})

// drawnPolicy is the text of a policy, with or without one more requirement.
func drawnPolicy(t *rapid.T) (text, stricter string) {
	var b strings.Builder
	b.WriteString("version: 1\nunattested: " + rapid.SampledFrom([]string{"code", "allow", "never"}).Draw(t, "rule") + "\nsignals:\n")
	for i := range rapid.IntRange(1, 3).Draw(t, "signals") {
		fmt.Fprintf(&b, "- {name: s%d, that: %q, points: %d, unknown: %d}\n", i, drawnConditions.Draw(t, "signal"), rapid.IntRange(-9, 9).Draw(t, "points"), rapid.IntRange(-9, 9).Draw(t, "unknown"))
	}
	b.WriteString("outcomes:\n")
	for range rapid.IntRange(1, 3).Draw(t, "outcomes") {
		fmt.Fprintf(&b, "- {outcome: %s, score: %d, when: %q}\n", rapid.SampledFrom([]string{"issue", "hold", "refuse"}).Draw(t, "outcome"), rapid.IntRange(-9, 9).Draw(t, "score"), drawnConditions.Draw(t, "when"))
	}
	b.WriteString("require:\n")
	for i := range rapid.IntRange(1, 2).Draw(t, "requirements") {
		fmt.Fprintf(&b, "- {name: r%d, that: %q, message: m}\n", i, drawnConditions.Draw(t, "requirement"))
	}
	return b.String(), b.String() + fmt.Sprintf("- {name: more, that: %q, message: m}\n", drawnConditions.Draw(t, "more"))
}

func TestOneMoreRequirementNeverIssues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, stricter := drawnPolicy(t)
		in := drawn(t)
		decide := func(text string) Decision {
			p, err := Parse("drawn", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			return p.Decide(context.Background(), in)
		}
		before, after := decide(text), decide(stricter)
		if before.Outcome != Issue && after.Outcome == Issue {
			t.Fatalf("refused by\n%s\nissued by\n%s", text, stricter)
		}
		for _, d := range []Decision{before, after} {
			if (d.Outcome == Issue) != (d.Refused() == nil) || (d.Outcome == Issue) != (len(d.Key.Attested) > 0 || d.Key.Unattested) {
				t.Fatalf("outcome, reasons and key disagree: %+v", d)
			}
		}
	})
}

func TestAStoredInputIsDecidedAsTheFirstTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, _ := drawnPolicy(t)
		in := drawn(t)
		decided := func(in Input) string {
			p, err := Parse("drawn", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			out, err := json.Marshal(p.Decide(context.Background(), in))
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		first := decided(in)
		stored, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var again Input
		if err := json.Unmarshal(stored, &again); err != nil {
			t.Fatal(err)
		}
		if second := decided(again); second != first {
			t.Fatalf("first  %s\nsecond %s", first, second)
		}
	})
}

func TestEveryAttributeCanBeRead(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range Attributes() {
		if seen[a.Name] || a.Meaning == "" || !strings.HasSuffix(a.Meaning, ".") || a.Type == "" {
			t.Errorf("%+v", a)
		}
		seen[a.Name] = true
		p := parsed(t, fmt.Sprintf("signals: [{name: s, that: 'known(%s) && %s == %s', points: 1}]", a.Name, a.Name, a.Name), "outcomes: [{outcome: issue}]")
		in := known()
		in.Opinion = &Opinion{Answered: true, Verdict: "fine"}
		if d := p.Decide(t.Context(), in); d.Outcome != Issue || d.Signals[0].Value == Unknown {
			t.Errorf("%s: %+v", a.Name, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(builtinText)
	for _, name := range Examples() {
		text, err := Example(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("fuzz", text)
		if err != nil {
			if faulty, ok := errors.AsType[*ParseError](err); !ok || len(faulty.Faults) == 0 {
				t.Fatalf("error %v", err)
			}
			return
		}
		in := known()
		if a, b := p.Decide(t.Context(), in), p.Decide(t.Context(), in); !cmp.Equal(a, b) {
			t.Fatal("two decisions on one input differ")
		}
		p.Warnings()
		p.Test(t.Context())
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, name := range []string{"builtin", "corporate"} {
		p := Builtin()
		if name != "builtin" {
			text, err := Example(name)
			if err != nil {
				b.Fatal(err)
			}
			if p, err = Parse(name, text); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(name, func(b *testing.B) {
			in := known()
			in.Facts.Protection, in.Facts.Posture.SIPEnabled, in.History.KeyCertificates = attest.SecureEnclave, new(true), 0
			for b.Loop() {
				if d := p.Decide(b.Context(), in); d.Outcome != Issue {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

// overMeanwhile is a context whose time ends while an expression is evaluated.
type overMeanwhile struct {
	context.Context
	looks int
}

func (c *overMeanwhile) Err() error {
	if c.looks++; c.looks > 1 {
		return context.DeadlineExceeded
	}
	return nil
}

func TestADecisionWhoseTimeEndsMeanwhileRefuses(t *testing.T) {
	p, err := Parse("test", []byte("{version: 1, outcomes: [{outcome: issue, when: 'order.kind == \"code\"'}]}"))
	if err != nil {
		t.Fatal(err)
	}
	d := p.Decide(&overMeanwhile{Context: t.Context()}, sound())
	if d.Outcome != Refuse || d.Refused().Check != CheckTime {
		t.Errorf("decision %+v", d)
	}
}
