//go:build !otel

package installation

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestServeSaysHowToBuildForTraces(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "\nlisten:", "\ntracing: true\nlisten:")
	err := opened(t, dir).Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "tracing: this program was built without OpenTelemetry: build it with -tags otel") {
		t.Errorf("got %v", err)
	}
}
