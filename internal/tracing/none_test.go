//go:build !otel

package tracing

import (
	"strings"
	"testing"
)

func TestOpenSaysHowToBuild(t *testing.T) {
	if _, err := Open(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "built without OpenTelemetry: build it with -tags otel") {
		t.Error(err)
	}
}
