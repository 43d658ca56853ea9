package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"pgregory.net/rapid"

	"assay/csr"
	"assay/internal/counterpart"
)

func TestIssuedCertificateHasItsExtensions(t *testing.T) {
	root, issuer := testAuthority(t, P256)
	p := profile(t, nil)
	grant := must(p.Grant(GrantInput{Request: asking{}.parsed(t), IdentityID: testID}))(t)
	text, serial, err := NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	notBefore, notAfter, err := issuer.Window(p, testNow)
	if err != nil {
		t.Fatal(err)
	}
	der, err := issuer.Issue(t.Context(), IssueInput{Serial: serial, Grant: grant, PublicKey: p256Key().Public(), NotBefore: notBefore, NotAfter: notAfter, Shard: 3})
	if err != nil {
		t.Fatal(err)
	}
	c := must(x509.ParseCertificate(der))(t)
	check := func(what string, ok bool) {
		t.Helper()
		if !ok {
			t.Errorf("wrong %s", what)
		}
	}
	check("serial", FormatSerial(c.SerialNumber) == text && len(text) == 40)
	check("version", c.Version == 3)
	check("signature", c.CheckSignatureFrom(issuer.Certificate) == nil)
	check("key", p256Key().Public().(*ecdsa.PublicKey).Equal(c.PublicKey))
	check("notBefore", c.NotBefore.Equal(testNow.Truncate(time.Second).Add(-time.Hour)))
	check("notAfter", c.NotAfter.Equal(testNow.Truncate(time.Second).Add(365*24*time.Hour)))
	check("basicConstraints", c.BasicConstraintsValid && !c.IsCA && extensionOf(c, oidBasicConstraints).Critical &&
		bytes.Equal(extensionOf(c, oidBasicConstraints).Value, emptySequence))
	check("keyUsage", c.KeyUsage == x509.KeyUsageDigitalSignature && extensionOf(c, oidKeyUsage).Critical)
	check("extKeyUsage", slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) && !extensionOf(c, oidExtKeyUsage).Critical)
	check("authority key identifier", bytes.Equal(c.AuthorityKeyId, issuer.Certificate.SubjectKeyId) && len(c.AuthorityKeyId) == 20)
	point := must(p256Key().Public().(*ecdsa.PublicKey).Bytes())(t)
	sum := sha256.Sum256(point)
	check("subject key identifier", bytes.Equal(c.SubjectKeyId, sum[:20]))
	check("AIA", slices.Equal(c.IssuingCertificateURL, []string{testURL + "/issuer/issuer_1"}) && c.OCSPServer == nil)
	check("CRL distribution point", slices.Equal(c.CRLDistributionPoints, []string{testURL + "/crl/issuer_1/3"}))
	check("number of extensions", len(c.Extensions) == 7)
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.Certificate)
	intermediates.AddCert(issuer.Certificate)
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		t.Error(err)
	}
}

