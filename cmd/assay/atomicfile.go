package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// atomicFile is a file that appears whole under its name, or not at all.
type atomicFile struct {
	*os.File
	name string
}

// createAtomic begins a file for its owner only, beside its name; a file of that name stays until
// publish replaces it.
func createAtomic(name string) (*atomicFile, error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.tmp")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	return &atomicFile{f, name}, nil
}

// publish puts the file under its name. discard does nothing afterwards.
func (f *atomicFile) publish() error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), f.name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, errors.Join(err, os.Remove(f.Name())))
	}
	f.File = nil
	return nil
}

// discard throws the file away unless it was published.
func (f *atomicFile) discard() {
	if f.File != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		f.File = nil
	}
}

// writeAtomic writes a whole file for its owner only, in place of any other.
func writeAtomic(name string, data []byte) error {
	f, err := createAtomic(name)
	if err != nil {
		return err
	}
	defer f.discard()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.publish()
}
