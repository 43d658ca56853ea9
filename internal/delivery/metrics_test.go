package delivery

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestFetchesAreCountedByWhatCameOfThem(t *testing.T) {
	d := newDesk(t)
	m := NewMetrics()
	url := urlOf(t, d.declared(sams()).Delivery)
	h := serving(Handler(d.store, slog.New(slog.DiscardHandler), d.clock, m))
	get(h, http.MethodHead, url)
	get(h, http.MethodGet, url)
	get(h, http.MethodGet, url)
	get(h, http.MethodGet, "https://id.example.com/credential/guessed")
	get(h, http.MethodGet, urlOf(t, d.declared(Request{Template: "mdm", Serial: testSerial}).Delivery))
	d.now = d.now.Add(365 * 24 * time.Hour)
	get(h, http.MethodGet, url)
	fails := serving(Handler(failingStore{}, slog.New(slog.DiscardHandler), d.clock, m))
	get(fails, http.MethodGet, url)
	if n := testutil.ToFloat64(m.Fetched); n != 2 {
		t.Errorf("%v documents fetched, want 2", n)
	}
	err := testutil.CollectAndCompare(m.Refused, strings.NewReader(`
# HELP assay_document_refusals_total Fetches of credential documents in vain, by failed check.
# TYPE assay_document_refusals_total counter
assay_document_refusals_total{check="code-expired"} 1
assay_document_refusals_total{check="internal"} 1
assay_document_refusals_total{check="listener"} 1
assay_document_refusals_total{check="unknown"} 1
`))
	if err != nil {
		t.Error(err)
	}
}
