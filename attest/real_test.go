package attest_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/attest"
	"assay/deviceid"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

// realCertificate reads a certificate that Apple issued.
func realCertificate(t testing.TB, path ...string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%v: no PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func realLeaf(t testing.TB) *x509.Certificate { return realCertificate(t, "testdata", "mac-leaf.pem") }

// realObject is what the real Mac sent, but for its root if that is asked for.
func realObject(t testing.TB, withRoot bool) []byte {
	t.Helper()
	x5c := [][]byte{realLeaf(t).Raw, realCertificate(t, "testdata", "Apple_Enterprise_Attestation_Sub_CA_1.pem").Raw}
	if withRoot {
		x5c = append(x5c, attest.AppleRoot().Certificate.Raw)
	}
	object, err := cbor.Marshal(map[string]any{"fmt": "apple", "attStmt": map[string]any{"x5c": x5c}})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// TestRealLeafVerifiesUpToItsFreshness: the chain, the leaf and its key hold; the token that it was
// made for is unknown, so freshness, and nothing before it, must refuse.
func TestRealLeafVerifiesUpToItsFreshness(t *testing.T) {
	v := attest.NewVerifier()
	for _, withRoot := range []bool{false, true} {
		for _, at := range []string{"2025-07-13T09:38:07Z", "2025-08-20T00:00:00Z", "2025-10-12T09:38:07Z"} {
			facts, err := verifyObject(v, realObject(t, withRoot), realParams(t, at))
			wantRefusal(t, facts, err, attest.CheckFreshness)
		}
	}
}

func TestRealLeafIsRefusedOutsideItsValidity(t *testing.T) {
	v := attest.NewVerifier()
	for at, want := range map[string]string{
		"2025-07-13T09:38:06Z": "not valid before 2025-07-13T09:38:07Z",
		"2025-10-12T09:38:08Z": "not valid after 2025-10-12T09:38:07Z",
		"2026-03-01T00:00:00Z": "not valid after 2025-10-12T09:38:07Z",
	} {
		facts, err := verifyObject(v, realObject(t, false), realParams(t, at))
		wantRefusal(t, facts, err, attest.CheckChainValidity)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("at %s: refused by %q, want %q in it", at, err, want)
		}
	}
}

func realParams(t *testing.T, at string) attest.Params {
	t.Helper()
	instant, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatal(err)
	}
	return attest.Params{Token: token, Roots: []attest.Root{attest.AppleRoot()}, Now: instant}
}

func TestRealLeafsPropertiesAreAllRead(t *testing.T) {
	got, err := attest.ReadAppleProperties(realLeaf(t))
	if err != nil {
		t.Fatal(err)
	}
	want := &attest.Facts{
		Identifiers: []deviceid.Identifier{
			{Kind: deviceid.Serial, Value: "TMWFWWWP67"},
			{Kind: deviceid.UDID, Value: "00006030-000651690A84001C"},
		},
		Posture: attest.Posture{
			ProductType: "J514sAP", OSVersion: "15.5", SepOSVersion: "15.5", LLBVersion: "15.5",
			SIPEnabled: new(true), SecureBoot: "Full Security", ThirdPartyKexts: new(false),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAppleRootIsThePublishedOne(t *testing.T) {
	root := attest.AppleRoot()
	if !strings.HasPrefix(root.SHA256, "ccf59ef8") || !strings.HasSuffix(root.SHA256, "49f05b") {
		t.Errorf("embedded root has SHA-256 %s", root.SHA256)
	}
	if root.StandIn {
		t.Error("Apple's root counts as a stand-in")
	}
}
