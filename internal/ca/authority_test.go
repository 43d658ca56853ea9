package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAuthorityShape(t *testing.T) {
	root, issuer := testAuthority(t, P384)
	r, c := root.Certificate, issuer.Certificate
	if r.MaxPathLen != 1 || c.MaxPathLen != 0 || !c.MaxPathLenZero || !r.IsCA || !c.IsCA {
		t.Errorf("path lengths %d and %d", r.MaxPathLen, c.MaxPathLen)
	}
	if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign; r.KeyUsage != want || c.KeyUsage != want {
		t.Errorf("key usages %b and %b", r.KeyUsage, c.KeyUsage)
	}
	if err := c.CheckSignatureFrom(r); err != nil {
		t.Error(err)
	}
	if err := r.CheckSignatureFrom(r); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(c.Subject.CommonName, "Example Inc. Device Issuing CA ") || c.Subject.Organization[0] != "Example Inc." {
		t.Errorf("issuing CA is named %s", c.Subject)
	}
	if c.NotAfter.After(r.NotAfter) {
		t.Error("issuing CA outlives its root")
	}
	_, other := testAuthority(t, P384)
	if other.Certificate.Subject.CommonName == c.Subject.CommonName {
		t.Error("two issuing CAs have one name (one time in 65536 by chance)")
	}
}

func TestGenerateKeyMakesWhatIsAsked(t *testing.T) {
	for algorithm, bits := range map[KeyAlgorithm]int{P256: 256, P384: 384} {
		if key := must(GenerateKey(algorithm))(t).(*ecdsa.PrivateKey); key.Curve.Params().BitSize != bits {
			t.Errorf("%s has %d bits", algorithm, key.Curve.Params().BitSize)
		}
	}
	if key := must(GenerateKey(RSA3072))(t).(*rsa.PrivateKey); key.N.BitLen() != 3072 {
		t.Errorf("RSA key has %d bits", key.N.BitLen())
	}
	if _, err := GenerateKey("RSA-1024"); err == nil {
		t.Error("a key of an unknown kind is made")
	}
}

func TestAuthorityRefusesNamesAndWeakKeys(t *testing.T) {
	for _, name := range []string{"", strings.Repeat("a", MaxName+1), "a\nb", "\xff"} {
		if _, err := NewRoot(name, p256Key(), testNow); err == nil {
			t.Errorf("root named %q", name)
		}
		if _, err := NewSigningRequest(name, p256Key()); err == nil {
			t.Errorf("request named %q", name)
		}
	}
	if _, err := NewRoot(strings.Repeat("ä", MaxName), p256Key(), testNow); err != nil {
		t.Error(err)
	}
	if _, err := NewRoot("Example Inc.", rsa1024Key(), testNow); err == nil {
		t.Error("root with an RSA key of 1024 bits")
	}
	if _, err := NewSigningRequest("Example Inc.", rsa1024Key()); err == nil {
		t.Error("request with an RSA key of 1024 bits")
	}
}

func TestIssuingEndsWithItsRoot(t *testing.T) {
	root := must(NewRoot("Example Inc.", p256Key(), testNow))(t)
	later := root.Certificate.NotAfter.Add(-time.Hour)
	if issuing := must(root.NewIssuing("Example Inc.", p384Key().Public(), later))(t); issuing.NotAfter.After(root.Certificate.NotAfter) {
		t.Error("issuing CA outlives its root")
	}
	if server := must(root.NewServing([]string{"a.example.com"}, p384Key().Public(), later))(t); server.NotAfter.After(root.Certificate.NotAfter) {
		t.Error("server certificate outlives its root")
	}
}

func TestOpenRootSignsAgain(t *testing.T) {
	root := must(NewRoot("Example Inc.", p256Key(), testNow))(t)
	again := must(OpenRoot(root.Certificate, p256Key(), testNow))(t)
	if err := must(again.NewIssuing("Example Inc.", p384Key().Public(), testNow))(t).CheckSignatureFrom(root.Certificate); err != nil {
		t.Error(err)
	}
	if _, err := OpenRoot(root.Certificate, p384Key(), testNow); err == nil {
		t.Error("root opens with another key")
	}
}

func TestServingCertificate(t *testing.T) {
	root := must(NewServingRoot("Example Inc.", p256Key(), testNow))(t)
	server := must(root.NewServing([]string{"id.example.com", "*.example.org", "192.0.2.1", "::1"}, p384Key().Public(), testNow))(t)
	if !slices.Equal(server.DNSNames, []string{"id.example.com", "*.example.org"}) || len(server.IPAddresses) != 2 || !server.IPAddresses[1].Equal(net.IPv6loopback) {
		t.Errorf("names %v %v", server.DNSNames, server.IPAddresses)
	}
	if server.IsCA || !slices.Equal(server.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("CA %t, extended key usage %v", server.IsCA, server.ExtKeyUsage)
	}
	if days := server.NotAfter.Sub(server.NotBefore).Hours() / 24; days > 398 {
		t.Errorf("lasts %v days, which Apple's systems refuse", days)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.Certificate)
	if _, err := server.Verify(x509.VerifyOptions{Roots: pool, DNSName: "id.example.com", CurrentTime: testNow}); err != nil {
		t.Error(err)
	}
	if root.Certificate.MaxPathLen != 0 {
		t.Error("the serving root could certify further CAs")
	}
	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"https://example.com"}, {"example.com:443"}} {
		if _, err := root.NewServing(hosts, p384Key().Public(), testNow); err == nil {
			t.Errorf("hosts %q pass", hosts)
		}
	}
	long := strings.Repeat("a.", 40) + "example.com"
	if server := must(root.NewServing([]string{long}, p384Key().Public(), testNow))(t); server.Subject.CommonName != "" {
		t.Error("a common name of more than 64 characters")
	}
}

