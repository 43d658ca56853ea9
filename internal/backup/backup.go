// Package backup takes an installation into one encrypted file, and makes an installation of such a file
// again, whichever engine keeps the database of either: in the file it is SQLite's.
//
// A backup is a tar, compressed by gzip, encrypted as a whole by age: to a passphrase, or to recipients
// whose identities need not be on the server. Its first entry is the manifest, which names every other
// entry with its size and SHA-256; then comes the database, copied as it was at one moment while the
// server went on, then the files of the folder, all read after that moment: whatever the database names
// is there. Keys that are elsewhere are named, never copied.
//
// It refuses to write keys unencrypted, and to restore a file that is cut, changed, of a newer Assay, or
// into a folder with anything in it. Restore puts nothing in place before every hash was checked, and
// then makes what was restored safe to serve (store.MarkRestored).
//
// WARNING: age proves that a file is whole, not who wrote it: whoever knows a recipient can make a backup
// for it. Compare the file's SHA-256 with one that was kept elsewhere, or trust where the file was kept.
package backup

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"assay/internal/installation"
	"assay/internal/store"

	"filippo.io/age"
)

// Format is the version of the form that this program writes and reads.
const Format = 1

// Limits of a backup. The database may have any size.
const (
	maxManifest = 16 << 20
	maxFiles    = 20_000
	maxFile     = 64 << 20  // one file of the folder
	maxFolder   = 256 << 20 // all of them: they are held in memory while the backup is written
)

const manifestName = "manifest.json"

// Manifest says what a backup holds.
type Manifest struct {
	Format    int              `json:"format"`
	Program   string           `json:"program"` // version that wrote it
	Name      string           `json:"name"`    // the organisation's
	TakenAt   time.Time        `json:"takenAt"`
	Schema    int64            `json:"schema"`
	Keys      bool             `json:"keys"` // whether private keys are in it
	Files     []File           `json:"files"`
	Rows      map[string]int64 `json:"rows"` // of the database, by table
	NotCopied []NotCopied      `json:"notCopied"`
}

// File is one file of a backup.
type File struct {
	Path   string      `json:"path"` // relative to the folder, with slashes
	Size   int64       `json:"size"`
	SHA256 string      `json:"sha256"`
	Mode   fs.FileMode `json:"mode"` // permissions
}

// NotCopied is something that the installation needs, or that lies in its folder, and is not in the backup.
type NotCopied struct {
	Use   string `json:"use"`   // what names it, such as tls.key
	Where string `json:"where"` // path or URI
	Why   string `json:"why"`
}

// Step is what a backup or restore is at.
type Step string

// Steps, in their order.
const (
	StepSnapshot Step = "copying the database"
	StepCount    Step = "checking the copy"
	StepWrite    Step = "writing"
	StepRead     Step = "reading and checking"
	StepSafe     Step = "making it safe to serve"
	StepCopy     Step = "copying the rows into the new database"
	StepPlace    Step = "putting it in place"
)

// Progress is how far a backup or restore is, in bytes; Total 0 where it is not known.
type Progress struct {
	Step        Step
	Done, Total int64
}

// Unusable is a backup that cannot be used: cut, changed, for another key, or made by a newer Assay.
type Unusable struct{ Err error }

func (e *Unusable) Error() string { return "the backup cannot be used: " + e.Err.Error() }
func (e *Unusable) Unwrap() error { return e.Err }

func unusable(format string, args ...any) error {
	return &Unusable{fmt.Errorf(format, args...)}
}

// ErrWrongKey: the passphrase or the identity is not one that the backup was encrypted to.
var ErrWrongKey = errors.New("it does not open with this passphrase or identity")

// check refuses a manifest that this program did not write.
func (m *Manifest) check() error {
	if len(m.Files) > maxFiles {
		return fmt.Errorf("its manifest names %d files, but the limit is %d", len(m.Files), maxFiles)
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if err := f.check(); err != nil {
			return fmt.Errorf("its manifest names %q: %w", f.Path, err)
		}
		if seen[f.Path] {
			return fmt.Errorf("its manifest names %q twice", f.Path)
		}
		seen[f.Path] = true
	}
	for _, needed := range []string{installation.ConfigFile, installation.DatabaseFile} {
		if !seen[needed] {
			return fmt.Errorf("its manifest names no %s", needed)
		}
	}
	return nil
}

func (f *File) check() error {
	// A path that leaves the folder would let a backup write anywhere.
	if !fs.ValidPath(f.Path) || !filepath.IsLocal(f.Path) || f.Path == "." || strings.ContainsAny(f.Path, "\\\x00") {
		return errors.New("the path does not stay in the folder")
	}
	if top, _, _ := strings.Cut(f.Path, "/"); top == stagingFolder || top == manifestName {
		return errors.New("the path is one that restoring needs itself")
	}
	if f.Size < 0 || f.Path != installation.DatabaseFile && f.Size > maxFile {
		return fmt.Errorf("its size of %d bytes is not in 0..%d", f.Size, maxFile)
	}
	if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != 32 {
		return errors.New("it has no SHA-256")
	}
	return nil
}

// checkVersion refuses what a newer Assay wrote.
func (m *Manifest) checkVersion() error {
	if m.Format != Format {
		return unusable("its form has version %d, and this program reads %d: use the Assay that wrote it (%s)", m.Format, Format, m.Program)
	}
	newest, err := store.SupportedSchema()
	if err != nil {
		return err
	}
	if m.Schema > newest {
		return unusable("its database has schema version %d, and this program knows versions up to %d: use the Assay that wrote it (%s), or a newer one", m.Schema, newest, m.Program)
	}
	return nil
}

// size is how many bytes the files have together.
func (m *Manifest) size() (total int64) {
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

// parseManifest reads a manifest. Of another version's fields nothing can be said, so that comes first.
func parseManifest(data []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, unusable("its manifest cannot be read: %w", err)
	}
	if err := m.checkVersion(); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, &Unusable{err}
	}
	return m, nil
}

// MinPassphrase is the shortest passphrase, in bytes, that NewPassphrase takes: a backup can be tried at
// leisure by whoever gets hold of it.
const MinPassphrase = 16

// NewPassphrase is a passphrase as a recipient of new backups.
func NewPassphrase(passphrase string) (age.Recipient, error) {
	if len(passphrase) < MinPassphrase {
		return nil, fmt.Errorf("the passphrase has %d bytes; at least %d are needed: a backup holds the keys of the CA, and can be tried at leisure by whoever gets hold of it", len(passphrase), MinPassphrase)
	}
	return age.NewScryptRecipient(passphrase)
}

// ParseRecipients reads recipients, one a line (age1…); empty lines and comments (#) are left out.
func ParseRecipients(text string) ([]age.Recipient, error) {
	recipients, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read recipients: %w", err)
	}
	return recipients, nil
}

// ParseIdentities reads an age identity file (AGE-SECRET-KEY-1…).
func ParseIdentities(text string) ([]age.Identity, error) {
	identities, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	return identities, nil
}

// Passphrase is a passphrase as an identity that opens backups.
func Passphrase(passphrase string) (age.Identity, error) { return age.NewScryptIdentity(passphrase) }
