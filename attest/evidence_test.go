package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
)

// now is the time at which the tests attest and verify.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// token is a challenge token: base64url, as servers mint them.
const token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"

// authority is shared: tests only read it.
var authority = sync.OnceValue(func() *standin.Authority {
	a, err := standin.New(rand.Reader, now)
	if err != nil {
		panic(err)
	}
	return a
})

var phone = standin.Device{
	Serial: "C39ZX0EXAMPL", UDID: "00008120-001A2B3C4D5E6F70", ProductType: "D73AP",
	OSVersion: "18.5", SepOSVersion: "18.5", LLBVersion: "18.5",
}

var mac = standin.Device{
	Serial: "TMWFEXAMPL", UDID: "00006030-000651690A84001C", ProductType: "J514sAP",
	OSVersion: "15.5", SepOSVersion: "15.5", LLBVersion: "15.5",
	SecureBoot: "Full Security", SIP: new(true), Kexts: new(false),
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// attested makes an attestation object.
func attested(t testing.TB, key crypto.PublicKey, d standin.Device, m standin.Mutation) []byte {
	t.Helper()
	object, err := authority().Attest(standin.Subject{PublicKey: key, Token: token, Device: d, Now: now, Mutation: m})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func params(roots ...attest.Root) attest.Params {
	return attest.Params{Token: token, KeyAuthorization: token + ".thumbprint", Roots: roots, Now: now}
}

// verifyObject reads an object and verifies its statement.
func verifyObject(v *attest.Verifier, object []byte, p attest.Params) (*attest.Facts, error) {
	r, err := attest.ParseObject(object)
	if err != nil {
		return nil, err
	}
	return v.Verify(r.Format, r.Statement, p)
}

// wantRefusal fails the test unless err refuses by the named check.
func wantRefusal(t testing.TB, facts *attest.Facts, err error, check string) {
	t.Helper()
	if facts != nil {
		t.Errorf("facts were established beside the refusal: %+v", facts)
	}
	refusal, ok := errors.AsType[*attest.Refusal](err)
	if !ok {
		t.Fatalf("got %v, want a refusal by %s", err, check)
	}
	if refusal.Check != check {
		t.Errorf("refused by %v, want %s", refusal, check)
	}
	if _, registered := attest.LookupCheck(refusal.Check); !registered {
		t.Errorf("check %q is not registered", refusal.Check)
	}
}
