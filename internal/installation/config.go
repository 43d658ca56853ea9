package installation

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/ca"
	"assay/internal/files"
	"assay/policy"

	"go.yaml.in/yaml/v4"
)

// ConfigVersion is the version of the configuration's form.
const ConfigVersion = 1

const (
	maxConfigSize = 1 << 20
	maxShards     = 4096 // CRLs per issuer

	maxShutdownDelay = time.Minute
)

// Config is assay.yaml. Unknown keys and versions are refused; paths are relative to the folder.
type Config struct {
	// Version is 1.
	Version int `yaml:"version"`
	// Name is the organisation's name, used in the names of CAs.
	Name string `yaml:"name"`
	// URL is the https URL that devices reach the server at, without a path. Default: https:// and
	// the listen address in use. It never comes from the Host header.
	URL string `yaml:"url,omitempty"`
	// Listen is the address to listen on, HOST:PORT.
	Listen string `yaml:"listen"`
	// Database is the URL of a PostgreSQL database (postgres://…), which any number of servers use at once.
	// Default: assay.db in the folder (SQLite). The environment's ASSAY_DATABASE comes before it: so a
	// password need not be in the file.
	Database string `yaml:"database,omitempty"`
	// MetricsListen is the address of the Prometheus endpoint (plain HTTP, /metrics). Default: none.
	MetricsListen string `yaml:"metricsListen,omitempty"`
	// Pprof serves profiles of the process under /debug/pprof of the metrics listener, which must then be on
	// loopback: profiles show what is in memory.
	Pprof bool `yaml:"pprof,omitempty"`
	// Tracing sends OpenTelemetry traces of what the server does to the collector that OTEL_EXPORTER_OTLP_ENDPOINT
	// of the environment names. The program must be built for it. Default: false.
	Tracing bool `yaml:"tracing,omitempty"`
	// ShutdownDelay is how long the server goes on serving once it is told to stop, while /readyz says so.
	// Default: not at all; at most 60s.
	ShutdownDelay time.Duration `yaml:"shutdownDelay,omitempty"`
	// TrustedProxies are addresses or prefixes of proxies in front of the ACME listener, whose ForwardedHeader
	// says who asks. Default: none; whoever connects is who asks.
	TrustedProxies []string `yaml:"trustedProxies,omitempty"`
	// ForwardedHeader is the header that all of them set, whatever their clients sent: X-Forwarded-For or
	// Forwarded (RFC 7239).
	ForwardedHeader string `yaml:"forwardedHeader,omitempty"`
	// Limits says how much clients may ask, by the name of a limit (docs/rate-limits.md). Default: each limit's own.
	Limits Limits `yaml:"limits,omitempty"`
	// TLS is the operator's serving certificate. Default: one from the installation's own serving root.
	TLS TLS `yaml:"tls,omitempty"`
	// Admin is the listener of the admin API. Default: none.
	Admin Endpoint `yaml:"admin,omitempty"`
	// MDM is the listener where devices show their MDM identity for documents with Authentication
	// MDM. Default: none; such documents are then refused.
	MDM MDM `yaml:"mdm,omitempty"`
	// Inventory says where lists of devices come from by themselves. Default: nowhere.
	Inventory Inventory `yaml:"inventory,omitempty"`
	// Push says which MDM declarations are pushed to. Default: none.
	Push Push `yaml:"push,omitempty"`
	// ProfileSigning is the certificate (chain) and key that sign .mobileconfig profiles. Default: they
	// are not signed.
	ProfileSigning TLS `yaml:"profileSigning,omitempty"`
	// Opinion is the service outside that policies with opinion.* ask. Default: none; such policies are
	// then refused.
	Opinion Opinion `yaml:"opinion,omitempty"`
	// Revocation says where certificates point for their issuer and their CRL.
	Revocation Revocation `yaml:"revocation,omitempty"`
	// Retention says how long evidence and decisions are kept. Default: what certificates rest on for ever,
	// what was held for 400 days and what was refused for 90 days, objects as received 90 and 30 days.
	Retention Retention `yaml:"retention,omitempty"`
	// Attestation holds the accepted roots by attestation format.
	Attestation map[string]Attestation `yaml:"attestation"`
	// Profiles are certificate profiles by name.
	Profiles map[string]*ca.Profile `yaml:"profiles"`
	// Directories are the ACME directories by name, each at URL/acme/NAME/directory.
	Directories map[string]*Directory `yaml:"directories"`
}

