package issuance_test

import (
	"testing"
	"time"

	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

func TestPartialReportLeavesTheRestAsItWas(t *testing.T) {
	early, late := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC)
	asset, failed := &issuance.DeclarationState{Valid: "valid"}, &issuance.DeclarationState{Valid: "invalid"}
	configuration := &issuance.DeclarationState{Valid: "valid", Active: true}
	known := issuance.StatusReport{ReceivedAt: early, Asset: asset, Configuration: configuration, Installed: "aa"}
	for name, c := range map[string]struct{ newer, want issuance.StatusReport }{
		"names nothing": {issuance.StatusReport{ReceivedAt: late}, issuance.StatusReport{ReceivedAt: late, Asset: asset, Configuration: configuration, Installed: "aa"}},
		"asset":         {issuance.StatusReport{ReceivedAt: late, Asset: failed}, issuance.StatusReport{ReceivedAt: late, Asset: failed, Configuration: configuration, Installed: "aa"}},
		"configuration": {issuance.StatusReport{ReceivedAt: late, Configuration: failed}, issuance.StatusReport{ReceivedAt: late, Asset: asset, Configuration: failed, Installed: "aa"}},
		"installed":     {issuance.StatusReport{ReceivedAt: late, Installed: "bb"}, issuance.StatusReport{ReceivedAt: late, Asset: asset, Configuration: configuration, Installed: "bb"}},
		"not installed": {issuance.StatusReport{ReceivedAt: late, Uninstalled: true}, issuance.StatusReport{ReceivedAt: late, Asset: asset, Configuration: configuration, Uninstalled: true}},
	} {
		if diff := cmp.Diff(c.want, known.Merge(c.newer)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	removed := issuance.StatusReport{Uninstalled: true}
	if got := removed.Merge(issuance.StatusReport{Installed: "cc"}); got.Uninstalled || got.Installed != "cc" {
		t.Errorf("installed again: %+v", got)
	}
}
