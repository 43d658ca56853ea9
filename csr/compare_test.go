package csr

import (
	"testing"

	"pgregory.net/rapid"
)

func TestNameEqualIsStrict(t *testing.T) {
	a := func(value string) Attribute { return Attribute{Type: "2.5.4.3", Value: value} }
	base := Name{{a("x")}, {a("y")}}
	for _, other := range []Name{
		{{a("x")}}, {{a("x"), a("y")}}, {{a("y")}, {a("x")}}, {{a("x")}, {a("Y")}},
		{{a("x")}, {{Type: "2.5.4.10", Value: "y"}}}, {{a("x")}, {a("y ")}},
	} {
		if base.Equal(other) {
			t.Errorf("%v equals %v", base, other)
		}
	}
}

func TestSameAltNamesCountsRepeats(t *testing.T) {
	a, b := AltName{Kind: AltDNS, Value: "a"}, AltName{Kind: AltDNS, Value: "b"}
	if SameAltNames([]AltName{a, a, b}, []AltName{a, b, b}) {
		t.Error("lists with other repeats are the same")
	}
	if SameAltNames([]AltName{a}, []AltName{{Kind: AltEmail, Value: "a"}}) {
		t.Error("kind does not count")
	}
}

func TestExtKeyUsagesComparedInAnyOrder(t *testing.T) {
	const mail = "1.3.6.1.5.5.7.3.4"
	minted := &Request{ExtKeyUsage: []string{ClientAuth, mail}}
	if !(&Request{ExtKeyUsage: []string{mail, ClientAuth}}).SameExtKeyUsage(minted) {
		t.Error("the order counts")
	}
	if (&Request{ExtKeyUsage: []string{ClientAuth}}).SameExtKeyUsage(minted) {
		t.Error("a usage that is missing does not count")
	}
}

func TestExtKeyUsageOfSilentCredentialIsClientAuth(t *testing.T) {
	silent := &Request{}
	for _, c := range []struct {
		usages []string
		same   bool
	}{
		{[]string{ClientAuth}, true}, {nil, false}, {[]string{"1.3.6.1.5.5.7.3.1"}, false},
		{[]string{ClientAuth, "1.3.6.1.5.5.7.3.1"}, false},
	} {
		if got := (&Request{ExtKeyUsage: c.usages}).SameExtKeyUsage(silent); got != c.same {
			t.Errorf("usages %v: same is %t", c.usages, got)
		}
	}
}

func TestAltNamesComparedInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]AltKind{AltDNS, AltEmail, AltUPN})
		value := rapid.StringMatching(`[ab]{1,2}`)
		names := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) AltName {
			return AltName{Kind: kind.Draw(t, "kind"), Value: value.Draw(t, "value")}
		}), 0, 6).Draw(t, "names")
		shuffled := rapid.Permutation(names).Draw(t, "shuffled")
		if !SameAltNames(names, shuffled) {
			t.Fatalf("%v and %v differ", names, shuffled)
		}
		if SameAltNames(names, append(shuffled, AltName{Kind: AltDNS, Value: "c"})) {
			t.Fatal("one more name makes no difference")
		}
	})
}
