package installation

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"assay/internal/admin"
	"assay/internal/delivery"
	"assay/internal/delivery/kmfddm"
	"assay/internal/files"
	"assay/internal/inventory/abm"
	"assay/internal/limits"
	"assay/internal/server"
	"assay/internal/tracing"
)

// deliveries gives devices their credentials and brings their declarations to the MDM.
type deliveries struct {
	declarer *delivery.Declarer
	outbox   *delivery.Outbox // nil where no push is configured
}

// renderLimit is how many credentials one round of upkeep renders at most.
const renderLimit = 1000

// work renders what is due and pushes what is not at the MDM yet.
func (d *deliveries) work(ctx context.Context, i *Installation, log *slog.Logger) error {
	rendered, err := d.declarer.RenderDue(ctx, i.now(), renderLimit)
	if rendered > 0 {
		log.Info("rendered credentials that were due", "credentials", rendered)
	}
	if d.outbox == nil {
		return err
	}
	pushed, failed := d.outbox.PushDue(ctx, i.now())
	if pushed > 0 {
		log.Info("pushed declarations", "credentials", pushed)
	}
	return errors.Join(err, failed)
}

// newDeliveries wires what delivers templates. directoryURL may fail, where the server's URL is not
// known.
func (i *Installation) newDeliveries(templates *delivery.Templates, baseURL, mdmURL string, directoryURL func(string) (string, error), log *slog.Logger) (*deliveries, error) {
	d := &deliveries{declarer: &delivery.Declarer{
		Store: i.Store, Templates: templates, BaseURL: baseURL, MDMURL: mdmURL, DirectoryURL: directoryURL,
		Refusals: i.Store, Log: log,
	}}
	k := i.Config.Push.KMFDDM
	if k.URL == "" {
		return d, nil
	}
	key, err := files.ReadSecret(within(i.Dir, k.KeyFile), files.MaxPEM) // with it, anybody declares to every device of the MDM
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("push.kmfddm.keyFile: %w", err)}
	}
	pusher, err := kmfddm.New(kmfddm.Options{URL: k.URL, Key: strings.TrimSpace(string(key)), PlainHTTP: k.PlainHTTP, Transport: tracing.Transport("kmfddm", nil)})
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("push.kmfddm: %w", err)}
	}
	if d.outbox, err = delivery.NewOutbox(i.Store, pusher, i.Config.Push.Enrollment, log); err != nil {
		return nil, &ConfigError{err}
	}
	return d, nil
}

// templates reads the credential templates. The set is usable also where it has faults: then it says
// which, to whoever asks for a template.
func (i *Installation) templates(log *slog.Logger) (*delivery.Templates, error) {
	return delivery.LoadTemplates(filepath.Join(i.Dir, TemplatesFolder), i.directoryNames(), i.now, log)
}

// directoryNames are the names of the ACME directories, sorted.
func (i *Installation) directoryNames() []string {
	return slices.Sorted(maps.Keys(i.Config.Directories))
}

// serving makes the deliveries of a running server.
func (i *Installation) serving(running *Running, log *slog.Logger) (*deliveries, error) {
	templates, err := i.templates(log)
	if err != nil {
		return nil, &ConfigError{err}
	}
	directoryURL := func(name string) (string, error) {
		url, ok := running.Directories[name]
		if !ok {
			return "", fmt.Errorf("there is no directory %q", name)
		}
		return url, nil
	}
	return i.newDeliveries(templates, running.BaseURL, running.MDMURL, directoryURL, log)
}