// TLS names PEM files. They are read again when they change.
type TLS struct {
	Certificate string `yaml:"certificate,omitempty"` // chain, leaf first
	Key         string `yaml:"key,omitempty"`
}

// Revocation configures the URLs in certificates.
type Revocation struct {
	// BaseURL is the http or https URL for the issuer's certificate and the CRLs. Default: the
	// server's URL.
	BaseURL string `yaml:"baseURL,omitempty"`
	// Shards is the number of CRLs per issuer that new certificates are spread over. Default 1; it
	// may grow, never shrink.
	Shards int `yaml:"shards,omitempty"`
}

// Attestation configures one format.
type Attestation struct {
	// Roots are PEM files, or "builtin" for the manufacturer's own root (apple).
	Roots []string `yaml:"roots"`
	// AllowStandIn permits roots of a stand-in authority, which proves nothing about real hardware.
	AllowStandIn bool `yaml:"allowStandIn,omitempty"`
}

// Directory configures one ACME directory.
type Directory struct {
	// Profile names the certificate profile.
	Profile string `yaml:"profile"`
	// Accept lists the attestation formats whose evidence is accepted.
	Accept []string `yaml:"accept"`
	// Policy is the file of the policy that decides, read again when it changes. Default: the built-in one.
	Policy string `yaml:"policy,omitempty"`
	// Identifiers says what an order may name: code, serial, udid. Default: code.
	Identifiers []policy.IdentifierKind `yaml:"identifiers,omitempty"`
	// Issuer is the id of the issuing CA. Default: the active one.
	Issuer string `yaml:"issuer,omitempty"`
	// TermsOfService is a URL that accounts must agree to. Default: none.
	TermsOfService string `yaml:"termsOfService,omitempty"`
	// Website is a URL for people.
	Website string `yaml:"website,omitempty"`
}

// Endpoint is a listener beside the one that devices use for ACME. It serves with the same TLS
// certificate where the operator brings one, else with one for the host of its own URL.
type Endpoint struct {
	// Listen is the address to listen on, HOST:PORT. Default: no listener.
	Listen string `yaml:"listen,omitempty"`
	// URL is the https URL that it is reached at, without a path. Default: https:// and the address.
	URL string `yaml:"url,omitempty"`
}

// MDM is the listener for documents that only their device may fetch.
type MDM struct {
	Endpoint `yaml:",inline"`
	// CA are PEM files of the CAs that issue the identities which devices show to their MDM.
	CA []string `yaml:"ca,omitempty"`
	// Match says which field of an identity names its device.
	Match MDMMatch `yaml:"match,omitempty"`
	// TrustedProxies are addresses or prefixes of proxies whose Client-Cert header (RFC 9440) is
	// believed. Default: none; the identity then comes from the TLS handshake alone.
	TrustedProxies []string `yaml:"trustedProxies,omitempty"`
	// ForwardedHeader is the header in which they say who asks, for rate limits. Default: none; a proxy's devices
	// then count as one address.
	ForwardedHeader string `yaml:"forwardedHeader,omitempty"`
}

// MDMMatch says what an MDM identity must say to be a device's.
type MDMMatch struct {
	// Field is commonName, dns, email, uri or fingerprint (the one that the MDM registered).
	Field string `yaml:"field,omitempty"`
	// Value is what the field must equal, such as {device.udid}; not with fingerprint.
	Value string `yaml:"value,omitempty"`
}

// Inventory configures where lists of devices come from by themselves.
type Inventory struct {
	// Watch is a folder: lists (.csv, .json, .ndjson) that are put there are taken, and then moved to its
	// folders done and failed.
	Watch string `yaml:"watch,omitempty"`
	// AppleBusinessManager is an organization whose devices the inventory is kept in step with.
	AppleBusinessManager AppleBusinessManager `yaml:"appleBusinessManager,omitempty"`
}

// Push configures where declarations are pushed.
type Push struct {
	// KMFDDM is a KMFDDM server.
	KMFDDM KMFDDM `yaml:"kmfddm,omitempty"`
	// Enrollment is the MDM's id of a device. Default: {device.udid}.
	Enrollment string `yaml:"enrollment,omitempty"`
}

