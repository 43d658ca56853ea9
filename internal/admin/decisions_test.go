package admin_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// heldNow is a device that a policy just held back, for a fresh code.
func (r *rig) heldNow() (issuance.Hold, issuance.Code) {
	r.t.Helper()
	code, value := r.bench.Mint()
	return r.bench.HeldFor(r.bench.Ready(value), issuance.Device{Serial: "C02XK1", UDID: "00008110-000A"}), code
}

func TestDecisionsAreListedWithWhatTheyRestedOnIfAsked(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.DecisionsRead)
	issued := r.bench.Issued()
	r.wait(time.Hour)
	held, code := r.heldNow()
	for name, test := range map[string]struct {
		filter client.DecisionFilter
		want   []issuance.DecisionID
	}{
		"all":    {client.DecisionFilter{}, []issuance.DecisionID{issued.Decision, held.Decision}},
		"since":  {client.DecisionFilter{Since: r.Now()}, []issuance.DecisionID{held.Decision}},
		"held":   {client.DecisionFilter{Outcome: "hold"}, []issuance.DecisionID{held.Decision}},
		"code":   {client.DecisionFilter{Code: string(code.ID)}, []issuance.DecisionID{held.Decision}},
		"device": {client.DecisionFilter{Device: string(held.Device), Inputs: true}, []issuance.DecisionID{held.Decision}},
	} {
		var got []issuance.DecisionID
		for _, d := range collect(t, api.Decisions(t.Context(), test.filter)) {
			got = append(got, issuance.DecisionID(d.ID))
			if (d.Input != nil) != test.filter.Inputs {
				t.Errorf("%s: input %v", name, d.Input)
			}
		}
		if len(got) != len(test.want) || got[0] != test.want[0] {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	d := must[admin.Decision](t)(api.Decision(t.Context(), string(held.Decision)))
	if d.Hold != string(held.ID) || d.Decided.Outcome != policy.Hold || d.Input == nil || d.Input.Request == nil {
		t.Errorf("decision %+v", d)
	}
	_, err := api.Decision(t.Context(), "dec_none")
	wantRefused(t, err, http.StatusNotFound, "not-found")
}

func TestHoldIsApprovedAndSaysWhatToDoNext(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.DecisionsRead, admin.DecisionsWrite)
	h, code := r.heldNow()
	listed := collect(t, api.Holds(t.Context(), client.HoldFilter{Status: "held", Device: string(h.Device)}))
	if len(listed) != 1 || listed[0].Serial != "C02XK1" || listed[0].Tries != 1 || listed[0].Next != "approve or decline it" {
		t.Fatalf("holds %+v", listed)
	}
	approved := must[admin.Hold](t)(api.ApproveHold(t.Context(), string(h.ID), "8h"))
	if approved.Status != "approved" || !approved.ExpiresAt.Equal(r.Now().Add(8*time.Hour).Truncate(time.Microsecond)) ||
		!strings.HasPrefix(approved.DecidedBy, "token:") || !strings.Contains(approved.Next, string(code.ID)) {
		t.Errorf("hold %+v", approved)
	}
	rows := collect(t, r.store.Audit(t.Context(), audit.Filter{Action: audit.HoldApproved}))
	if len(rows) != 1 || rows[0].Detail["hold"] != string(h.ID) || rows[0].Personal.From != approved.DecidedBy {
		t.Errorf("audit rows %+v", rows)
	}
	r.wait(8 * time.Hour)
	for status, want := range map[string]int{"expired": 1, "approved": 0, "held": 0, "": 1} {
		if got := collect(t, api.Holds(t.Context(), client.HoldFilter{Status: status})); len(got) != want || want == 1 && got[0].Status != "expired" {
			t.Errorf("%q: %+v", status, got)
		}
	}
	again := must[admin.Hold](t)(api.ApproveHold(t.Context(), string(h.ID), ""))
	if !again.ExpiresAt.Equal(r.Now().Add(time.Hour).Truncate(time.Microsecond)) { // as the policy has it
		t.Errorf("hold %+v", again)
	}
	declined := must[admin.Hold](t)(api.DeclineHold(t.Context(), string(h.ID)))
	if declined.Status != "declined" || declined.Next != "" {
		t.Errorf("hold %+v", declined)
	}
}

