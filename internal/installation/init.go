package installation

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"assay/attest"
	"assay/internal/ca"
	"assay/internal/files"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/internal/store"
	"assay/policy"

	"go.yaml.in/yaml/v4"
)

// InitOptions says how a new installation is made. The zero value of each field is its default.
type InitOptions struct {
	Name   string // organisation; default "Assay"
	URL    string // public https URL; default: the listen address
	Listen string // default 127.0.0.1:8443
	// Database is the URL of a PostgreSQL database, which gets its tables if it is empty; default a file.
	Database string
	// AdminListen is the address of the admin API: default loopback at the port after Listen's (any port
	// where that is left to the system); NoAdmin for none.
	AdminListen string
	// AttestationRoots are PEM files by format, beside the manufacturer's built-in roots.
	AttestationRoots map[string][]string
	AllowStandIn     bool            // accept the roots of stand-in authorities
	NoLimits         bool            // turn the rate limits off: for measurements, whose devices have one address
	KeyAlgorithm     ca.KeyAlgorithm // of root and issuing CA; default P-256
	RootKeyOut       string          // where the root's key goes instead of the installation
	SigningRequest   bool            // make a CSR for an existing PKI instead of a root
	IssuerChain      string          // PEM file of an existing issuing CA; with IssuerKey
	IssuerKey        string          // key URI of the issuing CA; default: a key is made, in a file
	Now              func() time.Time
	From             string // who does it, for the audit

	rootKeyWritten bool // to RootKeyOut
}

// NoAdmin as AdminListen makes an installation without an admin listener.
const NoAdmin = "none"

// InitResult is what Init made, for people.
type InitResult struct {
	Dir            string   `json:"dir"`
	BaseURL        string   `json:"url"`
	DirectoryURL   string   `json:"directoryURL"`
	Root           string   `json:"root,omitempty"`           // file: relying parties trust it
	ServingRoot    string   `json:"servingRoot"`              // file: devices trust it for TLS
	SigningRequest string   `json:"signingRequest,omitempty"` // file: to be signed by the existing PKI
	StandInRoots   []string `json:"standInRoots,omitempty"`
}

// made are the things that Init makes in the folder, all or none.
var made = []string{configFile, databaseFile, databaseFile + "-wal", databaseFile + "-shm", certsFolder, keysFolder, rootsFolder}

// Init makes a new installation: configuration, keys, CAs, database. Other files may lie in the folder
// already; an installation, or what is left of one, is never touched. A failed Init leaves nothing.
// What the operator must mend is a *ConfigError.
func Init(ctx context.Context, dir string, o InitOptions) (*InitResult, error) {
	o.setDefaults()
	result, err := o.init(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("initialize %s: %w", dir, err)
	}
	return result, nil
}

