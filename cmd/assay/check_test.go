package main

import (
	"bytes"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/installation"
)

// TestCheckSaysNoToAFaultyDatabase: the rules are tested where they stand, this is how they reach people.
func TestCheckSaysNoToAFaultyDatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "id")
	assay := func(args ...string) (code int, out string) {
		var both bytes.Buffer
		code = run(t.Context(), args, &terminal{In: strings.NewReader(""), Out: &both, Err: &both, Now: time.Now})
		return code, both.String()
	}
	edit := func(statement string) {
		t.Helper()
		db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, installation.DatabaseFile))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	if code, out := assay("init", "--dir", dir, "--listen", "127.0.0.1:0"); code != exitDone {
		t.Fatal(out)
	}
	if code, out := assay("check", "--dir", dir); code != exitDone || !strings.Contains(out, ": no faults\n") {
		t.Errorf("exit code %d: %s", code, out)
	}
	edit(`UPDATE issuers SET chain = '["AQID"]'`)
	if code, out := assay("check", "--dir", dir); code != exitNo || !strings.Contains(out, "FAULT  issuer-chain  issuer_") || !strings.Contains(out, ": 1 fault\n") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out := assay("check", "--dir", dir, "--json"); code != exitNo || !strings.Contains(out, `"faultCount":1,"faults":[{"rule":"issuer-chain","of":"issuer_`) {
		t.Errorf("exit code %d: %s", code, out)
	}
	edit(`DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
	if code, out := assay("check", "--dir", dir); code != exitFailed || !strings.Contains(out, "let this one serve it first") {
		t.Errorf("an older schema: exit code %d: %s", code, out)
	}
}
