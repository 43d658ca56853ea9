package policy

import (
	"bytes"
	"context"
	_ "embed"
	"slices"
	"strings"
	"sync"

	"assay/attest"
)

//go:embed builtin.yaml
var builtinText []byte

// Builtin is the policy of a directory that names none.
var Builtin = sync.OnceValue(func() *Policy {
	p, err := Parse("builtin", builtinText)
	if err != nil {
		panic("policy: the built-in policy is faulty: " + err.Error())
	}
	return p
})

// Policy is a policy ready to decide. It is safe for concurrent use. Make one with Parse.
type Policy struct {
	version     Version
	description string
	text        []byte
	unattested  Unattested
	labels      []string
	require     []requirement
	signals     []signal
	outcomes    []outcome
	cases       []Case
	uses        []*attribute // that its expressions read, sorted by name
}

// Version says which policy this is.
func (p *Policy) Version() Version { return p.version }

// Text is the policy as it was written.
func (p *Policy) Text() []byte { return bytes.Clone(p.text) }

// Description is what the policy says of itself.
func (p *Policy) Description() string { return p.description }

// Admit weighs the evidence alone, while a challenge is being answered: is it there where it must
// be, in an accepted format, and about the device that the code or the order names? It returns the
// first failed check, or nil.
func (p *Policy) Admit(in Input) *Reason {
	d := Decision{Reasons: weighEvidence(&in, p.unattested)}
	return d.Refused()
}

// Barred is the first built-in check that fails, whatever the policy says; nil if there is none. It is what
// Decide begins with: where it names a check, nobody outside need be asked.
func (p *Policy) Barred(in Input) *Reason {
	d := Decision{Reasons: p.weighBuiltin(&in)}
	return d.Refused()
}

// weighBuiltin judges what no policy switches off.
func (p *Policy) weighBuiltin(in *Input) []Reason {
	return slices.Concat(weighIdentifier(in), weighDevice(in), weighEvidence(in, p.unattested))
}

// Decide is the decision on a request. Whatever the policy says, nothing is issued unless the code is
// live, the device is neither lost nor retired, the evidence is verified (or may be missing) and every
// binding matches. Then all requirements must hold; the signals give the score; the first outcome that
// fits is taken. The context bounds how long it may take: a decision that it cuts off is a refusal.
// But for that, the decision depends on policy and input alone.
func (p *Policy) Decide(ctx context.Context, in Input) Decision {
	return p.decide(ctx, &in, p.valuesOf(&in))
}

// decide decides on an input whose attributes have these values.
func (p *Policy) decide(ctx context.Context, in *Input, values *values) Decision {
	d := Decision{Outcome: Refuse, Policy: p.version, Reasons: p.weighBuiltin(in)}
	d.Verified = in.Evidence == attest.Attested && in.Facts != nil
	d.StandIn = d.Verified && in.Facts.Root.StandIn
	if d.Verified {
		d.Reasons = append(d.Reasons, rule(CheckKeyAttested, len(in.Facts.PublicKey) > 0,
			"only the attested key may be certified", "the evidence names no key"))
	} else if d.Refused() == nil {
		d.Reasons = append(d.Reasons, Reason{Check: CheckKeyAttested, Passed: true,
			Detail: "no attested key: the request's own key may be certified, because unattested devices are allowed"})
	}
	run := &run{ctx: ctx, values: values}
	p.weighOpinion(in, &d)
	p.weighRequirements(run, &d)
	p.weighSignals(run, &d)
	chosen := p.choose(run, &d)
	if run.failed != nil {
		d.Reasons = append(d.Reasons, *run.failed)
	}
	if d.Refused() != nil { // whatever the outcome would have been
		return d
	}
	if chosen == nil {
		d.Reasons = append(d.Reasons, Reason{Check: CheckOutcome, Detail: "no outcome of the policy fits the score"})
		return d
	}
	p.conclude(in, chosen, &d)
	return d
}

