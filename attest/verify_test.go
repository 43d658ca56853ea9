package attest_test

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/deviceid"

	"github.com/google/go-cmp/cmp"
)

func TestVerifyEstablishesFacts(t *testing.T) {
	for _, c := range []struct {
		curve   elliptic.Curve
		keyType string
		device  standin.Device
		want    attest.Posture
	}{
		{elliptic.P384(), "P-384", phone, attest.Posture{ProductType: "D73AP", OSVersion: "18.5", SepOSVersion: "18.5", LLBVersion: "18.5"}},
		{elliptic.P256(), "P-256", mac, attest.Posture{ProductType: "J514sAP", OSVersion: "15.5", SepOSVersion: "15.5", LLBVersion: "15.5",
			SecureBoot: "Full Security", SIPEnabled: new(true), ThirdPartyKexts: new(false)}},
	} {
		key := newKey(t, c.curve)
		got, err := verifyObject(attest.NewVerifier(), attested(t, key.Public(), c.device, standin.Mutation{}), params(authority().Root()))
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		want := &attest.Facts{
			Format: attest.FormatApple, PublicKey: spki, KeyType: c.keyType, Protection: attest.SecureEnclave,
			Identifiers: []deviceid.Identifier{{Kind: deviceid.Serial, Value: c.device.Serial}, {Kind: deviceid.UDID, Value: c.device.UDID}},
			Posture:     c.want, Fresh: true, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
			Root: attest.RootFact{Name: authority().Root().Name, SHA256: authority().Root().SHA256, StandIn: true},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.keyType, diff)
		}
	}
}

func TestVerifyLeavesOutWhatAppleCouldNotConfirm(t *testing.T) {
	facts, err := verifyObject(attest.NewVerifier(), attested(t, newKey(t, elliptic.P384()).Public(), standin.Device{}, standin.Mutation{}), params(authority().Root()))
	if err != nil {
		t.Fatal(err)
	}
	if len(facts.Identifiers) != 0 || facts.Identifier(deviceid.Serial) != "" {
		t.Errorf("identifiers from nowhere: %v", facts.Identifiers)
	}
	if diff := cmp.Diff(attest.Posture{}, facts.Posture); diff != "" {
		t.Error(diff)
	}
}

// TestVerifyRefusesEachMutation makes one check wrong at a time. The verifier that honest evidence
// warmed must not be more lenient than a fresh one.
func TestVerifyRefusesEachMutation(t *testing.T) {
	warm := attest.NewVerifier()
	honest := attested(t, newKey(t, elliptic.P384()).Public(), mac, standin.Mutation{})
	if _, err := verifyObject(warm, honest, params(authority().Root())); err != nil {
		t.Fatal(err)
	}
	p384 := newKey(t, elliptic.P384())
	for _, m := range standin.Mutations() {
		t.Run(m.Name, func(t *testing.T) {
			key := p384.Public()
			if m.NewKey != nil {
				signer, err := m.NewKey(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				key = signer.Public()
			}
			object := attested(t, key, mac, m)
			for _, v := range []*attest.Verifier{attest.NewVerifier(), warm} {
				facts, err := verifyObject(v, object, params(authority().Root()))
				wantRefusal(t, facts, err, m.Check)
			}
		})
	}
}

// TestEveryCheckHasAMutation keeps the registry and the hostile evidence together.
func TestEveryCheckHasAMutation(t *testing.T) {
	elsewhere := map[string]string{
		attest.CheckFormatRoots:   "roots are configuration: TestVerifyRefusesWithoutRoots",
		attest.CheckStandInMarker: "the root decides: TestVerifyRefusesStandInUnderUnmarkedRoot",
	}
	names := map[string]bool{}
	covered := map[string]bool{}
	for _, m := range standin.Mutations() {
		if names[m.Name] {
			t.Errorf("two mutations are named %s", m.Name)
		}
		names[m.Name], covered[m.Check] = true, true
		if _, known := attest.LookupCheck(m.Check); !known {
			t.Errorf("mutation %s names the unknown check %q", m.Name, m.Check)
		}
		if m.Meaning == "" {
			t.Errorf("mutation %s says nothing", m.Name)
		}
	}
	seen := map[string]bool{}
	for _, c := range attest.Checks {
		if seen[c.Name] {
			t.Errorf("check %s is registered twice", c.Name)
		}
		seen[c.Name] = true
		if c.Meaning == "" || c.Advice == "" || c.Source == "" {
			t.Errorf("check %s is not explained", c.Name)
		}
		if _, excused := elsewhere[c.Name]; covered[c.Name] == excused {
			t.Errorf("check %s: has a mutation %v, excused %v", c.Name, covered[c.Name], excused)
		}
	}
}

// TestMutationsAreMadeInTheOrderOfChecks: Checks promises the order, and refusals name the first.
func TestMutationsAreListedInTheOrderOfChecks(t *testing.T) {
	position := func(m standin.Mutation) int {
		return slices.IndexFunc(attest.Checks, func(c attest.Check) bool { return c.Name == m.Check })
	}
	mutations := standin.Mutations()
	if !slices.IsSortedFunc(mutations, func(a, b standin.Mutation) int { return position(a) - position(b) }) {
		t.Error("mutations are not in the order of attest.Checks")
	}
}

func TestVerifyRefusesWithoutRoots(t *testing.T) {
	facts, err := verifyObject(attest.NewVerifier(), attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{}), params())
	wantRefusal(t, facts, err, attest.CheckFormatRoots)
}

func TestVerifyRefusesStandInUnderApplesRoot(t *testing.T) {
	facts, err := verifyObject(attest.NewVerifier(), attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{}), params(attest.AppleRoot()))
	wantRefusal(t, facts, err, attest.CheckChainAnchored)
}

func TestVerifyRefusesEmptyX5C(t *testing.T) {
	r, err := attest.ParseResponse(standin.FailedResponse(""))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := attest.NewVerifier().Verify(r.Format, r.Statement, params(authority().Root()))
	wantRefusal(t, facts, err, attest.CheckChainLength)
}

func TestVerifyRefusesEmptyToken(t *testing.T) {
	a, err := authority().Attest(standin.Subject{PublicKey: newKey(t, elliptic.P384()).Public(), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	p := params(authority().Root())
	p.Token = ""
	if facts, err := verifyObject(attest.NewVerifier(), a, p); err == nil {
		t.Errorf("verified without a token: %+v", facts)
	}
}

func TestVerifyFindsTheRootAmongSeveral(t *testing.T) {
	other, err := standin.New(rand.Reader, now) // the same names, other keys
	if err != nil {
		t.Fatal(err)
	}
	object := attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{})
	facts, err := verifyObject(attest.NewVerifier(), object, params(attest.AppleRoot(), other.Root(), authority().Root()))
	if err != nil {
		t.Fatal(err)
	}
	if facts.Root.SHA256 != authority().Root().SHA256 {
		t.Errorf("anchored by %+v, want the root that signed", facts.Root)
	}
}

func TestVerifyRefusesReplayForAnotherToken(t *testing.T) {
	object := attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{})
	p := params(authority().Root())
	p.Token = "another-token-of-this-server"
	facts, err := verifyObject(attest.NewVerifier(), object, p)
	wantRefusal(t, facts, err, attest.CheckFreshness)
}