func (o *InitOptions) init(ctx context.Context, dir string) (result *InitResult, err error) {
	if o.RootKeyOut != "" && (o.SigningRequest || o.IssuerChain != "") {
		return nil, &ConfigError{errors.New("no root is made under an existing PKI: there is no root key to write elsewhere")}
	}
	for _, name := range made {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, fmt.Errorf("%s is there already; nothing was changed", name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	_, err = os.Lstat(dir)
	isNew := errors.Is(err, fs.ErrNotExist)
	defer func() {
		if err != nil {
			err = errors.Join(err, o.undo(dir, isNew))
		}
	}()
	for _, sub := range []string{"", certsFolder, keysFolder, rootsFolder} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	result = &InitResult{Dir: dir}
	config, err := o.config(dir, result)
	if err != nil {
		return nil, &ConfigError{err}
	}
	if err := o.secrets(dir, result); err != nil {
		return nil, err
	}
	issuer, err := o.issuer(dir, result)
	if err != nil {
		return nil, err
	}
	data, err := yaml.Dump(config)
	if err != nil {
		return nil, err
	}
	if err := config.useEnvironment(); err != nil { // after the file was written: a password stays where it is
		return nil, &ConfigError{err}
	}
	if err := o.database(ctx, dir, config, issuer); err != nil {
		return nil, err
	}
	// The configuration is written last: a folder without it is no installation.
	header := "# Assay configuration; every key is explained in docs/operations.md\n"
	return result, writeNew(filepath.Join(dir, configFile), append([]byte(header), data...), 0o600)
}

// undo removes what a failed Init made, so that the next try finds no remains.
func (o *InitOptions) undo(dir string, isNew bool) error {
	var errs []error
	for _, name := range made {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	if o.rootKeyWritten {
		errs = append(errs, os.Remove(o.RootKeyOut))
	}
	if isNew {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

func (o *InitOptions) setDefaults() {
	if o.Name == "" {
		o.Name = "Assay"
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:8443"
	}
	switch o.AdminListen {
	case NoAdmin:
		o.AdminListen = ""
	case "":
		o.AdminListen = besideOnLoopback(o.Listen)
	}
	if o.KeyAlgorithm == "" {
		o.KeyAlgorithm = ca.P256
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// besideOnLoopback is the loopback address with the port after the address's; "" where that has none,
// which the configuration's own check reports.
func besideOnLoopback(address string) string {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == math.MaxUint16 {
		return ""
	}
	if port > 0 {
		port++
	}
	return net.JoinHostPort("127.0.0.1", strconv.FormatUint(port, 10))
}

// config makes the configuration and copies the attestation roots into the folder.
func (o *InitOptions) config(dir string, result *InitResult) (*Config, error) {
	c := &Config{
		Version: ConfigVersion, Name: o.Name, URL: o.URL, Listen: o.Listen, Database: o.Database, Admin: Endpoint{Listen: o.AdminListen},
		Attestation: map[string]Attestation{"apple": {Roots: []string{builtinRoot}}},
		Profiles:    map[string]*ca.Profile{"device": ca.DefaultProfile()},
		Directories: map[string]*Directory{"default": {
			Profile: "device", Accept: []string{"apple"}, Identifiers: []policy.IdentifierKind{policy.ByCode},
		}},
	}
	if o.NoLimits {
		c.Limits = allOff()
	}
	for format, named := range o.AttestationRoots {
		a := c.Attestation[format]
		a.AllowStandIn = o.AllowStandIn
		for n, file := range named {
			data, err := files.Read(file, files.MaxPEM)
			if err != nil {
				return nil, err
			}
			roots, err := attest.ParseRoots(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for _, root := range roots {
				if root.StandIn {
					result.StandInRoots = append(result.StandInRoots, root.Name)
				}
			}
			name := filepath.Join(rootsFolder, fmt.Sprintf("%s-%d.pem", format, n+1))
			if err := writeNew(filepath.Join(dir, name), data, 0o644); err != nil {
				return nil, err
			}
			a.Roots = append(a.Roots, name)
		}
		c.Attestation[format] = a
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	var err error
	if result.BaseURL, err = baseURL(c.URL, c.Listen); err != nil {
		return nil, err
	}
	result.DirectoryURL = server.DirectoryURL(result.BaseURL, "default")
	return c, nil
}

// secrets makes the data key and the serving root, which is apart from the CA of devices.
func (o *InitOptions) secrets(dir string, result *InitResult) error {
	key := make([]byte, dataKeySize)
	rand.Read(key)
	if err := writeNew(dataKeyPath(dir), []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	if _, err := makeAuditKey(auditKeyPath(dir)); err != nil {
		return err
	}
	servingKey, err := ca.GenerateKey(ca.P256)
	if err != nil {
		return err
	}
	root, err := ca.NewServingRoot(o.Name, servingKey, o.Now())
	if err != nil {
		return err
	}
	if err := ca.WriteKey(filepath.Join(dir, keysFolder, "serving-root.key"), servingKey); err != nil {
		return err
	}
	result.ServingRoot = filepath.Join(dir, certsFolder, "serving-root.pem")
	return writeNew(result.ServingRoot, certificatePEM(root.Certificate.Raw), 0o644)
}

// newIssuer is an issuing CA that the database shall hold; nil where a signing request waits.
type newIssuer struct {
	chain [][]byte
	key   string
}

// issuer makes or takes over the issuing CA.
func (o *InitOptions) issuer(dir string, result *InitResult) (*newIssuer, error) {
	if o.IssuerChain != "" {
		if o.IssuerKey == "" {
			return nil, &ConfigError{errors.New("an existing issuing CA needs its key")}
		}
		data, err := files.Read(o.IssuerChain, files.MaxPEM)
		if err != nil {
			return nil, &ConfigError{err}
		}
		chain, err := ca.Adopt(data)
		if err != nil {
			return nil, &ConfigError{fmt.Errorf("%s: %w", o.IssuerChain, err)}
		}
		return &newIssuer{chain: chain, key: o.IssuerKey}, nil
	}
	key, uri, err := o.issuingKey(dir)
	if err != nil {
		return nil, err
	}
	if o.SigningRequest {
		request, err := ca.NewSigningRequest(o.Name, key)
		if err != nil {
			return nil, err
		}
		result.SigningRequest = filepath.Join(dir, certsFolder, "issuing.csr")
		return nil, writeNew(result.SigningRequest, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), 0o644)
	}
	issuing, err := o.root(dir, key.Public(), result)
	if err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, certsFolder, "issuing.pem"), certificatePEM(issuing), 0o644); err != nil {
		return nil, err
	}
	return &newIssuer{chain: [][]byte{issuing}, key: uri}, nil
}

// issuingKey opens the key that exists, or makes one.
func (o *InitOptions) issuingKey(dir string) (key crypto.Signer, uri string, err error) {
	if o.IssuerKey != "" {
		if key, err = ca.OpenKey(o.IssuerKey, dir); err != nil {
			return nil, "", &ConfigError{err}
		}
		return key, o.IssuerKey, nil
	}
	if key, err = ca.GenerateKey(o.KeyAlgorithm); err != nil {
		return nil, "", err
	}
	path := filepath.Join(keysFolder, "issuing.key")
	return key, "file:" + path, ca.WriteKey(filepath.Join(dir, path), key)
}

// root makes the root and signs the issuing CA with it; the root's key is not needed again.
func (o *InitOptions) root(dir string, issuing crypto.PublicKey, result *InitResult) ([]byte, error) {
	key, err := ca.GenerateKey(o.KeyAlgorithm)
	if err != nil {
		return nil, err
	}
	root, err := ca.NewRoot(o.Name, key, o.Now())
	if err != nil {
		return nil, err
	}
	out := o.RootKeyOut
	if out == "" {
		out = filepath.Join(dir, keysFolder, "root.key")
	}
	if err := ca.WriteKey(out, key); err != nil {
		return nil, err
	}
	o.rootKeyWritten = o.RootKeyOut != ""
	result.Root = filepath.Join(dir, certsFolder, "root.pem")
	if err := writeNew(result.Root, certificatePEM(root.Certificate.Raw), 0o644); err != nil {
		return nil, err
	}
	cert, err := root.NewIssuing(o.Name, issuing, o.Now())
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

// database makes the database and puts the issuing CA into service.
func (o *InitOptions) database(ctx context.Context, dir string, config *Config, issuer *newIssuer) error {
	if store.IsPostgres(config.Database) {
		if _, err := store.Migrate(ctx, config.Database, false); err != nil {
			return err
		}
	}
	i, err := open(ctx, dir, config, o.Now)
	if err != nil {
		return err
	}
	if others, err := i.Store.Issuers(ctx); err != nil || len(others) > 0 {
		if err == nil {
			err = fmt.Errorf("the database %s is another installation's: it has issuing CAs. Copy that installation's folder to add a server to it", store.Redacted(config.Database))
		}
		return errors.Join(err, i.Close())
	}
	if issuer != nil {
		_, err = i.AddIssuer(ctx, issuance.Call{Now: o.Now(), From: o.From}, o.Name, issuer.chain, issuer.key, true)
	}
	return errors.Join(err, i.Close())
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeNew writes a file that must not exist, and waits until it is on disk.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
