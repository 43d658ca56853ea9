package ddm

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"assay/enroll"
)

func TestSyncFetchesResolvesEnrolsAndReports(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	outcome := s.sync(t)
	want := []string{
		"declaration-items", "declaration/activation/activation", "declaration/asset/asset",
		"declaration/configuration/identity", "declaration/configuration/subscriptions", "status",
	}
	if diff := cmp.Diff(want, s.mdm.seen); diff != "" {
		t.Error(diff)
	}
	if len(outcome.Enrolled) != 1 || len(outcome.Failed) > 0 || !outcome.Reported || s.runs != 1 || s.documents.requests != 1 {
		t.Errorf("outcome %+v after %d runs", outcome, s.runs)
	}
	if held := s.Held()["asset"]; held.ServerToken != "t1" || held.ID != outcome.Enrolled[0].ID {
		t.Errorf("holds %+v", held)
	}
}

func TestSyncWithNothingNewDoesNothing(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.sync(t)
	for _, device := range []string{"the same", "restarted"} {
		if device == "restarted" {
			s.Folder = must(OpenFolder(s.path))
		}
		outcome := s.sync(t)
		if diff := cmp.Diff(&Outcome{}, outcome); diff != "" {
			t.Errorf("%s: %s", device, diff)
		}
		if len(s.mdm.seen) > 0 || s.runs != 1 || s.documents.requests != 1 {
			t.Errorf("%s: sent %v, %d runs, %d documents", device, s.mdm.seen, s.runs, s.documents.requests)
		}
	}
	s.mdm.seen = nil
	if _, err := s.Sync(t.Context(), nil); err != nil || !cmp.Equal(s.mdm.seen, []string{"tokens"}) {
		t.Errorf("without tokens: %v, sent %v", err, s.mdm.seen)
	}
}

func TestOtherDeclarationsChangeNothingForAHeldIdentity(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.sync(t)
	s.mdm.put("com.apple.management.organization-info", "organization", "o1", map[string]any{"Name": "Example Inc."})
	outcome := s.sync(t)
	if diff := cmp.Diff([]string{"declaration-items", "declaration/management/organization", "status"}, s.mdm.seen); diff != "" {
		t.Error(diff)
	}
	if len(outcome.Enrolled) > 0 || s.runs != 1 || s.documents.requests != 1 {
		t.Errorf("outcome %+v after %d runs", outcome, s.runs)
	}
}

func TestNewServerTokenMeansNewKeyInTheOldOnesPlace(t *testing.T) {
	for name, code := range map[string]string{"with the same code": "abc", "with a new code": "def"} {
		s := newSite(t)
		s.declareIdentity("t1", "None")
		first := s.sync(t).Enrolled[0]
		s.documents.code = code
		s.declareIdentity("t2", "None")
		second := s.sync(t).Enrolled[0]
		if _, _, err := second.Open(s.Keys); err != nil || s.Held()["asset"].ServerToken != "t2" {
			t.Errorf("%s: holds %v, %v", name, s.Held(), err)
		}
		if found := must(s.Identities.Find("")); len(found) != 1 || found[0].Serial != second.Serial || first.Serial == second.Serial {
			t.Errorf("%s: the store has %d identities", name, len(found))
		}
	}
}

func TestAssetNotReferencedIsNeverResolved(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fakeMDM)
		reason string
	}{
		"no configuration":      {func(m *fakeMDM) { delete(m.declarations, "identity"); m.activate("subscriptions") }, notReferencedByConfiguration},
		"no activation":         {func(m *fakeMDM) { delete(m.declarations, "activation") }, notReferencedByConfiguration},
		"not activated":         {func(m *fakeMDM) { m.activate("subscriptions") }, notReferencedByConfiguration},
		"half an activation":    {func(m *fakeMDM) { m.activate("identity", "missing") }, notReferencedByConfiguration},
		"activated as an asset": {func(m *fakeMDM) { m.activate("identity", "asset") }, notReferencedByConfiguration},
		"predicate": {func(m *fakeMDM) {
			m.put(TypeActivation, "activation", "a2", map[string]any{"StandardConfigurations": []any{"identity"}, "Predicate": "TRUEPREDICATE"})
		}, notReferencedByConfiguration},
		"another activation": {func(m *fakeMDM) {
			m.put("com.apple.activation.future", "activation", "a2", map[string]any{"StandardConfigurations": []any{"identity"}})
		}, notReferencedByConfiguration},
		"another asset is missing": {func(m *fakeMDM) {
			m.put(TypeIdentity, "identity", "c2", map[string]any{"CredentialAssetReference": "asset", "OtherAssetReference": "missing"})
		}, notReferencedByConfiguration},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.declareIdentity("t1", "None")
			test.change(s.mdm)
			outcome := s.sync(t)
			if len(outcome.Enrolled)+len(outcome.Failed) > 0 || s.documents.requests > 0 || s.runs > 0 {
				t.Errorf("outcome %+v, %d requests", outcome, s.documents.requests)
			}
			if state := lastState(t, s.mdm, "assets", "asset"); state["active"] != false || reasonOf(state) != test.reason {
				t.Errorf("asset is reported as %v", state)
			}
		})
	}
}

