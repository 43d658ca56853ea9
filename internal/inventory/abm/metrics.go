package abm

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts syncs. The results are "ok" and the checks of Failure, a fixed set.
type Metrics struct {
	Syncs    *prometheus.CounterVec // assay_inventory_syncs_total{result}
	Complete prometheus.Gauge       // assay_inventory_sync_last_success_timestamp_seconds
}

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	return &Metrics{
		Syncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_inventory_syncs_total", Help: "Syncs of the inventory with Apple Business or School Manager that ended, dry runs left out: ok, or the check that failed.",
		}, []string{"result"}),
		Complete: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_inventory_sync_last_success_timestamp_seconds", Help: "When this server last ended a sync of the inventory without a failure; 0 for not since its start.",
		}),
	}
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.Syncs, m.Complete}
}

// failedInside is the result of a sync that failed without a check of its own.
const failedInside = "internal"

func (m *Metrics) ended(s *Sync, err error, now time.Time) {
	switch {
	case s.DryRun:
	case err == nil:
		m.Syncs.WithLabelValues("ok").Inc()
		m.Complete.Set(float64(now.Unix()))
	case s.Failure == nil:
		m.Syncs.WithLabelValues(failedInside).Inc()
	default:
		m.Syncs.WithLabelValues(string(s.Failure.Check)).Inc()
	}
}
