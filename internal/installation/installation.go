// Package installation is an Assay installation: the folder that holds configuration, keys and
// database, and the server that runs on it. It is where the rooms are wired together; the program,
// its demo, its bench and the end-to-end tests all boot this.
//
//	DIR/assay.yaml   configuration
//	DIR/assay.db     database (SQLite, with its -wal and -shm files), unless it is elsewhere (PostgreSQL)
//	DIR/certs/       certificates of the CAs; root.pem is what relying parties trust,
//	                 serving-root.pem what devices trust for TLS
//	DIR/keys/        private keys (0600) and data.key, which seals codes in the database and which
//	                 the one running server holds a lock on
//	DIR/roots/       attestation roots
//	DIR/credentials/ credential templates, one file each
//	DIR/server.url   the URL of the running server; admin.url and mdm.url of its other listeners
//
// The CA root's key is needed only to make issuing CAs: serving never opens it.
package installation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/ca"
	"assay/internal/files"
	"assay/internal/inventory/abm"
	"assay/internal/issuance"
	"assay/internal/store"
)

const (
	configFile   = "assay.yaml"
	databaseFile = "assay.db"
	urlFile      = "server.url"
	adminURLFile = "admin.url"
	mdmURLFile   = "mdm.url"
	certsFolder  = "certs"
	keysFolder   = "keys"
	rootsFolder  = "roots"
	// TemplatesFolder holds the credential templates.
	TemplatesFolder = "credentials"

	dataKeySize = 32
)

// Installation is an opened installation. Close it.
type Installation struct {
	Dir    string
	Config *Config
	Store  *store.Store
	now    func() time.Time
	limits connectionLimits
	sleep  func(context.Context, time.Duration) error // how requests wait for their turn; nil: as long as they have to
	syncs  []*abm.Runner                              // of API: stopped before the database is closed
}

// Open reads the configuration and opens the database, migrating it if it is a file and older. It works
// beside a running server.
func Open(ctx context.Context, dir string, now func() time.Time) (*Installation, error) {
	config, err := LoadConfig(dir)
	if err != nil {
		return nil, err
	}
	return open(ctx, dir, config, now)
}

func open(ctx context.Context, dir string, config *Config, now func() time.Time) (*Installation, error) {
	key, err := readDataKey(dataKeyPath(dir))
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, config.DatabaseLocation(dir), store.Options{Key: key, Random: rand.Reader})
	if err != nil {
		return nil, err
	}
	return &Installation{Dir: dir, Config: config, Store: db, now: now, limits: defaultLimits}, nil
}

// Close interrupts what goes on, and closes the database.
func (i *Installation) Close() error {
	for _, s := range i.syncs {
		s.Stop()
	}
	return i.Store.Close()
}

// BaseURL is the https URL that devices reach the server at: the configured one, else the one of
// the running server, else that of the configured listen address. It fails where the system shall
// choose the port and no server runs.
func (i *Installation) BaseURL() (string, error) {
	return i.endpointURL(Endpoint{Listen: i.Config.Listen, URL: i.Config.URL}, urlFile)
}

// Directory returns the named directory's configuration; "" is the only one, or "default".
func (i *Installation) Directory(name string) (string, *Directory, error) {
	names := i.directoryNames()
	name, ok := issuance.ChooseDirectory(names, name)
	if !ok {
		return "", nil, fmt.Errorf("there is no directory %q in %s: it has %s", name, configFile, strings.Join(names, ", "))
	}
	return name, i.Config.Directories[name], nil
}

// AddIssuer puts an issuing CA into service: it checks the chain against the key and stores a row. A
// key that cannot be opened or does not fit is a *ConfigError.
func (i *Installation) AddIssuer(ctx context.Context, call issuance.Call, name string, chain [][]byte, keyURI string, active bool) (issuance.Issuer, error) {
	key, err := ca.OpenKey(keyURI, i.Dir)
	if err != nil {
		return issuance.Issuer{}, &ConfigError{fmt.Errorf("add issuer: %w", err)}
	}
	opened, err := ca.NewIssuer("new", chain, key, "https://localhost")
	if err == nil {
		err = opened.ValidAt(call.Now)
	}
	if err != nil {
		return issuance.Issuer{}, &ConfigError{fmt.Errorf("add issuer: %w", err)}
	}
	return i.Store.AddIssuer(ctx, call, issuance.Issuer{Name: name, Chain: chain, Key: keyURI, Active: active})
}

// issuers opens every issuing CA and names the active one.
func (i *Installation) issuers(ctx context.Context, baseURL string) (map[issuance.IssuerID]*ca.Issuer, issuance.IssuerID, error) {
	rows, err := i.Store.Issuers(ctx)
	if err != nil {
		return nil, "", err
	}
	if base := i.Config.Revocation.BaseURL; base != "" {
		baseURL = strings.TrimSuffix(base, "/")
	}
	issuers := map[issuance.IssuerID]*ca.Issuer{}
	var active issuance.IssuerID
	for _, row := range rows {
		key, err := ca.OpenKey(row.Key, i.Dir)
		if err != nil {
			return nil, "", fmt.Errorf("issuer %s (%s): %w", row.ID, row.Name, err)
		}
		issuers[row.ID], err = ca.NewIssuer(string(row.ID), row.Chain, key, baseURL)
		if err != nil {
			return nil, "", fmt.Errorf("issuer %s (%s): %w", row.ID, row.Name, err)
		}
		if row.Active {
			active = row.ID
		}
	}
	if active == "" {
		return nil, "", errors.New("no issuing CA is active: add one with `assay issuer add`")
	}
	return issuers, active, nil
}

// ServingRoot returns the certificate that devices must trust for TLS, PEM; nil where the operator
// brings the serving certificate.
func (i *Installation) ServingRoot() ([]byte, error) {
	if i.Config.TLS.Certificate != "" {
		return nil, nil
	}
	return files.Read(filepath.Join(i.Dir, certsFolder, "serving-root.pem"), files.MaxPEM)
}

// Roots are the attestation roots by format.
func (i *Installation) Roots() (map[string][]attest.Root, error) { return i.Config.loadRoots(i.Dir) }

func dataKeyPath(dir string) string { return filepath.Join(dir, keysFolder, "data.key") }

// readDataKey reads the key that seals codes: hex.
func readDataKey(path string) ([]byte, error) {
	text, err := files.ReadSecret(path, files.MaxPEM)
	if err != nil {
		return nil, fmt.Errorf("read data key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != dataKeySize {
		return nil, fmt.Errorf("read data key: %s does not hold 64 hex digits", path)
	}
	return key, nil
}
