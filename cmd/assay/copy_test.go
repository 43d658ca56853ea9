package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"assay/internal/counterpart"
	"assay/internal/installation"

	"github.com/jackc/pgx/v5"
)

// session runs commands one after the other.
type session struct {
	*testing.T
	out, err string // of the last command
}

// run runs a command, which must end with this exit code.
func (s *session) run(code int, args ...string) {
	s.Helper()
	var out, errs bytes.Buffer
	got := run(s.Context(), args, &terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now})
	s.out, s.err = out.String(), errs.String()
	if got != code {
		s.Fatalf("assay %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, s.out, s.err)
	}
	if strings.Contains(s.out+s.err, "s3cret") {
		s.Errorf("assay %s shows the password:\n%s%s", strings.Join(args, " "), s.out, s.err)
	}
}

func (s *session) wants(output string, texts ...string) {
	s.Helper()
	for _, text := range texts {
		if !strings.Contains(output, text) {
			s.Errorf("%q is not in:\n%s", text, output)
		}
	}
}

// TestInstallationMovesToPostgresAndBack: each time it knows the codes that it knew before.
func TestInstallationMovesToPostgresAndBack(t *testing.T) {
	c := counterpart.Postgres(t)
	secret := func(url string) string { return strings.Replace(url, "assay@", "assay:s3cret@", 1) }
	database := secret(counterpart.Database(t, c, ""))
	s := &session{T: t}
	dir := filepath.Join(t.TempDir(), "id")
	file := filepath.Join(dir, "assay.db")
	s.run(exitDone, "init", "--dir", dir, "--listen", "127.0.0.1:0")
	s.run(exitDone, "code", "mint", "--dir", dir)
	s.run(exitDone, "code", "list", "--dir", dir)
	codes := s.out

	s.run(exitUsage, "copy", "--from", "mysql://u:s3cret@h/d", "--to", database)
	s.wants(s.err, "--from names no database")
	s.run(exitNo, "copy", "--from", "sqlite:"+file, "--to", database)
	s.wants(s.err, "hint: assay migrate --database postgres://assay:xxxxx@")
	s.run(exitDone, "migrate", "--database", database)
	s.wants(s.out, "The schema went from version 0 to ", "audit           default ", "audit_personal  "+strconv.Itoa(time.Now().UTC().Year()+1))
	s.run(exitDone, "migrate", "--database", database, "--dry-run")
	s.wants(s.out, "The schema is up to date", "evidence        default ")
	unlock, err := installation.Lock(dir) // as a server does
	if err != nil {
		t.Fatal(err)
	}
	s.run(exitNo, "copy", "--from", "sqlite:"+file, "--to", database)
	s.wants(s.err, "a server runs on it", "hint: stop it")
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	s.run(exitDone, "copy", "--from", "sqlite:"+file, "--to", database)
	s.wants(s.out, "every row was compared", "database: postgres://assay:xxxxx@", "never serve the old database again")
	s.run(exitNo, "copy", "--from", file, "--to", database)
	s.wants(s.err, "is not empty", "hint: rows are never added to others")

	name(t, dir, database)
	s.run(exitDone, "code", "list", "--dir", dir)
	if s.out != codes {
		t.Errorf("codes in PostgreSQL:\n%swant\n%s", s.out, codes)
	}
	s.run(exitDone, "code", "mint", "--dir", dir)
	s.run(exitDone, "code", "list", "--dir", dir)
	codes = s.out

	back := filepath.Join(dir, "back.db")
	leased(t, database, time.Now().Add(time.Minute)) // as a server does
	s.run(exitNo, "copy", "--from", database, "--to", back)
	s.wants(s.err, "a server runs on postgres://assay:xxxxx@", "hint: stop every server")
	if _, err := os.Stat(back); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was made: %v", err)
	}
	leased(t, database, time.Now().Add(-time.Minute))
	s.run(exitDone, "copy", "--from", database, "--to", "sqlite:"+back, "--json")
	var answer struct {
		From, To string
		Schema   int64
		Rows     map[string]int64
	}
	if err := json.Unmarshal([]byte(s.out), &answer); err != nil || answer.Rows["codes"] != 2 || answer.Schema == 0 || answer.To != back {
		t.Errorf("answer %+v, %v", answer, err)
	}
	name(t, dir, "")
	if err := os.Rename(back, file); err != nil {
		t.Fatal(err)
	}
	s.run(exitDone, "code", "list", "--dir", dir)
	if s.out != codes {
		t.Errorf("codes in the file:\n%swant\n%s", s.out, codes)
	}

	other := counterpart.Database(t, c, "")
	s.run(exitNo, "copy", "--from", secret(other), "--to", back)
	s.wants(s.err, "hint: assay migrate --database")
}

