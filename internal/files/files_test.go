package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(path("file"), []byte("text"), 0o600), os.Symlink("file", path("link")), syscall.Mkfifo(path("pipe"), 0o600),
		os.Symlink("pipe", path("link-to-pipe"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"file": nil, "link": nil, "pipe": ErrNotRegular, "link-to-pipe": ErrNotRegular, ".": ErrNotRegular, "none": fs.ErrNotExist,
	} {
		text, err := Read(path(name), 4) // a pipe that is waited for fails the test by its timeout
		if !errors.Is(err, want) || want == nil && string(text) != "text" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if _, err := ReadSecret(path(name), 4); !errors.Is(err, want) {
			t.Errorf("%s as a secret: %v", name, err)
		}
		if _, err := KeyPair(path(name), path("file")); want != nil && !errors.Is(err, want) {
			t.Errorf("%s as a certificate: %v", name, err)
		}
	}
	if _, err := Read("/dev/zero", 4); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a device: %v", err)
	}
	if _, err := KeyPair(path("file"), path("pipe")); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a pipe as a key: %v", err)
	}
}

func TestReadsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, read := range []func(string, int64) ([]byte, error){Read, ReadSecret} {
		if text, err := read(path, 5); err != nil || string(text) != "12345" {
			t.Errorf("%q, %v", text, err)
		}
		if _, err := read(path, 4); err == nil || !strings.Contains(err.Error(), "larger than 4 bytes") {
			t.Errorf("too large: %v", err)
		}
	}
}

func TestSecretsAreTheirOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for mode, fine := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSecret(path, 1); (err == nil) != fine {
			t.Errorf("mode %04o: %v", mode, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
