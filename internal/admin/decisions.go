package admin

import (
	"context"
	"iter"
	"net/http"
	"time"

	"assay/deviceid"
	"assay/internal/issuance"
	"assay/policy"
)

func (a *API) addDecisions() {
	missing := "There is no such decision: it never was, or its retention is over."
	add(a, route{
		method: http.MethodGet, path: "/decisions", id: "list-decisions", tag: "decisions", scope: DecisionsRead,
		summary:     "List decisions",
		description: "Oldest first. With inputs=true each comes with everything that it rested on, so that another policy can be tried on it.",
	}, a.listDecisions)
	add(a, route{
		method: http.MethodGet, path: "/decisions/{decision}", id: "show-decision", tag: "decisions", scope: DecisionsRead,
		summary: "Show a decision", description: "With every check, requirement and signal, and everything that it rested on.",
		also: map[int]string{http.StatusNotFound: missing, http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showDecision)
	add(a, route{
		method: http.MethodGet, path: "/policies", id: "list-policies", tag: "decisions", scope: PoliciesRead,
		summary: "List which policies the directories used, and since when", description: "Oldest first; the last one of a directory is in use.",
	}, a.listPolicies)
	add(a, route{
		method: http.MethodGet, path: "/policies/{policy}", id: "show-policy", tag: "decisions", scope: PoliciesRead,
		summary: "Show a policy as it was written", description: "Every policy that ever decided is kept.",
		also: map[int]string{http.StatusNotFound: "No policy with this SHA-256 ever decided here.", http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showPolicy)
}

// Decision is what a policy decided on a request for a certificate.
type Decision struct {
	ID        string    `json:"id" doc:"Opaque id (dec_…)."`
	Time      time.Time `json:"time"`
	Directory string    `json:"directory,omitempty"`
	Order     string    `json:"order"`
	Code      string    `json:"code,omitempty"`
	Evidence  string    `json:"evidence,omitempty"`
	Device    string    `json:"device,omitempty" doc:"The device that it was about: attested, or expected by the code."`
	// Serial and UDID are personal values, and leave with the input.
	Serial  string          `json:"serial,omitempty" doc:"The device's serial number: attested, or expected by the code. Absent once retention removed it."`
	UDID    string          `json:"udid,omitempty" doc:"Its UDID, likewise."`
	Hold    string          `json:"hold,omitempty" doc:"The hold that it made, or whose approval it used."`
	Schema  int             `json:"schema" doc:"Version of the forms of decided and input."`
	Decided policy.Decision `json:"decided"`
	// Input is everything that it rested on.
	Input *policy.Input `json:"input,omitempty" doc:"Everything that it rested on; absent if it was not asked for, or retention removed it."`
}

type listDecisionsInput struct {
	Paging
	Since     time.Time `query:"since" doc:"Only decisions from this time on."`
	Outcome   string    `query:"outcome" enum:"issue,hold,refuse" doc:"Only decisions with this outcome."`
	Directory string    `query:"directory" maxLength:"63" doc:"Only decisions of this ACME directory."`
	Device    string    `query:"device" maxLength:"64" doc:"Only decisions about this device, by its id."`
	Code      string    `query:"code" maxLength:"64" doc:"Only decisions on orders with this code, by its id."`
	Inputs    bool      `query:"inputs" doc:"Whether to answer what each decision rested on."`
}

func (a *API) listDecisions(ctx context.Context, in *listDecisionsInput) (*page[Decision], error) {
	list := listing[issuance.Decision, Decision]{
		prefix: "dec_",
		rows: func(p issuance.Page) iter.Seq2[issuance.Decision, error] {
			return a.config.Store.Decisions(ctx, issuance.DecisionFilter{
				Page: p, Since: in.Since, Outcome: policy.Outcome(in.Outcome), Directory: in.Directory,
				Device: issuance.DeviceID(in.Device), Code: issuance.CodeID(in.Code),
			})
		},
		id: func(d *issuance.Decision) string { return string(d.ID) },
		wire: func(d *issuance.Decision) (Decision, bool, error) {
			decision := decisionOf(d)
			if !in.Inputs {
				decision.Input = nil
			}
			return decision, true, nil
		},
	}
	return list.read(in.Paging)
}

type showDecisionInput struct {
	Decision string `path:"decision" maxLength:"64" doc:"Id of the decision (dec_…)."`
	Known
}

func (a *API) showDecision(ctx context.Context, in *showDecisionInput) (*tagged[Decision], error) {
	d, err := a.config.Store.Decision(ctx, issuance.DecisionID(in.Decision))
	if err != nil {
		return nil, err
	}
	return tag(0, decisionOf(&d))
}

func decisionOf(d *issuance.Decision) Decision {
	serial, udid := devicesNames(d.Input)
	return Decision{
		ID: string(d.ID), Time: d.Time, Directory: d.Directory, Order: string(d.Order), Code: string(d.Code), Evidence: string(d.Evidence),
		Device: string(d.Device), Serial: serial, UDID: udid, Hold: string(d.Hold), Schema: d.Schema, Decided: d.Decision, Input: d.Input,
	}
}

// devicesNames are the serial number and UDID of the device that an input is about: attested, else expected
// by the code.
func devicesNames(in *policy.Input) (serial, udid string) {
	if in == nil {
		return "", ""
	}
	if in.Facts != nil {
		serial, udid = in.Facts.Identifier(deviceid.Serial), in.Facts.Identifier(deviceid.UDID)
	}
	if serial == "" && udid == "" && in.Code != nil {
		serial, udid = in.Code.Serial, in.Code.UDID
	}
	return serial, udid
}

// PolicyUse says since when a directory used a policy.
type PolicyUse struct {
	Directory string    `json:"directory"`
	Since     time.Time `json:"since"`
	Name      string    `json:"name"`
	SHA256    string    `json:"sha256" doc:"Of the policy's text, lower-case hex."`
	InUse     bool      `json:"inUse" doc:"Whether it is the last one that the directory decided by."`
}

type policyUses struct {
	Body struct {
		Items []PolicyUse `json:"items" nullable:"false"`
	}
}

// maxPolicyUses is how many of the uses, the newest, are answered.
const maxPolicyUses = 1000

func (a *API) listPolicies(ctx context.Context, _ *struct{}) (*policyUses, error) {
	out := &policyUses{}
	out.Body.Items = []PolicyUse{}
	last := map[string]int{}
	for u, err := range a.config.Store.PolicyUses(ctx) {
		if err != nil {
			return nil, err
		}
		last[u.Directory] = len(out.Body.Items)
		out.Body.Items = append(out.Body.Items, PolicyUse{Directory: u.Directory, Since: u.Since, Name: u.Name, SHA256: u.SHA256})
	}
	for _, i := range last {
		out.Body.Items[i].InUse = true
	}
	out.Body.Items = out.Body.Items[max(0, len(out.Body.Items)-maxPolicyUses):]
	return out, nil
}

// Policy is a policy as it was written.
type Policy struct {
	Name      string    `json:"name"`
	SHA256    string    `json:"sha256"`
	Text      string    `json:"text" doc:"YAML."`
	CreatedAt time.Time `json:"createdAt" doc:"When it first decided."`
}

type showPolicyInput struct {
	SHA256 string `path:"policy" pattern:"^[0-9a-f]{64}$" patternDescription:"64 lower-case hex digits" doc:"SHA-256 of the policy's text."`
	Known
}

func (a *API) showPolicy(ctx context.Context, in *showPolicyInput) (*tagged[Policy], error) {
	p, err := a.config.Store.Policy(ctx, in.SHA256)
	if err != nil {
		return nil, err
	}
	return tag(0, Policy{Name: p.Name, SHA256: p.SHA256, Text: p.Text, CreatedAt: p.CreatedAt})
}
