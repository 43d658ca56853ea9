package installation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
	"time"
)

// readyTimeout bounds one answer of /readyz.
const readyTimeout = 2 * time.Second

// health tells whoever balances load whether to send devices here.
type health struct {
	store    interface{ Ready(context.Context) error }
	issuing  func(time.Time) error
	now      func() time.Time
	stopping atomic.Bool
}

// errStopping: requests in flight are finished, and none should come.
var errStopping = errors.New("the server was told to stop")

// unready is a reason why not to send devices here.
type unready struct {
	Check  string `json:"check"` // stopping, database or issuer
	Detail string `json:"detail"`
}

// readiness is the answer of /readyz.
type readiness struct {
	Ready   bool      `json:"ready"`
	Reasons []unready `json:"reasons,omitempty"`
}

// check finds every reason.
func (h *health) check(ctx context.Context) readiness {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var stopping error
	if h.stopping.Load() {
		stopping = errStopping
	}
	var found readiness
	for _, one := range []struct {
		check string
		err   error
	}{{"stopping", stopping}, {"database", h.store.Ready(ctx)}, {"issuer", h.issuing(h.now())}} {
		if one.err != nil {
			found.Reasons = append(found.Reasons, unready{one.check, one.err.Error()})
		}
	}
	found.Ready = len(found.Reasons) == 0
	return found
}

// ready answers 200, or 503 with the reasons.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	found := h.check(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !found.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(found) // whoever asked is gone
}

// live answers while the process does: what it lacks, starting it again would not mend.
func (h *health) live(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte("ok\n"))
}
