package installation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/attest"
	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/policy"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// limits of the listeners. A slow or half-open client costs one connection for a bounded time.
type limits struct {
	connections    int           // at once; more wait
	header         time.Duration // until a request's header is there
	read           time.Duration // until a request's body is there
	write          time.Duration // until the reply is sent, from the end of the header
	idle           time.Duration // between requests: a device never pauses longer than 5 s
	shutdown       time.Duration // for requests in flight when the server is stopped
	maxHeaderBytes int
	streams        int // of one HTTP/2 connection at once
}

var defaultLimits = limits{
	connections: 4096,
	header:      5 * time.Second, read: 15 * time.Second, write: 30 * time.Second, idle: 10 * time.Second,
	shutdown: 15 * time.Second, maxHeaderBytes: 16 << 10, streams: 16,
}

const (
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
	MetricsURL  string            // "" without a metrics listener
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
	base, err := i.Config.baseURL(listener.Addr().String())
	if err != nil {
		return &ConfigError{fmt.Errorf("serve: %w", err)}
	}
	acme, running, err := i.newServer(ctx, base, o.Log)
	if err != nil {
		return err
	}
	// The folder is ours alone: every claim is of a server that is gone, whatever the clock says.
	if err := i.undoDeadClaims(ctx, i.now().AddDate(100, 0, 0), o.Log); err != nil {
		return err
	}
	tlsConfig, err := i.tlsConfig(base, o.Log)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(i.Dir, urlFile), []byte(base+"\n"), 0o600); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	var stopMetrics func()
	if running.MetricsURL, stopMetrics, err = i.serveMetrics(acme.Metrics, o.Log); err != nil {
		return err
	}
	defer stopMetrics()
	return i.run(ctx, acme, netutil.LimitListener(listener, i.limits.connections), tlsConfig, *running, o)
}

// run serves until the context ends, with the periodic upkeep beside it.
func (i *Installation) run(ctx context.Context, acme *server.Server, listener net.Listener, tlsConfig *tls.Config, running Running, o ServeOptions) error {
	for _, w := range running.Warnings {
		o.Log.Warn(w)
	}
	httpServer := &http.Server{
		Handler: acme, TLSConfig: tlsConfig,
		ReadHeaderTimeout: i.limits.header, ReadTimeout: i.limits.read, WriteTimeout: i.limits.write,
		IdleTimeout: i.limits.idle, MaxHeaderBytes: i.limits.maxHeaderBytes,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: i.limits.streams},
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
	o.Log.Info("serving", "url", running.BaseURL, "listen", listener.Addr().String(), "directories", slices.Sorted(maps.Keys(running.Directories)))
	if o.Ready != nil {
		o.Ready(running)
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		o.Log.Info("stopping: requests in flight are finished first")
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.limits.shutdown)
		defer cancel()
		err = httpServer.Shutdown(deadline)
		<-failed
	}
	stopUpkeep()
	<-upkeepDone
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.limits.shutdown)
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
		if slices.ContainsFunc(c.Identifiers, func(k policy.IdentifierKind) bool { return k != policy.ByCode }) {
			running.Warnings = append(running.Warnings, fmt.Sprintf("directory %s takes serial numbers or UDIDs without a code: "+
				"ANY device that attests itself gets certificates there, also one that is not yours", name))
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
func (i *Installation) serveMetrics(metrics *server.Metrics, log *slog.Logger) (url string, stop func(), err error) {
	if i.Config.MetricsListen == "" {
		return "", func() {}, nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.Collectors()...)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	listener, err := net.Listen("tcp", i.Config.MetricsListen)
	if err != nil {
		return "", nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	metricsServer := &http.Server{Handler: mux, ReadHeaderTimeout: i.limits.header, ReadTimeout: i.limits.read, WriteTimeout: i.limits.write}
	go func() {
		if err := metricsServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve metrics", "error", err)
		}
	}()
	url = "http://" + listener.Addr().String() + "/metrics"
	log.Info("serving metrics", "url", url)
	return url, func() { _ = metricsServer.Close() }, nil
}

// lock takes the folder for one server. It locks the data key, which a server cannot do without: a
// lock file could be deleted, and a second server started beside the first. The lock falls with the
// process, however it ends.
func lock(dir string) (unlock func() error, err error) {
	f, err := os.OpenFile(dataKeyPath(dir), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("serve %s: another server runs on it", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := forgetURL(dir); err != nil { // of a server that was killed
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() error { return errors.Join(forgetURL(dir), f.Close()) }, nil
}

func forgetURL(dir string) error {
	if err := os.Remove(filepath.Join(dir, urlFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// awaitInterval is how often AwaitServer looks.
const awaitInterval = 10 * time.Millisecond

// AwaitServer waits until a server runs on the folder, in whichever process, and returns its base URL.
func (i *Installation) AwaitServer(ctx context.Context) (baseURL string, err error) {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	for {
		if url := runningURL(i.Dir); url != "" {
			return url, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a server on %s: %w", i.Dir, ctx.Err())
		case <-ticker.C:
		}
	}
}

// runningURL is the base URL of the server that runs on the folder, "" if none does. Asking does
// not take the lock.
func runningURL(dir string) string {
	f, err := os.Open(dataKeyPath(dir))
	if err != nil {
		return ""
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_RDLCK}
	if unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &held) != nil || held.Type == unix.F_UNLCK {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, urlFile))
	if err != nil {
		return "" // it is about to start or to stop
	}
	return strings.TrimSpace(string(data))
}