// weighOpinion judges whether an answer from outside is missing that must be there.
func (p *Policy) weighOpinion(in *Input, d *Decision) {
	if !p.UsesOpinion() {
		return
	}
	switch {
	case in.Opinion == nil && d.Refused() != nil: // nobody need be asked
	case in.Opinion == nil:
		d.Reasons = append(d.Reasons, Reason{Check: CheckOpinion, Detail: "the policy uses an opinion from outside, and nobody was asked",
			Advice: "configure a service under `opinion`"})
	case in.Opinion.Required:
		d.Reasons = append(d.Reasons, rule(CheckOpinion, in.Opinion.Answered,
			"the service outside answered", "the service outside gave no answer: "+in.Opinion.Failure))
	}
}

// RequirementOf is the name of the requirement whose check it is; ok is false for the checks that no policy
// names.
func RequirementOf(check string) (name string, ok bool) {
	return strings.CutPrefix(check, requirePrefix)
}

// weighRequirements judges every requirement, whatever became of the ones before.
func (p *Policy) weighRequirements(run *run, d *Decision) {
	for i := range p.require {
		q := &p.require[i]
		reason := Reason{Check: requirePrefix + q.Name, Detail: q.Message, Advice: q.Advice}
		applies, unknown := True, []string(nil)
		if q.when != nil {
			applies, unknown = run.truth(q.when)
		}
		if applies == False {
			reason.Passed, reason.Detail, reason.Advice = true, "does not apply here", ""
			d.Reasons = append(d.Reasons, reason)
			continue
		}
		holds, lacking := run.truth(q.that)
		if holds == True { // whether it applies or not
			reason.Passed, reason.Detail, reason.Advice = true, "holds", ""
		} else {
			reason.Unknown = merge(unknown, lacking)
		}
		d.Reasons = append(d.Reasons, reason)
	}
}

// weighSignals gives every signal its points.
func (p *Policy) weighSignals(run *run, d *Decision) {
	for i := range p.signals {
		s := &p.signals[i]
		value, unknown := run.truth(s.that)
		given := Signal{Name: s.Name, Value: value, Detail: s.Message, Unknown: unknown}
		switch value {
		case True:
			given.Points = s.Points
		case Unknown:
			given.Points = s.Unknown
		}
		d.Signals = append(d.Signals, given)
		d.Score += given.Points
	}
}

// choose returns the first outcome that fits; nil if none does. Where a condition cannot be told, what is
// stricter than issuing fits, and issuing does not.
func (p *Policy) choose(run *run, d *Decision) *outcome {
	for i := range p.outcomes {
		o := &p.outcomes[i]
		if o.Score != nil && d.Score < *o.Score {
			continue
		}
		if o.when != nil {
			if fits, _ := run.truth(o.when); fits == False || fits == Unknown && o.Outcome == Issue {
				continue
			}
		}
		return o
	}
	return nil
}

// conclude turns an outcome into the decision. A hold with a live approval is issued; one without waits
// for a person.
func (p *Policy) conclude(in *Input, chosen *outcome, d *Decision) {
	switch {
	case chosen.Outcome == Refuse:
		d.Reasons = append(d.Reasons, Reason{Check: CheckOutcome, Detail: chosen.says("the policy refuses with this score"), Advice: chosen.Advice})
		return
	case chosen.Outcome == Hold:
		d.ApprovalLifetime = Lifetime(chosen.approval)
		if in.Approval == nil || !in.Now.Before(in.Approval.ExpiresAt) {
			d.Outcome = Hold
			d.Reasons = append(d.Reasons, Reason{Check: CheckHeld, Detail: chosen.says("a person must approve this device first"), Advice: chosen.Advice})
			return
		}
		d.Approval = in.Approval.Hold
		d.Reasons = append(d.Reasons, Reason{Check: CheckHeld, Passed: true, Detail: "a person approved this device"})
	}
	d.Outcome, d.Profile, d.Lifetime = Issue, chosen.Profile, Lifetime(chosen.lifetime)
	if d.Verified {
		d.Key.Attested = bytes.Clone(in.Facts.PublicKey)
	} else {
		d.Key.Unattested = true
	}
}
