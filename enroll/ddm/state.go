package ddm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	stateVersion = 1
	stateFile    = "state.json"
	maxState     = 64 << 20 // bytes
)

// memory is what a device remembers between runs.
type memory struct {
	Version           int                     `json:"version"`
	MDM               string                  `json:"mdm,omitempty"` // ServerURL that it is enrolled with
	DeclarationsToken string                  `json:"declarationsToken,omitempty"`
	Declarations      map[string]*Declaration `json:"declarations"` // by Identifier
	Held              map[string]Identity     `json:"held"`         // by the asset's Identifier
	Reported          map[string]string       `json:"reported"`     // by status item: what was last reported, as JSON; empty: nothing yet
}

// Identity is an identity that a device holds for an asset.
type Identity struct {
	ServerToken string `json:"serverToken"` // of the asset that it was enrolled for
	ID          string `json:"id"`          // of the identity in the device's store
	Certificate []byte `json:"certificate"` // DER
}

// Folder is where a device keeps what it remembers. Each device has its own.
type Folder struct {
	path   string
	memory memory
}

// OpenFolder reads a device's folder, and makes it if need be, closed to other users: declarations
// hold the secret URLs of documents.
func OpenFolder(path string) (*Folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open device folder: %w", err)
	}
	f := &Folder{path: path}
	file, err := os.Open(filepath.Join(path, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		f.memory.Version = stateVersion
		f.memory.fill()
		return f, nil
	} else if err != nil {
		return nil, fmt.Errorf("open device folder: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("open device folder: %w", err)
	}
	if len(data) > maxState {
		return nil, fmt.Errorf("open device folder: %s is larger than %d bytes", stateFile, maxState)
	}
	if err := json.Unmarshal(data, &f.memory); err != nil {
		return nil, fmt.Errorf("open device folder: %s: %w", stateFile, err)
	}
	if f.memory.Version != stateVersion {
		return nil, fmt.Errorf("open device folder: version %d of %s is not known", f.memory.Version, stateFile)
	}
	f.memory.fill()
	return f, nil
}

func (m *memory) fill() {
	if m.Declarations == nil {
		m.Declarations = map[string]*Declaration{}
	}
	if m.Held == nil {
		m.Held = map[string]Identity{}
	}
	if m.Reported == nil {
		m.Reported = map[string]string{}
	}
}

// save writes the memory as a whole or not at all.
func (f *Folder) save() (err error) {
	data, err := json.MarshalIndent(&f.memory, "", "  ")
	if err != nil {
		return fmt.Errorf("save device folder: %w", err)
	}
	fresh, err := os.CreateTemp(f.path, ".state-") // mode 0600
	if err != nil {
		return fmt.Errorf("save device folder: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(fresh.Name())
			err = fmt.Errorf("save device folder: %w", err)
		}
	}()
	_, err = fresh.Write(append(data, '\n'))
	if err := errors.Join(err, fresh.Sync(), fresh.Close()); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), filepath.Join(f.path, stateFile))
}
