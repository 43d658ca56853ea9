package installation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"assay/internal/ca"
	"assay/internal/files"
)

// tlsConfig is the ACME listener's: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, never a client certificate.
func (i *Installation) tlsConfig(baseURL string, log *slog.Logger) (*tls.Config, error) {
	certificate, err := i.servingCertificate(baseURL, log)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// A device's requests come strictly one after the other, so HTTP/2 has nothing to interleave for
		// it, and costs a third more of the processor around each: it is for clients that insist.
		NextProtos:     []string{"http/1.1", "h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		// A device enrols over one connection and does not come back for a year: a ticket would be made
		// for nobody.
		SessionTicketsDisabled: true,
	}, nil
}

func (i *Installation) servingCertificate(baseURL string, log *slog.Logger) (func() (*tls.Certificate, error), error) {
	if i.Config.TLS.Certificate != "" {
		operators := &reloading{certFile: within(i.Dir, i.Config.TLS.Certificate), keyFile: within(i.Dir, i.Config.TLS.Key), now: i.now, log: log}
		if _, err := operators.get(); err != nil {
			return nil, &ConfigError{err}
		}
		return operators.get, nil
	}
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, err
	}
	own := &selfServing{dir: i.Dir, host: base.Hostname(), now: i.now}
	_, err = own.get()
	return own.get, err
}

// reloadCheck is how often the operator's files may be looked at.
const reloadCheck = 10 * time.Second

// reloading is the operator's certificate, read again when its file changes. A pair that cannot be
// read leaves the last good one in use, and says so once.
type reloading struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	read    fs.FileInfo // of the file that current was read from
	checked time.Time
	failing bool
}

func (r *reloading) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.current != nil && now.Sub(r.checked).Abs() < reloadCheck {
		return r.current, nil
	}
	r.checked = now
	info, err := os.Stat(r.certFile)
	if err == nil && files.Same(info, r.read) {
		return r.current, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = files.KeyPair(r.certFile, r.keyFile)
	}
	if err != nil {
		err = fmt.Errorf("read serving certificate: %w", err)
		if r.current == nil {
			return nil, err
		}
		if !r.failing {
			r.log.Error("the last good serving certificate stays in use", "error", err)
		}
		r.failing = true
		return r.current, nil
	}
	r.current, r.read, r.failing = &pair, info, false
	return r.current, nil
}

// servingRenewal is how long before its end a self-made serving certificate is replaced.
const servingRenewal = 24 * time.Hour

// selfServing is a certificate from the installation's serving root, made in memory and renewed
// before it ends.
type selfServing struct {
	dir, host string
	now       func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
}

func (s *selfServing) get() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.current != nil && now.Before(s.current.Leaf.NotAfter.Add(-servingRenewal)) {
		return s.current, nil
	}
	root, err := openServingRoot(s.dir, now)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	hosts := []string{s.host}
	if s.host == "127.0.0.1" || s.host == "::1" || s.host == "localhost" {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	leaf, err := root.NewServing(hosts, key.Public(), now)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	s.current = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return s.current, nil
}

// openServingRoot opens the CA of the installation's own serving certificates.
func openServingRoot(dir string, now time.Time) (*ca.Root, error) {
	data, err := files.Read(filepath.Join(dir, certsFolder, "serving-root.pem"), files.MaxPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("serving-root.pem holds no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := ca.OpenKey("file:"+filepath.Join(keysFolder, "serving-root.key"), dir)
	if err != nil {
		return nil, err
	}
	return ca.OpenRoot(cert, key, now)
}