func TestHoldOfACredentialIsToBeRenewed(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	credential := r.declare(api, "C02XK1")
	h := r.bench.HeldFor(r.bench.Ready(r.codeIn(credential)), issuance.Device{})
	approved := must[admin.Hold](t)(api.ApproveHold(t.Context(), string(h.ID), ""))
	if approved.Credential != credential.ID || !strings.Contains(approved.Next, "renew credential "+credential.ID) {
		t.Errorf("hold %+v", approved)
	}
	// The approval passes to the credential's next code.
	if _, err := api.Renew(t.Context(), credential.ID, "", ""); err != nil {
		t.Fatal(err)
	}
	next := collect(t, api.Credentials(t.Context(), client.CredentialFilter{}))[0]
	if next.Code == credential.Code {
		t.Fatal("the credential was not renewed")
	}
	c, err := r.store.Circumstances(t.Context(), r.Now(), issuance.Subject{Directory: "default", Code: issuance.CodeID(next.Code)})
	if err != nil || c.Approval == nil || c.Approval.Hold != string(h.ID) {
		t.Errorf("circumstances %+v, %v", c, err)
	}
}

func TestWhatIsSaidOfAHoldIsConditionalAndEnds(t *testing.T) {
	r := newRig(t, nil)
	h, _ := r.heldNow()
	token, _ := r.token(admin.DecisionsRead, admin.DecisionsWrite)
	shown, _ := r.do("GET", "/holds/"+string(h.ID), token, "")
	first := shown.Header.Get("ETag")
	answer, body := r.do("POST", "/holds/"+string(h.ID)+"/approve", token, "{}", "If-Match", first)
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", answer.StatusCode, body)
	}
	answer, body = r.do("POST", "/holds/"+string(h.ID)+"/decline", token, "", "If-Match", first)
	r.wantProblem(answer, body, http.StatusPreconditionFailed, "if-match")
	answer, body = r.do("POST", "/holds/"+string(h.ID)+"/approve", token, `{"lifetime":"91d"}`)
	r.wantProblem(answer, body, http.StatusUnprocessableEntity, "lifetime")
	answer, body = r.do("POST", "/holds/hold_none/decline", token, "")
	r.wantProblem(answer, body, http.StatusNotFound, "not-found")

	_, value := r.bench.Mint()
	_, err := r.store.BeginIssue(t.Context(), r.bench.Call(), r.bench.ApprovedClaimFor(r.bench.Ready(value), h.ID))
	if err != nil {
		t.Fatal(err)
	}
	answer, body = r.do("POST", "/holds/"+string(h.ID)+"/decline", token, "")
	r.wantProblem(answer, body, http.StatusConflict, "hold-open")
}

func TestPoliciesAreShownAsTheyWere(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.PoliciesRead)
	for digit, name := range []string{"one", "two"} {
		v := policy.Version{Name: name, SHA256: strings.Repeat(strconv.Itoa(digit+1), 64)}
		if err := r.store.UsePolicy(t.Context(), r.bench.Operator(), "default", v, "text of "+name); err != nil {
			t.Fatal(err)
		}
		r.wait(time.Minute)
	}
	uses := must[[]admin.PolicyUse](t)(api.PolicyUses(t.Context()))
	if len(uses) != 2 || uses[0].Name != "one" || uses[0].InUse || !uses[1].InUse {
		t.Errorf("uses %+v", uses)
	}
	p := must[admin.Policy](t)(api.Policy(t.Context(), uses[0].SHA256))
	if p.Text != "text of one" || p.Name != "one" {
		t.Errorf("policy %+v", p)
	}
	_, err := api.Policy(t.Context(), strings.Repeat("0", 64))
	wantRefused(t, err, http.StatusNotFound, "not-found")
}
