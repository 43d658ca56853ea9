package opinion

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what the client does. The results are a fixed set: "answered" and the failures.
type Metrics struct {
	Opinions    *prometheus.CounterVec // assay_opinions_total{result}
	Seconds     prometheus.Histogram   // assay_opinion_seconds
	CircuitOpen prometheus.Gauge       // assay_opinion_circuit_open
}

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	return &Metrics{
		Opinions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_opinions_total", Help: "Opinions wanted from the service outside, by what came of it.",
		}, []string{"result"}),
		Seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_opinion_seconds", Help: "Time that the service outside was waited for, whatever came of it.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 11),
		}),
		CircuitOpen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_opinion_circuit_open", Help: "1 while the service outside is not asked because it failed too often.",
		}),
	}
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Opinions, m.Seconds, m.CircuitOpen}
}

func (m *Metrics) asked(r Report) {
	result := "answered"
	if !r.Opinion.Answered {
		result = r.Opinion.Failure
	}
	m.Opinions.WithLabelValues(result).Inc()
	m.Seconds.Observe(r.Took.Seconds())
}

func (m *Metrics) notAsked(failure string) { m.Opinions.WithLabelValues(failure).Inc() }
