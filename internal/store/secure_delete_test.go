package store_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	"assay/internal/issuance"
	"assay/internal/store/storetest"
)

// TestErasedDocumentLeavesNoBytes: who gets hold of the files and of the key must not find in free
// space what was erased. The sizes are of a value within its page, and of one on pages of its own.
func TestErasedDocumentLeavesNoBytes(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	for _, size := range []int{256, 20_000} {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		hash := sha256.Sum256(body)
		code, _ := b.Mint(func(m *issuance.Mint) {
			m.Document = &issuance.Document{PathHash: hash, Body: body, SHA256: "ab"}
		})
		var sealed []byte
		if err := s.ReadPool().QueryRowContext(t.Context(), `SELECT sealed FROM documents WHERE path_sha256 = ?`, hash[:]).Scan(&sealed); err != nil {
			t.Fatal(err)
		}
		checkpoint(t, path)
		if found, pieces := piecesIn(t, path, sealed); found < pieces*9/10 { // those across two pages are not found
			t.Fatalf("%d bytes: %d of %d pieces are in the files before the code is revoked", size, found, pieces)
		}
		if _, err := s.RevokeCode(t.Context(), b.Operator(), code.ID); err != nil {
			t.Fatal(err)
		}
		checkpoint(t, path)
		if found, pieces := piecesIn(t, path, sealed); found != 0 {
			t.Errorf("%d bytes: %d of %d pieces are still in the files", size, found, pieces)
		}
	}
}

// checkpoint moves the log's pages into the database and empties the log.
func checkpoint(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var busy, log, moved int
	if err := db.QueryRowContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &log, &moved); err != nil || busy != 0 {
		t.Fatalf("checkpoint: busy %d, error %v", busy, err)
	}
}

// piecesIn counts the pieces of 16 bytes of a value that are anywhere in the database's files.
func piecesIn(t *testing.T, path string, value []byte) (found, pieces int) {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var content []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, data...)
	}
	for ; len(value) >= 16; value = value[16:] {
		pieces++
		if bytes.Contains(content, value[:16]) {
			found++
		}
	}
	return found, pieces
}
