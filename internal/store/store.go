// Package store keeps everything that Assay remembers in one database, of SQLite or PostgreSQL: accounts, orders,
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
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"time"
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

// Store is an open database. Its methods may be called concurrently, and beside other processes that have
// the same database open; on SQLite, as long as only one of them changes accounts: the server.
type Store struct {
	db       engine
	reads    querier // the same, traced
	system   string  // which database it is, for traces
	metrics  *metrics
	accounts knownAccounts
	seal     *sealer
	random   io.Reader
}

//go:embed migrations
var migrations embed.FS

// The schema as each engine writes it: migrations with the same numbers.
var (
	sqliteSchema   = part(migrations, "migrations/sqlite")
	postgresSchema = part(migrations, "migrations/postgres")
)

func part(of fs.FS, name string) fs.FS {
	sub, err := fs.Sub(of, name)
	if err != nil {
		panic(err) // a name in this file
	}
	return sub
}

// SupportedSchema is the newest schema version that this program knows.
func SupportedSchema() (int64, error) { return newestVersion(sqliteSchema) }

// newestVersion is the version of the newest migration.
func newestVersion(schema fs.FS) (int64, error) {
	names, err := fs.Glob(schema, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("read migrations: %d of them: %w", len(names), err)
	}
	var newest int64
	for _, name := range names {
		var version int64
		if _, err := fmt.Sscanf(name, "%d_", &version); err != nil {
			return 0, fmt.Errorf("read migrations: %s: %w", name, err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// Open opens the database at a location: the path of a SQLite file, or the URL of a PostgreSQL database
// (postgres://…).
//
// A file is made if it does not exist (mode 0600), and its schema brought up to date, keeping a backup copy
// beside it. A PostgreSQL database must have been migrated (Migrate), because other servers may be using it:
// else *OlderSchemaError. Either is refused if it is another program's, or has a newer schema
// (*NewerSchemaError).
func Open(ctx context.Context, location string, o Options) (*Store, error) {
	schema := sqliteSchema
	if IsPostgres(location) {
		schema = postgresSchema
	}
	return open(ctx, location, o, schema)
}

func open(ctx context.Context, location string, o Options, schema fs.FS) (*Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	seal, err := newSealer(o.Key, o.Random)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", Redacted(location), err)
	}
	s := &Store{seal: seal, random: seal.random, metrics: newMetrics(), system: "sqlite"}
	if IsPostgres(location) {
		s.system = "postgresql"
		s.db, err = openPostgres(ctx, location, schema, s.metrics, o.Now)
	} else {
		s.db, err = openSQLite(ctx, location, schema, s.metrics, o.Now)
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", Redacted(location), err)
	}
	s.reads = tracedReads{s.db, s}
	return s, nil
}

// IsPostgres reports whether a location is the URL of a PostgreSQL database.
func IsPostgres(location string) bool {
	return strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://")
}

// Redacted is a location without its password.
func Redacted(location string) string {
	if !IsPostgres(location) {
		return location
	}
	u, err := url.Parse(location)
	if err != nil {
		return "postgres://…"
	}
	q := u.Query()
	for _, name := range []string{"password", "sslpassword"} { // pgx takes them there, too
		if q.Has(name) {
			q.Set(name, "xxxxx")
			u.RawQuery = q.Encode()
		}
	}
	return u.Redacted()
}

// Close waits for the work under way and closes the database. Calls that come later fail with
// ErrClosed.
func (s *Store) Close() error {
	return s.db.close()
}

// randomOrDefault is the reader given, or crypto/rand.
func randomOrDefault(r io.Reader) io.Reader {
	if r == nil {
		return rand.Reader
	}
	return r
}
