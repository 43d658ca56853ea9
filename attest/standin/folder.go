package standin

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"assay/internal/files"
)

// RootFile is the file in an authority's folder to configure as attestation root.
const RootFile = "root.pem"

// Other files in an authority's folder.
const (
	rootKeyFile  = "root.key"
	subCAFile    = "sub-ca.pem"
	subCAKeyFile = "sub-ca.key"
)

// Save writes the authority into a folder, which is made if need be: certificates for all to read,
// keys for the owner alone. It refuses, with fs.ErrExist, to replace an authority.
func (a *Authority) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save stand-in authority: %w", err)
	}
	type file struct {
		name, kind string
		data       []byte
		mode       fs.FileMode
	}
	files := []file{
		{RootFile, "CERTIFICATE", a.root.certificate.Raw, 0o644},
		{subCAFile, "CERTIFICATE", a.subCA.certificate.Raw, 0o644},
	}
	for name, key := range map[string]crypto.Signer{rootKeyFile: a.root.key, subCAKeyFile: a.subCA.key} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("save stand-in authority: %w", err)
		}
		files = append(files, file{name, "PRIVATE KEY", der, 0o600})
	}
	for _, f := range files { // before any is written, so that a refusal changes nothing
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil {
			return fmt.Errorf("save stand-in authority: %s: %w", f.name, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("save stand-in authority: %w", err)
		}
	}
	for _, f := range files {
		encoded := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.data})
		if err := writeNew(filepath.Join(dir, f.name), encoded, f.mode); err != nil {
			return fmt.Errorf("save stand-in authority: %w", err)
		}
	}
	return nil
}

// writeNew writes a file that must not be there yet.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// Load reads an authority that Save wrote.
func Load(dir string, random io.Reader) (*Authority, error) {
	root, err := loadIssuer(dir, RootFile, rootKeyFile)
	if err != nil {
		return nil, fmt.Errorf("load stand-in authority: %w", err)
	}
	subCA, err := loadIssuer(dir, subCAFile, subCAKeyFile)
	if err != nil {
		return nil, fmt.Errorf("load stand-in authority: %w", err)
	}
	return assemble(random, root, subCA)
}

func loadIssuer(dir, certificateFile, keyFile string) (issuer, error) {
	der, err := readPEM(filepath.Join(dir, certificateFile), "CERTIFICATE")
	if err != nil {
		return issuer{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return issuer{}, fmt.Errorf("%s: %w", certificateFile, err)
	}
	if der, err = readPEM(filepath.Join(dir, keyFile), "PRIVATE KEY"); err != nil {
		return issuer{}, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return issuer{}, fmt.Errorf("%s: %w", keyFile, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return issuer{}, fmt.Errorf("%s: key cannot sign", keyFile)
	}
	return issuer{certificate: certificate, key: signer}, nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := files.Read(path, files.MaxPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: no PEM block %q", filepath.Base(path), kind)
	}
	return block.Bytes, nil
}