func TestAnyConfigurationMayReferenceTheAsset(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.mdm.put("com.apple.configuration.account.mail", "identity", "c2", map[string]any{"SMIME": map[string]any{"Signing": map[string]any{"IdentityAssetReference": "asset"}}})
	if outcome := s.sync(t); len(outcome.Enrolled) != 1 {
		t.Errorf("outcome %+v", outcome)
	}
}

func TestAuthenticationDecidesWhetherTheMDMIdentityIsShown(t *testing.T) {
	for authentication, want := range map[string]string{"None": "", "MDM": "device", "": "device"} {
		s := newSite(t)
		s.declareIdentity("t1", authentication)
		if outcome := s.sync(t); len(outcome.Enrolled) != 1 || s.documents.shown != want {
			t.Errorf("Authentication %q: shown %q, want %q; %+v", authentication, s.documents.shown, want, outcome.Failed)
		}
	}
}

func TestEveryFailureIsReportedAsNotDownloaded(t *testing.T) {
	for name, change := range map[string]func(*site){
		"not found":              func(s *site) { s.documents.status = http.StatusNotFound },
		"enrolment refused":      func(s *site) { s.refuse = &enroll.Abort{Step: enroll.StepChallenge, Reason: enroll.ReasonHTTPStatus} },
		"unknown authentication": func(s *site) { s.declareIdentity("t1", "none") },
		"wrong hash": func(s *site) {
			s.mdm.put(TypeACMEAsset, "asset", "t1", map[string]any{"Reference": map[string]any{"DataURL": s.documents.URL, "Hash-SHA-256": strings.Repeat("00", 32)}})
		},
		"wrong type": func(s *site) {
			s.mdm.put(TypeACMEAsset, "asset", "t1", map[string]any{"Reference": map[string]any{"DataURL": s.documents.URL, "Size": "1"}})
		},
		"key in another case": func(s *site) {
			s.mdm.put(TypeACMEAsset, "asset", "t1", map[string]any{"Reference": map[string]any{"DataUrl": s.documents.URL}})
		},
		"http": func(s *site) {
			s.mdm.put(TypeACMEAsset, "asset", "t1", map[string]any{"Reference": map[string]any{"DataURL": s.mdm.server.URL}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.declareIdentity("t1", "None")
			change(s)
			outcome := s.sync(t)
			if len(outcome.Failed) != 1 || outcome.Failed[0].Asset != "asset" || outcome.Failed[0].Err == nil {
				t.Fatalf("outcome %+v", outcome)
			}
			for list, id := range map[string]string{"assets": "asset", "configurations": "identity"} {
				if state := lastState(t, s.mdm, list, id); state["active"] != false || state["valid"] != "invalid" || reasonOf(state) != AssetCannotBeDownloaded {
					t.Errorf("%s is reported as %v", id, state)
				}
			}
		})
	}
}

func TestFailedAssetIsTriedAgainAndReportedOnce(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.documents.status = http.StatusNotFound
	s.sync(t)
	if outcome := s.sync(t); len(outcome.Failed) != 1 || outcome.Reported || s.documents.requests != 2 {
		t.Errorf("outcome %+v after %d requests", outcome, s.documents.requests)
	}
	s.documents.status = http.StatusOK
	if outcome := s.sync(t); len(outcome.Enrolled) != 1 || !outcome.Reported {
		t.Errorf("outcome %+v", outcome)
	}
	if state := lastState(t, s.mdm, "assets", "asset"); state["active"] != true || state["valid"] != "valid" {
		t.Errorf("asset is reported as %v", state)
	}
}

func TestFailedRenewalLeavesTheOldIdentity(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	first := s.sync(t).Enrolled[0]
	s.declareIdentity("t2", "None")
	s.refuse = errors.New("refused")
	if outcome := s.sync(t); len(outcome.Failed) != 1 {
		t.Fatalf("outcome %+v", outcome)
	}
	if _, _, err := first.Open(s.Keys); err != nil || s.Held()["asset"].ServerToken != "t1" {
		t.Errorf("holds %v; %v", s.Held(), err)
	}
}

func TestWithdrawnIdentityIsRemovedAndReported(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	first := s.sync(t).Enrolled[0]
	for _, id := range []string{"asset", "identity"} {
		delete(s.mdm.declarations, id)
	}
	s.mdm.activate("subscriptions")
	outcome := s.sync(t)
	if !cmp.Equal(outcome.Removed, []string{"asset"}) || !cmp.Equal(outcome.Dropped, []string{"asset", "identity"}) || len(s.Held()) > 0 {
		t.Errorf("outcome %+v, holds %v", outcome, s.Held())
	}
	if _, _, err := first.Open(s.Keys); err == nil {
		t.Error("the identity is still there")
	}
	want := []any{map[string]any{"identifier": first.CertificateSHA, "_removed": true}}
	if diff := cmp.Diff(want, itemOf(lastReport(t, s.mdm), "security", "certificate", "list")); diff != "" {
		t.Error(diff)
	}
}

func (m *fakeMDM) activate(configurations ...any) {
	m.put(TypeActivation, "activation", "a2", map[string]any{"StandardConfigurations": configurations})
}