// API is the admin API for an operator in this process, such as "operator:sam": no token is asked
// for, because whoever can open the folder can do everything. It works beside a running server.
func (i *Installation) API(operator string) (http.Handler, error) {
	base, unknown := i.BaseURL()
	mdm, err := i.endpointURL(i.Config.MDM.Endpoint, mdmURLFile)
	if unknown == nil {
		unknown = err
	}
	directoryURL := func(name string) (string, error) {
		if unknown != nil {
			return "", unknown
		}
		if _, _, err := i.Directory(name); err != nil {
			return "", err
		}
		return server.DirectoryURL(base, name), nil
	}
	templates, _ := i.templates(slog.New(slog.DiscardHandler)) // faulty ones hinder no other work
	d, err := i.newDeliveries(templates, base, mdm, directoryURL, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	syncs, err := i.newSyncs(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if syncs != nil {
		i.syncs = append(i.syncs, syncs)
	}
	api, err := i.newAPI(d, syncs, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return api.As(operator), nil
}

// newAPI makes the admin API; syncs and metrics may be nil.
func (i *Installation) newAPI(d *deliveries, syncs *abm.Runner, metrics *admin.Metrics, log *slog.Logger) (*admin.API, error) {
	config := admin.Config{
		Store: i.Store, Declarer: d.declarer, Directories: i.directoryNames(),
		Organization: i.Config.Name, Version: version(), Metrics: metrics, Log: log, Now: i.now,
	}
	if d.outbox != nil {
		config.Push = d.outbox.Push
	}
	if syncs != nil {
		config.Syncs = syncs
	}
	var err error
	if config.Roots, err = i.Roots(); err != nil {
		return nil, err
	}
	if config.AuditKey, err = i.AuditKey(); err != nil {
		return nil, err
	}
	if config.Trust, err = i.profileTrust(); err != nil {
		return nil, err
	}
	if config.ProfileChain, config.ProfileKey, err = i.profileSigner(); err != nil {
		return nil, &ConfigError{fmt.Errorf("profileSigning: %w", err)}
	}
	return admin.New(config)
}

// profileTrust are the CA certificates that profiles bring along: the root of the server's own TLS
// certificate, without which a device could not enrol, and the chain of the active issuing CA, which
// a device needs to show a whole chain, because Apple's client keeps none.
func (i *Installation) profileTrust() ([][]byte, error) {
	var trust [][]byte
	root, err := i.ServingRoot()
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(root); block != nil {
		trust = append(trust, block.Bytes)
	}
	issuers, err := i.Store.Issuers(context.Background())
	if err != nil {
		return nil, err
	}
	for _, issuer := range issuers {
		if issuer.Active {
			trust = append(trust, issuer.Chain...)
		}
	}
	return trust, nil
}

// profileSigner reads the identity that signs profiles; nil where none is configured.
func (i *Installation) profileSigner() ([]*x509.Certificate, crypto.Signer, error) {
	c := i.Config.ProfileSigning
	if c.Certificate == "" {
		return nil, nil, nil
	}
	pair, err := files.KeyPair(within(i.Dir, c.Certificate), within(i.Dir, c.Key))
	if err != nil {
		return nil, nil, err
	}
	return delivery.ProfileSigner(pair)
}

// mdmHandler serves documents to devices that show the identity which their MDM gave them.
func (i *Installation) mdmHandler(metrics *delivery.Metrics, gate *limits.Gate, log *slog.Logger) (http.Handler, error) {
	c := i.Config.MDM
	var cas []*x509.Certificate
	for _, name := range c.CA {
		loaded, err := readCertificates(within(i.Dir, name))
		if err != nil {
			return nil, &ConfigError{fmt.Errorf("mdm.ca: %w", err)}
		}
		cas = append(cas, loaded...)
	}
	identity, err := delivery.NewMDMIdentity(cas, delivery.IdentityField(c.Match.Field), c.Match.Value, c.TrustedProxies)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("mdm: %w", err)}
	}
	proxies, err := c.proxies()
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("mdm.trustedProxies: %w", err)}
	}
	mux := http.NewServeMux()
	documents := delivery.MDMHandler(i.Store, identity, log, i.now, metrics)
	mux.Handle("GET /credential/{secret}", tracing.Handler(gate.Guard(limits.Reads, proxies.Client, documents)))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux, nil
}

// readCertificates reads all certificates of a PEM file; at least one.
func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := files.Read(path, files.MaxPEM)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return out, nil
}

// version is the program's, as the module that it was built from has it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
