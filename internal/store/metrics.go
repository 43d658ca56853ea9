package store

import (
	"strconv"
	"sync"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what the store does. All labels are fixed sets.
type metrics struct {
	commits  [2]prometheus.Observer // of relaxed and of durable batches
	seconds  *prometheus.HistogramVec
	batch    prometheus.Histogram
	failed   prometheus.Counter
	rejected prometheus.Counter

	audited   *prometheus.CounterVec
	collected prometheus.Counter
	revoked   prometheus.Counter
	mu        sync.Mutex
	events    map[event]prometheus.Counter // of audited, looked up once

	removed  *prometheus.CounterVec
	imported *prometheus.CounterVec
}

// event is what an audit row is about. There are as many as actions and outcomes.
type event struct {
	action  audit.Action
	outcome audit.Outcome
}

// Why rows were removed.
const (
	byCleanUp   = "clean-up"
	byRetention = "retention"
)

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "assay_store_commit_duration_seconds", Help: "Time that a batch of changes took, from its begin to the end of its commit; durable ones are fsynced.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 15),
		}, []string{"durable"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_store_batch_changes", Help: "Changes that shared one commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 8),
		}),
		failed:    counter("assay_store_commit_failures_total", "Batches of changes that could not be committed, or, with SQLite, then be moved from the log into the database, as on a full disk."),
		rejected:  counter("assay_store_changes_rejected_total", "Changes refused because too many waited already."),
		audited:   vector("assay_audit_rows_total", "Audit rows that this server wrote, by action and outcome.", "action", "outcome"),
		collected: counter("assay_certificates_collected_total", "Certificates that a device collected for the first time."),
		revoked:   counter("assay_certificates_revoked_total", "Certificates that this server revoked, on whoever's behalf."),
		events:    map[event]prometheus.Counter{},
		removed:   vector("assay_store_removed_rows_total", "Rows removed, or emptied, because they were over (clean-up) or not to be kept any longer (retention).", "reason", "kind"),
		imported:  vector("assay_inventory_imported_devices_total", "Devices on lists that were taken into the inventory, by what became of each.", "result"),
	}
	for durable := range m.commits {
		m.commits[durable] = m.seconds.WithLabelValues(strconv.FormatBool(durable == 1))
	}
	for _, change := range []issuance.ImportChange{issuance.ImportAdded, issuance.ImportUpdated, issuance.ImportUnchanged, issuance.ImportConflict} {
		m.imported.WithLabelValues(string(change))
	}
	return m
}

// Collectors are the metrics, for a registry.
func (s *Store) Collectors() []prometheus.Collector {
	m := s.metrics
	return append(s.db.collectors(), m.seconds, m.batch, m.failed, m.rejected, m.audited, m.collected, m.revoked, m.removed, m.imported)
}

// committed counts a transaction, and what it wrote into the audit trail.
func (m *metrics) committed(durable bool, took time.Duration, audited ...[]event) {
	kind := 0
	if durable {
		kind = 1
	}
	m.commits[kind].Observe(took.Seconds())
	for _, one := range audited {
		for _, e := range one {
			m.happened(e)
		}
	}
}

// happened counts an audit row that is committed.
func (m *metrics) happened(e event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.events[e]
	if !ok {
		c = m.audited.WithLabelValues(string(e.action), string(e.outcome))
		m.events[e] = c
	}
	c.Inc()
	switch e {
	case event{audit.CertificateCollected, audit.Done}:
		m.collected.Inc()
	case event{audit.CertificateRevoked, audit.Done}:
		m.revoked.Inc()
	}
}

// cleaned counts rows that were removed.
func (m *metrics) cleaned(reason, kind string, rows int64) {
	m.removed.WithLabelValues(reason, kind).Add(float64(rows))
}
