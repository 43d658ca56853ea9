package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"time"

	"assay/enroll"
	"assay/internal/files"
)

// Files of a stand-in MDM CA.
const (
	mdmRootFile = "root.pem"
	mdmKeyFile  = "key.pem"
)

const (
	mdmRootLife     = 10 * 365 * 24 * time.Hour
	mdmIdentityLife = 365 * 24 * time.Hour
)

type simulateMDMCA struct {
	Out string `required:"" placeholder:"DIR" help:"New folder for its certificate and key."`
}

func (simulateMDMCA) Help() string {
	return `Makes a CA that stands in for the one whose certificates devices show to their MDM. Give its root
(root.pem) to the MDM (NanoMDM: -ca) and to Assay (mdm.ca): for tests only.

Example:
  assay simulate mdm-ca --out ./mdm-ca

Exit codes: 0 made; 2 wrong flags; 3 failed (an existing one is never overwritten).`
}

func (c *simulateMDMCA) Run(term *terminal, g *globals) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := term.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Stand-in MDM CA (not for real devices)"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(mdmRootLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, secret, err := certifyMDM(template, template, key, key)
	if err != nil {
		return err
	}
	root := filepath.Join(c.Out, mdmRootFile)
	if err := writeNewFile(filepath.Join(c.Out, mdmKeyFile), secret, 0o600); err != nil {
		return err
	}
	if err := writeNewFile(root, certificate, 0o644); err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, map[string]string{"root": root})
	}
	fmt.Fprintf(term.Out, "Made a stand-in MDM CA; its root: %s\n", root)
	return nil
}

// certifyMDM issues a certificate for the key and returns both as PEM.
func certifyMDM(template, parent *x509.Certificate, key *ecdsa.PrivateKey, parentKey any) (certificate, secret []byte, err error) {
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// issueMDMIdentity issues a device's MDM identity, with its UDID as common name, into a new file.
func issueMDMIdentity(caDir string, device *enroll.Device, path string, now time.Time) error {
	ca, err := files.KeyPair(filepath.Join(caDir, mdmRootFile), filepath.Join(caDir, mdmKeyFile))
	if err != nil {
		return usage(withHint(err, "make one with `assay simulate mdm-ca --out %s`", caDir))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: device.UDID, SerialNumber: device.Serial},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(mdmIdentityLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	certificate, secret, err := certifyMDM(template, ca.Leaf, key, ca.PrivateKey)
	if err != nil {
		return fmt.Errorf("issue MDM identity: %w", err)
	}
	return writeNewFile(path, append(certificate, secret...), 0o600)
}
