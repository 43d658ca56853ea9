package evidence_test

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"
	"assay/internal/audit"
	"assay/internal/counterpart"
	"assay/internal/evidence"
	"assay/internal/issuance"
	"assay/policy"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var authority = sync.OnceValue(func() *standin.Authority {
	a, err := standin.New(rand.Reader, now)
	if err != nil {
		panic(err)
	}
	return a
})

func roots() map[string][]attest.Root {
	return map[string][]attest.Root{attest.FormatApple: {authority().Root()}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// received is evidence of a key as a server stores it, spoilt by a mutation.
func received(t *testing.T, key *ecdsa.PrivateKey, m standin.Mutation) issuance.Evidence {
	t.Helper()
	object, err := authority().Attest(standin.Subject{PublicKey: key.Public(), Token: "a token", Now: now, Mutation: m,
		Device: standin.Device{Serial: "FAKE00000001", UDID: "00008110-FACADE0000000001", OSVersion: "18.4"}})
	if err != nil {
		t.Fatal(err)
	}
	e := issuance.Evidence{ID: "evid_1", Order: "order_1", ReceivedAt: now, Kind: attest.Attested, Format: attest.FormatApple, Object: object,
		Token: "a token", KeyAuth: "a token.thumb", FactsSchema: attest.FactsSchema}
	r, err := attest.ParseObject(object)
	if err != nil {
		t.Fatal(err)
	}
	e.Facts, err = attest.NewVerifier().Verify(r.Format, r.Statement, attest.Params{Token: e.Token, KeyAuthorization: e.KeyAuth, Roots: roots()[r.Format], Now: now})
	if refusal, ok := errors.AsType[*attest.Refusal](err); ok {
		e.Failed = refusal.Check
	} else if err != nil {
		t.Fatal(err)
	}
	return e
}

// issued is a certificate of a key, and its issuer's.
func issued(t *testing.T, key *ecdsa.PrivateKey) (certificate, issuer []byte) {
	t.Helper()
	caKey := newKey(t)
	template := func(name string, serial int64, isCA bool) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	}
	ca := template("Fake CA", 1, true)
	issuer, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err == nil {
		certificate, err = x509.CreateCertificate(rand.Reader, template("Fake device", 2, false), ca, key.Public(), caKey)
	}
	if err != nil {
		t.Fatal(err)
	}
	return certificate, issuer
}

func TestVerifyTellsTodayFromThen(t *testing.T) {
	key := newKey(t)
	good := received(t, key, standin.Mutation{})
	if good.Facts == nil {
		t.Fatal("the evidence does not verify")
	}
	certificate, _ := issued(t, key)
	other, _ := issued(t, newKey(t))
	changed := good
	facts := *good.Facts
	facts.Posture.OSVersion = "17.0"
	changed.Facts = &facts
	stripped := good
	stripped.Object = nil
	refused := good
	refused.Token, refused.Facts, refused.Failed = "another token", nil, attest.CheckFreshness
	mistaken := good
	mistaken.Facts, mistaken.Failed = nil, attest.CheckFreshness
	for name, test := range map[string]struct {
		e           issuance.Evidence
		certificate []byte
		roots       map[string][]attest.Root
		want        evidence.Result
		check       string
	}{
		"as then":          {good, certificate, roots(), evidence.Verified, ""},
		"no certificate":   {good, nil, roots(), evidence.Verified, ""},
		"other key":        {good, other, roots(), evidence.OtherKey, ""},
		"other facts":      {changed, certificate, roots(), evidence.Differs, ""},
		"root gone":        {good, certificate, nil, evidence.Refused, attest.CheckFormatRoots},
		"other root":       {good, certificate, map[string][]attest.Root{attest.FormatApple: {attest.AppleRoot()}}, evidence.Refused, attest.CheckChainAnchored},
		"removed":          {stripped, certificate, roots(), evidence.Removed, ""},
		"refused then":     {refused, nil, roots(), evidence.RefusedThen, attest.CheckFreshness},
		"accepted now":     {mistaken, nil, roots(), evidence.NowAccepted, ""},
		"no attestation":   {issuance.Evidence{Kind: attest.None}, certificate, roots(), evidence.Nothing, ""},
		"no CBOR any more": {issuance.Evidence{Kind: attest.Attested, Object: []byte("x"), Token: "t", ReceivedAt: now, Facts: good.Facts}, nil, roots(), evidence.Refused, attest.CheckObjectWellFormed},
	} {
		got, err := evidence.Verify(attest.NewVerifier(), test.roots, &test.e, test.certificate)
		if err != nil || got.Result != test.want || got.Check != test.check {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if test.want == evidence.Differs && !slices.Equal(got.Differences, []string{"posture"}) {
			t.Errorf("%s: differences %v", name, got.Differences)
		}
	}
}

func TestVerifyIsAsOfWhenItCame(t *testing.T) {
	e := received(t, newKey(t), standin.Mutation{})
	e.ReceivedAt = now.AddDate(1, 0, 0) // the attestation ended meanwhile
	got, err := evidence.Verify(attest.NewVerifier(), roots(), &e, nil)
	if err != nil || got.Result != evidence.Refused {
		t.Errorf("%+v, %v", got, err)
	}
}

// bundled writes a bundle and unpacks it.
func bundled(t *testing.T, change func(*evidence.Bundle)) (dir string) {
	t.Helper()
	key := newKey(t)
	certificate, issuer := issued(t, key)
	root := authority().Root()
	b := evidence.Bundle{Evidence: received(t, key, standin.Mutation{}), Root: &root, Policy: "version: 1",
		Decision:    &issuance.Decision{ID: "dec_1", Decision: policy.Decision{Outcome: policy.Issue}},
		Certificate: &issuance.Certificate{ID: "cert_1", DER: certificate}, Issuers: [][]byte{issuer}, Audit: []audit.Row{{ID: "audit_1"}}}
	if change != nil {
		change(&b)
	}
	var first, second bytes.Buffer
	if err := errors.Join(evidence.Write(&first, &b), evidence.Write(&second, &b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same bundle has other bytes")
	}
	r, err := zip.NewReader(bytes.NewReader(first.Bytes()), int64(first.Len()))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for _, f := range r.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), data, f.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runScript runs the bundle's own script.
func runScript(t *testing.T, dir string) (output string, ok bool) {
	t.Helper()
	counterpart.Require(t, "openssl")
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "verify.sh")).CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return string(out), err == nil
}

func TestBundleVerifiesWithOpenSSL(t *testing.T) {
	dir := bundled(t, nil)
	out, ok := runScript(t, dir)
	if !ok || strings.Count(out, "yes ") != 5 {
		t.Errorf("ok %t:\n%s", ok, out)
	}
	for _, name := range []string{"README.txt", "decision.json", "policy.yaml", "audit.json", "evidence.json"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(data) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := bundled(t, func(b *evidence.Bundle) { b.Certificate, b.Decision = nil, nil })
	if out, ok := runScript(t, refused); !ok || strings.Count(out, "yes ") != 3 {
		t.Errorf("without a certificate: ok %t:\n%s", ok, out)
	}
}

func TestTamperedBundleDoesNotVerify(t *testing.T) {
	otherKey, _ := issued(t, newKey(t))
	for name, test := range map[string]struct {
		change func(*evidence.Bundle)
		files  map[string]string // from another bundle
		want   string
	}{
		"token":             {func(b *evidence.Bundle) { b.Evidence.Token = "another" }, nil, "NO   the attestation is fresh"},
		"time":              {func(b *evidence.Bundle) { b.Evidence.ReceivedAt = now.AddDate(1, 0, 0) }, nil, "NO   the attestation chains"},
		"root":              {func(b *evidence.Bundle) { apple := attest.AppleRoot(); b.Root = &apple }, nil, "NO   the attestation chains"},
		"no root":           {func(b *evidence.Bundle) { b.Root = nil }, nil, "NO   there is no root.pem"},
		"other key":         {func(b *evidence.Bundle) { b.Certificate.DER = otherKey }, nil, "NO   the certified key"},
		"other issuer":      {func(b *evidence.Bundle) { _, b.Issuers[0] = issued(t, newKey(t)) }, nil, "NO   the certificate was signed"},
		"object of another": {nil, map[string]string{"attestation.cbor": "attestation.cbor"}, "NO   the attestation is in the object"},
	} {
		dir := bundled(t, test.change)
		other := bundled(t, nil)
		for file := range test.files {
			data, err := os.ReadFile(filepath.Join(other, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if out, ok := runScript(t, dir); ok || !strings.Contains(out, test.want) {
			t.Errorf("%s: ok %t:\n%s", name, ok, out)
		}
	}
}

func TestBundleNeedsAnObject(t *testing.T) {
	for _, e := range []issuance.Evidence{{ID: "evid_1"}, {ID: "evid_1", Kind: attest.None}} {
		if err := evidence.Write(io.Discard, &evidence.Bundle{Evidence: e}); !errors.Is(err, evidence.ErrNoObject) {
			t.Errorf("error %v", err)
		}
	}
	if err := evidence.Write(io.Discard, &evidence.Bundle{Evidence: issuance.Evidence{ID: "evid_1", Object: []byte("x")}}); err == nil {
		t.Error("a bundle of no attestation")
	}
}
