package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"assay/internal/admin"
)

// params makes a query of pairs of names and values, without the empty ones.
func params(pairs ...string) url.Values {
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	return query
}

func flag(set bool) string {
	if set {
		return "true"
	}
	return ""
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// MintCodes mints codes, all or none, at most 500. With a key (may be "") the same request minted
// before answers the same codes again.
func (c *Client) MintCodes(ctx context.Context, mints []admin.MintCode, key string) ([]admin.Code, error) {
	got, err := one[admin.MintedCodes](ctx, c, request{method: http.MethodPost, path: "/codes", body: admin.MintCodes{Codes: mints}, key: key})
	return got.Codes, err
}

// CodeFilter selects codes; empty fields select all.
type CodeFilter struct{ Directory, Status, Device, Serial string }

// Codes lists codes, oldest first.
func (c *Client) Codes(ctx context.Context, f CodeFilter) iter.Seq2[admin.Code, error] {
	return list[admin.Code](ctx, c, "/codes", params("directory", f.Directory, "status", f.Status, "device", f.Device, "serial", f.Serial))
}

// Code returns a code by its id.
func (c *Client) Code(ctx context.Context, id string) (admin.Code, error) {
	return one[admin.Code](ctx, c, request{method: http.MethodGet, path: "/codes/" + url.PathEscape(id)})
}

// FindCode returns a code by its value, in a directory or ("") in whichever it works.
func (c *Client) FindCode(ctx context.Context, directory, value string) (admin.Code, error) {
	return one[admin.Code](ctx, c, request{method: http.MethodPost, path: "/codes/find", body: admin.FindCode{Directory: directory, Code: value}})
}

// RevokeCode revokes an unused code.
func (c *Client) RevokeCode(ctx context.Context, id string) (admin.Code, error) {
	return one[admin.Code](ctx, c, request{method: http.MethodPost, path: "/codes/" + url.PathEscape(id) + "/revoke"})
}

// CertificateFilter selects certificates; empty fields select all.
type CertificateFilter struct {
	Status, Directory, Device, DeviceSerial, Code string
	NeverCollected                                bool
	ExpiringBefore                                time.Time // valid ones, first to expire first
}

// Certificates lists certificates, oldest first.
func (c *Client) Certificates(ctx context.Context, f CertificateFilter) iter.Seq2[admin.Certificate, error] {
	return list[admin.Certificate](ctx, c, "/certificates", params("status", f.Status, "directory", f.Directory, "device", f.Device,
		"deviceSerial", f.DeviceSerial, "code", f.Code, "neverCollected", flag(f.NeverCollected), "expiringBefore", instant(f.ExpiringBefore)))
}

// Certificate returns a certificate by its id or its serial number in hex.
func (c *Client) Certificate(ctx context.Context, name string) (admin.CertificateDetail, error) {
	return one[admin.CertificateDetail](ctx, c, request{method: http.MethodGet, path: "/certificates/" + url.PathEscape(name)})
}

// RevokeCertificate revokes a certificate by its id or serial number, for a reason of RFC 5280 ("":
// unspecified).
func (c *Client) RevokeCertificate(ctx context.Context, name, reason string) (admin.Certificate, error) {
	return one[admin.Certificate](ctx, c, request{
		method: http.MethodPost, path: "/certificates/" + url.PathEscape(name) + "/revoke", body: admin.RevokeCertificate{Reason: reason},
	})
}

// DecisionFilter selects decisions; empty fields select all.
type DecisionFilter struct {
	Since                            time.Time
	Outcome, Directory, Device, Code string
	Inputs                           bool // with everything that each rested on
}

// Decisions lists decisions, oldest first.
func (c *Client) Decisions(ctx context.Context, f DecisionFilter) iter.Seq2[admin.Decision, error] {
	return list[admin.Decision](ctx, c, "/decisions", params("since", instant(f.Since), "outcome", f.Outcome, "directory", f.Directory,
		"device", f.Device, "code", f.Code, "inputs", flag(f.Inputs)))
}

// Decision returns a decision by its id, with everything that it rested on.
func (c *Client) Decision(ctx context.Context, id string) (admin.Decision, error) {
	return one[admin.Decision](ctx, c, request{method: http.MethodGet, path: "/decisions/" + url.PathEscape(id)})
}

// HoldFilter selects holds; empty fields select all.
type HoldFilter struct{ Status, Directory, Device string }

// Holds lists holds, oldest first.
func (c *Client) Holds(ctx context.Context, f HoldFilter) iter.Seq2[admin.Hold, error] {
	return list[admin.Hold](ctx, c, "/holds", params("status", f.Status, "directory", f.Directory, "device", f.Device))
}

// Hold returns a hold by its id.
func (c *Client) Hold(ctx context.Context, id string) (admin.Hold, error) {
	return one[admin.Hold](ctx, c, request{method: http.MethodGet, path: "/holds/" + url.PathEscape(id)})
}

// ApproveHold approves a held device; lifetime is how long the approval lives ("": as the policy has it).
func (c *Client) ApproveHold(ctx context.Context, id, lifetime string) (admin.Hold, error) {
	return one[admin.Hold](ctx, c, request{method: http.MethodPost, path: "/holds/" + url.PathEscape(id) + "/approve", body: admin.ApproveHold{Lifetime: lifetime}})
}

// DeclineHold declines a held device.
func (c *Client) DeclineHold(ctx context.Context, id string) (admin.Hold, error) {
	return one[admin.Hold](ctx, c, request{method: http.MethodPost, path: "/holds/" + url.PathEscape(id) + "/decline"})
}

// Policy returns a policy by the SHA-256 of its text.
func (c *Client) Policy(ctx context.Context, sha256 string) (admin.Policy, error) {
	return one[admin.Policy](ctx, c, request{method: http.MethodGet, path: "/policies/" + url.PathEscape(sha256)})
}

// PolicyUses lists which policies the directories used, oldest first.
func (c *Client) PolicyUses(ctx context.Context) ([]admin.PolicyUse, error) {
	type uses struct {
		Items []admin.PolicyUse `json:"items"`
	}
	got, err := one[uses](ctx, c, request{method: http.MethodGet, path: "/policies"})
	return got.Items, err
}

// DeviceFilter selects devices; empty fields select all.
type DeviceFilter struct{ Serial, UDID, State, Label string }

// Devices lists devices, oldest first.
func (c *Client) Devices(ctx context.Context, f DeviceFilter) iter.Seq2[admin.Device, error] {
	return list[admin.Device](ctx, c, "/devices", params("serial", f.Serial, "udid", f.UDID, "state", f.State, "label", f.Label))
}

// Device returns a device by its id, with its ETag.
func (c *Client) Device(ctx context.Context, id string) (admin.Device, string, error) {
	return tagged[admin.Device](ctx, c, request{method: http.MethodGet, path: "/devices/" + url.PathEscape(id)})
}

// UpdateDevice changes a device, if it still has the ETag ifMatch ("": whatever it has).
func (c *Client) UpdateDevice(ctx context.Context, id string, change admin.DeviceChange, ifMatch string) (admin.Device, error) {
	return one[admin.Device](ctx, c, request{method: http.MethodPatch, path: "/devices/" + url.PathEscape(id), body: change, ifMatch: ifMatch})
}

// Templates lists the credential templates by name.
func (c *Client) Templates(ctx context.Context) iter.Seq2[admin.Template, error] {
	return list[admin.Template](ctx, c, "/templates", nil)
}

// Template returns a credential template by its name.
func (c *Client) Template(ctx context.Context, name string) (admin.Template, error) {
	return one[admin.Template](ctx, c, request{method: http.MethodGet, path: "/templates/" + url.PathEscape(name)})
}

// Declare returns the credential of a device with its declarations: the one that stands, or a fresh one
// (then true). key may be "".
func (c *Client) Declare(ctx context.Context, d admin.DeclareOne, key string) (credential admin.Credential, fresh bool, err error) {
	answer, err := c.do(ctx, request{method: http.MethodPost, path: "/credentials", body: d, key: key}, &credential)
	if err != nil {
		return admin.Credential{}, false, err
	}
	return credential, answer.StatusCode == http.StatusCreated, nil
}

// DeclareBatch declares a template for at most 500 devices, each for itself; the results have their
// order. key may be "".
func (c *Client) DeclareBatch(ctx context.Context, batch admin.DeclareBatch, key string) ([]admin.DeclareResult, error) {
	got, err := one[admin.DeclaredBatch](ctx, c, request{method: http.MethodPost, path: "/credentials/batch", body: batch, key: key})
	return got.Results, err
}

// CredentialFilter selects credentials; empty fields select all.
type CredentialFilter struct{ Device, Template, State string }

// Credentials lists the credentials of devices, oldest first.
func (c *Client) Credentials(ctx context.Context, f CredentialFilter) iter.Seq2[admin.Credential, error] {
	return list[admin.Credential](ctx, c, "/credentials", params("device", f.Device, "template", f.Template, "state", f.State))
}

// Credential returns a device's credential by its id, with its ETag.
func (c *Client) Credential(ctx context.Context, id string) (admin.Credential, string, error) {
	return tagged[admin.Credential](ctx, c, request{method: http.MethodGet, path: "/credentials/" + url.PathEscape(id)})
}

// Renew renders a credential again, if it still has the ETag ifMatch ("": whatever it has). key may be "".
func (c *Client) Renew(ctx context.Context, id, ifMatch, key string) (admin.Credential, error) {
	return one[admin.Credential](ctx, c, request{method: http.MethodPost, path: "/credentials/" + url.PathEscape(id) + "/renew", ifMatch: ifMatch, key: key})
}

// Push pushes a credential's declarations to the MDM.
func (c *Client) Push(ctx context.Context, id string) (admin.Credential, error) {
	return one[admin.Credential](ctx, c, request{method: http.MethodPost, path: "/credentials/" + url.PathEscape(id) + "/push"})
}

// Withdraw withdraws a credential, if it still has the ETag ifMatch ("": whatever it has).
func (c *Client) Withdraw(ctx context.Context, id, ifMatch string) (admin.Credential, error) {
	return one[admin.Credential](ctx, c, request{method: http.MethodDelete, path: "/credentials/" + url.PathEscape(id), ifMatch: ifMatch})
}

// Declarations returns a credential's declarations, with the activation if asked for.
func (c *Client) Declarations(ctx context.Context, id string, activation bool) (admin.Declarations, error) {
	return one[admin.Declarations](ctx, c, request{
		method: http.MethodGet, path: "/credentials/" + url.PathEscape(id) + "/declarations", query: params("activation", flag(activation)),
	})
}

// Profile returns a credential as a .mobileconfig profile.
func (c *Client) Profile(ctx context.Context, id string) ([]byte, error) {
	return one[[]byte](ctx, c, request{method: http.MethodGet, path: "/credentials/" + url.PathEscape(id) + "/profile"})
}

// Publish publishes a document that was written by hand. key may be "".
func (c *Client) Publish(ctx context.Context, document admin.PublishDocument, key string) (admin.Publication, error) {
	return one[admin.Publication](ctx, c, request{method: http.MethodPost, path: "/documents", body: document, key: key})
}

// ReportStatus hands in a DDM StatusReport (JSON, as the device sent it) and returns the ids of the
// credentials that it concerns.
func (c *Client) ReportStatus(ctx context.Context, report []byte) ([]string, error) {
	got, err := one[admin.StatusResult](ctx, c, request{method: http.MethodPost, path: "/status", body: report})
	return got.Credentials, err
}

// ReportNanoMDM hands in an event of NanoMDM's webhook and returns the ids of the credentials that it
// concerns.
func (c *Client) ReportNanoMDM(ctx context.Context, event []byte) ([]string, error) {
	got, err := one[admin.StatusResult](ctx, c, request{method: http.MethodPost, path: "/status/nanomdm", body: event})
	return got.Credentials, err
}

// AuditFilter selects audit rows; empty fields select all.
type AuditFilter struct {
	Since, Until                             time.Time // Since included, Until not
	Action, Order, Code, Certificate, Device string
	Refused                                  bool
}

// Audit lists audit rows, oldest first.
func (c *Client) Audit(ctx context.Context, f AuditFilter) iter.Seq2[admin.AuditRow, error] {
	return list[admin.AuditRow](ctx, c, "/audit", params("since", instant(f.Since), "until", instant(f.Until), "action", f.Action,
		"order", f.Order, "code", f.Code, "certificate", f.Certificate, "device", f.Device, "refused", flag(f.Refused)))
}

// OpenAPI returns the API's description, as JSON.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return one[[]byte](ctx, c, request{method: http.MethodGet, path: "/openapi.json"})
}

// Healthy reports whether the server answers: nil, or why not.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.do(ctx, request{method: http.MethodGet, path: "/healthz"}, nil)
	return err
}

// VerifyAudit verifies the part of the audit trail behind a seal (0: from the start).
func (c *Client) VerifyAudit(ctx context.Context, after int64) (admin.AuditVerification, error) {
	return one[admin.AuditVerification](ctx, c, request{method: http.MethodGet, path: "/audit/verification", query: params("after", number(after))})
}

// Checkpoint returns a seal of the audit trail as text, by its number (0: the newest).
func (c *Client) Checkpoint(ctx context.Context, of int64) (admin.Checkpoint, error) {
	return one[admin.Checkpoint](ctx, c, request{method: http.MethodGet, path: "/audit/checkpoint", query: params("number", number(of))})
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
