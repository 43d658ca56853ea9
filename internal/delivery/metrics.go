package delivery

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what devices fetch and what is pushed to the MDM. The checks are a fixed set.
type Metrics struct {
	Fetched prometheus.Counter     // assay_documents_fetched_total
	Refused *prometheus.CounterVec // assay_document_refusals_total{check}
	Pushes  *prometheus.CounterVec // assay_pushes_total{result}

	pushed, notPushed prometheus.Counter
}

// checkUnknown is the label of a fetch of a document that never was; checkInternal of one that the server failed at.
const (
	checkUnknown  = "unknown"
	checkInternal = "internal"
)

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	m := &Metrics{
		Fetched: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "assay_documents_fetched_total", Help: "Credential documents that were sent whole.",
		}),
		Refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_document_refusals_total", Help: "Fetches of credential documents in vain, by failed check.",
		}, []string{"check"}),
		Pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_pushes_total", Help: "Pushes of a credential's declarations to the MDM, by what came of it: ok or failed.",
		}, []string{"result"}),
	}
	m.pushed, m.notPushed = m.Pushes.WithLabelValues("ok"), m.Pushes.WithLabelValues("failed")
	return m
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Fetched, m.Refused, m.Pushes}
}

// refused counts a fetch in vain.
func (m *Metrics) refused(check string) { m.Refused.WithLabelValues(check).Inc() }

// measuring is the metrics, or ones that nobody sees.
func measuring(m *Metrics) *Metrics {
	if m == nil {
		return NewMetrics()
	}
	return m
}
