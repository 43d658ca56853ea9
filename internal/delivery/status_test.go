package delivery

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

const (
	credentialA = issuance.CredentialID("cred_0123456789abcdefghjkmnpqrs")
	credentialB = issuance.CredentialID("cred_1123456789abcdefghjkmnpqrs")
)

// failedStatus is a report as a device sends it where an asset could not be had.
const failedStatus = `{
  "StatusItems": {
    "management": {"declarations": {
      "activations": [{"active": true, "identifier": "assay.cred_0123456789abcdefghjkmnpqrs.activation", "valid": "valid", "server-token": "t0"}],
      "configurations": [
        {"active": false, "identifier": "assay.cred_0123456789abcdefghjkmnpqrs.identity", "valid": "unknown", "server-token": "t2"},
        {"active": true, "identifier": "com.example.passcode", "valid": "valid", "server-token": "x"}],
      "assets": [
        {"active": false, "identifier": "assay.cred_0123456789abcdefghjkmnpqrs.asset", "valid": "invalid", "server-token": "t1",
         "reasons": [{"code": "Error.AssetCannotBeDownloaded", "description": "Asset cannot be downloaded.", "details": {"Identifier": "a", "ServerToken": "t1"}}]}],
      "management": []
    }},
    "device": {"model": {"family": "iPhone"}}
  },
  "Errors": []
}`

func parseStatus(t testing.TB, data string) []issuance.CredentialReport {
	t.Helper()
	reports, err := ParseStatus([]byte(data), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return reports
}

func TestParseStatusReadsDeclarations(t *testing.T) {
	want := []issuance.CredentialReport{{Credential: credentialA, Report: issuance.StatusReport{
		Asset: &issuance.DeclarationState{Identifier: AssetIdentifier(credentialA), ServerToken: "t1", Valid: "invalid", Reasons: []issuance.DeclarationReason{
			{Code: "Error.AssetCannotBeDownloaded", Description: "Asset cannot be downloaded.", Details: `{"Identifier":"a","ServerToken":"t1"}`}}},
		Configuration: &issuance.DeclarationState{Identifier: ConfigurationIdentifier(credentialA), ServerToken: "t2", Valid: "unknown"},
	}}}
	if diff := cmp.Diff(want, parseStatus(t, failedStatus)); diff != "" {
		t.Error(diff)
	}
}

// listed is a report with certificates, in a full report or one of what changed.
func listed(full bool, items ...string) string {
	return fmt.Sprintf(`{"FullReport": %v, "StatusItems": {
		"management": {"declarations": {"assets": [{"identifier": %q, "active": true, "valid": "valid"}]}},
		"security": {"certificate": {"list": [%s]}}}}`, full, AssetIdentifier(credentialA), strings.Join(items, ","))
}

func listItem(declaration string, der []byte) string {
	return fmt.Sprintf(`{"identifier": "1", "declaration-identifier": %q, "is-identity": true, "subject-summary": "phone", "data": %q}`,
		declaration, base64.StdEncoding.EncodeToString(der))
}

func TestParseStatusReadsCertificates(t *testing.T) {
	ca := newMDMCA(t, "CA")
	older := ca.identity("phone").Leaf.Raw
	newer := ca.identity("phone", func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Minute) }).Leaf.Raw
	sum := func(der []byte) string { h := sha256.Sum256(der); return hex.EncodeToString(h[:]) }
	ours := AssetIdentifier(credentialA)
	for name, c := range map[string]struct {
		status      string
		installed   string
		uninstalled bool
	}{
		"installed":                         {listed(false, listItem(ours, older)), sum(older), false},
		"the newer of two, last":            {listed(false, listItem(ours, older), listItem(ours, newer)), sum(newer), false},
		"the newer of two, first":           {listed(false, listItem(ours, newer), listItem(ours, older)), sum(newer), false},
		"somebody else's":                   {listed(false, listItem("com.example.asset", older)), "", false},
		"of the configuration's identifier": {listed(false, listItem(ConfigurationIdentifier(credentialA), older)), "", false},
		"removed":                           {listed(false, fmt.Sprintf(`{"identifier": "1", "declaration-identifier": %q, "_removed": true}`, ours)), "", true},
		"removed and replaced":              {listed(false, fmt.Sprintf(`{"identifier": "1", "declaration-identifier": %q, "_removed": true}`, ours), listItem(ours, newer)), sum(newer), false},
		"replaced, and the other removed":   {listed(false, listItem(ours, newer), fmt.Sprintf(`{"identifier": "1", "declaration-identifier": %q, "_removed": true}`, ours)), sum(newer), false},
		"removed without saying whose":      {listed(false, `{"identifier": "1", "_removed": true}`), "", false},
		"what changed, without it":          {listed(false), "", false},
		"everything, without it":            {listed(true), "", true},
		"everything, with it":               {listed(true, listItem(ours, older)), sum(older), false},
		"everything but certificates":       {strings.Replace(listed(true), `"list"`, `"other"`, 1), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			reports := parseStatus(t, c.status)
			if len(reports) != 1 {
				t.Fatalf("%d reports", len(reports))
			}
			if got := reports[0].Report; got.Installed != c.installed || got.Uninstalled != c.uninstalled {
				t.Errorf("installed %q, uninstalled %v", got.Installed, got.Uninstalled)
			}
		})
	}
}

