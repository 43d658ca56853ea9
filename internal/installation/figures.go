package installation

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"assay/internal/store"

	"github.com/prometheus/client_golang/prometheus"
)

// How often the store's figures are read at most, whoever asks for metrics, and how long that may take.
const (
	figuresAge     = 10 * time.Second
	figuresTimeout = 3 * time.Second
)

// figures are gauges of what the store holds, read when metrics are asked for.
type figures struct {
	store *store.Store
	now   func() time.Time
	log   *slog.Logger

	holds, conflicts, unsealed, sealedAt, database, year, wal, free, doubt, crlThis, crlNext *prometheus.Desc

	mu   sync.Mutex
	last reading
	read time.Time // when last was read; zero: never
}

// reading is what was read at one time.
type reading struct {
	store.Figures
	doubtful bool // the clock
}

func newFigures(s *store.Store, now func() time.Time, log *slog.Logger) *figures {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &figures{
		store: s, now: now, log: log,
		holds:     gauge("assay_holds_waiting", "Devices held back until a person approves or declines; counted up to 10000."),
		conflicts: gauge("assay_inventory_conflicts_open", "Things that contradict the inventory, and that nobody resolved; counted up to 10000."),
		unsealed:  gauge("assay_audit_unsealed_rows", "Audit rows that no seal is over yet."),
		sealedAt:  gauge("assay_audit_last_seal_timestamp_seconds", "When the audit was last sealed; 0 for never."),
		database:  gauge("assay_store_database_bytes", "Size of the database file."),
		year:      gauge("assay_store_year_bytes", "Size of a table's partition of a year, with its indexes (PostgreSQL only).", "table", "year"),
		wal:       gauge("assay_store_wal_bytes", "Size of the database's write-ahead log."),
		free:      gauge("assay_store_free_bytes", "Room left on the file system that the database is on."),
		doubt:     gauge("assay_clock_doubtful", "1 while this server removes nothing, because its clock may be far ahead."),
		crlThis:   gauge("assay_crl_this_update_timestamp_seconds", "When the oldest CRL of an issuing CA was signed.", "issuer"),
		crlNext:   gauge("assay_crl_next_update_timestamp_seconds", "When the first CRL of an issuing CA ends, and relying parties refuse it.", "issuer"),
	}
}

func (f *figures) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{f.holds, f.conflicts, f.unsealed, f.sealedAt, f.database, f.year, f.wal, f.free, f.doubt, f.crlThis, f.crlNext} {
		out <- d
	}
}

// Collect tells the figures. Where they cannot be read there are none, and the other metrics stand.
func (f *figures) Collect(out chan<- prometheus.Metric) {
	now, ok := f.current()
	if !ok {
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	gauge(f.holds, float64(now.HoldsWaiting))
	gauge(f.conflicts, float64(now.ConflictsOpen))
	gauge(f.unsealed, float64(now.Unsealed))
	gauge(f.sealedAt, seconds(now.SealedAt))
	gauge(f.database, float64(now.Database))
	for _, y := range now.Years {
		gauge(f.year, float64(y.Bytes), y.Table, y.Year)
	}
	gauge(f.wal, float64(now.WAL))
	gauge(f.free, float64(now.Free))
	if now.doubtful {
		gauge(f.doubt, 1)
	} else {
		gauge(f.doubt, 0)
	}
	for issuer, age := range now.CRLs {
		gauge(f.crlThis, seconds(age.ThisUpdate), string(issuer))
		gauge(f.crlNext, seconds(age.NextUpdate), string(issuer))
	}
}

// current is the figures, read again once they are old.
func (f *figures) current() (reading, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if !f.read.IsZero() && now.Sub(f.read).Abs() < figuresAge {
		return f.last, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), figuresTimeout)
	defer cancel()
	var last reading
	var err error
	if last.Figures, err = f.store.Figures(ctx); err == nil {
		_, last.doubtful, err = f.store.DoubtClock(ctx, now)
	}
	if err != nil {
		f.log.Error("metrics of the store", "error", err)
		return reading{}, false
	}
	f.last, f.read = last, now
	return last, true
}

// seconds is a time as Prometheus has it; 0 for never.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