// KMFDDM is a KMFDDM server's API.
type KMFDDM struct {
	URL     string `yaml:"url,omitempty"`     // such as http://127.0.0.1:9002
	KeyFile string `yaml:"keyFile,omitempty"` // file with the API key
	// PlainHTTP allows http to another machine: the key and the documents' URLs can then be read there.
	PlainHTTP bool `yaml:"plainHTTP,omitempty"`
}

// builtinRoot is how a configuration names a manufacturer's embedded root.
const builtinRoot = "builtin"

// ConfigError is a configuration that is missing or cannot be used: the operator's to mend.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// LoadConfig reads and checks DIR/assay.yaml. Its errors are *ConfigError.
func LoadConfig(dir string) (*Config, error) {
	c, err := loadConfig(dir)
	if err != nil {
		return nil, &ConfigError{err}
	}
	return c, nil
}

func loadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, configFile)
	data, err := files.Read(path, maxConfigSize)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no Assay installation: it has no %s (make one with `assay init --dir %s`)", dir, configFile, dir)
	} else if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, c.useEnvironment()
}

func parseConfig(data []byte) (*Config, error) {
	// The version comes first: of another version's keys nothing can be said.
	var probe struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Load(data, &probe); err != nil {
		return nil, plain(err)
	}
	if probe.Version != ConfigVersion {
		return nil, fmt.Errorf("version is %d: this program reads version %d", probe.Version, ConfigVersion)
	}
	var c Config
	if err := yaml.Load(data, &c, yaml.WithKnownFields()); err != nil {
		return nil, plain(err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, nil
}

var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	goType       = regexp.MustCompile(` into \S*installation\.\S*| into \S*ca\.\S*| into \S*abm\.\S*`)
)

// plain says what is wrong with the YAML in an operator's words: no names of Go types.
func plain(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: construct errors: ")
	text = unknownField.ReplaceAllString(text, `unknown key "$1"`)
	return errors.New(goType.ReplaceAllString(text, ""))
}

var directoryName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// formats are the attestation formats that can be configured.
var formats = []string{attest.FormatApple}

// check reports every fault at once, in the order of the file's sections, and fills in defaults.
func (c *Config) check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.URL != "" {
		if err := checkURL(c.URL, "https"); err != nil {
			fault("url: %w", err)
		}
	}
	if err := c.checkListen(); err != nil {
		fault("listen: %w", err)
	}
	if err := checkDatabase(c.Database); err != nil {
		fault("database: %w", err)
	}
	if err := c.checkMetrics(); err != nil {
		errs = append(errs, err)
	}
	if c.ShutdownDelay < 0 || c.ShutdownDelay > maxShutdownDelay {
		fault("shutdownDelay: %s is not between 0s and %s", c.ShutdownDelay, maxShutdownDelay)
	}
	errs = append(errs, c.checkLimits()...)
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		fault("tls: certificate and key go together")
	}
	errs = append(errs, c.checkEndpoints()...)
	errs = append(errs, c.Inventory.AppleBusinessManager.check()...)
	for _, err := range c.Opinion.check() {
		fault("opinion: %w", err)
	}
	if c.Revocation.BaseURL != "" {
		if err := checkURL(c.Revocation.BaseURL, "http", "https"); err != nil {
			fault("revocation.baseURL: %w", err)
		}
	}
	if c.Revocation.Shards < 0 || c.Revocation.Shards > maxShards {
		fault("revocation.shards: %d is not in 0..%d", c.Revocation.Shards, maxShards)
	}
	if _, err := c.Retention.parse(); err != nil {
		errs = append(errs, err)
	}
	for _, format := range slices.Sorted(maps.Keys(c.Attestation)) {
		if !slices.Contains(formats, format) {
			fault("attestation.%s: the format is not supported; %s is", format, strings.Join(formats, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Profiles)) {
		if err := checkProfile(name, c.Profiles[name]); err != nil {
			fault("profiles.%s: %w", name, err)
		}
	}
	if len(c.Directories) == 0 {
		fault("directories: at least one is needed")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Directories)) {
		for _, err := range c.checkDirectory(name) {
			fault("directories.%s: %w", name, err)
		}
	}
	return errors.Join(errs...)
}

