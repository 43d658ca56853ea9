// Package store keeps everything that Assay remembers in one SQLite database: accounts, orders,
// codes and their documents, devices and their credentials, evidence, decisions, certificates,
// issuers, CRLs, nonces, tokens and the audit trail.
//
// Its methods are transactions, not rows: each one spends the request's nonce, notes its idempotency
// key, changes state by conditional writes whose row count is checked, and writes its audit row, all
// or nothing. A change is fsynced before the method returns, except where the method says otherwise.
// Nobody can hold a code: an order or a valid challenge only names it, and BeginIssue alone takes it.
//
// It refuses a database that another program made or a newer Assay wrote. Values that open doors
// (live codes inside orders and documents, the secret URLs of documents in declarations, what is given
// back under an idempotency key, nonce keys) are sealed under a key that is not in the database; it
// trusts whoever holds that key and can write the file.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"runtime"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Options is how a store is opened.
type Options struct {
	// Key seals live codes, documents, declarations and nonce keys: 32 bytes, kept outside the database. A
	// database opened with another key than before cannot read what was sealed.
	Key []byte
	// Random is where ids, salts and seal nonces come from; nil means crypto/rand.
	Random io.Reader
	// Now tells how long commits take; nil means time.Now. Times of rows come with each call.
	Now func() time.Time
}

// Store is an open database. Its methods may be called concurrently, and beside another process
// that has the same database open, as long as only one of them changes accounts: the server.
type Store struct {
	path     string
	writer   *writer
	reads    *reader
	accounts knownAccounts
	seal     *sealer
	random   io.Reader
}

//go:embed migrations/*.sql
var migrations embed.FS

// Open opens the database at path, makes it if it does not exist (mode 0600), and brings its schema
// up to date, keeping a backup copy beside it. It refuses a database of another program, and one
// with a newer schema (*NewerSchemaError).
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return open(ctx, path, o, files)
}

func open(ctx context.Context, path string, o Options, schema fs.FS) (*Store, error) {
	seal, err := newSealer(o.Key, o.Random)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := migrate(ctx, path, schema); err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s := &Store{path: path, seal: seal, random: seal.random}
	s.reads, err = newReader(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s.writer, err = newWriter(ctx, path, o.Now)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), s.reads.close())
	}
	return s, nil
}

// Close waits for the work under way and closes the database. Calls that come later fail with
// ErrClosed.
func (s *Store) Close() error {
	return errors.Join(s.writer.close(), s.reads.close())
}

// busyTimeout is how long, in milliseconds, a write waits for another process's.
const busyTimeout = 10_000

// dsn names the database at an absolute path. Pragmas are applied to every connection.
func dsn(path string, pragmas ...string) string {
	pragmas = append([]string{fmt.Sprintf("busy_timeout(%d)", busyTimeout), "foreign_keys(1)"}, pragmas...)
	q := url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// openPool opens a pool of at most n connections that stay open.
func openPool(dataSource string, n int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dataSource)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

func readPoolSize() int { return max(4, 2*runtime.GOMAXPROCS(0)) }

// randomOrDefault is the reader given, or crypto/rand.
func randomOrDefault(r io.Reader) io.Reader {
	if r == nil {
		return rand.Reader
	}
	return r
}