// name lets the installation's configuration name a database.
func name(t *testing.T, dir, database string) {
	t.Helper()
	path := filepath.Join(dir, installation.ConfigFile)
	config, err := os.ReadFile(path)
	if err == nil {
		config, _, err = installation.SetDatabase(config, database)
	}
	if err == nil {
		err = os.WriteFile(path, config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// leased gives a lease on a database to a server.
func leased(t *testing.T, database string, until time.Time) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	_, err = c.Exec(t.Context(), `INSERT INTO leases (name, holder, expires_at) VALUES ('seal', 'a server', $1) ON CONFLICT (name) DO UPDATE SET expires_at = $1`, until.UnixMicro())
	if err != nil {
		t.Fatal(err)
	}
}

// TestDumpIsFinishedByItsCommand: what the docs say of pg_dump and pg_restore.
func TestDumpIsFinishedByItsCommand(t *testing.T) {
	c := counterpart.Postgres(t)
	s := &session{T: t}
	dir := filepath.Join(t.TempDir(), "id")
	url := counterpart.Database(t, c, "")
	s.run(exitDone, "init", "--dir", dir, "--listen", "127.0.0.1:0", "--database", url)
	s.run(exitDone, "code", "mint", "--dir", dir)
	takenAt := time.Now().UTC().Format(time.RFC3339Nano)
	s.run(exitUsage, "restore", "finish", "--dir", dir, "--taken-at", time.Now().Add(time.Hour).Format(time.RFC3339))
	s.wants(s.err, "is in the future")
	s.run(exitNo, "restore", "finish", "--dir", dir, "--taken-at", "2026-01-02T03:04:05Z")
	s.wants(s.err, "its newest audit row is of")
	s.run(exitDone, "restore", "finish", "--dir", dir, "--taken-at", takenAt)
	s.wants(s.out, "is safe to serve", "codes revoked         1", "never run this beside the original", "Next: assay serve --dir "+dir)
	s.run(exitNo, "restore", "finish", "--dir", dir, "--taken-at", takenAt)
	s.run(exitDone, "restore", "finish", "--dir", dir, "--taken-at", time.Now().UTC().Format(time.RFC3339Nano), "--keep-tokens", "--json")
	s.wants(s.out, `"codes":0`)

	// A backup goes into a database of its own, and says so.
	file := filepath.Join(t.TempDir(), "id.backup")
	s.run(exitDone, "backup", "--dir", dir, "-o", file, "--no-keys", "--unencrypted")
	s.wants(s.out, "database  postgres://")
	into := filepath.Join(t.TempDir(), "new")
	s.run(exitNo, "restore", file, "--dir", into, "--database", url)
	s.wants(s.err, "is not empty", "hint: restore into a database of its own")
	s.run(exitUsage, "restore", file, "--dir", into, "--database", "mysql://x")
	fresh := counterpart.Database(t, c, "")
	s.run(exitDone, "restore", file, "--dir", into, "--database", fresh)
	s.wants(s.out, fresh)
}
