package files

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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

// written is a file to which more is written once it was read.
type written struct {
	*os.File
	more string
}

func (w *written) Read(p []byte) (int, error) {
	n, err := w.File.Read(p)
	if err == io.EOF && w.more != "" {
		if err := os.WriteFile(w.Name(), []byte(w.more), 0o600); err != nil {
			return n, err
		}
	}
	return n, err
}

func TestAFileThatIsWrittenWhileItIsReadIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]error{"": nil, "half a file": ErrChanging} {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		text, info, err := Steady(&written{f, more}, path, 100)
		if !errors.Is(err, want) || want == nil && (string(text) != "half" || info.Size() != 4) || want != nil && text != nil {
			t.Errorf("%q, %v", text, err)
		}
		if err := errors.Join(f.Close(), os.WriteFile(path, []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFileInPlaceOfAnotherIsNotTheSame(t *testing.T) {
	dir, when := t.TempDir(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	look := func(name, text string, modified time.Time) fs.FileInfo {
		path := filepath.Join(dir, name)
		err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, modified, modified))
		info, statErr := os.Stat(path)
		if err := errors.Join(err, statErr); err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := look("a", "one", when)
	for name, c := range map[string]struct {
		other fs.FileInfo
		want  bool
	}{
		"unchanged": {look("a", "one", when), true}, "size": {look("a", "three", when), false}, "time": {look("a", "one", when.Add(1)), false},
		"another file": {look("b", "two", when), false}, "none": {nil, false},
	} {
		if Same(first, c.other) != c.want || Same(c.other, first) != c.want {
			t.Errorf("%s: not %v", name, c.want)
		}
	}
}
