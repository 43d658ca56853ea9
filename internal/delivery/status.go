package delivery

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"assay/internal/issuance"
)

// MaxStatusSize is the largest status report that is read, in bytes.
const MaxStatusSize = 1 << 20

// Limits on what is kept of a status report. Texts are cut; what is more is left out.
const (
	maxReported = 256  // credentials of one report; a device has a handful
	maxReasons  = 8    // of one declaration
	maxReason   = 512  // bytes of a reason's code or description
	maxDetails  = 2048 // bytes of a reason's details; longer ones are left out, because half of them is no JSON
	maxToken    = 64   // octets of a ServerToken, by Apple's schema
	maxValid    = 16   // bytes of a validity
)

// statusReport is a DDM StatusReport, with the status items that concern credentials. A device sends
// what changed since its last one, so every part may be missing.
type statusReport struct {
	FullReport  bool // the report names everything
	StatusItems struct {
		Management struct {
			Declarations struct {
				Assets         []declarationStatus `json:"assets"`
				Configurations []declarationStatus `json:"configurations"`
			} `json:"declarations"`
		} `json:"management"`
		Security struct {
			Certificate struct {
				List []certificateStatus `json:"list"`
			} `json:"certificate"`
		} `json:"security"`
	}
}

// declarationStatus is an item of management.declarations.
type declarationStatus struct {
	Identifier  string         `json:"identifier"`
	ServerToken string         `json:"server-token"`
	Active      bool           `json:"active"`
	Valid       string         `json:"valid"`
	Reasons     []statusReason `json:"reasons"`
}

type statusReason struct {
	Code        string          `json:"code"`
	Description string          `json:"description"`
	Details     json.RawMessage `json:"details"`
}

// certificateStatus is an item of security.certificate.list.
type certificateStatus struct {
	Declaration string `json:"declaration-identifier"`
	Data        string `json:"data"` // DER in base64
	Removed     bool   `json:"_removed"`
}

// ParseStatus reads a DDM StatusReport (JSON, at most MaxStatusSize) and returns what it says of
// credentials, sorted by credential. What it does not say of them is zero in the reports, and must
// not replace what was known before (StatusReport.Merge): devices send what changed.
func ParseStatus(data []byte, received time.Time) ([]issuance.CredentialReport, error) {
	if len(data) > MaxStatusSize {
		return nil, fmt.Errorf("read status report: %d bytes; the limit is %d", len(data), MaxStatusSize)
	}
	var status statusReport
	if err := json.Unmarshal(data, &status); err != nil {
		return nil, fmt.Errorf("read status report: %w", err)
	}
	reports := reportsOf{}
	declarations := status.StatusItems.Management.Declarations
	for _, s := range declarations.Assets {
		if r := reports.of(s.Identifier, AssetKind); r != nil {
			r.Asset = s.state()
		}
	}
	for _, s := range declarations.Configurations {
		if r := reports.of(s.Identifier, ConfigurationKind); r != nil {
			r.Configuration = s.state()
		}
	}
	if err := reports.certificates(status.StatusItems.Security.Certificate.List, status.FullReport); err != nil {
		return nil, fmt.Errorf("read status report: %w", err)
	}
	if len(reports) > maxReported {
		return nil, fmt.Errorf("read status report: it names %d credentials; the limit is %d", len(reports), maxReported)
	}
	out := make([]issuance.CredentialReport, 0, len(reports))
	for _, id := range slices.Sorted(maps.Keys(reports)) {
		reports[id].ReceivedAt = received
		out = append(out, issuance.CredentialReport{Credential: id, Report: *reports[id]})
	}
	return out, nil
}

// reportsOf collects what a report says, by credential.
type reportsOf map[issuance.CredentialID]*issuance.StatusReport

// of is the report of the credential that a declaration belongs to; nil for somebody else's declaration.
func (r reportsOf) of(identifier string, kind DeclarationKind) *issuance.StatusReport {
	id, is, ok := ParseIdentifier(identifier)
	if !ok || is != kind {
		return nil
	}
	if r[id] == nil {
		r[id] = &issuance.StatusReport{}
	}
	return r[id]
}

// certificates notes which certificates are installed. Around a renewal a device may list the old one
// beside the new: the one that begins last counts. list is nil if the report has none; in a full one
// it is the whole list.
func (r reportsOf) certificates(list []certificateStatus, full bool) error {
	newest := map[*issuance.StatusReport]time.Time{}
	for _, c := range list {
		report := r.of(c.Declaration, AssetKind)
		if report == nil {
			continue
		}
		if c.Removed {
			report.Uninstalled = report.Installed == ""
			continue
		}
		der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(c.Data), ""))
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", c.Declaration, err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", c.Declaration, err)
		}
		if report.Installed != "" && parsed.NotBefore.Before(newest[report]) {
			continue
		}
		sum := sha256.Sum256(der)
		report.Installed, report.Uninstalled, newest[report] = hex.EncodeToString(sum[:]), false, parsed.NotBefore
	}
	if !full || list == nil {
		return nil
	}
	for _, report := range r {
		report.Uninstalled = report.Installed == ""
	}
	return nil
}

// state is the status within its limits.
func (s *declarationStatus) state() *issuance.DeclarationState {
	state := &issuance.DeclarationState{
		Identifier: s.Identifier, ServerToken: bound(s.ServerToken, maxToken), Active: s.Active, Valid: bound(s.Valid, maxValid),
	}
	for _, reason := range s.Reasons[:min(len(s.Reasons), maxReasons)] {
		kept := issuance.DeclarationReason{Code: bound(reason.Code, maxReason), Description: bound(reason.Description, maxReason)}
		var compact bytes.Buffer
		if len(reason.Details) > 0 && json.Compact(&compact, reason.Details) == nil && compact.Len() <= maxDetails && compact.String() != "null" {
			kept.Details = compact.String()
		}
		state.Reasons = append(state.Reasons, kept)
	}
	return state
}

// bound cuts outside text to at most so many bytes of valid UTF-8.
func bound(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
