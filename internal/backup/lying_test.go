package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"assay/internal/backup"
	"assay/internal/store"

	"filippo.io/age"
)

// forgery is a backup taken apart: whoever knows a recipient can put it together as he likes.
type forgery struct {
	manifest  map[string]any
	entries   []entry
	plain     bool
	trailing  bool   // something behind the end of the archive
	beginning string // name of the first entry
}

type entry struct {
	header  tar.Header
	content []byte
}

func (f *forgery) file(n int) map[string]any { return f.manifest["files"].([]any)[n].(map[string]any) }

// add adds a file to manifest and archive.
func (f *forgery) add(name string, content []byte) {
	sum := sha256.Sum256(content)
	f.manifest["files"] = append(f.manifest["files"].([]any), map[string]any{
		"path": name, "size": len(content), "sha256": hex.EncodeToString(sum[:]), "mode": 0o600,
	})
	f.entries = append(f.entries, entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o600}, content})
}

func takenApart(t *testing.T, data []byte) *forgery {
	t.Helper()
	plain, err := age.Decrypt(bytes.NewReader(data), identities()...)
	ok(t, err)
	compressed, err := gzip.NewReader(plain)
	ok(t, err)
	archive := tar.NewReader(compressed)
	f := &forgery{beginning: "manifest.json"}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return f
		}
		ok(t, err)
		content, err := io.ReadAll(archive)
		ok(t, err)
		if f.manifest == nil {
			ok(t, json.Unmarshal(content, &f.manifest))
			continue
		}
		f.entries = append(f.entries, entry{*header, content})
	}
}

func (f *forgery) putTogether(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.Writer = &out
	var encrypted io.WriteCloser
	if !f.plain {
		var err error
		encrypted, err = age.Encrypt(&out, key().Recipient())
		ok(t, err)
		w = encrypted
	}
	compressed := gzip.NewWriter(w)
	archive := tar.NewWriter(compressed)
	manifest, err := json.Marshal(f.manifest)
	ok(t, err)
	all := append([]entry{{tar.Header{Typeflag: tar.TypeReg, Name: f.beginning, Size: int64(len(manifest)), Mode: 0o600}, manifest}}, f.entries...)
	for _, e := range all {
		ok(t, archive.WriteHeader(&e.header))
		_, err := archive.Write(e.content)
		ok(t, err)
	}
	ok(t, archive.Close())
	if f.trailing {
		_, err := compressed.Write([]byte("more"))
		ok(t, err)
	}
	ok(t, compressed.Close())
	if encrypted != nil {
		ok(t, encrypted.Close())
	}
	return out.Bytes()
}

// forgeries are backups that age finds whole, and that must not be restored.
var forgeries = map[string]func(*forgery){
	"a file beside the folder":       func(f *forgery) { f.add("../outside", []byte("x")) },
	"a file at an absolute path":     func(f *forgery) { f.add("/tmp/outside", []byte("x")) },
	"a file through a dotted path":   func(f *forgery) { f.add("keys/../../outside", []byte("x")) },
	"a file in the staging folder":   func(f *forgery) { f.add(".restoring/x", []byte("x")) },
	"a file twice":                   func(f *forgery) { f.add("assay.yaml", []byte("x")) },
	"a file with changed content":    func(f *forgery) { f.entries[1].content[0] ^= 1 },
	"a file with another hash":       func(f *forgery) { f.file(1)["sha256"] = hex.EncodeToString(make([]byte, 32)) },
	"a file without a hash":          func(f *forgery) { f.file(1)["sha256"] = "" },
	"a file of another size":         func(f *forgery) { f.file(1)["size"] = 7 },
	"a file of a negative size":      func(f *forgery) { f.file(1)["size"] = -1 },
	"a file that is too large":       func(f *forgery) { f.file(1)["size"] = 1 << 30 },
	"a missing file":                 func(f *forgery) { f.entries = f.entries[:len(f.entries)-1] },
	"a file that the manifest lacks": func(f *forgery) { f.manifest["files"] = f.manifest["files"].([]any)[:5] },
	"files in another order":         func(f *forgery) { f.entries[1], f.entries[2] = f.entries[2], f.entries[1] },
	"a file under another name":      func(f *forgery) { f.entries[1].header.Name = "other.yaml" },
	"a symbolic link": func(f *forgery) {
		f.add("certs/link.pem", nil)
		f.entries[len(f.entries)-1].header = tar.Header{Typeflag: tar.TypeSymlink, Name: "certs/link.pem", Linkname: "/etc/passwd"}
	},
	"no configuration":                   func(f *forgery) { f.file(1)["path"], f.entries[1].header.Name = "other.yaml", "other.yaml" },
	"no database":                        func(f *forgery) { f.file(0)["path"], f.entries[0].header.Name = "other.db", "other.db" },
	"no manifest":                        func(f *forgery) { f.beginning = "other.json" },
	"something behind the end":           func(f *forgery) { f.trailing = true },
	"keys without encryption":            func(f *forgery) { f.plain = true },
	"a newer form":                       func(f *forgery) { f.manifest["format"] = 2 },
	"a newer schema":                     func(f *forgery) { f.manifest["schema"] = 1000 },
	"another schema than the database's": func(f *forgery) { f.manifest["schema"] = 1 },
	"other rows than the database's":     func(f *forgery) { f.manifest["rows"].(map[string]any)["codes"] = 7 },
}

func TestForgedBackupIsRefused(t *testing.T) {
	data, _ := taken(t, initialized(t))
	// Put together again as it was, it is a backup: the forgeries are refused for what they change.
	if _, err := restore(t, takenApart(t, data).putTogether(t), filepath.Join(t.TempDir(), "new")); err != nil {
		t.Fatal(err)
	}
	for name, change := range forgeries {
		t.Run(name, func(t *testing.T) {
			f := takenApart(t, data)
			change(f)
			parent := t.TempDir()
			_, err := restore(t, f.putTogether(t), filepath.Join(parent, "new"))
			if _, is := errors.AsType[*backup.Unusable](err); !is {
				t.Errorf("error %v", err)
			}
			left, err := os.ReadDir(parent)
			ok(t, err)
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestNewerBackupNamesTheProgramThatReadsIt(t *testing.T) {
	data, _ := taken(t, initialized(t))
	f := takenApart(t, data)
	newest, err := store.SupportedSchema()
	ok(t, err)
	f.manifest["schema"], f.manifest["program"] = newest+1, "v9.9.9"
	_, err = restore(t, f.putTogether(t), filepath.Join(t.TempDir(), "new"))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("v9.9.9")) {
		t.Errorf("error %v", err)
	}
}

func TestNoModeOfABackupOpensAKey(t *testing.T) {
	data, _ := taken(t, initialized(t))
	f := takenApart(t, data)
	for n := range f.entries {
		f.file(n)["mode"], f.entries[n].header.Mode = 0o4777, 0o4777
	}
	dir, _ := restored(t, f.putTogether(t))
	ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		ok(t, err)
		if mode := info.Mode(); mode&(fs.ModeSetuid|0o022) != 0 || filepath.Base(filepath.Dir(path)) == "keys" && mode.Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, mode)
		}
		return nil
	}))
}