func TestIssueRefuses(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	p := profile(t, nil)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sound := func() IssueInput {
		notBefore, notAfter, err := issuer.Window(p, testNow)
		if err != nil {
			t.Fatal(err)
		}
		grant := must(p.Grant(GrantInput{Request: asking{}.parsed(t), IdentityID: testID}))(t)
		return IssueInput{Serial: big.NewInt(7), Grant: grant, PublicKey: p256Key().Public(), NotBefore: notBefore, NotAfter: notAfter}
	}
	if _, err := issuer.Issue(t.Context(), sound()); err != nil {
		t.Fatal(err)
	}
	for label, change := range map[string]func(*IssueInput){
		"no serial":          func(in *IssueInput) { in.Serial = nil },
		"serial 0":           func(in *IssueInput) { in.Serial = new(big.Int) },
		"negative serial":    func(in *IssueInput) { in.Serial = big.NewInt(-1) },
		"serial of 21 bytes": func(in *IssueInput) { in.Serial = new(big.Int).Lsh(big.NewInt(1), 159) },
		"no grant":           func(in *IssueInput) { in.Grant = nil },
		"empty grant":        func(in *IssueInput) { in.Grant = &Grant{} },
		"no key usage":       func(in *IssueInput) { in.Grant.KeyUsage = 0 },
		"no ext key usage":   func(in *IssueInput) { in.Grant.ExtKeyUsage = nil },
		"keyCertSign":        func(in *IssueInput) { in.Grant.KeyUsage |= x509.KeyUsageCertSign },
		"cRLSign":            func(in *IssueInput) { in.Grant.KeyUsage |= x509.KeyUsageCRLSign },
		"bad usage":          func(in *IssueInput) { in.Grant.ExtKeyUsage = []string{"serverAuth"} },
		"shard":              func(in *IssueInput) { in.Shard = -1 },
		"ends before":        func(in *IssueInput) { in.NotAfter = in.NotBefore },
		"outlives issuer":    func(in *IssueInput) { in.NotAfter = issuer.Certificate.NotAfter.Add(time.Second) },
		"precedes issuer":    func(in *IssueInput) { in.NotBefore = issuer.Certificate.NotBefore.Add(-time.Second) },
		"no key":             func(in *IssueInput) { in.PublicKey = nil },
		"Ed25519":            func(in *IssueInput) { in.PublicKey = edKey.Public() },
	} {
		in := sound()
		change(&in)
		if _, err := issuer.Issue(t.Context(), in); err == nil {
			t.Errorf("%s: issued", label)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := issuer.Issue(ctx, sound()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// brokenSigner signs something else than it was given, as a faulty module does.
type brokenSigner struct{ crypto.Signer }

func (s brokenSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(random, make([]byte, len(digest)), opts)
}

func TestIssueVerifiesItsOwnSignature(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	issuer.key = brokenSigner{issuer.key}
	p := profile(t, nil)
	grant := must(p.Grant(GrantInput{Request: asking{}.parsed(t), IdentityID: testID}))(t)
	notBefore, notAfter, err := issuer.Window(p, testNow)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Issue(t.Context(), IssueInput{Serial: big.NewInt(7), Grant: grant, PublicKey: p256Key().Public(), NotBefore: notBefore, NotAfter: notAfter}); err == nil {
		t.Error("a wrong signature is issued")
	}
	if _, err := issuer.SignCRL(t.Context(), testCRL()); err == nil {
		t.Error("a wrong signature is on a CRL")
	}
}

func TestWindowStaysWithinIssuer(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	p := profile(t, nil)
	first, last := issuer.Certificate.NotBefore, issuer.Certificate.NotAfter
	for _, c := range []struct{ now, notBefore, notAfter time.Time }{
		{testNow, testNow.Truncate(time.Second).Add(-time.Hour), testNow.Truncate(time.Second).Add(365 * 24 * time.Hour)},
		{first.Add(time.Minute), first, first.Add(time.Minute + 365*24*time.Hour)},
		{last.Add(-time.Minute), last.Add(-time.Minute - time.Hour), last},
	} {
		notBefore, notAfter, err := issuer.Window(p, c.now)
		if err != nil || !notBefore.Equal(c.notBefore) || !notAfter.Equal(c.notAfter) {
			t.Errorf("at %s: %s to %s, %v", c.now, notBefore, notAfter, err)
		}
		if notBefore.Nanosecond() != 0 || notBefore.Location() != time.UTC || notAfter.Location() != time.UTC {
			t.Errorf("window %s to %s is not whole seconds in UTC", notBefore, notAfter)
		}
	}
	for _, now := range []time.Time{first.Add(-time.Second), last, last.Add(time.Second)} {
		if _, _, err := issuer.Window(p, now); err == nil {
			t.Errorf("at %s: an issuer that is not valid has a window", now)
		}
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	rootKey, key := deviceKey(p256Key().Public().(*ecdsa.PublicKey).Curve), p256Key()
	root := must(NewRoot("Example Inc.", rootKey, testNow))(t)
	sound := must(root.NewIssuing("Example Inc.", key.Public(), testNow))(t)
	variant := func(change func(*x509.Certificate)) []byte {
		template := must(caTemplate("Example Inc.", issuingRole, 0, key.Public(), testNow, issuingLifetime))(t)
		change(template)
		return must(sign(template, root.Certificate, key.Public(), rootKey))(t).Raw
	}
	otherRoot := must(NewRoot("Example Inc.", p384Key(), testNow))(t)
	weak := func() [][]byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: testNow, NotAfter: testNow.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
		return [][]byte{must(sign(template, template, rsa1024Key().Public(), rsa1024Key()))(t).Raw}
	}
	for label, c := range map[string]struct {
		chain [][]byte
		key   crypto.Signer
		id    string
		url   string
		ok    bool
	}{
		"sound":             {chain: [][]byte{sound.Raw}, ok: true},
		"with its root":     {chain: [][]byte{sound.Raw, root.Certificate.Raw}, ok: true},
		"no chain":          {},
		"no certificate":    {chain: [][]byte{{1}}},
		"long chain":        {chain: slices.Repeat([][]byte{root.Certificate.Raw}, 9)},
		"another's key":     {chain: [][]byte{sound.Raw}, key: p384Key()},
		"weak key":          {chain: weak(), key: rsa1024Key()},
		"no CA":             {chain: [][]byte{variant(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false })}},
		"no keyCertSign":    {chain: [][]byte{variant(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })}},
		"no cRLSign":        {chain: [][]byte{variant(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })}},
		"no key identifier": {chain: [][]byte{withoutKeyIdentifier(t, root, rootKey, key)}},
		"wrong order":       {chain: [][]byte{root.Certificate.Raw, sound.Raw}, key: rootKey},
		"foreign root":      {chain: [][]byte{sound.Raw, otherRoot.Certificate.Raw}},
		"forged link":       {chain: [][]byte{sound.Raw, sameName(t, root)}},
		"ftp":               {chain: [][]byte{sound.Raw}, url: "ftp://example.com"},
		"no host":           {chain: [][]byte{sound.Raw}, url: "http:///x"},
		"query":             {chain: [][]byte{sound.Raw}, url: "http://example.com/?a"},
		"id with a slash":   {chain: [][]byte{sound.Raw}, id: "a/b"},
	} {
		t.Run(label, func(t *testing.T) {
			if c.key == nil {
				c.key = key
			}
			if c.id == "" {
				c.id = "issuer_1"
			}
			if c.url == "" {
				c.url = testURL + "/"
			}
			issuer, err := NewIssuer(c.id, c.chain, c.key, c.url)
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
			if c.ok && issuer.CRLURL(0) != testURL+"/crl/issuer_1/0" {
				t.Errorf("CRL URL %s", issuer.CRLURL(0))
			}
		})
	}
}

// withoutKeyIdentifier is an issuing certificate that lacks only that. crypto/x509 would add one to
// every CA certificate, so another extension takes its place in the DER.
func withoutKeyIdentifier(t *testing.T, root *Root, rootKey, key crypto.Signer) []byte {
	t.Helper()
	template := must(caTemplate("Example Inc.", issuingRole, 0, key.Public(), testNow, issuingLifetime))(t)
	sound := must(sign(template, root.Certificate, key.Public(), rootKey))(t)
	oid, other := must(asn1.Marshal(asn1.ObjectIdentifier{2, 5, 29, 14}))(t), must(asn1.Marshal(asn1.ObjectIdentifier{2, 5, 30, 14}))(t)
	return bytes.Replace(sound.Raw, oid, other, 1)
}

// sameName is another root of the same name.
func sameName(t *testing.T, root *Root) []byte {
	t.Helper()
	template := must(caTemplate("Example Inc.", "Device Root CA", 1, p384Key().Public(), testNow, rootLifetime))(t)
	template.RawSubject = root.Certificate.RawSubject
	return must(sign(template, template, p384Key().Public(), p384Key()))(t).Raw
}

func TestSerialNumbers(t *testing.T) {
	text, serial, err := NewSerial(bytes.NewReader(bytes.Repeat([]byte{0xff}, 20)))
	if err != nil || text != "7f"+strings.Repeat("ff", 19) || len(must(asn1.Marshal(serial))(t)) != 22 {
		t.Errorf("all ones: %s, %v", text, err)
	}
	text, serial, err = NewSerial(bytes.NewReader(append([]byte{0x80}, append(make([]byte, 18), 9)...)))
	if err != nil || serial.Int64() != 9 || text != strings.Repeat("0", 39)+"9" {
		t.Errorf("leading zeros: %s, %v", text, err)
	}
	if _, _, err := NewSerial(bytes.NewReader(make([]byte, 20))); err == nil {
		t.Error("serial 0 is made")
	}
	if _, _, err := NewSerial(bytes.NewReader(make([]byte, 19))); err == nil {
		t.Error("serial is made of 19 bytes")
	}
	for _, text := range []string{"", "7", strings.Repeat("0", 40), strings.Repeat("f", 40), strings.Repeat("A", 40), strings.Repeat("0", 41) + "1", strings.Repeat("g", 40)} {
		if _, err := ParseSerial(text); err == nil {
			t.Errorf("serial %q passes", text)
		}
	}
}

func TestSerialsAndShardsSurviveText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "random")
		text, serial, err := NewSerial(bytes.NewReader(raw))
		if err != nil {
			t.Skip()
		}
		parsed, err := ParseSerial(text)
		if err != nil || parsed.Cmp(serial) != 0 || FormatSerial(parsed) != text {
			t.Fatalf("%s became %v, %v", text, parsed, err)
		}
		shards := rapid.IntRange(-1, 100).Draw(t, "shards")
		if shard := ShardOf(serial, shards); shard < 0 || shard >= max(shards, 1) || shard != ShardOf(parsed, shards) {
			t.Fatalf("shard %d of %d", shard, shards)
		}
	})
}

