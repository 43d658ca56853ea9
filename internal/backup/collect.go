package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"assay/internal/ca"
	"assay/internal/installation"
	"assay/internal/store"
)

// Why something is not in a backup.
const (
	whyOutside = "outside the folder"
	whyDevice  = "not in a file"
	whyMissing = "missing"
	whyKey     = "a private key, left out as asked"
	whyURL     = "its URL may hold a password, and keys are left out as asked"
	whySpecial = "not a regular file"
	whyLink    = "a symbolic link out of the folder, or to a folder"
)

// collected is the folder as it is written to a backup.
type collected struct {
	files     []File // by path
	content   map[string][]byte
	notCopied []NotCopied
	total     int64
}

// collector reads a folder.
type collector struct {
	root    *os.Root
	taken   []string        // folders that are left out
	secrets map[string]bool // files that the configuration and the issuing CAs name as keys
	noKeys  bool
	url     string // of the database; "" for the file in the folder
	collected
}

// collect reads every file of the folder. What the database and the configuration name elsewhere is noted.
func collect(ctx context.Context, dir string, config *installation.Config, issuerKeys []string, noKeys bool) (*collected, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	c := &collector{root: root, taken: config.TakenLists(), secrets: map[string]bool{}, noKeys: noKeys, url: config.Database}
	c.content = map[string][]byte{}
	named, err := c.named(dir, config, issuerKeys)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) && path != "." {
			return nil // it left since its folder was listed
		}
		if err != nil {
			return err
		}
		return c.visit(path, entry)
	})
	if err != nil {
		return nil, err
	}
	for _, n := range named {
		if _, has := c.content[n.Where]; !has && !c.noted(n.Where) {
			c.notCopied = append(c.notCopied, NotCopied{n.Use, n.Where, whyMissing})
		}
	}
	return &c.collected, nil
}

func (c *collector) noted(where string) bool {
	return slices.ContainsFunc(c.notCopied, func(n NotCopied) bool { return n.Where == where })
}

// named notes what is named elsewhere than in the folder, and returns what should be in it, by path there.
func (c *collector) named(dir string, config *installation.Config, issuerKeys []string) (inside []NotCopied, err error) {
	files := config.NamedFiles(dir)
	for _, uri := range issuerKeys {
		path, err := ca.KeyFile(uri, dir)
		if err != nil {
			return nil, fmt.Errorf("key of an issuing CA: %w", err)
		}
		if path == "" {
			c.notCopied = append(c.notCopied, NotCopied{"key of an issuing CA", uri, whyDevice})
			if path, err = ca.PINFile(uri, dir); err != nil {
				return nil, fmt.Errorf("key of an issuing CA: %w", err)
			}
			if path != "" {
				files = append(files, installation.NamedFile{Use: "PIN of an issuing CA's key", Path: path, Secret: true})
			}
			continue
		}
		files = append(files, installation.NamedFile{Use: "key of an issuing CA", Path: path, Secret: true})
	}
	for _, f := range files {
		path, err := within(dir, f.Path)
		if err != nil {
			return nil, err
		}
		if path == "" {
			c.notCopied = append(c.notCopied, NotCopied{f.Use, f.Path, whyOutside})
			continue
		}
		inside = append(inside, NotCopied{Use: f.Use, Where: path})
		c.secrets[path] = c.secrets[path] || f.Secret
	}
	return inside, nil
}

// within is a path relative to the folder, with slashes; "" for one that is outside.
func within(dir, path string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	relative, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(relative) {
		return "", nil
	}
	return filepath.ToSlash(relative), nil
}

// visit takes one entry of the folder.
func (c *collector) visit(path string, entry fs.DirEntry) error {
	top := !strings.Contains(path, "/")
	switch {
	case path == ".":
		return nil
	case top && (installation.Passing(path) || path == snapshotFile):
		return nil
	case entry.IsDir() && (slices.Contains(c.taken, path) || path == stagingFolder):
		return fs.SkipDir
	case entry.IsDir():
		return nil
	}
	// Follows links within the folder, and refuses to leave it.
	info, err := c.root.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && entry.Type().IsRegular():
		return nil // it left since its folder was listed
	case entry.Type()&fs.ModeSymlink != 0 && (err != nil || !info.Mode().IsRegular()):
		c.notCopied = append(c.notCopied, NotCopied{"", path, whyLink})
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		c.notCopied = append(c.notCopied, NotCopied{"", path, whySpecial})
		return nil
	}
	return c.take(path, info)
}

// take reads one file into memory, so that what is written is what was hashed.
func (c *collector) take(path string, info fs.FileInfo) error {
	f, err := c.root.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxFile {
		return fmt.Errorf("%s is larger than %d MiB: an installation needs no such file; move it out of the folder", path, maxFile>>20)
	}
	if c.noKeys && c.isKey(path, data) {
		c.notCopied = append(c.notCopied, NotCopied{"", path, whyKey})
		return nil
	}
	if c.noKeys && path == installation.ConfigFile {
		if data, err = c.withoutDatabase(data); err != nil {
			return err
		}
	}
	if c.total += int64(len(data)); c.total > maxFolder {
		return fmt.Errorf("the files beside the database are larger than %d MiB together: move what the installation does not need out of the folder", maxFolder>>20)
	}
	if len(c.files) == maxFiles-1 {
		return fmt.Errorf("the folder has more than %d files: move what the installation does not need out of it", maxFiles-1)
	}
	sum := sha256.Sum256(data)
	c.files = append(c.files, File{Path: path, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Mode: info.Mode().Perm()})
	c.content[path] = data
	return nil
}

// withoutDatabase takes the URL of the database out of the configuration: it may hold a password.
func (c *collector) withoutDatabase(config []byte) ([]byte, error) {
	config, before, err := installation.SetDatabase(config, "")
	if before != "" {
		c.notCopied = append(c.notCopied, NotCopied{"database", store.Redacted(c.url), whyURL})
	}
	return config, err
}

// isKey tells a private key by where it lies, by what names it, and by what is in it.
func (c *collector) isKey(path string, data []byte) bool {
	return strings.HasPrefix(path, installation.KeysFolder+"/") || c.secrets[path] || bytes.Contains(data, []byte("PRIVATE KEY-----"))
}
