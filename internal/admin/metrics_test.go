package admin_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"assay/internal/admin"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Whoever calls chooses method, path and token: none of them may make a label.
func TestRequestsAreCountedByRouteWhateverIsAskedFor(t *testing.T) {
	metrics := admin.NewMetrics()
	r := newRig(t, func(c *admin.Config) { c.Metrics = metrics })
	token, _ := r.token(admin.CodesRead)
	r.do("GET", "/codes", token, "")
	r.do("GET", "/codes", "stranger", "")
	for _, id := range []string{"code_1", "code_2"} {
		r.do("GET", "/codes/"+id, token, "")
	}
	for _, method := range []string{"BREW", "PUT"} {
		r.api.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/api/v1/"+method, http.NoBody))
	}
	err := testutil.CollectAndCompare(metrics.Requests, strings.NewReader(`
# HELP assay_admin_requests_total Requests to the admin API, by route and HTTP status.
# TYPE assay_admin_requests_total counter
assay_admin_requests_total{method="GET",route="/api/v1/codes",status="200"} 1
assay_admin_requests_total{method="GET",route="/api/v1/codes",status="401"} 1
assay_admin_requests_total{method="GET",route="/api/v1/codes/{code}",status="404"} 2
assay_admin_requests_total{method="GET",route="/api/v1/openapi.json",status="200"} 1
assay_admin_requests_total{method="none",route="none",status="404"} 2
`))
	if err != nil {
		t.Error(err)
	}
}
