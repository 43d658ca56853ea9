package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

func openFor(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Options{Key: make([]byte, KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// rawly runs SQL on a database file without the store.
func rawly(t testing.TB, path string, statements ...string) error {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			return err
		}
	}
	return nil
}

func withMigration(t testing.TB, text string) fs.FS {
	t.Helper()
	schema := fstest.MapFS{"00099_next.sql": {Data: []byte("-- +goose Up\n" + text)}}
	for _, name := range migrationNames(t) {
		content, err := migrations.ReadFile("migrations/sqlite/" + name)
		if err != nil {
			t.Fatal(err)
		}
		schema[name] = &fstest.MapFile{Data: content}
	}
	return schema
}

// migrationNames are the names of the program's own migrations, whose number is the schema's version.
func migrationNames(t testing.TB) []string {
	t.Helper()
	entries, err := migrations.ReadDir("migrations/sqlite")
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d migrations, error %v", len(entries), err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestOpenRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	s, err := open(t.Context(), path, Options{Key: make([]byte, KeySize)}, withMigration(t, "CREATE TABLE next (a TEXT) STRICT;"))
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path, Options{Key: make([]byte, KeySize)})
	newer, ok := errors.AsType[*NewerSchemaError](err)
	if !ok || newer.Found != 99 || int(newer.Supported) != len(migrationNames(t)) {
		t.Fatalf("error is %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the refused database was written to (error %v)", err)
	}
}

func TestMigrationKeepsABackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "as'say.db")
	s := openFor(t, path)
	key, err := s.AddNonceKey(t.Context(), time.Unix(1, 0), 0, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	broken := withMigration(t, "CREATE TABLE next (a TEXT) STRICT; INSERT INTO nowhere VALUES (1);")
	if _, err := open(t.Context(), path, Options{Key: make([]byte, KeySize)}, broken); err == nil {
		t.Fatal("a broken migration succeeded")
	}
	migrated, err := open(t.Context(), path, Options{Key: make([]byte, KeySize)}, withMigration(t, "CREATE TABLE next (a TEXT) STRICT;"))
	if err != nil {
		t.Fatal(err)
	}
	closeStore(t, migrated)
	backups, err := filepath.Glob(fmt.Sprintf("%s.schema-%d*.bak", path, len(migrationNames(t))))
	if err != nil || len(backups) < 2 {
		t.Fatalf("backups %v, error %v", backups, err)
	}
	for _, backup := range backups {
		info, err := os.Stat(backup)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("backup %v, error %v", info.Mode(), err)
		}
		keys, err := openFor(t, backup).NonceKeys(t.Context())
		if err != nil || len(keys) != 1 || keys[0].ID != key.ID {
			t.Errorf("backup holds keys %v, error %v", keys, err)
		}
	}
}

func TestOpenRefusesForeignFiles(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	if err := rawly(t, other, "CREATE TABLE theirs (a)"); err != nil {
		t.Fatal(err)
	}
	marked := filepath.Join(dir, "marked.db")
	if err := rawly(t, marked, "PRAGMA application_id = 7"); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{other, marked, text} {
		if s, err := Open(t.Context(), path, Options{Key: make([]byte, KeySize)}); err == nil {
			closeStore(t, s)
			t.Errorf("opened %s", filepath.Base(path))
		}
	}
}

func TestOpenNeedsAKeyOf32Bytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	if _, err := Open(t.Context(), path, Options{Key: make([]byte, 16)}); err == nil {
		t.Error("opened with a short key")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made a file all the same: %v", err)
	}
}

func TestDatabaseIsPrivateAndManyMayOpenItAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?%#.db")
	errs := make(chan error)
	for range 8 {
		go func() {
			s, err := Open(context.Background(), path, Options{Key: make([]byte, KeySize)})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("database has mode %v, error %v", info.Mode(), err)
	}
}

func TestSecretsAreNotInTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "assay.db")
	s := openFor(t, path)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	call := issuance.Call{Now: now}
	const value, body = "a-code-of-more-than-22-characters", "a document body with the code in it"
	hash := [32]byte{1}
	_, err := s.MintCodes(t.Context(), call, []issuance.Mint{{Directory: "d", Value: value, Lifetime: time.Hour, Document: &issuance.Document{PathHash: hash, Body: []byte(body)}}})
	if err != nil {
		t.Fatal(err)
	}
	a, _, err := s.RegisterAccount(t.Context(), call, issuance.Account{Directory: "d", Thumbprint: "t", JWK: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.CreateOrder(t.Context(), call, issuance.NewOrder{Account: a.ID, Directory: "d", Identifier: issuance.Identifier{Value: value, Kind: policy.ByCode}})
	if err != nil {
		t.Fatal(err)
	}
	const asset, configuration, seed = "an asset with a secret URL", "a configuration that is sealed, too", "what is given back under a key"
	call.Once = &issuance.Once{Keep: []byte(seed)}
	results, err := s.RenderCredentials(t.Context(), call, []issuance.Rendering{{
		ID: "cred_1", Device: issuance.Device{Serial: "SER1"}, Template: "wifi", Asset: []byte(asset), Configuration: []byte(configuration),
		Code: issuance.Mint{Directory: "d", Value: "another-code-of-22-characters", Lifetime: time.Hour},
	}})
	if err != nil || results[0].Err != nil {
		t.Fatal(results, err)
	}
	secret := []byte("a nonce key of exactly 32 bytes!")
	if _, err := s.AddNonceKey(t.Context(), now, 0, secret); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{value, body, asset, configuration, seed, string(secret)} {
			if bytes.Contains(content, []byte(s)) {
				t.Errorf("%s holds %q", filepath.Base(f), s)
			}
		}
	}

	other, err := Open(t.Context(), path, Options{Key: bytes.Repeat([]byte{9}, KeySize)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, other)
	if _, err := other.Order(t.Context(), o.ID); err == nil {
		t.Error("another key opens orders")
	}
	if _, err := other.NonceKeys(t.Context()); err == nil {
		t.Error("another key opens nonce keys")
	}
	if _, err := other.Delivery(t.Context(), "cred_1"); err == nil {
		t.Error("another key opens declarations")
	}
	if _, err := other.MintCodes(t.Context(), call, nil); err == nil {
		t.Error("another key opens what is given back")
	} else if _, given := errors.AsType[*issuance.RepeatedError](err); given {
		t.Error(err)
	}
	if _, err := other.DocumentByPath(t.Context(), hash, now); err == nil || errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("another key opens documents: %v", err)
	}
}

func TestSealedValueOpensInItsOwnRowOnly(t *testing.T) {
	s, err := newSealer(make([]byte, KeySize), nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.seal([]byte("value"), "order_1")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.unseal(sealed, "order_1"); err != nil || string(v) != "value" {
		t.Errorf("unsealed %q, error %v", v, err)
	}
	if _, err := s.unseal(sealed, "order_2"); err == nil {
		t.Error("a sealed value opens in another row")
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := s.unseal(sealed, "order_1"); err == nil {
		t.Error("an altered value opens")
	}
	if _, err := s.unseal(sealed[:5], "order_1"); err == nil {
		t.Error("a cut value opens")
	}
}

func TestAuditTrailIsAppendOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	s := openFor(t, path)
	if _, err := s.AddIssuer(t.Context(), issuance.Call{Now: time.Unix(1, 0), From: "operator:ann"}, issuance.Issuer{Chain: [][]byte{{1}}}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"UPDATE audit SET outcome = 'refused'",
		"DELETE FROM audit",
		`UPDATE audit_personal SET "values" = '{}'`,
	} {
		if err := rawly(t, path, statement); err == nil || !strings.Contains(err.Error(), "audit rows") {
			t.Errorf("%s: error %v", statement, err)
		}
	}
	if err := rawly(t, path, "DELETE FROM audit_personal"); err != nil {
		t.Errorf("personal values cannot be erased: %v", err)
	}
	for r, err := range s.Audit(t.Context(), audit.Filter{}) {
		if err != nil || r.Personal != nil || r.Commitment == nil {
			t.Errorf("row %+v, error %v", r, err)
		}
	}
}

func TestNoPasswordIsShown(t *testing.T) {
	for location, want := range map[string]string{
		"/var/lib/assay/assay.db":                                           "/var/lib/assay/assay.db",
		"postgres://assay@db/assay?sslmode=disable":                         "postgres://assay@db/assay?sslmode=disable",
		"postgres://assay:s3cret@db/assay":                                  "postgres://assay:xxxxx@db/assay",
		"postgresql://db/assay?password=s3cret&user=a":                      "postgresql://db/assay?password=xxxxx&user=a",
		"postgres://db/assay?sslpassword=s3cret&password=x&password=s3cret": "postgres://db/assay?password=xxxxx&sslpassword=xxxxx",
		"postgres://assay:s3c%ret@db/assay":                                 "postgres://…",
	} {
		if got := Redacted(location); got != want {
			t.Errorf("%s is shown as %s, want %s", location, got, want)
		}
	}
}
