package storetest

import (
	"slices"
	"testing"
	"time"

	"assay/internal/issuance"
	"assay/policy"
)

// retain applies a retention now.
func (b *Bench) retain(r issuance.Retention) issuance.Removed {
	b.T.Helper()
	removed, err := b.ApplyRetention(b.ctx(), b.Now, r)
	b.ok(err)
	return removed
}

const day = 24 * time.Hour

// forever keeps everything, but for one part.
func forever(change func(*issuance.Retention)) issuance.Retention {
	all := issuance.Keep{Object: issuance.Forever, Facts: issuance.Forever}
	r := issuance.Retention{Issued: all, Held: all, Refused: all}
	change(&r)
	return r
}

var retentionTests = map[string]func(*testing.T, *Bench){
	"EvidenceIsFoundByItsDevice": func(t *testing.T, b *Bench) {
		cert := b.Issued() // attested by the device that storetest's evidence names
		_, value := b.Mint(func(m *issuance.Mint) { m.Serial = cert.DeviceSerial })
		failed := AnswerFor(b.Pending(value)) // only the code says whose it is
		failed.Refusal, failed.Evidence.Failed, failed.Evidence.Facts = &issuance.Refusal{Check: "freshness"}, "freshness", nil
		o, err := b.AnswerChallenge(b.ctx(), b.Call(), failed)
		b.ok(err)
		_, value = b.Mint()
		refused := b.Ready(value) // only the decision says whose it is
		r := issuance.OrderRefusal{Account: refused.Account, Order: refused.ID, Decision: b.ClaimFor(refused).Decision, Refusal: issuance.Refusal{Check: "score"},
			Attested: issuance.Device{Serial: cert.DeviceSerial}}
		r.Decision.Decision.Outcome, r.Decision.Device = policy.Refuse, cert.Device
		_, err = b.RefuseOrder(b.ctx(), b.Call(), r)
		b.ok(err)
		_, value = b.Mint()
		b.Ready(value) // nobody's yet
		want := []issuance.EvidenceID{cert.Evidence, o.Evidence, refused.Evidence}
		for device, want := range map[issuance.DeviceID][]issuance.EvidenceID{cert.Device: want, "dev_none": nil} {
			var got []issuance.EvidenceID
			for e, err := range b.EvidenceList(b.ctx(), issuance.EvidenceFilter{Device: device}) {
				b.ok(err)
				got = append(got, e.ID)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("evidence of %q: %v, want %v", device, got, want)
			}
		}
	},
	"WhatIsRefusedLeavesInTwoSteps": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		failed := AnswerFor(b.Pending(value)) // at the challenge
		failed.Refusal, failed.Evidence.Failed = &issuance.Refusal{Check: "freshness"}, "freshness"
		_, err := b.AnswerChallenge(b.ctx(), b.Call(), failed)
		b.ok(err)
		o := b.Ready(value) // at finalize
		r := issuance.OrderRefusal{Account: o.Account, Order: o.ID, Decision: b.ClaimFor(o).Decision, Refusal: issuance.Refusal{Check: "score"}}
		r.Decision.Decision.Outcome = policy.Refuse
		_, err = b.RefuseOrder(b.ctx(), b.Call(), r)
		b.ok(err)
		b.Pending(value) // never answered
		ready := b.Ready(value)
		cert := b.Issued()

		b.Now = b.Now.Add(30 * time.Minute)
		if got := b.retain(forever(func(r *issuance.Retention) { r.Refused = issuance.Keep{} })); got.Evidence != 2 || got.Decisions != 1 {
			t.Errorf("at once: %+v", got)
		}
		if _, err := b.Evidence(b.ctx(), ready.Evidence); err != nil {
			t.Errorf("evidence of an order that may still be decided: %v", err)
		}
		b.Now = b.Now.Add(26 * time.Hour)
		_, err = b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		keep := forever(func(r *issuance.Retention) { r.Refused = issuance.Keep{Object: day, Facts: 9 * day} })
		if got := b.retain(keep); got != (issuance.Removed{Objects: 1}) {
			t.Errorf("after a day: %+v", got)
		}
		e, err := b.Evidence(b.ctx(), ready.Evidence)
		b.ok(err)
		if e.Object != nil || e.Facts == nil || e.RemovedAt.IsZero() {
			t.Errorf("evidence %+v", e)
		}
		b.Now = b.Now.Add(9 * day)
		if got := b.retain(keep); got != (issuance.Removed{Evidence: 1}) {
			t.Errorf("after nine more: %+v", got)
		}
		_, err = b.Evidence(b.ctx(), ready.Evidence)
		b.wantError(err, issuance.ErrNotFound)
		d, err := b.Decision(b.ctx(), cert.Decision)
		b.ok(err)
		e, err = b.Evidence(b.ctx(), cert.Evidence)
		b.ok(err)
		if d.Input == nil || e.Object == nil || e.Facts == nil {
			t.Errorf("of a certificate: decision %+v, evidence %+v", d, e)
		}
	},
	"WhatACertificateRestsOnIsStrippedAndItsReasonsStay": func(t *testing.T, b *Bench) {
		cert := b.Issued()
		b.Now = b.Now.Add(10 * day)
		if got := b.retain(issuance.DefaultRetention()); got != (issuance.Removed{}) {
			t.Errorf("by default: %+v", got)
		}
		if got := b.retain(forever(func(r *issuance.Retention) { r.Issued.Object = 10*day + time.Second })); got != (issuance.Removed{}) {
			t.Errorf("too early: %+v", got)
		}
		if got := b.retain(forever(func(r *issuance.Retention) { r.Issued.Object = 9 * day })); got != (issuance.Removed{Objects: 1}) {
			t.Errorf("objects: %+v", got)
		}
		if got := b.retain(forever(func(r *issuance.Retention) { r.Issued = issuance.Keep{} })); got != (issuance.Removed{Facts: 1}) {
			t.Errorf("facts: %+v", got)
		}
		if got := b.retain(forever(func(r *issuance.Retention) { r.Issued = issuance.Keep{} })); got != (issuance.Removed{}) {
			t.Errorf("again: %+v", got)
		}
		d, err := b.Decision(b.ctx(), cert.Decision)
		b.ok(err)
		e, err := b.Evidence(b.ctx(), cert.Evidence)
		b.ok(err)
		if d.Input != nil || d.Decision.Outcome != policy.Issue || e.Facts != nil || e.Object != nil || e.Token != "" || e.KeyAuth != "" || e.Kind == "" {
			t.Errorf("decision %+v, evidence %+v", d, e)
		}
	},
	"AHoldThatWaitsKeepsItsDecision": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		b.Now = b.Now.Add(day)
		none := forever(func(r *issuance.Retention) { r.Held = issuance.Keep{} })
		if got := b.retain(none); got != (issuance.Removed{Evidence: 1}) {
			t.Errorf("while it waits: %+v", got)
		}
		_, err := b.SayOfHold(b.ctx(), b.Operator(), h.ID, 0, issuance.Word{})
		b.ok(err)
		if got := b.retain(none); got != (issuance.Removed{Decisions: 1, Holds: 1}) {
			t.Errorf("declined: %+v", got)
		}
	},
	"RetentionWorksInBatches": func(t *testing.T, b *Bench) {
		for range 230 {
			_, value := b.Mint()
			a := AnswerFor(b.Pending(value))
			a.Refusal, a.Evidence.Failed = &issuance.Refusal{Check: "freshness"}, "freshness"
			_, err := b.AnswerChallenge(b.ctx(), b.Call(), a)
			b.ok(err)
		}
		b.Now = b.Now.Add(time.Second)
		if got := b.retain(forever(func(r *issuance.Retention) { r.Refused = issuance.Keep{} })); got.Evidence != 230 {
			t.Errorf("%+v", got)
		}
	},
}
