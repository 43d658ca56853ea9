package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/policy"
)

type policyTest struct {
	connection
	File      string       `arg:"" optional:"" help:"The policy to try. Default: on each request the very policy that decided it then, which must decide the same."`
	Since     lifetimeFlag `default:"30d" placeholder:"AGE" help:"Requests younger than this, e.g. 7d. Default: 30d."`
	Directory string       `placeholder:"NAME" help:"Only requests to this ACME directory."`
}

func (policyTest) Help() string {
	return `Decides stored requests again under another policy, and says how many outcomes change, for which devices, and
which requirement or signal makes the difference. Nothing is changed by it. What is not kept any more is counted.

Examples:
  assay policy test --dir ./a ./a/policies/next.yaml --since 30d
  assay policy test --dir ./a

Exit codes: 0 tried, and no outcome changes; 1 outcomes change; 2 wrong flags or a faulty policy; 3 failed.`
}

// replayed is a request that another policy decides otherwise.
type replayed struct {
	Decision string         `json:"decision"`
	Time     time.Time      `json:"time"`
	Device   string         `json:"device,omitempty"` // serial number, else UDID: attested, else expected by the code
	From     policy.Outcome `json:"from"`
	To       policy.Outcome `json:"to"`
	Because  []string       `json:"because"`
}

// replay is what a try came to.
type replay struct {
	Policy     string         `json:"policy"`
	Tried      int            `json:"tried"`
	Changed    int            `json:"changed"`
	Changes    map[string]int `json:"changes"` // such as "issue → hold"
	NotKept    int            `json:"notKept"` // decisions whose inputs retention removed
	Older      int            `json:"older"`   // decisions of an older form, which kept too little
	NoOpinion  int            `json:"noOpinion,omitempty"`
	reproduces bool           // whether each request's own policy decides
	policies   map[string]*policy.Policy
}

func (c *policyTest) Run(ctx context.Context, term *terminal, g *globals) error {
	run := replay{Policy: "the policies that decided then", Changes: map[string]int{}, reproduces: c.File == "", policies: map[string]*policy.Policy{}}
	var next *policy.Policy
	if c.File != "" {
		var err error
		if next, err = readPolicy(term, c.File); err != nil {
			return usage(err)
		}
		run.Policy = next.Version().Name
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	table := newTable(term.Out, "outcomes that change", "DECISION", "TIME", "DEVICE", "WAS", "WOULD BE", "BECAUSE")
	filter := client.DecisionFilter{Since: term.Now().Add(-time.Duration(c.Since)), Directory: c.Directory, Inputs: true}
	for d, err := range api.Decisions(ctx, filter) {
		if err != nil {
			return refusedInput(err)
		}
		changed, err := run.try(ctx, api, next, &d)
		if err != nil {
			return err
		}
		if changed == nil {
			continue
		}
		if !g.JSON {
			table.row(changed.Decision, rfc3339(changed.Time), changed.Device, string(changed.From), string(changed.To), strings.Join(changed.Because, ", "))
		} else if err := writeJSON(term.Out, changed); err != nil {
			return err
		}
	}
	if g.JSON {
		if err := writeJSON(term.Out, struct {
			Summary *replay `json:"summary"`
		}{&run}); err != nil {
			return err
		}
	} else {
		if run.Changed > 0 {
			if err := table.flush(); err != nil {
				return err
			}
			fmt.Fprintln(term.Out)
		}
		run.print(term)
	}
	if run.Changed > 0 {
		return no()
	}
	return nil
}

// try decides one request again; nil where the outcome stays.
func (r *replay) try(ctx context.Context, api *client.Client, next *policy.Policy, d *admin.Decision) (*replayed, error) {
	switch {
	case d.Schema < policy.Schema:
		r.Older++
		return nil, nil
	case d.Input == nil:
		r.NotKept++
		return nil, nil
	}
	if r.reproduces {
		var err error
		if next, err = r.policyOf(ctx, api, d.Decided.Policy); err != nil {
			return nil, err
		}
	}
	r.Tried++
	if next.UsesOpinion() && d.Input.Opinion == nil {
		r.NoOpinion++
	}
	again := next.Decide(ctx, *d.Input)
	again.Dropped = d.Decided.Dropped // by the certificate profile
	difference := policy.Compare(d.Decided, again)
	if r.reproduces && !difference.Changed && !sameDecision(d.Decided, again) {
		difference.Changed, difference.Because = true, []string{"the decision is not the stored one in every detail"}
	}
	if !difference.Changed {
		return nil, nil
	}
	r.Changed++
	r.Changes[string(difference.From)+" → "+string(difference.To)]++
	return &replayed{Decision: d.ID, Time: d.Time, Device: deviceText(d.Serial, d.UDID), From: difference.From, To: difference.To, Because: difference.Because}, nil
}

// policyOf is the policy that decided.
func (r *replay) policyOf(ctx context.Context, api *client.Client, v policy.Version) (*policy.Policy, error) {
	if p := r.policies[v.SHA256]; p != nil {
		return p, nil
	}
	stored, err := api.Policy(ctx, v.SHA256)
	if err != nil {
		return nil, refused(fmt.Errorf("policy %s: %w", v.Name, err))
	}
	p, err := policy.Parse(stored.Name, []byte(stored.Text))
	if err != nil {
		return nil, err
	}
	if p.Version().SHA256 != v.SHA256 {
		return nil, errors.New("the stored text of policy " + v.Name + " is not the one that decided")
	}
	r.policies[v.SHA256] = p
	return p, nil
}

// sameDecision reports whether two decisions are the same as they are stored.
func sameDecision(a, b policy.Decision) bool {
	first, errA := json.Marshal(a)
	second, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(first) == string(second)
}

func (r *replay) print(term *terminal) {
	sayf(term.Out, "%s decided again by %s: %s", counted(r.Tried, "request"), r.Policy, counted(r.Changed, "outcome")+" would change")
	var parts []string
	for _, change := range slices.Sorted(maps.Keys(r.Changes)) {
		parts = append(parts, strconv.Itoa(r.Changes[change])+" "+change)
	}
	if len(parts) > 0 {
		sayf(term.Out, " (%s)", strings.Join(parts, ", "))
	}
	fmt.Fprintln(term.Out)
	if r.NotKept > 0 {
		sayf(term.Out, "Not tried: %s, because what they rested on was removed\n", counted(r.NotKept, "decision"))
	}
	if r.Older > 0 {
		sayf(term.Out, "Not tried: %s of an older form, which kept too little\n", counted(r.Older, "decision"))
	}
	if r.NoOpinion > 0 {
		sayf(term.Out, "The policy uses an opinion from outside; of %s nobody was asked for one\n", counted(r.NoOpinion, "request"))
	}
}
