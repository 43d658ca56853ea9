package tracing

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"assay/internal/manual"
)

var update = flag.Bool("update", false, "write the generated part of docs/tracing.md")

func TestManualListsEveryAttribute(t *testing.T) {
	var table strings.Builder
	table.WriteString("| attribute | meaning |\n|---|---|\n")
	listed := map[string]bool{}
	for _, m := range meanings {
		listed[string(m.key)] = true
		fmt.Fprintf(&table, "| `%s` | %s |\n", m.key, m.meaning)
	}
	source, err := os.ReadFile("tracing.go")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`\bKey = "([^"]+)"`).FindAllSubmatch(source, -1)
	for _, key := range keys {
		if !listed[string(key[1])] {
			t.Errorf("what %s means is not said", key[1])
		}
	}
	if len(keys) < 10 {
		t.Fatalf("found %d keys", len(keys))
	}
	manual.Part(t, "../../docs/tracing.md", "attributes", table.String(), *update, "go test ./internal/tracing -run Manual -update")
}

// TestWhatIsNotTracedCostsNothing, in either build.
func TestWhatIsNotTracedCostsNothing(t *testing.T) {
	background := context.Background()
	r := httptest.NewRequestWithContext(background, http.MethodGet, "/", nil)
	w := httptest.NewRecorder()
	handler := Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	var err error
	allocated := testing.AllocsPerRun(100, func() {
		same, request := Request(r, "GET /{x}")
		ctx, work := Work(background, "work")
		ctx, span := Start(ctx, "step")
		if same != r || ctx != background || Recording(ctx) || Behind(ctx, r.Header) != ctx {
			t.Error("something changed")
		}
		span.Set(Order, "order_1")
		span.Event("begun")
		Current(ctx).Set(Check, "check")
		span.End(&err)
		work.End(&err)
		request.Answered(http.StatusOK)
		handler.ServeHTTP(w, r)
	})
	if allocated != 0 {
		t.Errorf("%v allocations", allocated)
	}
}

func BenchmarkNotTraced(b *testing.B) {
	ctx := b.Context()
	var err error
	b.ReportAllocs()
	for b.Loop() {
		_, span := Start(ctx, "step")
		span.Set(Order, "order_1")
		span.End(&err)
	}
}

func TestNilTracerTracesNothing(t *testing.T) {
	var none *Tracer
	if ctx := context.Background(); none.Context(ctx) != ctx || none.Logger(nil) != nil {
		t.Error("something changed")
	}
	none.Close(context.Background())
}
