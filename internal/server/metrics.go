package server

import (
	"time"

	"assay/acme"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the server does. Labels are bounded: directories, problem types and check
// names are all fixed sets.
type Metrics struct {
	Refusals *prometheus.CounterVec   // assay_refusals_total{directory,problem,check}
	Issued   *prometheus.CounterVec   // assay_certificates_issued_total{directory,evidence}
	Finalize *prometheus.HistogramVec // assay_finalize_seconds{directory}
}

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	return &Metrics{
		Refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_refusals_total", Help: "Refused ACME requests, by failed check.",
		}, []string{"directory", "problem", "check"}),
		Issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_certificates_issued_total", Help: "Issued certificates, by kind of evidence.",
		}, []string{"directory", "evidence"}),
		Finalize: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_finalize_seconds", Help: "Time that finalize requests took that issued.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"directory"}),
	}
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Refusals, m.Issued, m.Finalize}
}

func (m *Metrics) refused(directory string, p *acme.Problem) {
	m.Refusals.WithLabelValues(directory, p.Kind(), p.Check).Inc()
}

func (m *Metrics) issued(directory, evidence string, took time.Duration) {
	m.Issued.WithLabelValues(directory, evidence).Inc()
	m.Finalize.WithLabelValues(directory).Observe(took.Seconds())
}
