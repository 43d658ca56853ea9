package counterpart

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/installation"
	"assay/internal/issuance"
)

// openssl runs it and returns all that it says.
func openssl(t *testing.T, program string, args ...string) (said string, err error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	return string(out), err
}

// crl fetches the CRL that a certificate names and writes it for openssl.
func (s *site) crl(t *testing.T, c *x509.Certificate, path string) {
	t.Helper()
	if len(c.CRLDistributionPoints) != 1 {
		t.Fatalf("CRL distribution points: %v", c.CRLDistributionPoints)
	}
	response, err := s.http.Get(c.CRLDistributionPoints[0])
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	der, err := io.ReadAll(response.Body)
	if err != nil || response.Header.Get("Content-Type") != "application/pkix-crl" {
		t.Fatalf("%s %s: %v", response.Status, response.Header.Get("Content-Type"), err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenSSLVerifiesCertificateAndCRL(t *testing.T) {
	program := Require(t, "openssl")
	s := newSite(t, nil)
	key := newKey(t, elliptic.P384())
	chain, err := enrolWithXCrypto(t, s, s.mint(t, testSerial), key, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	leaf, issuing, list := filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "issuing.pem"), filepath.Join(dir, "crl.pem")
	writePEM(t, leaf, "CERTIFICATE", chain[0].Raw)
	writePEM(t, issuing, "CERTIFICATE", chain[1].Raw)
	s.crl(t, chain[0], list)
	verify := []string{"verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", s.init.Root, "-untrusted", issuing, "-crl_check", "-CRLfile", list, leaf}
	if said, err := openssl(t, program, verify...); err != nil || !strings.Contains(said, "leaf.pem: OK") {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(verify, " "), err, said)
	}
	said, err := openssl(t, program, "x509", "-in", leaf, "-noout", "-text")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{
		"TLS Web Client Authentication", "Digital Signature", "CA:FALSE", "secp384r1", "Full Name:\n", "/crl/", "CA Issuers - URI:", "Subject Key Identifier", "Authority Key Identifier",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("openssl sees no %q in:\n%s", want, said)
		}
	}

	// Revoked: the next CRL says so, to openssl too.
	row, err := s.Store.CertificateBySerial(t.Context(), serialOf(chain[0]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.RevokeCertificate(t.Context(), issuance.Call{Now: time.Now()}, issuance.Revocation{Certificate: row.ID, Reason: 1}); err != nil {
		t.Fatal(err)
	}
	s.crl(t, chain[0], list)
	if said, err := openssl(t, program, verify...); err == nil || !strings.Contains(said, "certificate revoked") {
		t.Errorf("after revocation: %v\n%s", err, said)
	}
	if said, err := openssl(t, program, "crl", "-in", list, "-noout", "-text"); err != nil || !strings.Contains(said, "Key Compromise") || !strings.Contains(said, "Issuing Distribution Point: critical") {
		t.Errorf("CRL: %v\n%s", err, said)
	}
}

func TestOpenSSLVerifiesSigningRequest(t *testing.T) {
	program := Require(t, "openssl")
	result, err := installation.Init(t.Context(), filepath.Join(t.TempDir(), "sub"), installation.InitOptions{Name: "Example Inc.", SigningRequest: true})
	if err != nil {
		t.Fatal(err)
	}
	said, err := openssl(t, program, "req", "-in", result.SigningRequest, "-noout", "-verify", "-text")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{"verify OK", "O=Example Inc.", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"} {
		if !strings.Contains(strings.ReplaceAll(said, " = ", "="), want) {
			t.Errorf("openssl sees no %q in:\n%s", want, said)
		}
	}
}