func TestSigningRequestAsksForIssuingCA(t *testing.T) {
	der := must(NewSigningRequest("Example Inc.", p256Key()))(t)
	request := must(x509.ParseCertificateRequest(der))(t)
	if err := request.CheckSignature(); err != nil {
		t.Error(err)
	}
	// An outside PKI copies the extensions into a certificate, which then works as an issuer.
	rootKey := p384Key()
	root := must(NewRoot("Outside", rootKey, testNow))(t)
	template := &x509.Certificate{SerialNumber: root.Certificate.SerialNumber, RawSubject: request.RawSubject, NotBefore: testNow, NotAfter: testNow.Add(time.Hour),
		ExtraExtensions: request.Extensions, SubjectKeyId: []byte{1, 2, 3}}
	issuing := must(sign(template, root.Certificate, request.PublicKey, rootKey))(t)
	if !issuing.IsCA || !issuing.MaxPathLenZero {
		t.Error("the request does not ask for a CA of pathLen 0")
	}
	bundle := slices.Concat(pemOf(issuing.Raw), pemOf(root.Certificate.Raw))
	chain := must(Adopt(bundle))(t)
	if len(chain) != 1 || !bytes.Equal(chain[0], issuing.Raw) {
		t.Errorf("chain of %d certificates; the root is left out", len(chain))
	}
	if _, err := NewIssuer("issuer_2", chain, p256Key(), testURL); err != nil {
		t.Error(err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	root, issuer := testAuthority(t, P256)
	a, b := pemOf(issuer.Certificate.Raw), pemOf(root.Certificate.Raw)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})
	for label, text := range map[string][]byte{
		"nothing": nil, "no PEM": []byte("hello"), "a key": append(slices.Clone(a), key...), "text after": append(slices.Clone(a), "hello"...),
		"wrong order": slices.Concat(b, a), "no DER": pemOf([]byte{1}), "twice": slices.Concat(a, a),
	} {
		if _, err := Adopt(text); err == nil {
			t.Errorf("%s: adopted", label)
		}
	}
	if chain, err := Adopt(b); err != nil || len(chain) != 1 {
		t.Errorf("a lone self-signed CA: %d certificates, %v", len(chain), err)
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestKeyFilesSurvive(t *testing.T) {
	dir := t.TempDir()
	for name, key := range map[string]crypto.Signer{"ec.pem": p256Key(), "a key.pem": p384Key(), "rsa.pem": rsa2048Key()} {
		path := filepath.Join(dir, name)
		if err := WriteKey(path, key); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
		escaped := strings.ReplaceAll(name, " ", "%20")
		for _, uri := range []string{"file:" + escaped, "file:./" + escaped, "file://" + filepath.Join(dir, escaped), "FILE:" + filepath.Join(dir, escaped)} {
			again, err := OpenKey(uri, dir)
			if err != nil {
				t.Errorf("%s: %v", uri, err)
			} else if !again.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Errorf("%s is another key", uri)
			}
		}
		if err := WriteKey(path, p521Key()); !os.IsExist(unwrapped(err)) {
			t.Errorf("key is written over: %v", err)
		}
	}
}

func unwrapped(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || os.IsExist(err) {
			return err
		}
		err = inner.Unwrap()
	}
}

func TestOpenKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := WriteKey(filepath.Join(dir, "key.pem"), p256Key()); err != nil {
		t.Fatal(err)
	}
	sound := must(os.ReadFile(filepath.Join(dir, "key.pem")))(t)
	write := func(name string, mode os.FileMode, content []byte) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("group.pem", 0o640, sound)
	write("others.pem", 0o604, sound)
	write("writable.pem", 0o620, sound)
	write("text.pem", 0o600, []byte("hello"))
	write("sec1.pem", 0o600, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(p256Key().(*ecdsa.PrivateKey)))(t)}))
	write("broken.pem", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))
	write("two.pem", 0o600, slices.Concat(sound, sound))
	write("large.pem", 0o600, slices.Concat(sound, bytes.Repeat([]byte("\n"), maxKeyFile)))
	for uri, want := range map[string]string{
		"file:group.pem": "0640", "file:others.pem": "0604", "file:writable.pem": "0620", "file:text.pem": "no PEM",
		"file:sec1.pem": "EC PRIVATE KEY", "file:broken.pem": "parse", "file:two.pem": "more than one", "file:large.pem": "larger",
		"file:missing.pem": "no such file", "file:.": "regular", "file:": "no file", "file://host/key.pem": "not file:PATH",
		"file:key.pem?x": "not file:PATH", "key.pem": "not a URI", "pkcs11:token=a": "no key", "awskms:x": `"awskms"`,
	} {
		_, err := OpenKey(uri, dir)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
	}
}

func TestIssuerWithAdoptedRSAKey(t *testing.T) {
	root := must(NewRoot("Example Inc.", issuerRSA(), testNow))(t)
	issuer := must(NewIssuer("issuer_3", [][]byte{root.Certificate.Raw}, issuerRSA(), testURL))(t)
	certificate, _ := issued(t, issuer, profile(t, nil), GrantInput{Request: asking{key: rsa2048Key()}.parsed(t), Minted: nil})
	if err := certificate.CheckSignatureFrom(root.Certificate); err != nil {
		t.Error(err)
	}
	if certificate.Subject.CommonName != testID {
		t.Errorf("subject %s", certificate.Subject)
	}
}
