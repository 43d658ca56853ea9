package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// How an encrypted backup, and one that is not, begins.
const (
	ageIntro  = "age-encryption.org/v1\n"
	gzipIntro = "\x1f\x8b"
	// scryptIntro is the first recipient of a file that a passphrase opens.
	scryptIntro = "-> scrypt "
)

// Protection is what a backup is encrypted to.
type Protection string

// Protections.
const (
	ByPassphrase Protection = "passphrase"
	ByRecipients Protection = "recipients"
	Unprotected  Protection = "none"
)

// ProtectionOf looks at the beginning of a backup.
func ProtectionOf(in *bufio.Reader) (Protection, error) {
	begin, err := in.Peek(len(ageIntro) + len(scryptIntro))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case bytes.HasPrefix(begin, []byte(ageIntro+scryptIntro)):
		return ByPassphrase, nil
	case bytes.HasPrefix(begin, []byte(ageIntro)):
		return ByRecipients, nil
	case bytes.HasPrefix(begin, []byte(gzipIntro)):
		return Unprotected, nil
	}
	return "", unusable("the file is no backup of Assay")
}

// Verify reads a whole backup and checks every file in it, and puts nothing anywhere.
func Verify(ctx context.Context, in io.Reader, identities []age.Identity, progress func(Progress)) (*Manifest, error) {
	nowhere := func(_ File, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	}
	m, err := read(ctx, in, identities, progress, func(*Manifest) error { return nil }, nowhere)
	if err != nil {
		return nil, fmt.Errorf("verify backup: %w", err)
	}
	return m, nil
}

// source remembers that reading the file itself failed: then nothing is known of the backup.
type source struct {
	ctx context.Context
	in  io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// read reads a backup: begin gets the manifest, put every file, whose content fails unless it is what the
// manifest says. Nothing of it may be relied on before read returns without an error: only then is it known
// that nothing is missing. Faults of the backup are *Unusable.
func read(ctx context.Context, in io.Reader, identities []age.Identity, progress func(Progress), begin func(*Manifest) error, put func(File, io.Reader) error) (*Manifest, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	s := &source{ctx: ctx, in: in}
	buffered := bufio.NewReader(s)
	m, err := readProtected(buffered, identities, progress, begin, put)
	if s.err != nil {
		return nil, fmt.Errorf("read backup: %w", s.err)
	}
	return m, err
}

func readProtected(in *bufio.Reader, identities []age.Identity, progress func(Progress), begin func(*Manifest) error, put func(File, io.Reader) error) (*Manifest, error) {
	protection, err := ProtectionOf(in)
	if err != nil {
		return nil, err
	}
	plain := in
	if protection != Unprotected {
		opened, err := age.Decrypt(in, identities...)
		if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
			return nil, &Unusable{ErrWrongKey}
		} else if err != nil {
			return nil, unusable("its header is damaged: %w", err)
		}
		plain = bufio.NewReader(opened)
	}
	compressed, err := gzip.NewReader(plain)
	if err != nil {
		return nil, unusable("it is damaged: %w", err)
	}
	compressed.Multistream(false)
	archive := tar.NewReader(compressed)
	m, err := readManifest(archive)
	if err != nil {
		return nil, err
	}
	if m.Keys && protection == Unprotected {
		return nil, unusable("it says that it holds keys, but it is not encrypted: no Assay wrote it")
	}
	if err := begin(m); err != nil {
		return nil, err
	}
	total := &counter{total: m.size(), step: StepRead, report: progress}
	for _, f := range m.Files {
		if err := readFile(archive, f, total, put); err != nil {
			return nil, err
		}
	}
	return m, readEnd(archive, compressed, plain)
}

func readManifest(archive *tar.Reader) (*Manifest, error) {
	header, err := archive.Next()
	if err != nil {
		return nil, unusable("it is damaged: %w", err)
	}
	if header.Name != manifestName || header.Typeflag != tar.TypeReg || header.Size > maxManifest {
		return nil, unusable("it does not begin with a manifest")
	}
	data, err := io.ReadAll(archive)
	if err != nil {
		return nil, unusable("it is damaged: %w", err)
	}
	return parseManifest(data)
}

// readFile reads the next file, which must be this one.
func readFile(archive *tar.Reader, f File, total *counter, put func(File, io.Reader) error) error {
	header, err := archive.Next()
	if errors.Is(err, io.EOF) {
		return unusable("%s is missing", f.Path)
	} else if err != nil {
		return unusable("it is damaged before %s: %w", f.Path, err)
	}
	if header.Name != f.Path || header.Typeflag != tar.TypeReg || header.Size != f.Size {
		return unusable("where %s should be, there is something else", f.Path)
	}
	hash := sha256.New()
	content := &damaged{in: io.TeeReader(archive, io.MultiWriter(hash, total))}
	err = put(f, content)
	if content.err != nil {
		return unusable("%s is damaged: %w", f.Path, content.err)
	}
	if err != nil {
		return err
	}
	// What is not what the manifest says was changed after it was hashed.
	if hex.EncodeToString(hash.Sum(nil)) != f.SHA256 {
		return unusable("%s is not what the manifest says: its SHA-256 differs", f.Path)
	}
	return nil
}

// damaged remembers that reading failed, to tell it from writing.
type damaged struct {
	in  io.Reader
	err error
}

func (d *damaged) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		d.err = err
	}
	return n, err
}

// readEnd reads to the very end: what is cut off there, or added, is a fault, too.
func readEnd(archive *tar.Reader, compressed io.Reader, plain io.Reader) error {
	if _, err := archive.Next(); err == nil {
		return unusable("it holds more files than its manifest names")
	} else if !errors.Is(err, io.EOF) {
		return unusable("it is damaged at its end: %w", err)
	}
	for _, layer := range []io.Reader{compressed, plain} {
		n, err := io.Copy(io.Discard, io.LimitReader(layer, 1))
		if err != nil {
			return unusable("it is damaged at its end: %w", err)
		}
		if n > 0 {
			return unusable("something follows its end")
		}
	}
	return nil
}