func TestParseStatusSaysNothingOfOthers(t *testing.T) {
	for name, status := range map[string]string{
		"nothing": `{}`, "null": `null`, "no declarations": `{"StatusItems": {"device": {"x": 1}}}`,
		"an asset among configurations": fmt.Sprintf(`{"StatusItems": {"management": {"declarations": {"configurations": [{"identifier": %q}]}}}}`, AssetIdentifier(credentialA)),
		"other identifiers":             `{"StatusItems": {"management": {"declarations": {"assets": [{"identifier": "assay.x.asset"}, {"identifier": ""}]}}}}`,
	} {
		if got := parseStatus(t, status); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParseStatusRefuses(t *testing.T) {
	many := make([]string, maxReported+1)
	for i := range many {
		id := issuance.CredentialID(fmt.Sprintf("cred_%026d", i))
		many[i] = fmt.Sprintf(`{"identifier": %q}`, AssetIdentifier(id))
	}
	for name, c := range map[string]struct{ status, says string }{
		"too long":            {strings.Repeat(" ", MaxStatusSize) + "{}", "limit"},
		"no JSON":             {"<plist/>", "invalid character"},
		"cut off":             {failedStatus[:200], "unexpected end"},
		"a list for an item":  {`{"StatusItems": []}`, "StatusItems"},
		"too many":            {`{"StatusItems": {"management": {"declarations": {"assets": [` + strings.Join(many, ",") + `]}}}}`, "limit"},
		"data is no base64":   {listed(false, fmt.Sprintf(`{"declaration-identifier": %q, "data": "?"}`, AssetIdentifier(credentialA))), "base64"},
		"data is not DER":     {listed(false, listItem(AssetIdentifier(credentialA), []byte("x"))), "x509"},
		"ours without a data": {listed(false, fmt.Sprintf(`{"declaration-identifier": %q}`, AssetIdentifier(credentialA))), "x509"},
	} {
		if reports, err := ParseStatus([]byte(c.status), time.Time{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, %v", name, reports, err)
		}
	}
}

func TestParseStatusBoundsTexts(t *testing.T) {
	long := strings.Repeat("é", 3000)
	details := fmt.Sprintf(`{"x": %q}`, long)
	reason := fmt.Sprintf(`{"code": %q, "description": %q, "details": %s}`, long, long, details)
	status := fmt.Sprintf(`{"StatusItems": {"management": {"declarations": {"assets": [{"identifier": %q, "server-token": %q, "valid": %q, "reasons": [%s]}]}}}}`,
		AssetIdentifier(credentialA), long, long, strings.Join([]string{reason, reason, reason, reason, reason, reason, reason, reason, reason, reason}, ","))
	state := parseStatus(t, status)[0].Report.Asset
	if len(state.ServerToken) > maxToken || len(state.Valid) > maxValid || len(state.Reasons) != maxReasons {
		t.Errorf("token of %d, validity of %d bytes, %d reasons", len(state.ServerToken), len(state.Valid), len(state.Reasons))
	}
	for _, r := range state.Reasons {
		if len(r.Code) > maxReason || len(r.Description) > maxReason || r.Details != "" {
			t.Errorf("reason of %d, %d and %d bytes", len(r.Code), len(r.Description), len(r.Details))
		}
	}
}

func TestStatusIsMatchedByIdentifier(t *testing.T) {
	d := newDesk(t)
	record := func(status string) ([]issuance.CredentialID, error) {
		reports, err := ParseStatus([]byte(status), d.now)
		if err != nil {
			return nil, err
		}
		return d.store.RecordReports(t.Context(), d.call(), reports)
	}
	declared := d.declared(sams())
	status := strings.ReplaceAll(failedStatus, string(credentialA), string(declared.Credential.ID))
	known, err := record(status)
	if err != nil || len(known) != 1 || known[0] != declared.Credential.ID {
		t.Fatalf("concerns %v, %v", known, err)
	}
	report := d.delivery(declared.Credential.ID).Credential.Report
	if report == nil || !report.ReceivedAt.Equal(d.now) || report.Asset == nil || report.Asset.Reasons[0].Code != "Error.AssetCannotBeDownloaded" {
		t.Errorf("report %+v", report)
	}
	if known, err := record(failedStatus); err != nil || len(known) != 0 {
		t.Errorf("a report of an unknown credential concerns %v, %v", known, err)
	}
	if _, err := record("no JSON"); err == nil {
		t.Error("a broken report was taken")
	}
}

func FuzzParseStatus(f *testing.F) {
	ca := newMDMCA(f, "CA")
	f.Add([]byte(failedStatus))
	f.Add([]byte(listed(true, listItem(AssetIdentifier(credentialA), ca.certificate.Raw))))
	f.Add([]byte(listed(false, `{"_removed": true}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		reports, err := ParseStatus(data, time.Time{})
		if err != nil {
			return
		}
		if len(reports) > maxReported {
			t.Fatalf("%d reports", len(reports))
		}
		for _, r := range reports {
			if !isCredentialID(string(r.Credential)) {
				t.Fatalf("credential %q", r.Credential)
			}
			if installed := r.Report.Installed; installed != "" && (len(installed) != 64 || r.Report.Uninstalled) {
				t.Fatalf("installed %q, uninstalled %v", installed, r.Report.Uninstalled)
			}
			for _, state := range []*issuance.DeclarationState{r.Report.Asset, r.Report.Configuration} {
				if state == nil {
					continue
				}
				if len(state.ServerToken) > maxToken || len(state.Valid) > maxValid || len(state.Reasons) > maxReasons {
					t.Fatalf("state %+v", state)
				}
				for _, reason := range state.Reasons {
					if len(reason.Code) > maxReason || len(reason.Description) > maxReason || reason.Details != "" && !json.Valid([]byte(reason.Details)) {
						t.Fatalf("reason %+v", reason)
					}
				}
			}
		}
	})
}

// checkin is a DeclarativeManagement check-in as a device sends it.
func checkin(messageType, endpoint, data string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>MessageType</key><string>` + messageType + `</string>
<key>UDID</key><string>` + testUDID + `</string>
<key>Endpoint</key><string>` + endpoint + `</string>
<key>Data</key><data>
` + base64.StdEncoding.EncodeToString([]byte(data)) + `
</data>
</dict></plist>`
}

// event is NanoMDM's webhook event of a check-in.
func event(topic, payload string) []byte {
	return fmt.Appendf(nil, `{"topic": %q, "event_id": "1", "created_at": "2026-03-01T12:00:00Z",
		"checkin_event": {"udid": %q, "url_params": null, "raw_payload": %q}}`, topic, testUDID, base64.StdEncoding.EncodeToString([]byte(payload)))
}

func TestNanoMDMEventHoldsTheStatusReport(t *testing.T) {
	status, ok, err := ParseNanoMDMEvent(event(nanoMDMTopic, checkin("DeclarativeManagement", "status", failedStatus)))
	if err != nil || !ok || string(status) != failedStatus {
		t.Fatalf("got %q, %v, %v", status, ok, err)
	}
}

func TestOtherNanoMDMEventsHoldNone(t *testing.T) {
	for name, data := range map[string][]byte{
		"another topic":        event("mdm.TokenUpdate", checkin("TokenUpdate", "", "")),
		"a command's result":   []byte(`{"topic": "mdm.Connect", "acknowledge_event": {"status": "Idle", "raw_payload": "AAAA"}}`),
		"another endpoint":     event(nanoMDMTopic, checkin("DeclarativeManagement", "tokens", "")),
		"a declaration":        event(nanoMDMTopic, checkin("DeclarativeManagement", "declaration/asset/status", "")),
		"another message type": event(nanoMDMTopic, checkin("Authenticate", "status", "{}")),
	} {
		if status, ok, err := ParseNanoMDMEvent(data); ok || err != nil || status != nil {
			t.Errorf("%s: got %q, %v, %v", name, status, ok, err)
		}
	}
}

func TestParseNanoMDMEventRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"too long":      {append(event(nanoMDMTopic, checkin("DeclarativeManagement", "status", "{}")), strings.Repeat(" ", MaxNanoMDMEventSize)...), "limit"},
		"no JSON":       {[]byte("topic=mdm"), "invalid character"},
		"no event":      {[]byte(`{}`), "topic"},
		"no check-in":   {[]byte(`{"topic": "mdm.DeclarativeManagement"}`), "checkin_event"},
		"no base64":     {[]byte(`{"topic": "mdm.DeclarativeManagement", "checkin_event": {"raw_payload": "?"}}`), "raw_payload"},
		"no plist":      {event(nanoMDMTopic, "<html>"), "raw_payload"},
		"binary plist":  {event(nanoMDMTopic, "bplist00\xd0"), "binary"},
		"nested":        {event(nanoMDMTopic, `<plist version="1.0"><dict><key>x</key>`+strings.Repeat("<array>", 1000)+strings.Repeat("</array>", 1000)+`</dict></plist>`), "nested"},
		"no dictionary": {event(nanoMDMTopic, `<plist version="1.0"><string>x</string></plist>`), "raw_payload"},
	} {
		if status, ok, err := ParseNanoMDMEvent(c.data); err == nil || ok || status != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %q, %v, %v", name, status, ok, err)
		}
	}
}

func FuzzParseNanoMDMEvent(f *testing.F) {
	f.Add(event(nanoMDMTopic, checkin("DeclarativeManagement", "status", failedStatus)))
	f.Add(event(nanoMDMTopic, checkin("DeclarativeManagement", "tokens", "")))
	f.Add(event("mdm.Authenticate", checkin("Authenticate", "", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if status, ok, err := ParseNanoMDMEvent(data); err != nil && (ok || status != nil) || len(status) > len(data) {
			t.Fatalf("got %d bytes, %v, %v", len(status), ok, err)
		}
	})
}

// The check-in itself is another text of strangers: fuzzed without the layers around it.
func FuzzNanoMDMCheckin(f *testing.F) {
	f.Add(checkin("DeclarativeManagement", "status", failedStatus))
	f.Add(`<plist version="1.0"><dict><key>Data</key><array/></dict></plist>`)
	f.Fuzz(func(_ *testing.T, payload string) {
		_, _, _ = ParseNanoMDMEvent(event(nanoMDMTopic, payload))
	})
}
