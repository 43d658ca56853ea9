package installation

import (
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"

	"assay/internal/admin"
	"assay/internal/delivery"
	"assay/internal/limits"
	"assay/internal/server"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// measures is everything that one running server measures: what its parts count themselves, and what only
// the installation sees. docs/metrics.md lists it.
type measures struct {
	acme       *server.Metrics
	deliveries *delivery.Metrics
	admin      *admin.Metrics
	limits     *limits.Metrics

	open       *prometheus.GaugeVec   // assay_connections_open{listener}
	accepted   *prometheus.CounterVec // assay_connections_total{listener}
	handshakes *prometheus.CounterVec // assay_tls_handshake_errors_total{listener}
	reloads    *prometheus.CounterVec // assay_policy_reloads_total{directory,result}
	faulty     *prometheus.GaugeVec   // assay_policy_faulty{directory}
	issuers    *prometheus.GaugeVec   // assay_issuer_expiry_timestamp_seconds{directory,issuer}

	all []prometheus.Collector
}

// newMeasures makes the measures of a server. What is there only with some configuration is added.
func (i *Installation) newMeasures(log *slog.Logger) *measures {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	m := &measures{
		acme: server.NewMetrics(), deliveries: delivery.NewMetrics(), admin: admin.NewMetrics(), limits: limits.NewMetrics(),
		open:       gauge("assay_connections_open", "Connections that are open, by listener: acme, admin, mdm or metrics.", "listener"),
		accepted:   counter("assay_connections_total", "Connections that were accepted, by listener.", "listener"),
		handshakes: counter("assay_tls_handshake_errors_total", "TLS handshakes that failed, by listener.", "listener"),
		reloads:    counter("assay_policy_reloads_total", "Policies read again because their file changed: good, which take over, and bad, whose predecessor stays.", "directory", "result"),
		faulty:     gauge("assay_policy_faulty", "1 while the file of a directory's policy is faulty, and the last good policy decides.", "directory"),
		issuers:    gauge("assay_issuer_expiry_timestamp_seconds", "When the issuing CA of a directory ends.", "directory", "issuer"),
	}
	build := gauge("assay_build_info", "1, with the version of the program and of Go.", "version", "goversion")
	build.WithLabelValues(version(), runtime.Version()).Set(1)
	m.add(m.acme.Collectors()...)
	m.add(m.deliveries.Collectors()...)
	m.add(m.admin.Collectors()...)
	m.add(m.limits.Collectors()...)
	m.add(i.Store.Collectors()...)
	m.add(m.open, m.accepted, m.handshakes, m.reloads, m.faulty, m.issuers, build, newFigures(i.Store, i.now, log))
	m.add(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *measures) add(collectors ...prometheus.Collector) { m.all = append(m.all, collectors...) }

// serves notes which CAs the directories issue by.
func (m *measures) serves(acme *server.Server) {
	for name, d := range acme.Directories {
		m.issuers.WithLabelValues(name, string(d.Issuer)).Set(float64(acme.Issuers[d.Issuer].Certificate.NotAfter.Unix()))
	}
}

// policy counts what became of looking at a policy's file.
func (m *measures) policy(directory string, r reload) {
	switch r {
	case reloadGood:
		m.reloads.WithLabelValues(directory, "good").Inc()
		m.faulty.WithLabelValues(directory).Set(0)
	case reloadBad:
		m.reloads.WithLabelValues(directory, "bad").Inc()
		m.faulty.WithLabelValues(directory).Set(1)
	}
}

// watches makes the series of directories that have a policy of their own: from the start they are there.
func (m *measures) watches(live map[string]*livePolicy) {
	for directory := range live {
		m.reloads.WithLabelValues(directory, "good")
		m.reloads.WithLabelValues(directory, "bad")
		m.faulty.WithLabelValues(directory).Set(0)
	}
}

// connections is what http.Server calls when a connection of a listener changes its state.
func (m *measures) connections(listener string) func(net.Conn, http.ConnState) {
	open, accepted := m.open.WithLabelValues(listener), m.accepted.WithLabelValues(listener)
	return func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			accepted.Inc()
			open.Inc()
		case http.StateClosed, http.StateHijacked:
			open.Dec()
		}
	}
}

// handshakeError begins what http.Server logs of a failed handshake. It tells of them nowhere else.
const handshakeError = "http: TLS handshake error"

// handshakeLog counts failed handshakes on their way to the log.
type handshakeLog struct {
	failed prometheus.Counter
	to     *log.Logger
}

func (l *handshakeLog) Write(line []byte) (int, error) {
	if strings.HasPrefix(string(line), handshakeError) {
		l.failed.Inc()
	}
	return l.to.Writer().Write(line)
}

// errorLog is the log of a listener's http.Server: strangers fill it, so it is for debugging only.
func (m *measures) errorLog(listener string, to *slog.Logger) *log.Logger {
	return log.New(&handshakeLog{m.handshakes.WithLabelValues(listener), slog.NewLogLogger(to.Handler(), slog.LevelDebug)}, "", 0)
}

// serveMetrics opens the listener for metrics and health, if one is configured.
func (i *Installation) serveMetrics(fronts *fronts, health *health, running *Running) error {
	if i.Config.MetricsListen == "" {
		return nil
	}
	registry := prometheus.NewRegistry()
	for _, c := range fronts.measures.all {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	f, err := fronts.open(metricsFront, i.Config.MetricsListen, "http://"+i.Config.MetricsListen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /livez", health.live)
	mux.HandleFunc("GET /readyz", health.ready)
	if i.Config.Pprof {
		addPprof(mux)
	}
	f.url, f.handler = "http://"+f.listener.Addr().String()+"/metrics", mux
	running.MetricsURL = f.url
	return nil
}

// addPprof serves profiles of the process. They show its memory, keys included: the configuration allows them
// on loopback only.
func addPprof(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}
