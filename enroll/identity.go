package enroll

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/attest"
	"assay/credential"
)

// identityVersion is the version of identity.json.
const identityVersion = 1

// Files of an identity's folder.
const (
	keyFile      = "key.pem"
	chainFile    = "chain.pem"
	metadataFile = "identity.json"
)

// maxIdentityFile is the largest file, in bytes, that is read back.
const maxIdentityFile = 1 << 20

// Identity is a device key with its certificate, as identity.json describes it. The one-time code
// is kept as its hash only.
type Identity struct {
	Version          int         `json:"version"`
	ID               string      `json:"id"`         // name of its folder
	Credential       string      `json:"credential"` // see CredentialID
	DirectoryURL     string      `json:"directoryURL"`
	OrderURL         string      `json:"orderURL"`
	Device           Device      `json:"device"`
	Key              KeySpec     `json:"key"`
	Protection       Protection  `json:"protection"`
	Evidence         attest.Kind `json:"evidence"`
	Serial           string      `json:"serial"`  // the certificate's, lower-case hex
	Subject          string      `json:"subject"` // for people
	Issuer           string      `json:"issuer"`  // for people
	NotBefore        time.Time   `json:"notBefore"`
	NotAfter         time.Time   `json:"notAfter"`
	CertificateSHA   string      `json:"certificateSHA256"`
	EnrolledAt       time.Time   `json:"enrolledAt"`
	EnrolmentSeconds float64     `json:"enrolmentSeconds"` // from first contact to certificate

	dir string
}

// Path returns the identity's folder.
func (i *Identity) Path() string { return i.dir }

// CredentialID tells documents apart without showing the one-time code: hex of a hash over directory
// and ClientIdentifier. Documents with equal IDs ask for the same identity.
func CredentialID(c *credential.Credential) string {
	sum := sha256.Sum256([]byte(c.DirectoryURL + "\x00" + c.ClientIdentifier))
	return hex.EncodeToString(sum[:16])
}

// Store keeps identities, a folder each: key.pem (mode 0600), chain.pem as the server sent it, and
// identity.json. A folder appears complete or not at all.
type Store struct {
	dir string
	now func() time.Time
}

// OpenStore uses a folder as store and makes it if need be, closed to other users. A nil now is
// the system's clock.
func OpenStore(dir string, now func() time.Time) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open identity store: %w", err)
	}
	if now == nil {
		now = time.Now
	}
	return &Store{dir: dir, now: now}, nil
}

// ExistsError refuses to overwrite an identity.
type ExistsError struct{ Existing *Identity }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("identity %s exists already and is valid until %s", e.Existing.ID, e.Existing.NotAfter.UTC().Format(time.RFC3339))
}

// Existing returns the identity that a device holds for a document, or nil. A device that has one
// does not enrol again.
func (s *Store) Existing(device *Device, document *credential.Credential) (*Identity, error) {
	identity, err := s.Load(identityID(device, document))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return identity, err
}

// Save stores a new identity. If the device holds one for the document already, Save refuses with an
// *ExistsError; with replace it moves the old one aside, into a folder whose name ends in
// ".replaced-" and the time.
func (s *Store) Save(result *Result, replace bool) (*Identity, error) {
	identity := s.describe(result)
	final := filepath.Join(s.dir, identity.ID)
	fresh, err := s.write(identity, result)
	if err != nil {
		return nil, fmt.Errorf("save identity: %w", err)
	}
	defer os.RemoveAll(fresh)

	aside := ""
	if replace {
		aside = final + ".replaced-" + s.now().UTC().Format("20060102T150405.000000000Z")
		if err := os.Rename(final, aside); errors.Is(err, fs.ErrNotExist) {
			aside = ""
		} else if err != nil {
			return nil, fmt.Errorf("save identity: move the old one aside: %w", err)
		}
	}
	// Renaming onto a folder that is not empty fails, so two runs cannot overwrite each other.
	if err := os.Rename(fresh, final); err != nil {
		if aside != "" {
			return nil, errors.Join(fmt.Errorf("save identity: %w", err), os.Rename(aside, final))
		}
		if existing, loadErr := s.Load(identity.ID); loadErr == nil {
			return nil, &ExistsError{Existing: existing}
		}
		return nil, fmt.Errorf("save identity: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return nil, fmt.Errorf("save identity: %w", err)
	}
	identity.dir = final
	return identity, nil
}

// SetAside does with an identity what a device does with one that it is to have no more: it is not
// found again. Its folder stays, under a name that ends in ".removed-" and the time.
func (s *Store) SetAside(identity *Identity) error {
	aside := identity.dir + ".removed-" + s.now().UTC().Format("20060102T150405.000000000Z")
	if err := os.Rename(identity.dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set identity aside: %w", err)
	}
	return syncDir(s.dir)
}

func (s *Store) describe(result *Result) *Identity {
	c, document := result.Certificate, result.Credential
	sum := sha256.Sum256(c.Raw)
	return &Identity{
		Version:          identityVersion,
		ID:               identityID(&result.Device, document),
		Credential:       CredentialID(document),
		DirectoryURL:     document.DirectoryURL,
		OrderURL:         result.OrderURL,
		Device:           result.Device,
		Key:              KeySpec{Type: document.KeyType, Size: document.KeySize, HardwareBound: document.HardwareBound},
		Protection:       result.Key.Protection(),
		Evidence:         result.Evidence,
		Serial:           hex.EncodeToString(c.SerialNumber.Bytes()),
		Subject:          c.Subject.String(),
		Issuer:           c.Issuer.String(),
		NotBefore:        c.NotBefore.UTC(),
		NotAfter:         c.NotAfter.UTC(),
		CertificateSHA:   hex.EncodeToString(sum[:]),
		EnrolledAt:       s.now().UTC(),
		EnrolmentSeconds: result.Took.Seconds(),
	}
}

// identityID names the folder: the device's serial number, as far as it fits a file name, and a
// hash of all that tells identities apart.
func identityID(device *Device, document *credential.Credential) string {
	sum := sha256.Sum256([]byte(device.Serial + "\x00" + device.UDID + "\x00" + CredentialID(document)))
	plain := strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return -1
	}, device.Serial)
	return cmp.Or(plain[:min(len(plain), 32)], "device") + "-" + hex.EncodeToString(sum[:6])
}

