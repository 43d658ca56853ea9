package backup_test

import (
	"bytes"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/backup"
	"assay/internal/store"

	"github.com/pressly/goose/v3"
)

// older makes the database of an installation anew, as a program of this schema version had it.
func older(t *testing.T, dir string, version int64) {
	t.Helper()
	path := filepath.Join(dir, "assay.db")
	ok(t, os.Remove(path))
	db, err := sql.Open("sqlite", path)
	ok(t, err)
	_, err = db.ExecContext(t.Context(), "PRAGMA journal_mode=WAL; PRAGMA application_id=0x41534159")
	ok(t, err)
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("../store/migrations/sqlite"), goose.WithDisableGlobalRegistry(true))
	ok(t, err)
	_, err = provider.UpTo(t.Context(), version)
	ok(t, errors.Join(err, db.Close()))
	ok(t, os.Chmod(path, 0o600))
}

func TestOlderInstallationIsBackedUpAsItIsAndRestoredUpToDate(t *testing.T) {
	dir := initialized(t)
	older(t, dir, 5)
	data, m := taken(t, dir)
	about, err := store.Describe(t.Context(), filepath.Join(dir, "assay.db"))
	ok(t, err)
	if m.Schema != 5 || about.Schema != 5 {
		t.Fatalf("the backup has schema %d, the original then %d; want 5", m.Schema, about.Schema)
	}
	copied, _ := restored(t, data)
	newest, err := store.SupportedSchema()
	ok(t, err)
	if about, err = store.Describe(t.Context(), filepath.Join(copied, "assay.db")); err != nil || about.Schema != newest {
		t.Errorf("the restored database has schema %d, %v", about.Schema, err)
	}
	for name := range files(t, copied) {
		if strings.HasSuffix(name, ".bak") || strings.HasPrefix(name, "assay.db-") {
			t.Errorf("%s was left behind", name)
		}
	}
}

func TestDatabaseOfANewerProgramIsNotBackedUp(t *testing.T) {
	dir := initialized(t)
	db, err := sql.Open("sqlite", filepath.Join(dir, "assay.db"))
	ok(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (1000, 1)")
	ok(t, errors.Join(err, db.Close()))
	var out bytes.Buffer
	_, err = backup.Take(t.Context(), dir, &out, backup.Options{NoKeys: true, Now: time.Now})
	if newer, is := errors.AsType[*store.NewerSchemaError](err); !is || newer.Found != 1000 || out.Len() > 0 {
		t.Errorf("error %v, %d bytes", err, out.Len())
	}
}

func TestDamagedDatabaseIsNotBackedUp(t *testing.T) {
	dir := initialized(t)
	path := filepath.Join(dir, "assay.db")
	data, err := os.ReadFile(path)
	ok(t, err)
	for n := 3 * 4096; n < len(data); n++ {
		data[n] = 0xff
	}
	ok(t, os.WriteFile(path, data, 0o600))
	if _, err := backup.Take(t.Context(), dir, &bytes.Buffer{}, backup.Options{NoKeys: true, Now: time.Now}); err == nil {
		t.Error("a damaged database was backed up")
	}
	if _, err := os.Stat(path + ".backup"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the copy was left behind: %v", err)
	}
}
