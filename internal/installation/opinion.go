package installation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"assay/internal/files"
	"assay/internal/opinion"
	"assay/internal/server"
)

// Opinion is a service outside that is asked about requests (docs/opinion.md).
type Opinion struct {
	// URL is where requests are posted: https, or http to this machine.
	URL string `yaml:"url,omitempty"`
	// SecretFile holds the secrets that sign requests, whsec_…, one a line: one, or two while it is exchanged.
	SecretFile string `yaml:"secretFile,omitempty"`
	// Timeout is how long one answer is waited for, at most 5s. Default 3s.
	Timeout time.Duration `yaml:"timeout,omitempty"`
	// OnFailure says what a missing answer does: refuse the request, or neutral: the policy takes opinion.*
	// for unknown. Default refuse.
	OnFailure string `yaml:"onFailure,omitempty"`
	// SignedResponses demands that the service signs its responses with the secret, too.
	SignedResponses bool `yaml:"signedResponses,omitempty"`
	// CA is a PEM file of the CAs of the service's TLS certificate. Default: the system's.
	CA string `yaml:"ca,omitempty"`
	// ClientCertificate is shown to a service that asks for one. Default: none.
	ClientCertificate TLS `yaml:"clientCertificate,omitempty"`
}

// What a missing answer does.
const (
	onFailureRefuse  = "refuse"
	onFailureNeutral = "neutral"
)

// check reports every fault and fills in defaults.
func (o *Opinion) check() (faults []error) {
	if *o == (Opinion{}) {
		return nil
	}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if err := opinion.CheckURL(o.URL); err != nil {
		fault("url: %w", err)
	}
	if o.SecretFile == "" {
		fault("secretFile is missing: the file with the secret that signs requests")
	}
	if o.Timeout == 0 {
		o.Timeout = opinion.DefaultTimeout
	}
	if err := opinion.CheckTimeout(o.Timeout); err != nil {
		fault("timeout: %w", err)
	}
	if o.OnFailure == "" {
		o.OnFailure = onFailureRefuse
	}
	if o.OnFailure != onFailureRefuse && o.OnFailure != onFailureNeutral {
		fault("onFailure: %q is neither %s nor %s", o.OnFailure, onFailureRefuse, onFailureNeutral)
	}
	if (o.ClientCertificate.Certificate == "") != (o.ClientCertificate.Key == "") {
		fault("clientCertificate: certificate and key go together")
	}
	return faults
}

// OpinionClient makes the client of the service outside; nil where none is configured. Its files are read
// once. Whatever is wrong with them is a *ConfigError. log may be nil.
func (i *Installation) OpinionClient(ctx context.Context, log *slog.Logger) (*opinion.Client, error) {
	client, _, err := i.opinionClient(ctx, log)
	return client, err
}

// opinionClient is OpinionClient with the file of its secrets, by which they are replaced.
func (i *Installation) opinionClient(ctx context.Context, log *slog.Logger) (*opinion.Client, *liveFile[[]opinion.Secret], error) {
	c := i.Config.Opinion
	if c.URL == "" {
		return nil, nil, nil
	}
	options := opinion.Options{
		URL: c.URL, Timeout: c.Timeout, Required: c.OnFailure != onFailureNeutral, SignedResponses: c.SignedResponses,
		Log: log, Now: i.now,
	}
	var errs []error
	fault := func(key string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("opinion.%s: %w", key, err))
		}
	}
	var err error
	// With a secret, anybody can speak to the service as this installation.
	secrets := &liveFile[[]opinion.Secret]{what: "set of opinion secrets", path: within(i.Dir, c.SecretFile), limit: files.MaxPEM, log: log}
	secrets.open = func(path string) (fs.File, error) { return files.OpenSecret(path) }
	secrets.parse = func(_ context.Context, text []byte) ([]opinion.Secret, error) {
		parsed, err := opinion.ParseSecrets(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", secrets.path, err)
		}
		return parsed, nil
	}
	options.Secrets, err = secrets.load(ctx)
	fault("secretFile", err)
	options.Roots, err = i.readPool(c.CA)
	fault("ca", err)
	options.Certificate, err = i.readPair(c.ClientCertificate)
	fault("clientCertificate", err)
	if len(errs) > 0 {
		return nil, nil, &ConfigError{errors.Join(errs...)}
	}
	client, err := opinion.New(options)
	if err != nil {
		return nil, nil, &ConfigError{err}
	}
	secrets.use = func(s []opinion.Secret) {
		client.UseSecrets(s)
		log.Info("opinion secrets read again", "secrets", len(s))
	}
	return client, secrets, nil
}

// askOutside lets the server ask the service outside, where one is configured. It returns a look for changed
// secrets, and what to do once the server has stopped.
func (i *Installation) askOutside(ctx context.Context, acme *server.Server, measures *measures, log *slog.Logger) (look func(context.Context), hangUp func(), err error) {
	client, secrets, err := i.opinionClient(ctx, log)
	if err != nil {
		return nil, nil, err
	}
	if client == nil {
		return func(context.Context) {}, func() {}, nil
	}
	acme.Opinion = client.Ask
	measures.add(client.Metrics.Collectors()...)
	return func(ctx context.Context) { secrets.refresh(ctx) }, client.Close, nil
}

// readPool reads CA certificates; nil, the system's, where no file is named.
func (i *Installation) readPool(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	cas, err := readCertificates(within(i.Dir, file))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca)
	}
	return pool, nil
}

// readPair reads a certificate with its key; nil where none is named.
func (i *Installation) readPair(named TLS) (*tls.Certificate, error) {
	if named.Certificate == "" {
		return nil, nil
	}
	pair, err := files.KeyPair(within(i.Dir, named.Certificate), within(i.Dir, named.Key))
	if err != nil {
		return nil, err
	}
	return &pair, nil
}
