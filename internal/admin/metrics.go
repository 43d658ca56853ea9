package admin

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the requests to the API. Routes are those of its description, and "none" for all other
// paths; methods are the routes' own, so nobody outside can add a label.
type Metrics struct {
	Requests *prometheus.CounterVec // assay_admin_requests_total{method,route,status}
}

// NewMetrics makes the metrics; Register them where they shall be seen.
func NewMetrics() *Metrics {
	return &Metrics{Requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_admin_requests_total", Help: "Requests to the admin API, by route and HTTP status.",
	}, []string{"method", "route", "status"})}
}

// Collectors are the metrics, for a registry.
func (m *Metrics) Collectors() []prometheus.Collector { return []prometheus.Collector{m.Requests} }

func (m *Metrics) answered(method, route string, status int) {
	m.Requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
}
