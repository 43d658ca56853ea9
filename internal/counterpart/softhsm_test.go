//go:build pkcs11

package counterpart

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"assay/internal/ca"
	"assay/internal/hsm"
	"assay/internal/installation"
	"assay/internal/issuance"
)

// moduleIssuer gives an installation an issuing CA whose key is in SoftHSM, under the root that it has.
func moduleIssuer(t *testing.T, s *Tokens, dir string) *x509.Certificate {
	t.Helper()
	s.Init(t, "assay")
	s.Import(t, "assay", "issuing", 1, newKey(t, elliptic.P256()))
	if err := os.WriteFile(filepath.Join(dir, "keys", "hsm.pin"), []byte(PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	uri := s.URI("assay", "issuing", "keys/hsm.pin")
	key, err := ca.OpenKey(uri, dir)
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := ca.OpenKey("file:keys/root.key", dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "certs", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	root, err := ca.OpenRoot(certificate, rootKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := root.NewIssuing("Counterpart", key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	i, err := installation.Open(t.Context(), dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if _, err := i.AddIssuer(t.Context(), issuance.Call{Now: time.Now()}, "in the module", [][]byte{issuing.Raw}, uri, true); err != nil {
		t.Fatal(err)
	}
	return issuing
}

func TestDeviceEnrolsWithAnIssuingKeyInSoftHSM(t *testing.T) {
	tokens := SoftHSM(t)
	t.Cleanup(hsm.Close)
	var issuing *x509.Certificate
	s := newSiteIn(t, func(dir string) { issuing = moduleIssuer(t, tokens, dir) })
	key := newKey(t, elliptic.P384())
	chain, err := enrolWithXCrypto(t, s, s.mint(t, testSerial), key, key)
	if err != nil {
		t.Fatal(err)
	}
	s.wantIssued(t, chain, key)
	if !bytes.Equal(chain[0].AuthorityKeyId, issuing.SubjectKeyId) {
		t.Error("another issuing CA signed")
	}
	file := filepath.Join(t.TempDir(), "crl.pem")
	s.crl(t, chain[0], file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(issuing); err != nil {
		t.Error(err)
	}
}
