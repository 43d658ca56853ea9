package installation

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// What lies in a folder beside its database, for backups.
const (
	ConfigFile   = configFile
	DatabaseFile = databaseFile
	KeysFolder   = keysFolder
)

// migrationCopy is a copy of the database that a migration made.
var migrationCopy = regexp.MustCompile(`^` + regexp.QuoteMeta(databaseFile) + `\.schema-[0-9]+(-[0-9]+)?\.bak$`)

// Passing reports whether a file at the top of the folder belongs to the running server or to the
// database, which is copied by other means: it is nothing to keep.
func Passing(name string) bool {
	passing := []string{databaseFile, databaseFile + "-wal", databaseFile + "-shm", databaseFile + "-journal", urlFile, adminURLFile, mdmURLFile}
	return slices.Contains(passing, name) || migrationCopy.MatchString(name)
}

// CopyFolder copies an installation's folder, with the modes of its files, to one that does not exist: as
// somebody does who adds a server to a shared database.
func CopyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Mkdir(filepath.Join(to, relative), info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, relative), data, info.Mode().Perm())
	})
}

// NamedFile is a file that the configuration names.
type NamedFile struct {
	Use    string // the key that names it, such as tls.key
	Path   string // resolved against the folder
	Secret bool   // it is no good once others know it
}

// NamedFiles are all files that the configuration names, in the order of its sections.
func (c *Config) NamedFiles(dir string) []NamedFile {
	var files []NamedFile
	add := func(use, path string, secret bool) {
		if path != "" && path != builtinRoot {
			files = append(files, NamedFile{use, within(dir, path), secret})
		}
	}
	add("tls.certificate", c.TLS.Certificate, false)
	add("tls.key", c.TLS.Key, true)
	for _, path := range c.MDM.CA {
		add("mdm.ca", path, false)
	}
	add("push.kmfddm.keyFile", c.Push.KMFDDM.KeyFile, true)
	add("profileSigning.certificate", c.ProfileSigning.Certificate, false)
	add("profileSigning.key", c.ProfileSigning.Key, true)
	add("opinion.secretFile", c.Opinion.SecretFile, true)
	add("opinion.ca", c.Opinion.CA, false)
	add("opinion.clientCertificate.certificate", c.Opinion.ClientCertificate.Certificate, false)
	add("opinion.clientCertificate.key", c.Opinion.ClientCertificate.Key, true)
	add("inventory.appleBusinessManager.keyFile", c.Inventory.AppleBusinessManager.KeyFile, true)
	for _, format := range formats {
		for _, path := range c.Attestation[format].Roots {
			add("attestation."+format+".roots", path, false)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Directories)) {
		add("directories."+name+".policy", c.Directories[name].Policy, false)
	}
	return files
}

// TakenLists are the folders of lists that the inventory took already, relative to the folder: they are
// history that nothing reads. None where no folder within it is watched.
func (c *Config) TakenLists() []string {
	watch := c.Inventory.Watch
	if watch == "" || filepath.IsAbs(watch) || !filepath.IsLocal(watch) {
		return nil
	}
	return []string{filepath.ToSlash(filepath.Join(watch, doneFolder)), filepath.ToSlash(filepath.Join(watch, failedFolder))}
}

// ShardCount is how many CRLs an issuer has.
func (c *Config) ShardCount() int { return max(1, c.Revocation.Shards) }
