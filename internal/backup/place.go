package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"assay/internal/installation"

	"golang.org/x/sys/unix"
)

// stagingFolder holds, within the folder that is restored into, what is not checked yet.
const stagingFolder = ".restoring"

// placingFile is in the staging folder once all was checked: it lists what is then moved out of it.
const placingFile = ".placing"

// OccupiedError: the folder to restore into is in use.
type OccupiedError struct{ Dir, Name string }

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s is not empty: it has %s; nothing was changed", e.Dir, e.Name)
}

// place is a folder that becomes an installation.
type place struct {
	dir     string
	staging string
	root    *os.Root // of staging: no path leaves it
	lock    *os.File
	isNew   bool
	moved   []string
	done    bool
}

// openPlace takes an empty folder, and makes it if there is none.
func openPlace(dir string) (p *place, err error) {
	p = &place{dir: dir, staging: filepath.Join(dir, stagingFolder)}
	_, err = os.Lstat(dir)
	p.isNew = errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if p.lock, err = os.Open(dir); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(p.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock: another restore into it is running: %w", err), p.lock.Close())
	}
	if err := p.prepare(); err != nil {
		return nil, errors.Join(err, p.lock.Close())
	}
	return p, nil
}

func (p *place) prepare() error {
	if err := p.clearRemains(); err != nil {
		return err
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	// Nothing is ever restored over what somebody has there.
	if len(entries) > 0 {
		return &OccupiedError{p.dir, entries[0].Name()}
	}
	if err := os.Mkdir(p.staging, 0o700); err != nil {
		return err
	}
	p.root, err = os.OpenRoot(p.staging)
	return err
}

// clearRemains removes what an interrupted restore left behind. The folder was empty when that began, so
// what it had moved into place is its own; with the configuration in place it was done.
func (p *place) clearRemains() error {
	if _, err := os.Lstat(p.staging); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(p.dir, installation.ConfigFile)); err == nil {
		return &OccupiedError{p.dir, installation.ConfigFile}
	}
	list, err := os.ReadFile(filepath.Join(p.staging, placingFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		var names []string
		if err := json.Unmarshal(list, &names); err != nil {
			return fmt.Errorf("what an interrupted restore left in %s cannot be told from other files: empty it by hand: %w", p.dir, err)
		}
		for _, name := range names {
			if name != filepath.Base(name) || !filepath.IsLocal(name) {
				return fmt.Errorf("%s names %q: empty %s by hand", placingFile, name, p.dir)
			}
			if err := os.RemoveAll(filepath.Join(p.dir, name)); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(p.staging)
}

// spareSpace is what must stay free beside the files themselves: the database grows while it is made safe.
const spareSpace = 64 << 20

// hasRoomFor refuses a backup that does not fit before it is unpacked.
func (p *place) hasRoomFor(m *Manifest) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(p.staging, &disk); err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	free, size := disk.Bavail*uint64(disk.Bsize), uint64(m.size())
	if size > free || free-size < spareSpace {
		return fmt.Errorf("%d MiB are free there, and the backup needs %d MiB and %d MiB to spare", free>>20, size>>20, spareSpace>>20)
	}
	return nil
}

// put stages one file.
func (p *place) put(f File, content io.Reader) error {
	if folder := path.Dir(f.Path); folder != "." {
		if err := p.root.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	out, err := p.root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, content)
	return errors.Join(err, out.Chmod(modeOf(f)), out.Sync(), out.Close())
}

// modeOf is a file's mode in an installation: its owner's to write, and a key's alone to read.
func modeOf(f File) fs.FileMode {
	if f.Path == installation.DatabaseFile || f.Path == installation.ConfigFile || strings.HasPrefix(f.Path, installation.KeysFolder+"/") {
		return 0o600
	}
	return f.Mode.Perm()&^0o022 | 0o600
}

// publish moves what was staged into place, the configuration last.
func (p *place) publish(ctx context.Context, moving func()) error {
	entries, err := os.ReadDir(p.staging)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != installation.ConfigFile {
			names = append(names, e.Name())
		}
	}
	list, err := json.Marshal(names)
	if err != nil {
		return err
	}
	// Whole or not at all: who clears up after a crash goes by it.
	if err := p.put(File{Path: placingFile + ".new", Mode: 0o600}, strings.NewReader(string(list))); err != nil {
		return err
	}
	if err := p.root.Rename(placingFile+".new", placingFile); err != nil {
		return err
	}
	if err := syncFolders(p.dir); err != nil {
		return err
	}
	for _, name := range names {
		moving()
		if err := ctx.Err(); err != nil {
			return err
		}
		p.moved = append(p.moved, name)
		if err := os.Rename(filepath.Join(p.staging, name), filepath.Join(p.dir, name)); err != nil {
			return err
		}
	}
	moving()
	if err := syncFolders(p.dir); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(p.staging, installation.ConfigFile), filepath.Join(p.dir, installation.ConfigFile)); err != nil {
		return err
	}
	p.done = true
	moving()
	return syncFolders(p.dir)
}

// syncFolders waits until the names of all files under a folder, and its own, are on disk.
func syncFolders(dir string) error {
	folders := []string{filepath.Dir(filepath.Clean(dir))}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			folders = append(folders, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, folder := range folders {
		f, err := os.Open(folder)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", folder, err)
		}
	}
	return nil
}

// close leaves a whole installation or nothing.
func (p *place) close() error {
	err := p.root.Close()
	if !p.done {
		for _, name := range p.moved {
			err = errors.Join(err, os.RemoveAll(filepath.Join(p.dir, name)))
		}
	}
	err = errors.Join(err, os.RemoveAll(p.staging), p.lock.Close())
	if p.isNew && !p.done {
		err = errors.Join(err, os.Remove(p.dir))
	}
	return err
}
