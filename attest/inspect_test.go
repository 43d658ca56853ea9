package attest_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"testing"

	"assay/attest"
	"assay/attest/standin"

	"github.com/google/go-cmp/cmp"
)

func TestInspectExplainsTheRealObject(t *testing.T) {
	i, err := attest.Inspect(realObject(t, false))
	if err != nil {
		t.Fatal(err)
	}
	if i.Format != "apple" || !i.Supported || i.Failed || i.StandIn || len(i.Problems) != 0 {
		t.Errorf("got %+v", i)
	}
	if i.Anchor != attest.AppleRoot().Name {
		t.Errorf("anchored by %q", i.Anchor)
	}
	if len(i.Certificates) != 2 {
		t.Fatalf("%d certificates", len(i.Certificates))
	}
	leaf := i.Certificates[0]
	if leaf.Role != "leaf" || leaf.Serial != "0198084c7ebc" || leaf.Key != "P-384" {
		t.Errorf("leaf %+v", leaf)
	}
	got := map[string]string{}
	for _, e := range leaf.Extensions {
		got[e.Name] = e.Value
		if e.Meaning == "" || e.Problem != "" {
			t.Errorf("extension %+v", e)
		}
	}
	want := map[string]string{
		"basicConstraints": "no CA", "keyUsage": "digitalSignature, nonRepudiation, keyEncipherment, dataEncipherment",
		"serialNumber": "TMWFWWWP67", "udid": "00006030-000651690A84001C", "softwareUpdateDeviceID": "J514sAP",
		"osVersion": "15.5", "sepOSVersion": "15.5", "llbVersion": "15.5", "sipStatus": "0 (enabled)",
		"secureBootStatus": "Full Security", "thirdPartyKextsAllowed": "0 (not allowed)",
		"freshnessCode": got["freshnessCode"],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(got["freshnessCode"]) != 64 || !strings.HasSuffix(got["freshnessCode"], "2d5d62") {
		t.Errorf("freshness code %s", got["freshnessCode"])
	}
	if diff := cmp.Diff([]string{"attStmt (map)", "fmt (text)", "attStmt.x5c (array)"}, i.Members); diff != "" {
		t.Error(diff)
	}
}

func TestInspectShowsFaultsInsteadOfRefusing(t *testing.T) {
	key := newKey(t, elliptic.P384()).Public()
	for name, want := range map[string]string{
		"fmt-unknown":         "the format is not supported",
		"x5c-absent":          "x5c is no array",
		"x5c-five":            "5 certificates",
		"chain-reversed":      "not named as the issuer",
		"leaf-not-der":        "",
		"serial-not-utf8":     "text is not UTF-8",
		"sip-undocumented":    "2 (undocumented value)",
		"kexts-trailing-byte": "value is not one DER INTEGER",
	} {
		m, err := standin.LookupMutation(name)
		if err != nil {
			t.Fatal(err)
		}
		i, err := attest.Inspect(attested(t, key, mac, m))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		said := slices.Clone(i.Problems)
		for _, c := range i.Certificates {
			said = append(said, c.Problem)
			for _, e := range c.Extensions {
				said = append(said, e.Problem, e.Value)
			}
		}
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("%s: says %q, want %q", name, said, want)
		}
		if name == "leaf-not-der" && i.Certificates[0].Problem == "" {
			t.Error("a leaf that is no certificate is not called so")
		}
	}
}

// TestInspectWarnsOfWhatItDidNotCheck: and the anchor is a verified signature, not a name.
func TestInspectWarnsOfWhatItDidNotCheck(t *testing.T) {
	standIn, err := attest.Inspect(attested(t, newKey(t, elliptic.P384()).Public(), mac, standin.Mutation{}))
	if err != nil {
		t.Fatal(err)
	}
	if !standIn.StandIn || standIn.Anchor != "" || !mentions(standIn.Warnings, "stand-in") {
		t.Errorf("stand-in evidence: %+v", standIn)
	}
	disguised := newCA(t, "sub", nil, nil)
	disguised.certificate.RawSubject = attest.AppleRoot().Certificate.RawSubject
	forged := issue(t, &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: now, NotAfter: now}, newKey(t, elliptic.P384()), disguised).Raw
	i := attest.InspectChain([][]byte{forged})
	if i.Anchor != "" || !mentions(i.Warnings, "no known root") {
		t.Errorf("a forged issuer name: %+v", i)
	}
	for _, w := range []string{"signatures", "freshness", "certified key", "revocation"} {
		if !mentions(i.Warnings, w) {
			t.Errorf("no warning about %s in %q", w, i.Warnings)
		}
	}
}

func TestInspectExplainsWhatIsBlankUnknownOrOfOtherKeys(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1),
		ExtraExtensions: []pkix.Extension{property("", 13, 1), property("\xff", 99), {Id: []int{2, 999, 1}, Value: []byte{5, 0}}},
	}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := attest.InspectChain([][]byte{leaf}).Certificates[0]
	if c.Key != "Ed25519" {
		t.Errorf("key %q", c.Key)
	}
	want := []attest.ExtensionInfo{
		{Name: "sipStatus", OID: "1.2.840.113635.100.8.13.1", Value: "(blank: Apple could not confirm it)", Meaning: "System Integrity Protection"},
		{Name: "unknown Apple property", OID: "1.2.840.113635.100.8.99", Value: "ff", Meaning: "Apple documents no meaning; kept as raw bytes"},
		{Name: "unknown extension", OID: "2.999.1", Value: "0500"},
	}
	if diff := cmp.Diff(want, c.Extensions); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func mentions(lines []string, word string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, word) })
}
