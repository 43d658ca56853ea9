package ddm

import (
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lastReport(t *testing.T, m *fakeMDM) map[string]any {
	t.Helper()
	if len(m.reports) == 0 {
		t.Fatal("no status report")
	}
	return m.reports[len(m.reports)-1]
}

// itemOf walks into StatusItems.
func itemOf(report map[string]any, path ...string) any {
	var at any = report["StatusItems"]
	for _, name := range path {
		at, _ = at.(map[string]any)[name]
	}
	return at
}

// lastState is the state of a declaration in the last report.
func lastState(t *testing.T, m *fakeMDM, list, id string) map[string]any {
	t.Helper()
	states, _ := itemOf(lastReport(t, m), "management", "declarations", list).([]any)
	for _, one := range states {
		if state := one.(map[string]any); state["identifier"] == id {
			return state
		}
	}
	t.Fatalf("%s is in no report: %v", id, states)
	return nil
}

func reasonOf(state map[string]any) string {
	reasons, _ := state["reasons"].([]any)
	if len(reasons) != 1 {
		return ""
	}
	code, _ := reasons[0].(map[string]any)["code"].(string)
	return code
}

func TestFirstReportIsFullThenChanges(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	first := s.sync(t).Enrolled[0]
	report := lastReport(t, s.mdm)
	if report["FullReport"] != true || itemOf(report, "device", "identifier", "serial-number") != s.Device.Device.Serial {
		t.Errorf("first report %v", report)
	}
	_, certificate, err := first.Open(s.Keys)
	if err != nil {
		t.Fatal(err)
	}
	listed := []any{map[string]any{
		"identifier": first.CertificateSHA, "declaration-identifier": "asset", "subject-summary": "Sam's iPhone",
		"is-identity": true, "data": base64.StdEncoding.EncodeToString(certificate.Raw),
	}}
	if diff := cmp.Diff(listed, itemOf(report, "security", "certificate", "list")); diff != "" {
		t.Error(diff)
	}
	wantStates := map[string]any{
		"activations": []any{map[string]any{"identifier": "activation", "server-token": "a1", "active": true, "valid": "valid"}},
		"assets":      []any{map[string]any{"identifier": "asset", "server-token": "t1", "active": true, "valid": "valid"}},
		"configurations": []any{
			map[string]any{"identifier": "identity", "server-token": "c1", "active": true, "valid": "valid"},
			map[string]any{"identifier": "subscriptions", "server-token": "s1", "active": true, "valid": "valid"},
		},
		"management": []any{},
	}
	if diff := cmp.Diff(wantStates, itemOf(report, "management", "declarations")); diff != "" {
		t.Error(diff)
	}

	s.declareIdentity("t2", "None")
	second := s.sync(t).Enrolled[0]
	report = lastReport(t, s.mdm)
	if _, full := report["FullReport"]; full || itemOf(report, "device") != nil {
		t.Errorf("second report %v", report)
	}
	list, _ := itemOf(report, "security", "certificate", "list").([]any)
	if len(list) != 2 || !cmp.Equal(list[0], any(map[string]any{"identifier": first.CertificateSHA, "_removed": true})) || list[1].(map[string]any)["identifier"] != second.CertificateSHA {
		t.Errorf("certificates %v", list)
	}
}

func TestCertificatesAreReportedWhereSubscribedOnly(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.mdm.activate("identity")
	if outcome := s.sync(t); len(outcome.Enrolled) != 1 {
		t.Fatalf("outcome %+v", outcome)
	}
	if report := lastReport(t, s.mdm); itemOf(report, "security") != nil || itemOf(report, "device") != nil {
		t.Errorf("report %v", report)
	}
	if state := lastState(t, s.mdm, "configurations", "subscriptions"); reasonOf(state) != notReferencedByActivation {
		t.Errorf("subscriptions are reported as %v", state)
	}
}

func TestReportThatDidNotArriveIsSentAgain(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.mdm.answer = failAt("status")
	if outcome, err := s.Sync(t.Context(), s.mdm.tokens()); err == nil || outcome == nil || len(outcome.Enrolled) != 1 {
		t.Fatalf("outcome %+v, %v", outcome, err)
	}
	s.mdm.answer = nil
	if outcome := s.sync(t); !outcome.Reported || s.runs != 1 || lastReport(t, s.mdm)["FullReport"] != true {
		t.Errorf("outcome %+v after %d runs", outcome, s.runs)
	}
}

func TestWhatTheDeviceCannotApplyIsNotSupported(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.mdm.put("com.apple.configuration.passcode.settings", "passcode", "p1", map[string]any{"RequirePasscode": true})
	s.mdm.put("com.apple.asset.useridentity", "user", "u1", map[string]any{"FullName": "Sam"})
	s.mdm.put("com.apple.configuration.account.mail", "mail", "m1", map[string]any{"UserIdentityAssetReference": "user"})
	s.mdm.put(TypeIdentity, "empty", "e1", map[string]any{})
	s.mdm.activate("identity", "subscriptions", "passcode", "mail", "empty")
	s.sync(t)
	for id, want := range map[string]string{"passcode": configurationNotSupported, "empty": configurationIsInvalid} {
		if got := reasonOf(lastState(t, s.mdm, "configurations", id)); got != want {
			t.Errorf("%s is reported as %s", id, got)
		}
	}
	if got := reasonOf(lastState(t, s.mdm, "assets", "user")); got != unknownDeclarationType {
		t.Errorf("the user's identity is reported as %s", got)
	}
}
