// Package files reads the files that people name: configuration, keys, certificates, policies, templates, lists.
// It takes regular files only, or links to them. A pipe would be waited for without end, and so keep a server from
// starting; a device can be read without end.
package files

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// MaxPEM is the largest file of keys or certificates that is read, in bytes.
const MaxPEM = 1 << 20

// ErrNotRegular: what is named is no regular file.
var ErrNotRegular = errors.New("it is no regular file: name one that holds the text itself")

// Open opens a regular file for reading, without waiting for anybody. ErrNotRegular if it is something else.
func Open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, ErrNotRegular)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Read reads a regular file of at most limit bytes.
func Read(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return All(f, path, limit)
}

// OpenSecret is Open of a file that others than its owner must not be able to use. The check is made on the open
// file, so that it cannot be exchanged between check and use.
func OpenSecret(path string) (*os.File, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	if err := Private(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Private checks that an open file is a regular one that others than its owner cannot use; name says in errors which.
func Private(f *os.File, name string) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("open %s: %w", name, ErrNotRegular)
	case shared(info):
		return fmt.Errorf("%s can be used by others than its owner (mode %04o): chmod 600 it", name, info.Mode().Perm())
	}
	return nil
}

// ReadSecret is Read of a file that others than its owner must not be able to use.
func ReadSecret(path string, limit int64) ([]byte, error) {
	f, err := OpenSecret(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return All(f, path, limit)
}

// shared reports whether others than its owner may use a file. Windows has no such bits; its access lists are not
// looked at.
func shared(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" }

// All reads at most limit bytes; more are an error, in which name says whose they are.
func All(in io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return data, nil
}

// ErrChanging: the file changed while it was read, so what was read may be half of it.
var ErrChanging = errors.New("it is just being written: it is read once it has stopped changing")

// Steady reads an open file of at most limit bytes, and says how it was found. ErrChanging if it changed meanwhile.
// name is for errors.
func Steady(f fs.File, name string, limit int64) ([]byte, fs.FileInfo, error) {
	before, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := All(f, name, limit)
	if err != nil {
		return nil, nil, err
	}
	after, err := f.Stat()
	if err == nil && !Same(before, after) {
		err = fmt.Errorf("read %s: %w", name, ErrChanging)
	}
	if err != nil {
		return nil, nil, err
	}
	return text, after, nil
}

// Same reports whether two looks found one file unchanged. A look that was not made, nil, is like no other. Size and
// time are not enough: secrets have one length, and the files of a reproducible image one time.
func Same(a, b fs.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// KeyPair reads a certificate chain and its key, PEM, as tls.LoadX509KeyPair does.
func KeyPair(certificate, key string) (tls.Certificate, error) {
	chain, err := Read(certificate, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	secret, err := Read(key, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, secret)
}
