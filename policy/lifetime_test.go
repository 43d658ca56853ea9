package policy

import (
	"encoding/json"
	"testing"
	"time"
)

func TestDecisionsHaveLifetimesAsPeopleWriteThem(t *testing.T) {
	want := Decision{Outcome: Issue, Lifetime: Lifetime(90 * 24 * time.Hour), ApprovalLifetime: Lifetime(90 * time.Minute)}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil || members["lifetime"] != "90d" || members["approvalLifetime"] != "90m" {
		t.Errorf("%s, %v", text, err)
	}
	for name, stored := range map[string]string{
		"now":            string(text),
		"before, as int": `{"lifetime":7776000000000000,"approvalLifetime":5400000000000}`,
	} {
		var got Decision
		if err := json.Unmarshal([]byte(stored), &got); err != nil || got.Lifetime != want.Lifetime || got.ApprovalLifetime != want.ApprovalLifetime {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	var none Decision
	if err := json.Unmarshal([]byte(`{"policy":{}}`), &none); err != nil || none.Lifetime != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	if err := json.Unmarshal([]byte(`{"lifetime":"long"}`), &none); err == nil {
		t.Error("a lifetime that is none was read")
	}
}
