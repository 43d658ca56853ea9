// Package stepca configures a step-ca server that accepts Apple attestations of a stand-in authority, for
// tests and for measurements side by side. Its CA keys are made on the spot and of no worth.
package stepca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// DirectoryPath is where the ACME directory is, below https://ADDRESS.
const DirectoryPath = "/acme/devices/directory"

// Configure writes what a step-ca that listens on the address needs into the folder: a root and an issuing
// CA with P-256 keys, and a configuration with one ACME provisioner that accepts Apple attestations under
// the given root (PEM), and keeps what it knows in its embedded database. Run it as step-ca CONFIG with
// STEPPATH set to the folder. The roots are what devices trust.
func Configure(dir, address string, attestationRoot []byte, now time.Time) (config string, roots *x509.CertPool, err error) {
	if roots, err = makeAuthority(dir, now); err != nil {
		return "", nil, fmt.Errorf("configure step-ca: %w", err)
	}
	text, err := json.Marshal(map[string]any{
		"root": filepath.Join(dir, "root.pem"), "crt": filepath.Join(dir, "issuing.pem"), "key": filepath.Join(dir, "issuing.key"),
		"address": address, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]any{"format": "text"},
		"db": map[string]any{"type": "badgerv2", "dataSource": filepath.Join(dir, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "ACME", "name": "devices", "challenges": []string{"device-attest-01"},
			"attestationFormats": []string{"apple"}, "attestationRoots": base64.StdEncoding.EncodeToString(attestationRoot),
		}}},
	})
	if err != nil {
		return "", nil, fmt.Errorf("configure step-ca: %w", err)
	}
	config = filepath.Join(dir, "ca.json")
	return config, roots, os.WriteFile(config, text, 0o600)
}

// makeAuthority makes the root and the issuing CA.
func makeAuthority(dir string, now time.Time) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for n, name := range []string{"root", "issuing"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(n + 1)), Subject: pkix.Name{CommonName: "step-ca " + name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return nil, err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
		parentKey = key
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		for _, file := range []struct {
			name, kind string
			data       []byte
		}{{name + ".pem", "CERTIFICATE", der}, {name + ".key", "PRIVATE KEY", secret}} {
			if err := os.WriteFile(filepath.Join(dir, file.name), pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.data}), 0o600); err != nil {
				return nil, err
			}
		}
		if name == "root" {
			roots.AddCert(parent)
		}
	}
	return roots, nil
}
