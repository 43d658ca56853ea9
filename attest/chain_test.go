package attest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"assay/attest"
	"assay/attest/standin"

	"github.com/fxamacker/cbor/v2"
)

// ca is a CA of the test's own making.
type ca struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// newCA issues a CA certificate, changed as asked; by its own key if the issuer is nil.
func newCA(t *testing.T, name string, by *ca, change func(*x509.Certificate)) *ca {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(template)
	}
	curve, other := template.PublicKey.(elliptic.Curve) // a change may ask for another curve in place of a key
	if !other {
		curve = elliptic.P384()
	}
	template.PublicKey = nil
	key := newKey(t, curve)
	if by == nil {
		by = &ca{certificate: template, key: key}
	}
	return &ca{certificate: issue(t, template, key, by), key: key}
}

func issue(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey, by *ca) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// chainOf is an object with a leaf that has no constraints (so that a chain without fault is refused by
// leaf-not-ca, the first check after the chain's), and its issuers, nearest first.
func chainOf(t *testing.T, issuers ...*ca) []byte {
	t.Helper()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	x5c := [][]byte{issue(t, leaf, newKey(t, elliptic.P384()), issuers[0]).Raw}
	for _, i := range issuers {
		x5c = append(x5c, i.certificate.Raw)
	}
	object, err := cbor.Marshal(map[string]any{"fmt": "apple", "attStmt": map[string]any{"x5c": x5c}})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func rootOf(c *ca) attest.Root { return attest.Root{Certificate: c.certificate, Name: "test root"} }

func marked(c *x509.Certificate) {
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: attest.StandInMarker, Value: []byte("test")})
}

// TestVerifyChecksTheRootToo: a configured root may expire, or limit its paths.
func TestVerifyChecksTheRootToo(t *testing.T) {
	for what, c := range map[string]struct {
		root, sub func(*x509.Certificate)
		check     string
	}{
		"sound":                  {nil, nil, attest.CheckLeafNotCA},
		"root expired":           {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }, nil, attest.CheckChainValidity},
		"root not yet valid":     {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }, nil, attest.CheckChainValidity},
		"root is no CA":          {func(c *x509.Certificate) { c.IsCA = false }, nil, attest.CheckIssuerIsCA},
		"root may not sign":      {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, nil, attest.CheckIssuerIsCA},
		"root path length":       {func(c *x509.Certificate) { c.MaxPathLenZero = true }, nil, attest.CheckPathLength},
		"root path length spare": {func(c *x509.Certificate) { c.MaxPathLen = 1 }, nil, attest.CheckLeafNotCA},
		"root's curve": {func(c *x509.Certificate) { c.PublicKey = elliptic.P521() },
			func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }, attest.CheckChainAnchored},
		"marked under unmarked": {nil, marked, attest.CheckStandInMarker},
		"marked under marked":   {marked, marked, attest.CheckLeafNotCA},
	} {
		t.Run(what, func(t *testing.T) {
			root := newCA(t, "root", nil, c.root)
			sub := newCA(t, "sub", root, c.sub)
			for _, object := range [][]byte{chainOf(t, sub), chainOf(t, sub, root)} {
				facts, err := verifyObject(attest.NewVerifier(), object, params(rootOf(root)))
				wantRefusal(t, facts, err, c.check)
			}
		})
	}
}