// checkListen demands an address that the base URL can be made from, where no URL is configured.
func (c *Config) checkListen() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return err
	}
	_, err := baseURL(c.URL, c.Listen)
	return err
}

// checkMetrics refuses profiles where others than this machine could read them.
func (c *Config) checkMetrics() error {
	if c.MetricsListen == "" {
		if c.Pprof {
			return errors.New("pprof: there is no metricsListen to serve profiles on")
		}
		return nil
	}
	host, _, err := net.SplitHostPort(c.MetricsListen)
	if err != nil {
		return fmt.Errorf("metricsListen: %w", err)
	}
	if ip := net.ParseIP(host); c.Pprof && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("pprof: metricsListen is %s, but profiles show what is in memory, keys included: listen on 127.0.0.1 or say pprof: false", c.MetricsListen)
	}
	return nil
}

// baseURL is the https URL of a listener: the configured one, else the one of its address. An address
// that stands for all interfaces names no host that a device could reach.
func baseURL(configured, address string) (string, error) {
	if configured != "" {
		return strings.TrimSuffix(configured, "/"), nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("%q names no host that devices can reach: say so with url: https://…", address)
	}
	return "https://" + address, nil
}

func checkProfile(name string, p *ca.Profile) error {
	if p == nil {
		return errors.New("is empty")
	}
	p.Name = name
	p.FillDefaults()
	return p.Validate()
}

func (c *Config) checkDirectory(name string) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !directoryName.MatchString(name) {
		fault("a name is lower-case letters, digits and hyphens, at most 63")
	}
	d := c.Directories[name]
	if d == nil {
		fault("is empty")
		return faults
	}
	if c.Profiles[d.Profile] == nil {
		fault("profile %q is not among profiles", d.Profile)
	}
	if len(d.Identifiers) == 0 {
		d.Identifiers = []policy.IdentifierKind{policy.ByCode}
	}
	for _, kind := range d.Identifiers {
		if kind != policy.ByCode && kind != policy.BySerial && kind != policy.ByUDID {
			fault("identifiers: %q is none of code, serial, udid", kind)
		}
	}
	for _, format := range d.Accept {
		if len(c.Attestation[format].Roots) == 0 {
			fault("accept: attestation.%s names no roots", format)
		}
	}
	for _, link := range []struct{ key, value string }{{"termsOfService", d.TermsOfService}, {"website", d.Website}} {
		if u, err := url.Parse(link.value); link.value != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			fault("%s: %q is no http or https URL", link.key, link.value)
		}
	}
	return faults
}

func checkURL(s string, schemes ...string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if !slices.Contains(schemes, u.Scheme) || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q is not a plain %s URL without a path", s, strings.Join(schemes, " or "))
	}
	return nil
}

// loadRoots reads the roots of every format. Stand-in roots are refused unless allowed.
func (c *Config) loadRoots(dir string) (map[string][]attest.Root, error) {
	roots := map[string][]attest.Root{}
	for _, format := range slices.Sorted(maps.Keys(c.Attestation)) {
		a := c.Attestation[format]
		for _, name := range a.Roots {
			loaded, err := loadRoot(dir, format, name)
			if err != nil {
				return nil, &ConfigError{fmt.Errorf("attestation.%s: %w", format, err)}
			}
			for _, root := range loaded {
				if root.StandIn && !a.AllowStandIn {
					return nil, &ConfigError{fmt.Errorf("attestation.%s: %s is the root of a stand-in authority, which proves nothing about real devices: "+
						"say `allowStandIn: true` to accept it in a test installation", format, name)}
				}
			}
			roots[format] = append(roots[format], loaded...)
		}
	}
	return roots, nil
}

func loadRoot(dir, format, name string) ([]attest.Root, error) {
	if name == builtinRoot {
		if format != attest.FormatApple {
			return nil, fmt.Errorf("there is no built-in root for format %q", format)
		}
		return []attest.Root{attest.AppleRoot()}, nil
	}
	data, err := files.Read(within(dir, name), files.MaxPEM)
	if err != nil {
		return nil, err
	}
	return attest.ParseRoots(data)
}

// within resolves a configured path against the installation's folder.
func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
