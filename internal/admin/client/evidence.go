package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"

	"assay/internal/admin"
	"assay/internal/evidence"
)

// EvidenceFilter selects evidence; empty fields select all.
type EvidenceFilter struct {
	Since  time.Time
	Kind   string
	Failed bool   // only what a check refused
	Device string // id of the device that gave it
}

// EvidenceList lists evidence, oldest first.
func (c *Client) EvidenceList(ctx context.Context, f EvidenceFilter) iter.Seq2[admin.Evidence, error] {
	return list[admin.Evidence](ctx, c, "/evidence", params("since", instant(f.Since), "kind", f.Kind, "failed", flag(f.Failed), "device", f.Device))
}

// Evidence returns everything that is kept of a piece of evidence.
func (c *Client) Evidence(ctx context.Context, id string) (admin.EvidenceDetail, error) {
	return one[admin.EvidenceDetail](ctx, c, request{method: http.MethodGet, path: "/evidence/" + url.PathEscape(id)})
}

// VerifyEvidence verifies a piece of evidence again, with the server's checks and roots of today.
func (c *Client) VerifyEvidence(ctx context.Context, id string) (evidence.Verdict, error) {
	return one[evidence.Verdict](ctx, c, request{method: http.MethodGet, path: "/evidence/" + url.PathEscape(id) + "/verification"})
}

// ExportEvidence returns a ZIP file that somebody else can verify.
func (c *Client) ExportEvidence(ctx context.Context, id string) ([]byte, error) {
	return one[[]byte](ctx, c, request{method: http.MethodGet, path: "/evidence/" + url.PathEscape(id) + "/bundle"})
}