func TestVerifyFollowsSeveralIntermediates(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	upper := newCA(t, "upper", root, func(c *x509.Certificate) { c.MaxPathLen = 1 })
	lower := newCA(t, "lower", upper, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	v := attest.NewVerifier()
	for range 2 {
		facts, err := verifyObject(v, chainOf(t, lower, upper), params(rootOf(root)))
		wantRefusal(t, facts, err, attest.CheckLeafNotCA)
	}
	if got := v.Remembered(); got != 2 {
		t.Errorf("%d intermediates are remembered, want 2", got)
	}
	// An intermediate may be the configured anchor.
	facts, err := verifyObject(attest.NewVerifier(), chainOf(t, lower, upper), params(rootOf(upper)))
	wantRefusal(t, facts, err, attest.CheckLeafNotCA)

	// A lower intermediate that the upper one's key did not sign. crypto/x509 will not make it with the
	// upper certificate as parent, so another CA of the same name does.
	impostor := newCA(t, "upper", root, nil)
	facts, err = verifyObject(v, chainOf(t, newCA(t, "lower", impostor, nil), upper), params(rootOf(root)))
	wantRefusal(t, facts, err, attest.CheckChainSignature)
}

func TestVerifyTellsRootsByNameToo(t *testing.T) {
	root := newCA(t, "root", nil, nil)
	renamed := issue(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "renamed"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, root.key, root)
	facts, err := verifyObject(attest.NewVerifier(), chainOf(t, newCA(t, "sub", root, nil)), params(attest.Root{Certificate: renamed}))
	wantRefusal(t, facts, err, attest.CheckChainAnchored)
}

// TestRememberedIntermediateIsNotVerifiedAgain shows it with one whose signature would not verify.
func TestRememberedIntermediateIsNotVerifiedAgain(t *testing.T) {
	altered, err := standin.LookupMutation("issuer-altered")
	if err != nil {
		t.Fatal(err)
	}
	object := attested(t, newKey(t, elliptic.P384()).Public(), phone, altered)
	var o struct {
		Statement struct {
			X5C [][]byte `cbor:"x5c"`
		} `cbor:"attStmt"`
	}
	if err := cbor.Unmarshal(object, &o); err != nil {
		t.Fatal(err)
	}
	intermediate, err := x509.ParseCertificate(o.Statement.X5C[1])
	if err != nil {
		t.Fatal(err)
	}
	v := attest.NewVerifier()
	v.RememberForTest(intermediate, authority().Root().Certificate)
	if _, err := verifyObject(v, object, params(authority().Root())); err != nil {
		t.Error(err)
	}
}

func TestVerifyRemembersIntermediatesAlone(t *testing.T) {
	v := attest.NewVerifier()
	for range 3 {
		if _, err := verifyObject(v, attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{}), params(authority().Root())); err != nil {
			t.Fatal(err)
		}
	}
	if got := v.Remembered(); got != 1 {
		t.Errorf("%d certificates are remembered, want the sub CA alone", got)
	}
}

func TestRememberedIntermediateIsStillCheckedForValidity(t *testing.T) {
	v := attest.NewVerifier()
	key := newKey(t, elliptic.P384()).Public()
	if _, err := verifyObject(v, attested(t, key, phone, standin.Mutation{}), params(authority().Root())); err != nil {
		t.Fatal(err)
	}
	later := now.AddDate(11, 0, 0) // after the sub CA, before the root
	object, err := authority().Attest(standin.Subject{PublicKey: key, Token: token, Device: phone, Now: later})
	if err != nil {
		t.Fatal(err)
	}
	p := params(authority().Root())
	p.Now = later
	facts, err := verifyObject(v, object, p)
	wantRefusal(t, facts, err, attest.CheckChainValidity)
}

func TestRememberedIntermediateIsNotTrustedUnderAnotherRoot(t *testing.T) {
	v := attest.NewVerifier()
	object := attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{})
	if _, err := verifyObject(v, object, params(authority().Root())); err != nil {
		t.Fatal(err)
	}
	other, err := standin.New(rand.Reader, now) // the same names, other keys
	if err != nil {
		t.Fatal(err)
	}
	facts, err := verifyObject(v, object, params(other.Root()))
	wantRefusal(t, facts, err, attest.CheckChainAnchored)
}

func TestRememberedIntermediatesAreBounded(t *testing.T) {
	v := attest.NewVerifier()
	issuer := &x509.Certificate{RawSubjectPublicKeyInfo: []byte("key")}
	for i := range 3 * attest.MaxIntermediates {
		v.RememberForTest(&x509.Certificate{Raw: []byte{byte(i >> 8), byte(i)}}, issuer)
	}
	if got := v.Remembered(); got != attest.MaxIntermediates {
		t.Errorf("%d intermediates are remembered, want %d", got, attest.MaxIntermediates)
	}
}

func TestFactsMarkStandInWhateverTheRootClaims(t *testing.T) {
	root := authority().Root()
	root.StandIn = false
	facts, err := verifyObject(attest.NewVerifier(), attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{}), params(root))
	if err != nil {
		t.Fatal(err)
	}
	if !facts.Root.StandIn {
		t.Error("facts from a marked root are not marked")
	}
}

func pemOf(kind string, der ...[]byte) []byte {
	var out []byte
	for _, d := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: d})...)
	}
	return out
}