// write makes the complete folder under a temporary name, on disk.
func (s *Store) write(identity *Identity, result *Result) (dir string, err error) {
	handle, err := result.Key.Handle()
	if err != nil {
		return "", err
	}
	metadata, err := json.MarshalIndent(identity, "", "  ")
	if err != nil {
		return "", err
	}
	dir, err = os.MkdirTemp(s.dir, ".new-") // mode 0700
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	for _, file := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{keyFile, pem.EncodeToMemory(handle), 0o600},
		{chainFile, result.Chain, 0o644},
		{metadataFile, append(metadata, '\n'), 0o644},
	} {
		if err := writeSynced(filepath.Join(dir, file.name), file.data, file.mode); err != nil {
			return "", err
		}
	}
	return dir, syncDir(dir)
}

func writeSynced(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Load reads an identity by its ID. The error is fs.ErrNotExist if there is none.
func (s *Store) Load(id string) (*Identity, error) {
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return nil, fmt.Errorf("load identity: %.60q is no identity's name", id)
	}
	dir := filepath.Join(s.dir, id)
	data, err := readLimited(filepath.Join(dir, metadataFile))
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	identity := &Identity{dir: dir}
	if err := json.Unmarshal(data, identity); err != nil {
		return nil, fmt.Errorf("load identity %s: %w", id, err)
	}
	if identity.Version != identityVersion {
		return nil, fmt.Errorf("load identity %s: version %d is not known", id, identity.Version)
	}
	return identity, nil
}

// Find returns the identities that match: the ID, the certificate's or the device's serial number,
// or CredentialID, newest first; with an empty text all of them. Replaced ones are left out.
func (s *Store) Find(text string) ([]*Identity, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("find identities: %w", err)
	}
	var found []*Identity
	for _, entry := range entries {
		if !entry.IsDir() || strings.Contains(entry.Name(), ".") {
			continue
		}
		identity, err := s.Load(entry.Name())
		if err != nil {
			return nil, err
		}
		if text == "" || slices.Contains([]string{identity.ID, identity.Device.Serial, identity.Credential}, text) ||
			strings.EqualFold(identity.Serial, text) {
			found = append(found, identity)
		}
	}
	slices.SortFunc(found, func(a, b *Identity) int {
		return cmp.Or(b.EnrolledAt.Compare(a.EnrolledAt), strings.Compare(a.ID, b.ID))
	})
	return found, nil
}

// Open reads the identity's chain and its key, which must be the certificate's.
func (i *Identity) Open(keys KeyMaker) (Key, *x509.Certificate, error) {
	chain, err := readLimited(filepath.Join(i.dir, chainFile))
	if err != nil {
		return nil, nil, fmt.Errorf("open identity: %w", err)
	}
	data, err := readLimited(filepath.Join(i.dir, keyFile))
	if err != nil {
		return nil, nil, fmt.Errorf("open identity: %w", err)
	}
	handle, rest := pem.Decode(data)
	if handle == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("open identity: " + keyFile + " is not one PEM block")
	}
	key, err := keys.OpenKey(handle, i.Protection)
	if err != nil {
		return nil, nil, fmt.Errorf("open identity: %w", err)
	}
	certificate, err := firstCertificate(chain, key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("open identity: %w", err)
	}
	return key, certificate, nil
}

func readLimited(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxIdentityFile+1))
	if err == nil && len(data) > maxIdentityFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxIdentityFile)
	}
	return data, err
}
