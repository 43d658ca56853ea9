package installation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/server"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// Limits of the ACME listener. A slow or half-open client costs one connection for a bounded time.
const (
	maxConnections    = 4096
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 16 << 10
	shutdownTimeout   = 15 * time.Second

	upkeepInterval = time.Minute
	deadClaimAge   = time.Minute // no request takes longer: a claim this old is dead
)

// ServeOptions says how to serve.
type ServeOptions struct {
	Listen string // overrides the configuration's
	Log    *slog.Logger
	// Ready is called once the server accepts connections.
	Ready func(Running)
}

// Running describes a server that accepts connections.
type Running struct {
	BaseURL     string
	Directories map[string]string // directory URLs by name
	Warnings    []string
}

// Serve runs the server until the context ends, then finishes requests in flight. Only one server
// runs on a folder at a time.
func (i *Installation) Serve(ctx context.Context, o ServeOptions) (err error) {
	unlock, err := lock(i.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	listen := o.Listen
	if listen == "" {
		listen = i.Config.Listen
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer listener.Close()
	base := strings.TrimSuffix(i.Config.URL, "/")
	if base == "" {
		base = "https://" + listener.Addr().String()
	}
	acme, running, err := i.newServer(ctx, base, o.Log)
	if err != nil {
		return err
	}
	if err := i.undoDeadClaims(ctx, i.now(), o.Log); err != nil {
		return err
	}
	tlsConfig, err := i.tlsConfig(base)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(i.Dir, lockFile), []byte(base+"\n"), 0o600); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	stopMetrics, err := i.serveMetrics(acme.Metrics, o.Log)
	if err != nil {
		return err
	}
	defer stopMetrics()
	return i.run(ctx, acme, netutil.LimitListener(listener, maxConnections), tlsConfig, *running, o)
}

// run serves until the context ends, with the periodic upkeep beside it.
func (i *Installation) run(ctx context.Context, acme *server.Server, listener net.Listener, tlsConfig *tls.Config, running Running, o ServeOptions) error {
	for _, w := range running.Warnings {
		o.Log.Warn(w)
	}
	httpServer := &http.Server{
		Handler: acme, TLSConfig: tlsConfig,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // failed handshakes of strangers
	}
	upkeep, stopUpkeep := context.WithCancel(ctx)
	upkeepDone := make(chan struct{})
	go func() {
		defer close(upkeepDone)
		i.upkeep(upkeep, acme, o.Log)
	}()
	failed := make(chan error, 1)
	go func() { failed <- httpServer.ServeTLS(listener, "", "") }()
	o.Log.Info("serving", "url", running.BaseURL, "listen", listener.Addr().String(), "directories", len(running.Directories))
	if o.Ready != nil {
		o.Ready(running)
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		o.Log.Info("stopping: requests in flight are finished first")
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err = httpServer.Shutdown(deadline)
		<-failed
	}
	stopUpkeep()
	<-upkeepDone
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	return errors.Join(err, acme.FlushStrangers(flush))
}

// newServer wires the ACME server from configuration and database.
func (i *Installation) newServer(ctx context.Context, base string, log *slog.Logger) (*server.Server, *Running, error) {
	issuers, active, err := i.issuers(ctx, base)
	if err != nil {
		return nil, nil, err
	}
	roots, err := i.Roots()
	if err != nil {
		return nil, nil, err
	}
	running := &Running{BaseURL: base, Directories: map[string]string{}}
	directories := map[string]*server.Directory{}
	for name, c := range i.Config.Directories {
		d := &server.Directory{
			Name: name, Profile: i.Config.Profiles[c.Profile], Issuer: active, Roots: map[string][]attest.Root{},
			Identifiers: c.Identifiers, Terms: c.TermsOfService, Website: c.Website,
		}
		if c.Issuer != "" {
			d.Issuer = issuance.IssuerID(c.Issuer)
		}
		for _, format := range c.Accept {
			d.Roots[format] = roots[format]
			for _, root := range roots[format] {
				if root.StandIn {
					d.StandIn = true
					running.Warnings = append(running.Warnings, fmt.Sprintf("directory %s accepts %s attestations of a STAND-IN authority (%s): "+
						"certificates prove nothing about real devices", name, format, root.Name))
				}
			}
		}
		directories[name] = d
		running.Directories[name] = server.DirectoryURL(base, name)
	}
	acme, err := server.New(server.Config{
		BaseURL: base, Directories: directories, Issuers: issuers, Shards: i.Config.Revocation.Shards,
		Documents: delivery.Handler(i.Store, log, i.now),
		Store:     i.Store, Verifier: attest.NewVerifier(), Log: log, Now: i.now,
	})
	return acme, running, err
}

// upkeep does the periodic work: CRLs, dead claims, clean-up, counts of strangers' refusals.
func (i *Installation) upkeep(ctx context.Context, acme *server.Server, log *slog.Logger) {
	ticker := time.NewTicker(upkeepInterval)
	defer ticker.Stop()
	for {
		if err := errors.Join(
			acme.RenewCRLs(ctx),
			i.undoDeadClaims(ctx, i.now().Add(-deadClaimAge), log),
			i.cleanUp(ctx, log),
			acme.FlushStrangers(ctx),
		); err != nil && ctx.Err() == nil {
			log.Error("upkeep", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (i *Installation) undoDeadClaims(ctx context.Context, before time.Time, log *slog.Logger) error {
	undone, err := i.Store.UndoDeadClaims(ctx, issuance.Call{Now: i.now(), From: "server"}, before)
	if undone > 0 {
		log.Warn("undid claims that a crash left behind: their codes are good again", "claims", undone)
	}
	return err
}

func (i *Installation) cleanUp(ctx context.Context, log *slog.Logger) error {
	cleaned, err := i.Store.CleanUp(ctx, i.now())
	log.Debug("cleaned up", "rows", cleaned)
	return err
}

// serveMetrics serves Prometheus metrics on their own listener, if one is configured.
func (i *Installation) serveMetrics(metrics *server.Metrics, log *slog.Logger) (stop func(), err error) {
	if i.Config.MetricsListen == "" {
		return func() {}, nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.Collectors()...)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	listener, err := net.Listen("tcp", i.Config.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	metricsServer := &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout}
	go func() {
		if err := metricsServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve metrics", "error", err)
		}
	}()
	return func() { _ = metricsServer.Close() }, nil
}

// lock takes the folder for one server. The lock falls with the process, however it ends.
func lock(dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another server runs on it", dir)
	}
	return func() error { return errors.Join(f.Truncate(0), f.Close()) }, nil
}

// runningURL is the base URL of the server that runs on the folder, "" if none does. Asking does
// not take the lock.
func runningURL(dir string) string {
	f, err := os.Open(filepath.Join(dir, lockFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_RDLCK}
	if unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held) != nil || held.Type == unix.F_UNLCK {
		return "" // what the file says is of a server that is gone
	}
	data, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