func TestParseRoots(t *testing.T) {
	apple, standIn := attest.AppleRoot(), authority().Root()
	roots, err := attest.ParseRoots(pemOf("CERTIFICATE", apple.Certificate.Raw, standIn.Certificate.Raw))
	if err != nil {
		t.Fatal(err)
	}
	if len(roots) != 2 || roots[0].StandIn || !roots[1].StandIn || roots[1].SHA256 != standIn.SHA256 {
		t.Errorf("got %+v", roots)
	}

	plain := newCA(t, "root", nil, nil)
	disguised := newCA(t, "Apple Enterprise Attestation Root CA", nil, marked)
	noCA := newCA(t, "root", nil, func(c *x509.Certificate) { c.IsCA = false })
	noSign := newCA(t, "root", nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	p521 := newCA(t, "root", nil, func(c *x509.Certificate) { c.PublicKey = elliptic.P521() })
	many := func() (ders [][]byte) {
		for range 17 {
			ders = append(ders, newCA(t, "root", nil, nil).certificate.Raw)
		}
		return ders
	}
	for what, data := range map[string][]byte{
		"nothing":                   nil,
		"no PEM":                    plain.certificate.Raw,
		"a private key":             pemOf("PRIVATE KEY", []byte("x")),
		"another kind of block":     pemOf("TRUSTED CERTIFICATE", plain.certificate.Raw),
		"another curve":             pemOf("CERTIFICATE", p521.certificate.Raw),
		"a key beside the root":     slices.Concat(pemOf("CERTIFICATE", plain.certificate.Raw), pemOf("EC PRIVATE KEY", []byte("x"))),
		"no certificate inside":     pemOf("CERTIFICATE", []byte("x")),
		"a leaf":                    pemOf("CERTIFICATE", realLeaf(t).Raw),
		"no CA":                     pemOf("CERTIFICATE", noCA.certificate.Raw),
		"CA that may not sign":      pemOf("CERTIFICATE", noSign.certificate.Raw),
		"the same twice":            pemOf("CERTIFICATE", plain.certificate.Raw, plain.certificate.Raw),
		"marker in Apple's clothes": pemOf("CERTIFICATE", disguised.certificate.Raw),
		"too many":                  pemOf("CERTIFICATE", many()...),
		"too large":                 slices.Concat(pemOf("CERTIFICATE", plain.certificate.Raw), make([]byte, 256<<10)),
	} {
		if roots, err := attest.ParseRoots(data); err == nil {
			t.Errorf("%s: got %+v", what, roots)
		}
	}
}

// BenchmarkVerify compares a whole verification, with its intermediate remembered, to the one
// signature verification that nothing can save.
func BenchmarkVerify(b *testing.B) {
	object := attested(b, newKey(b, elliptic.P384()).Public(), mac, standin.Mutation{})
	r, err := attest.ParseObject(object)
	if err != nil {
		b.Fatal(err)
	}
	p := params(authority().Root())
	v := attest.NewVerifier()
	b.Run("warm", func(b *testing.B) {
		for b.Loop() {
			if _, err := v.Verify(r.Format, r.Statement, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			if _, err := attest.NewVerifier().Verify(r.Format, r.Statement, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse-response", func(b *testing.B) {
		payload := standin.AttestedResponse(object)
		for b.Loop() {
			if _, err := attest.ParseResponse(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	root := authority().Root().Certificate
	b.Run("floor-one-p384-signature", func(b *testing.B) {
		for b.Loop() {
			if err := root.CheckSignature(root.SignatureAlgorithm, root.RawTBSCertificate, root.Signature); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestVerifierIsSafeForConcurrentUse(t *testing.T) {
	v := attest.NewVerifier()
	object := attested(t, newKey(t, elliptic.P384()).Public(), phone, standin.Mutation{})
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := verifyObject(v, object, params(authority().Root()))
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestVerifyRefusesARootThatPosesAsALeaf: a root is left out of the chain only below a leaf, so that
// a statement of nothing but a root, which everybody has, is refused as any other leaf would be.
func TestVerifyRefusesARootThatPosesAsALeaf(t *testing.T) {
	object, err := cbor.Marshal(map[string]any{"fmt": "apple", "attStmt": map[string]any{"x5c": [][]byte{attest.AppleRoot().Certificate.Raw}}})
	if err != nil {
		t.Fatal(err)
	}
	facts, err := verifyObject(attest.NewVerifier(), object, realParams(t, "2025-08-20T00:00:00Z"))
	wantRefusal(t, facts, err, attest.CheckLeafNotCA)
}
