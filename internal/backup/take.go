package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"assay/internal/installation"
	"assay/internal/store"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// snapshotFile is the copy of the database, in the folder, while it is written to a backup: there it is
// as safe as the database itself. Its lock is how two backups of a folder keep out of each other's way,
// and one that a crash left behind is written over.
const snapshotFile = installation.DatabaseFile + ".backup"

// Options says how a backup is taken.
type Options struct {
	// Recipients can open the backup. None: it is not encrypted, which only one without keys may be.
	Recipients []age.Recipient
	// NoKeys leaves private keys out. A backup without keys cannot be served without them.
	NoKeys   bool
	Program  string // the program's version, for the manifest
	Now      func() time.Time
	Progress func(Progress) // may be nil
}

// Take writes a backup of the installation in dir, whose server may be running: it is held up for no
// longer than any reader would.
func Take(ctx context.Context, dir string, w io.Writer, o Options) (*Manifest, error) {
	if len(o.Recipients) == 0 && !o.NoKeys {
		return nil, errors.New("back up: the keys of the installation are never written unencrypted")
	}
	m, err := take(ctx, dir, w, o)
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", dir, err)
	}
	return m, nil
}

func take(ctx context.Context, dir string, w io.Writer, o Options) (m *Manifest, err error) {
	config, err := installation.LoadConfig(dir)
	if err != nil {
		return nil, err
	}
	m = &Manifest{Format: Format, Program: o.Program, Name: config.Name, TakenAt: o.Now().UTC(), Keys: !o.NoKeys, NotCopied: []NotCopied{}}
	database, err := takeDatabase(ctx, dir, config.DatabaseLocation(dir), o.report)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.remove()) }()
	// After the database: what it names was there before.
	folder, err := collect(ctx, dir, config, database.about.IssuerKeys, o.NoKeys)
	if err != nil {
		return nil, err
	}
	m.Schema, m.Rows = database.about.Schema, database.about.Rows
	m.Files = append([]File{database.file}, folder.files...)
	m.NotCopied = append(m.NotCopied, folder.notCopied...)
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("the folder cannot be backed up: %w", err)
	}
	return m, o.write(ctx, w, m, database, folder)
}

func (o *Options) report(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// database is a copy of the database at one moment.
type database struct {
	path  string
	lock  *os.File // of the copy
	file  File
	about store.Snapshot
}

func takeDatabase(ctx context.Context, dir, location string, report func(Progress)) (_ *database, err error) {
	d := &database{path: filepath.Join(dir, snapshotFile)}
	if d.lock, err = lockSnapshot(d.path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.remove())
		}
	}()
	report(Progress{Step: StepSnapshot})
	if err := store.TakeSnapshot(ctx, location, d.path); err != nil {
		return nil, err
	}
	report(Progress{Step: StepCount})
	if d.about, err = store.Describe(ctx, d.path); err != nil {
		return nil, err
	}
	copied, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer copied.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, &interruptible{ctx, copied})
	if err != nil {
		return nil, err
	}
	d.file = File{Path: installation.DatabaseFile, Size: n, SHA256: hex.EncodeToString(hash.Sum(nil)), Mode: 0o600}
	return d, nil
}

// lockSnapshot opens the file for the copy, empty, and keeps others from it until it is closed.
func lockSnapshot(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: another backup of the folder is being taken: %w", path, err), f.Close())
		}
		// Whoever had the lock may have removed the file between our opening and our locking it.
		here, err := os.Stat(path)
		mine, statErr := f.Stat()
		if err == nil && statErr == nil && os.SameFile(here, mine) {
			if err := f.Truncate(0); err != nil { // what a crash left behind
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// remove removes the copy, and then lets the next backup begin.
func (d *database) remove() error {
	return errors.Join(os.Remove(d.path), d.lock.Close())
}

// write writes the manifest and what it names.
func (o *Options) write(ctx context.Context, w io.Writer, m *Manifest, d *database, folder *collected) error {
	out := w
	var encrypted io.WriteCloser
	if len(o.Recipients) > 0 {
		var err error
		if encrypted, err = age.Encrypt(w, o.Recipients...); err != nil {
			return fmt.Errorf("encrypt: %w", err)
		}
		out = encrypted
	}
	compressed := gzip.NewWriter(out)
	archive := tar.NewWriter(compressed)
	if err := o.entries(ctx, archive, m, d, folder); err != nil {
		return err
	}
	err := errors.Join(archive.Close(), compressed.Close())
	if encrypted != nil {
		err = errors.Join(err, encrypted.Close())
	}
	return err
}

func (o *Options) entries(ctx context.Context, archive *tar.Writer, m *Manifest, d *database, folder *collected) error {
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if len(manifest) > maxManifest {
		return fmt.Errorf("the manifest is larger than %d MiB: the folder has too many files", maxManifest>>20)
	}
	if err := add(archive, m, File{Path: manifestName, Size: int64(len(manifest)), Mode: 0o600}, bytes.NewReader(manifest)); err != nil {
		return err
	}
	copied, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer copied.Close()
	progress := &counter{total: m.size(), step: StepWrite, report: o.report}
	for _, f := range m.Files {
		var content io.Reader = bytes.NewReader(folder.content[f.Path])
		if f.Path == installation.DatabaseFile {
			content = copied
		}
		if err := add(archive, m, f, io.TeeReader(&interruptible{ctx, content}, progress)); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

func add(archive *tar.Writer, m *Manifest, f File, content io.Reader) error {
	err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Size: f.Size, Mode: int64(f.Mode.Perm()), ModTime: m.TakenAt.Truncate(time.Second)})
	if err != nil {
		return err
	}
	_, err = io.Copy(archive, content)
	return err
}

// counter reports how many bytes went by.
type counter struct {
	done, total int64
	step        Step
	report      func(Progress)
}

func (c *counter) Write(p []byte) (int, error) {
	c.done += int64(len(p))
	c.report(Progress{Step: c.step, Done: c.done, Total: c.total})
	return len(p), nil
}

// interruptible is a reader that ends with a context.
type interruptible struct {
	ctx context.Context
	in  io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.in.Read(p)
}
