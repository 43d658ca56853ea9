package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"assay/internal/files"
	"assay/internal/hsm"
)

// maxKeyFile is the largest key file that is read, in bytes.
const maxKeyFile = 64 << 10

// maxPIN is the longest PIN of a token, in bytes.
const maxPIN = 256

// keyOpeners open the kinds of key URI, by scheme. Cloud keys join here: each returns a crypto.Signer,
// which is all that issuers ask of a key.
var keyOpeners = map[string]func(uri, baseDir string) (crypto.Signer, error){
	"file":   openKeyFile,
	"pkcs11": openModuleKey,
}

// OpenKey opens the private key that a URI names. file:PATH is a PKCS#8 PEM file; a relative path is
// taken from baseDir. A file that others than its owner may read is refused: its key is no secret.
// pkcs11:… is a key in a hardware module (package hsm), whose PIN is in such a file.
func OpenKey(uri, baseDir string) (crypto.Signer, error) {
	scheme, _, found := strings.Cut(uri, ":")
	if !found {
		return nil, fmt.Errorf("open key %q: not a URI (file:PATH or pkcs11:…)", uri)
	}
	open, known := keyOpeners[strings.ToLower(scheme)]
	if !known {
		return nil, fmt.Errorf("open key: keys of kind %q are not supported; file: and pkcs11: are", scheme)
	}
	key, err := open(uri, baseDir)
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	return key, nil
}

// KeyFile is the file that a key URI names, a relative one taken from baseDir; "" for a key that is in no
// file, such as one in a hardware module.
func KeyFile(uri, baseDir string) (string, error) {
	scheme, _, found := strings.Cut(uri, ":")
	if !found {
		return "", fmt.Errorf("%q is not a URI (file:PATH)", uri)
	}
	if !strings.EqualFold(scheme, "file") {
		return "", nil
	}
	link, err := url.Parse(uri)
	if err != nil || link.Host != "" || link.RawQuery != "" || link.Fragment != "" {
		return "", fmt.Errorf("%q is not file:PATH", uri)
	}
	path := link.Path
	if link.Opaque != "" {
		if path, err = url.PathUnescape(link.Opaque); err != nil {
			return "", fmt.Errorf("%q is not file:PATH", uri)
		}
		path = filepath.Join(baseDir, path)
	}
	if path == "" {
		return "", fmt.Errorf("%q names no file", uri)
	}
	return path, nil
}

// PINFile is the file with the PIN that opens the key of a URI, a relative one taken from baseDir; "" for a key
// that needs none.
func PINFile(uri, baseDir string) (string, error) {
	scheme, _, _ := strings.Cut(uri, ":")
	if !strings.EqualFold(scheme, "pkcs11") {
		return "", nil
	}
	key, err := hsm.Parse(uri)
	if err != nil {
		return "", err
	}
	return pinFile(key, baseDir)
}

func pinFile(key *hsm.URI, baseDir string) (string, error) {
	path, err := KeyFile(key.PINSource, baseDir)
	if err != nil {
		return "", fmt.Errorf("pin-source: %w", err)
	}
	return path, nil
}

func openModuleKey(uri, baseDir string) (crypto.Signer, error) {
	key, err := hsm.Parse(uri)
	if err != nil {
		return nil, err
	}
	return hsm.Open(key, func() (string, error) {
		path, err := pinFile(key, baseDir)
		if err != nil {
			return "", err
		}
		data, err := files.ReadSecret(path, maxKeyFile)
		if err != nil {
			return "", fmt.Errorf("pin-source: %w", err)
		}
		pin := strings.TrimRight(string(data), "\r\n")
		if pin == "" || len(pin) > maxPIN {
			return "", fmt.Errorf("pin-source: %s does not hold a PIN of 1 to %d bytes", path, maxPIN)
		}
		return pin, nil
	})
}

func openKeyFile(uri, baseDir string) (crypto.Signer, error) {
	path, err := KeyFile(uri, baseDir)
	if err != nil {
		return nil, err
	}
	data, err := files.ReadSecret(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	return parseKey(path, data)
}

func parseKey(path string, data []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", path)
	}
	if block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds %q, not an unencrypted PKCS#8 PRIVATE KEY", path, block.Type)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s holds more than one key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, which cannot sign", path, key)
	}
	return signer, nil
}

// WriteKey writes a key to a new file that only its owner may read, as PKCS#8 PEM, and makes it
// durable. It never replaces a file: a key that is written over is lost.
func WriteKey(path string, key crypto.Signer) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	err = errors.Join(pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), file.Sync(), file.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("write key: %w", err), os.Remove(path))
	}
	return nil
}