func TestShardsAreEvenlyUsed(t *testing.T) {
	var used [4]int
	for range 400 {
		_, serial, err := NewSerial(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		used[ShardOf(serial, len(used))]++
	}
	if slices.Min(used[:]) < 40 {
		t.Errorf("400 serials in shards %v", used)
	}
}

// Whatever names are requested and matched, the certificate can be read, and has exactly the names
// that were not dropped.
func TestEveryGrantIsReadable(t *testing.T) {
	_, issuer := testAuthority(t, P256)
	all := AltNameRule{Rule: AsRequested, Pattern: pattern(t, "(?s).*")}
	p := profile(t, func(p *Profile) {
		p.SubjectAltName.Email, p.SubjectAltName.DNS, p.SubjectAltName.URI, p.SubjectAltName.UPN = all, all, all, all
		p.Subject = SubjectRule{Rule: AsRequested, Attributes: []AttributeRule{
			{Type: "CN", Pattern: all.Pattern}, {Type: "C", Pattern: all.Pattern}, {Type: "1.2.3.4", Pattern: all.Pattern}}}
	})
	names := map[csr.AltKind]*rapid.Generator[string]{
		csr.AltEmail: rapid.StringMatching(`[a-c. "]{1,4}@[a-c.*_-]{1,6}`),
		csr.AltDNS:   rapid.StringMatching(`[a-c.*_:0-9-]{1,8}`),
		csr.AltURI:   rapid.StringMatching(`(https?:|urn:|)(//|)[a-c.*_@\[\]:%/?#0-9-]{1,8}`).Filter(zlintTakesHost),
		csr.AltUPN:   rapid.StringMatching(`[a-zä@ ]{1,8}`),
	}
	rapid.Check(t, func(rt *rapid.T) {
		var ask asking
		for range rapid.IntRange(0, 4).Draw(rt, "names") {
			kind := rapid.SampledFrom([]csr.AltKind{csr.AltEmail, csr.AltDNS, csr.AltURI, csr.AltUPN}).Draw(rt, "kind")
			ask.altNames = append(ask.altNames, csr.AltName{Kind: kind, Value: names[kind].Draw(rt, "name")})
		}
		for range rapid.IntRange(0, 3).Draw(rt, "rdns") {
			id := rapid.SampledFrom([]string{"2.5.4.3", "2.5.4.6", "1.2.3.4", "1.2.3"}).Draw(rt, "type")
			ask.subject = append(ask.subject, one(id, rapid.StringMatching(`[A-Zäß€@ ]{1,70}`).Draw(rt, "value")))
		}
		request := ask.parsed(t)
		certificate, grant := issued(t, issuer, p, GrantInput{Request: request})
		dropped := len(grant.Dropped)
		if got := len(namesIn(t, certificate)) + len(subjectOf(t, certificate)) + dropped; got != len(ask.altNames)+len(ask.subject) &&
			certificate.Subject.CommonName != testID {
			rt.Fatalf("asked for %v %v, granted %v %v, dropped %v", ask.altNames, ask.subject, namesIn(t, certificate), subjectOf(t, certificate), grant.Dropped)
		}
		if faults := lintFaults(zlint.LintCertificateEx(must(zx509.ParseCertificate(certificate.Raw))(t), rfc5280(t))); faults != nil {
			rt.Fatalf("%s: names %v", faults, namesIn(t, certificate))
		}
	})
}

// zlintTakesHost: zlint's own idea of a top-level domain is letters, two at least, and that of a host four
// characters, so that http://0.a0 is a fault to it.
func zlintTakesHost(uri string) bool {
	link, err := url.Parse(uri)
	if err != nil || !strings.Contains(link.Host, ".") {
		return true
	}
	host := link.Hostname()
	last := host[strings.LastIndexByte(host, '.')+1:]
	return len(host) > 3 && len(last) > 1 && strings.Trim(last, "abc") == ""
}

func TestOpenSSLVerifiesCertificateAndCRL(t *testing.T) {
	openssl := counterpart.Require(t, "openssl")
	for _, algorithm := range []KeyAlgorithm{P256, P384, RSA3072} {
		root, issuer := testAuthority(t, algorithm)
		certificate, _ := issued(t, issuer, profile(t, nil), GrantInput{Request: appleAsking().parsed(t), Minted: appleAsking().minted(t)})
		thisUpdate, nextUpdate := CRLWindow(testNow)
		shard := ShardOf(certificate.SerialNumber, 4)
		crl := CRL{Number: 1, ThisUpdate: thisUpdate, NextUpdate: nextUpdate, Shard: shard}
		dir := t.TempDir()
		write := func(name, kind string, der []byte) string {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		verify := func(crlFile string) ([]byte, error) {
			return exec.CommandContext(t.Context(), openssl, "verify", "-attime", big.NewInt(testNow.Unix()+60).String(), "-x509_strict", "-purpose", "sslclient",
				"-extended_crl", "-crl_check", "-CRLfile", crlFile, "-CAfile", write("root.pem", "CERTIFICATE", root.Certificate.Raw),
				"-untrusted", write("issuing.pem", "CERTIFICATE", issuer.Certificate.Raw), write("leaf.pem", "CERTIFICATE", certificate.Raw)).CombinedOutput()
		}
		if out, err := verify(write("empty.pem", "X509 CRL", must(issuer.SignCRL(t.Context(), crl))(t))); err != nil {
			t.Errorf("%s: %v\n%s", algorithm, err, out)
		}
		crl.Number, crl.Revoked = 2, []Revoked{{Serial: FormatSerial(certificate.SerialNumber), At: testNow, Reason: KeyCompromise}}
		if out, err := verify(write("full.pem", "X509 CRL", must(issuer.SignCRL(t.Context(), crl))(t))); err == nil || !strings.Contains(string(out), "revoked") {
			t.Errorf("%s: revoked certificate: %v\n%s", algorithm, err, out)
		}
		crl.Shard++
		if out, err := verify(write("other.pem", "X509 CRL", must(issuer.SignCRL(t.Context(), crl))(t))); err == nil || strings.Contains(string(out), "revoked") {
			t.Errorf("%s: another shard's CRL: %v\n%s", algorithm, err, out)
		}
	}
}

// BenchmarkIssue beside BenchmarkBareSignature: what a certificate costs over its one signature.
func BenchmarkIssue(b *testing.B) {
	_, issuer := testAuthority(b, P256)
	p := profile(b, nil)
	in := GrantInput{Request: appleAsking().parsed(b), Minted: appleAsking().minted(b), IdentityID: testID}
	b.Run("grant", func(b *testing.B) {
		for b.Loop() {
			must(p.Grant(in))(b)
		}
	})
	b.Run("issue", func(b *testing.B) {
		grant := must(p.Grant(in))(b)
		notBefore, notAfter, err := issuer.Window(p, testNow)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			must(issuer.Issue(b.Context(), IssueInput{Serial: big.NewInt(7), Grant: grant, PublicKey: p256Key().Public(), NotBefore: notBefore, NotAfter: notAfter}))(b)
		}
	})
	digest := make([]byte, 32)
	b.Run("bare sign", func(b *testing.B) {
		for b.Loop() {
			must(ecdsa.SignASN1(rand.Reader, issuer.key.(*ecdsa.PrivateKey), digest))(b)
		}
	})
	signature := must(ecdsa.SignASN1(rand.Reader, issuer.key.(*ecdsa.PrivateKey), digest))(b)
	b.Run("bare verify", func(b *testing.B) {
		for b.Loop() {
			ecdsa.VerifyASN1(&issuer.key.(*ecdsa.PrivateKey).PublicKey, digest, signature)
		}
	})
}
