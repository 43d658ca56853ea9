package limits

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// What became of a request over its limit.
const (
	resultDelayed = "delayed" // it waited; most then pass
	resultLeft    = "left"    // the client went away while it waited
	resultRefused = "refused"
)

// Metrics counts requests over their limits. Labels are limits and results, both fixed sets.
type Metrics struct {
	Over     *prometheus.CounterVec // assay_limit_requests_total{limit,result}
	Overflow *prometheus.CounterVec // assay_limit_overflow_total{limit}
	keys     *prometheus.Desc
	waiting  *prometheus.Desc

	counts map[Name]map[string]prometheus.Counter
	gate   atomic.Pointer[Gate] // whose tables are told
}

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	m := &Metrics{
		Over: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_limit_requests_total", Help: "Requests over a rate limit, by what became of them: delayed, refused, or left while they waited.",
		}, []string{"limit", "result"}),
		Overflow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_limit_overflow_total", Help: "Requests of one more address, code, account or device than a rate limit can remember.",
		}, []string{"limit"}),
		keys:    prometheus.NewDesc("assay_limit_keys", "Addresses, codes, accounts or devices that a rate limit remembers.", []string{"limit"}, nil),
		waiting: prometheus.NewDesc("assay_limit_waiting", "Requests that wait for their turn under a rate limit.", nil, nil),
		counts:  map[Name]map[string]prometheus.Counter{},
	}
	for _, k := range Catalogue() {
		m.counts[k.Name] = map[string]prometheus.Counter{}
		for _, result := range []string{resultDelayed, resultLeft, resultRefused} {
			m.counts[k.Name][result] = m.Over.WithLabelValues(string(k.Name), result)
		}
	}
	return m
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Over, m.Overflow, (*tables)(m)}
}

func (m *Metrics) count(limit Name, result string) { m.counts[limit][result].Inc() }

func (m *Metrics) watch(g *Gate) { m.gate.Store(g) }

// tables tells of a gate's tables when metrics are asked for.
type tables Metrics

func (t *tables) Describe(out chan<- *prometheus.Desc) {
	out <- t.keys
	out <- t.waiting
}

func (t *tables) Collect(out chan<- prometheus.Metric) {
	g := t.gate.Load()
	if g == nil {
		return
	}
	for name, keys := range g.keys() {
		out <- prometheus.MustNewConstMetric(t.keys, prometheus.GaugeValue, float64(keys), string(name))
	}
	out <- prometheus.MustNewConstMetric(t.waiting, prometheus.GaugeValue, float64(g.waiting.Load()))
}
