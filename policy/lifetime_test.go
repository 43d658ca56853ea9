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
	var got Decision
	if err := json.Unmarshal(text, &got); err != nil || got.Lifetime != want.Lifetime || got.ApprovalLifetime != want.ApprovalLifetime {
		t.Errorf("%+v, %v", got, err)
	}
	var none Decision
	if err := json.Unmarshal([]byte(`{"policy":{}}`), &none); err != nil || none.Lifetime != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	if err := json.Unmarshal([]byte(`{"lifetime":"long"}`), &none); err == nil {
		t.Error("a lifetime that is none was read")
	}
}
