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

	"assay/attest"
	"assay/internal/ca"
	"assay/policy"

	"go.yaml.in/yaml/v4"
)

// ConfigVersion is the version of the configuration's form.
const ConfigVersion = 1

const maxConfigSize = 1 << 20

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
	// MetricsListen is the address of the Prometheus endpoint (plain HTTP, /metrics). Default: none.
	MetricsListen string `yaml:"metricsListen,omitempty"`
	// TLS is the operator's serving certificate. Default: one from the installation's own serving root.
	TLS TLS `yaml:"tls,omitempty"`
	// Revocation says where certificates point for their issuer and their CRL.
	Revocation Revocation `yaml:"revocation,omitempty"`
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
	// Identifiers says what an order may name: code, serial, udid. Default: code.
	Identifiers []policy.IdentifierKind `yaml:"identifiers,omitempty"`
	// Issuer is the id of the issuing CA. Default: the active one.
	Issuer string `yaml:"issuer,omitempty"`
	// TermsOfService is a URL that accounts must agree to. Default: none.
	TermsOfService string `yaml:"termsOfService,omitempty"`
	// Website is a URL for people.
	Website string `yaml:"website,omitempty"`
}

// builtinRoot is how a configuration names a manufacturer's embedded root.
const builtinRoot = "builtin"

// LoadConfig reads and checks DIR/assay.yaml.
func LoadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, configFile)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is no Assay installation: it has no %s (make one with `assay init --dir %s`)", dir, configFile, dir)
	} else if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Size() > maxConfigSize {
		return nil, fmt.Errorf("read configuration: %s is larger than 1 MiB", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func parseConfig(data []byte) (*Config, error) {
	var probe struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Load(data, &probe); err != nil {
		return nil, err
	}
	if probe.Version != ConfigVersion {
		return nil, fmt.Errorf("version is %d: this program reads version %d", probe.Version, ConfigVersion)
	}
	var c Config
	if err := yaml.Load(data, &c, yaml.WithKnownFields()); err != nil {
		return nil, err
	}
	return &c, c.check()
}

var directoryName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// check reports every fault at once.
func (c *Config) check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.URL != "" {
		if err := checkURL(c.URL, "https"); err != nil {
			fault("url: %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		fault("listen: %w", err)
	}
	if (c.TLS.Certificate == "") != (c.TLS.Key == "") {
		fault("tls: certificate and key go together")
	}
	if c.Revocation.BaseURL != "" {
		if err := checkURL(c.Revocation.BaseURL, "http", "https"); err != nil {
			fault("revocation.baseURL: %w", err)
		}
	}
	if c.Revocation.Shards < 0 || c.Revocation.Shards > 4096 {
		fault("revocation.shards: %d is not in 0..4096", c.Revocation.Shards)
	}
	for name, p := range c.Profiles {
		if p == nil {
			fault("profiles.%s: is empty", name)
			continue
		}
		p.Name = name
		p.FillDefaults()
		if err := p.Validate(); err != nil {
			fault("profiles.%s: %w", name, err)
		}
	}
	if len(c.Directories) == 0 {
		fault("directories: at least one is needed")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Directories)) {
		if err := c.checkDirectory(name); err != nil {
			fault("directories.%s: %w", name, err)
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkDirectory(name string) error {
	d := c.Directories[name]
	if !directoryName.MatchString(name) {
		return errors.New("a name is lower-case letters, digits and hyphens, at most 63")
	}
	if d == nil {
		return errors.New("is empty")
	}
	if c.Profiles[d.Profile] == nil {
		return fmt.Errorf("profile %q is not among profiles", d.Profile)
	}
	if len(d.Identifiers) == 0 {
		d.Identifiers = []policy.IdentifierKind{policy.ByCode}
	}
	for _, kind := range d.Identifiers {
		if kind != policy.ByCode && kind != policy.BySerial && kind != policy.ByUDID {
			return fmt.Errorf("identifiers: %q is none of code, serial, udid", kind)
		}
	}
	for _, format := range d.Accept {
		if len(c.Attestation[format].Roots) == 0 {
			return fmt.Errorf("accept: attestation.%s names no roots", format)
		}
	}
	return nil
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
	for format, a := range c.Attestation {
		for _, name := range a.Roots {
			loaded, err := loadRoot(dir, format, name)
			if err != nil {
				return nil, fmt.Errorf("attestation.%s: %w", format, err)
			}
			for _, root := range loaded {
				if root.StandIn && !a.AllowStandIn {
					return nil, fmt.Errorf("attestation.%s: %s is the root of a stand-in authority, which proves nothing about real devices: "+
						"say `allowStandIn: true` to accept it in a test installation", format, name)
				}
			}
			roots[format] = append(roots[format], loaded...)
		}
	}
	return roots, nil
}

func loadRoot(dir, format, name string) ([]attest.Root, error) {
	if name == builtinRoot {
		if format != "apple" {
			return nil, fmt.Errorf("there is no built-in root for format %q", format)
		}
		return []attest.Root{attest.AppleRoot()}, nil
	}
	data, err := os.ReadFile(within(dir, name))
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
