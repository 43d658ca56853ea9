package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

// HeldFor refuses a ready order because its device is to wait for a person's word.
func (b *Bench) HeldFor(o issuance.Order, attested issuance.Device) issuance.Hold {
	b.T.Helper()
	r := issuance.OrderRefusal{
		Account: o.Account, Order: o.ID, Decision: b.ClaimFor(o).Decision, Attested: attested,
		Refusal: issuance.Refusal{Problem: "unauthorized", Check: "held", Detail: "a person must approve"},
	}
	r.Decision.Decision.Outcome, r.Decision.Decision.ApprovalLifetime = policy.Hold, policy.Lifetime(time.Hour)
	_, err := b.RefuseOrder(b.ctx(), b.Call(), r)
	b.ok(err)
	for _, h := range all(b, b.Holds(b.ctx(), issuance.HoldFilter{})) {
		d, err := b.Decision(b.ctx(), h.Decision)
		b.ok(err)
		if d.Order == o.ID {
			return h
		}
	}
	b.T.Fatal("there is no hold of the order")
	return issuance.Hold{}
}

// ApprovedClaimFor is a claim that rests on a hold's approval.
func (b *Bench) ApprovedClaimFor(o issuance.Order, hold issuance.HoldID) issuance.Claim {
	c := b.ClaimFor(o)
	c.Decision.Decision.Approval = string(hold)
	return c
}

func (b *Bench) approve(id issuance.HoldID) issuance.Hold {
	b.T.Helper()
	h, err := b.SayOfHold(b.ctx(), b.Operator(), id, 0, issuance.Word{Approve: true, By: "operator:test"})
	b.ok(err)
	return h
}

func (b *Bench) wantHold(id issuance.HoldID, status issuance.HoldStatus) issuance.Hold {
	b.T.Helper()
	h, err := b.Hold(b.ctx(), id)
	b.ok(err)
	if h.Status != status {
		b.T.Fatalf("hold is %s, want %s", h.Status, status)
	}
	return h
}

// around is what is known around a request of the attested device, or of a code alone.
func (b *Bench) around(attested issuance.Device, code issuance.Code) issuance.Circumstances {
	b.T.Helper()
	c, err := b.Circumstances(b.ctx(), b.Now, issuance.Subject{
		Directory: Directory, Serial: attested.Serial, UDID: attested.UDID, Code: code.ID, CodeDevice: code.Device, SPKISHA256: "none",
	})
	b.ok(err)
	return c
}

var heldDevice = issuance.Device{Serial: "C02XK1", UDID: "00008110-000A", Attested: true}

var holdTests = map[string]func(*testing.T, *Bench){
	"AHeldDeviceWaitsAndIsOneHoldHoweverOftenItTries": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		first := b.HeldFor(b.Ready(value), heldDevice)
		if first.Status != issuance.HoldHeld || first.Tries != 1 || first.Device == "" || first.Code != code.ID || first.Lifetime != time.Hour {
			t.Fatalf("hold %+v", first)
		}
		b.Now = b.Now.Add(time.Minute)
		_, other := b.Mint()
		again := b.HeldFor(b.Ready(other), heldDevice)
		if again.ID != first.ID || again.Tries != 2 || again.Decision == first.Decision || !again.HeldAt.After(first.HeldAt) {
			t.Fatalf("held again it is %+v, first it was %+v", again, first)
		}
		decision, err := b.Decision(b.ctx(), again.Decision)
		b.ok(err)
		if decision.Hold != first.ID || decision.Device != first.Device || decision.Decision.Outcome != policy.Hold {
			t.Errorf("decision %+v", decision)
		}
		if c := b.around(heldDevice, code); c.Approval != nil {
			t.Errorf("approval %+v before anybody approved", c.Approval)
		}
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.DecisionTaken, audit.Refused, "held")
	},
	"AnApprovalIsForItsSubjectAlone": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		approved := b.approve(h.ID)
		if approved.Status != issuance.HoldApproved || approved.DecidedBy != "operator:test" || !approved.ExpiresAt.Equal(approved.DecidedAt.Add(time.Hour)) {
			t.Fatalf("hold %+v", approved)
		}
		c := b.around(heldDevice, code)
		if c.Approval == nil || c.Approval.Hold != string(h.ID) || c.Approval.By != "operator:test" {
			t.Fatalf("approval %+v", c.Approval)
		}
		for name, other := range map[string]issuance.Circumstances{
			"another device":                         b.around(issuance.Device{Serial: "C02XK2"}, code),
			"the same code, but nothing is attested": b.around(issuance.Device{}, code),
		} {
			if other.Approval != nil {
				t.Errorf("%s: approval %+v", name, other.Approval)
			}
		}
		elsewhere, err := b.Circumstances(b.ctx(), b.Now, issuance.Subject{Directory: "other", Serial: heldDevice.Serial, Code: code.ID})
		b.ok(err)
		if elsewhere.Approval != nil {
			t.Errorf("in another directory: approval %+v", elsewhere.Approval)
		}
		b.Now = b.Now.Add(time.Hour)
		if c := b.around(heldDevice, code); c.Approval != nil {
			t.Errorf("expired: approval %+v", c.Approval)
		}
		if h := b.HeldFor(b.Ready(value), heldDevice); h.Status != issuance.HoldHeld {
			t.Errorf("held again after the approval expired: %s", h.Status)
		}
	},
	"AnUnattestedHoldIsAboutItsCode": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		h := b.HeldFor(b.Ready(value), issuance.Device{})
		b.approve(h.ID)
		if c := b.around(issuance.Device{}, code); c.Approval == nil {
			t.Error("its own code is not approved")
		}
		other, _ := b.Mint()
		if c := b.around(issuance.Device{}, other); c.Approval != nil {
			t.Error("another code is approved")
		}
		if c := b.around(heldDevice, code); c.Approval != nil {
			t.Error("an attested device with the code is approved")
		}
	},
	"AnApprovalIsFoundForItsCredentialOrCode": func(t *testing.T, b *Bench) {
		want := func(why, value string, verified bool, hold issuance.HoldID) {
			t.Helper()
			code, err := b.CodeByValue(b.ctx(), Directory, value)
			b.ok(err)
			c, err := b.Circumstances(b.ctx(), b.Now, issuance.Subject{Directory: Directory, Verified: verified, Code: code.ID, CodeDevice: code.Device, SPKISHA256: "none"})
			b.ok(err)
			got := issuance.HoldID("")
			if c.Approval != nil {
				got = issuance.HoldID(c.Approval.Hold)
			}
			if got != hold {
				t.Errorf("%s: approval %q, want %q", why, got, hold)
			}
		}
		r := b.Rendering("C02XK1", "wifi")
		k := b.Rendered(r)
		ofCredential := b.HeldFor(b.Ready(r.Code.Value), issuance.Device{})
		b.approve(ofCredential.ID)
		again := b.Again(k)
		b.Rendered(again)
		want("a later code of the credential", again.Code.Value, false, ofCredential.ID)
		want("a device that attests itself", again.Code.Value, true, "")
		other := b.Rendering("C02XK1", "vpn")
		b.Rendered(other)
		want("another credential", other.Code.Value, false, "")

		ofAttested := b.HeldFor(b.Ready(other.Code.Value), issuance.Device{Attested: true})
		b.approve(ofAttested.ID)
		want("the credential of a device that leaves its name out", other.Code.Value, true, ofAttested.ID)
		want("whoever has its code", other.Code.Value, false, "")

		_, plain := b.Mint()
		ofCode := b.HeldFor(b.Ready(plain), issuance.Device{Attested: true})
		b.approve(ofCode.ID)
		want("a code alone", plain, true, ofCode.ID)
		want("that code, without an attestation", plain, false, "")
		_, err := b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(b.Ready(plain), ofCode.ID))
		b.ok(err)
		want("once it was claimed", plain, true, "")
	},
	"AnApprovalIsUsedUpByOneCertificate": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(h.ID)
		o := b.Ready(value)
		cert, err := b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(o, h.ID))
		b.ok(err)
		b.wantHold(h.ID, issuance.HoldClaimed)
		_, err = b.SayOfHold(b.ctx(), b.Operator(), h.ID, 0, issuance.Word{By: "operator:test"})
		b.wantError(err, issuance.ErrConflict)
		done := CompletionFor(cert)
		done.Approval = h.ID
		_, err = b.CompleteIssue(b.ctx(), b.Call(), done)
		b.ok(err)
		if used := b.wantHold(h.ID, issuance.HoldUsed); used.Order != o.ID {
			t.Errorf("hold %+v", used)
		}
		for _, approve := range []bool{true, false} { // nothing can be said of it any more
			_, err = b.SayOfHold(b.ctx(), b.Operator(), h.ID, 0, issuance.Word{Approve: approve, By: "operator:test"})
			b.wantError(err, issuance.ErrConflict)
		}
		code, value := b.Mint()
		if c := b.around(heldDevice, code); c.Approval != nil {
			t.Errorf("approval %+v after it was used", c.Approval)
		}
		o = b.Ready(value)
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(o, h.ID))
		b.wantError(err, issuance.ErrApprovalTaken)
		b.wantOrder(o.ID, issuance.OrderInvalid, "approval-live")
		b.wantCode(code.ID, issuance.CodeUnused)
		if next := b.HeldFor(b.Ready(value), heldDevice); next.ID == h.ID || next.Status != issuance.HoldHeld {
			t.Errorf("held after use: %+v", next)
		}
	},
	"AClaimTakesNoApprovalThatIsOverOrOfAnotherDirectory": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(h.ID)
		account, created, err := b.RegisterAccount(b.ctx(), b.Call(), issuance.Account{Directory: "other", JWK: []byte("{}"), Thumbprint: "tp"})
		b.ok(err)
		if !created {
			t.Fatal("the account is not new")
		}
		elsewhere, otherValue := b.Mint(func(m *issuance.Mint) { m.Directory = "other" })
		o, err := b.CreateOrder(b.ctx(), b.Call(), issuance.NewOrder{Account: account.ID, Directory: "other", Token: "t",
			Identifier: issuance.Identifier{Type: "permanent-identifier", Value: otherValue, Kind: policy.ByCode}})
		b.ok(err)
		o, err = b.AnswerChallenge(b.ctx(), b.Call(), AnswerFor(o))
		b.ok(err)
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(o, h.ID))
		b.wantError(err, issuance.ErrApprovalTaken)
		b.wantCode(elsewhere.ID, issuance.CodeUnused)

		b.Now = b.Now.Add(time.Hour - time.Minute)
		code, value := b.Mint()
		o = b.Ready(value)
		b.Now = b.Now.Add(time.Minute)
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(o, h.ID))
		b.wantError(err, issuance.ErrApprovalTaken)
		b.wantCode(code.ID, issuance.CodeUnused)
		b.wantHold(h.ID, issuance.HoldApproved)
	},
	"OfManyClaimsOneGetsTheApproval": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(h.ID)
		claims := make([]issuance.Claim, 8)
		for i := range claims {
			_, own := b.Mint()
			claims[i] = b.ApprovedClaimFor(b.Ready(own), h.ID)
		}
		calls := make([]issuance.Call, len(claims))
		for i := range calls {
			calls[i] = b.Call()
		}
		_, err := oneWinner(race(len(claims), func(i int) error {
			_, err := b.BeginIssue(b.ctx(), calls[i], claims[i])
			return err
		}), issuance.ErrApprovalTaken)
		b.ok(err)
	},
	"AnUndoneClaimGivesTheApprovalBack": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		b.approve(h.ID)
		o := b.Ready(value)
		_, err := b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(o, h.ID))
		b.ok(err)
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), o.ID, issuance.Refusal{Problem: "serverInternal", Check: "internal", Detail: "x"}))
		if back := b.wantHold(h.ID, issuance.HoldApproved); back.Order != "" {
			t.Errorf("hold %+v", back)
		}
		_, err = b.BeginIssue(b.ctx(), b.Call(), b.ApprovedClaimFor(b.Ready(value), h.ID))
		b.ok(err)
	},
	"ADeclinedHoldStaysDeclined": func(t *testing.T, b *Bench) {
		code, value := b.Mint()
		h := b.HeldFor(b.Ready(value), heldDevice)
		declined, err := b.SayOfHold(b.ctx(), b.Operator(), h.ID, h.Revision, issuance.Word{By: "operator:test"})
		b.ok(err)
		_, err = b.SayOfHold(b.ctx(), b.Operator(), h.ID, h.Revision, issuance.Word{Approve: true, By: "operator:late"})
		b.wantError(err, issuance.ErrConflict)
		if again := b.HeldFor(b.Ready(value), heldDevice); again.ID != h.ID || again.Status != issuance.HoldDeclined || again.Tries != 2 {
			t.Errorf("declined, then held again: %+v", again)
		}
		if c := b.around(heldDevice, code); c.Approval != nil {
			t.Errorf("approval %+v", c.Approval)
		}
		b.approve(declined.ID) // a person may think again
		b.wantAudited(audit.Filter{Device: string(h.Device)}, audit.HoldDeclined, audit.Done, "")
		b.wantAudited(audit.Filter{Device: string(h.Device)}, audit.HoldApproved, audit.Done, "")
		_, err = b.SayOfHold(b.ctx(), b.Operator(), "hold_none", 0, issuance.Word{Approve: true})
		b.wantError(err, issuance.ErrNotFound)
	},
	"HistoryCountsWhatWentBefore": func(t *testing.T, b *Bench) {
		issued := b.Issued() // to heldDevice
		code, value := b.Mint()
		subject := issuance.Subject{Directory: Directory, Serial: heldDevice.Serial, UDID: heldDevice.UDID, Code: code.ID, SPKISHA256: issued.SPKISHA256}
		look := func() issuance.Circumstances {
			t.Helper()
			c, err := b.Circumstances(b.ctx(), b.Now, subject)
			b.ok(err)
			return c
		}
		c := look()
		want := policy.History{DeviceCertificates: 1, DeviceValid: 1, DeviceLastIssued: issued.IssuedAt, KeyCertificates: 1}
		if diff := cmp.Diff(want, c.History); diff != "" {
			t.Error(diff)
		}
		if c.Device == nil || c.Device.ID != issued.Device {
			t.Errorf("device %+v", c.Device)
		}
		b.HeldFor(b.Ready(value), heldDevice)
		if c := look(); c.History.Refusals != 1 {
			t.Errorf("%d refusals of the code", c.History.Refusals)
		}
		_, other := b.Mint()
		b.HeldFor(b.Ready(other), heldDevice)
		if c := look(); c.History.Refusals != 2 {
			t.Errorf("%d refusals of the code, and of the device with another code", c.History.Refusals)
		}
		subject.Serial, subject.UDID = "C02XK2", ""
		if c := look(); c.Device != nil || c.History.KeyOtherDevices != 1 || c.History.DeviceCertificates != 0 {
			t.Errorf("another device with the same key: %+v", c)
		}
		nameless, namelessValue := b.Mint() // under User Enrollment, say
		_, reserved := b.Claimed(namelessValue)
		unnamed := CompletionFor(reserved)
		unnamed.Attested = issuance.Device{Attested: true}
		_, err := b.CompleteIssue(b.ctx(), b.Operator(), unnamed)
		b.ok(err)
		c, err = b.Circumstances(b.ctx(), b.Now, issuance.Subject{Directory: Directory, Verified: true, Code: nameless.ID, SPKISHA256: reserved.SPKISHA256})
		b.ok(err)
		if c.History.KeyCertificates != 1 || c.History.KeyOtherDevices != 1 {
			t.Errorf("the key of a device that nobody knows, again: %+v", c.History)
		}
		subject.Serial = heldDevice.Serial
		_, err = b.RevokeCertificate(b.ctx(), b.Operator(), issuance.Revocation{Certificate: issued.ID})
		b.ok(err)
		if c := look(); c.History.DeviceCertificates != 1 || c.History.DeviceValid != 0 {
			t.Errorf("after revocation: %+v", c.History)
		}
		b.Now = b.Now.Add(policy.RefusalWindow + time.Second)
		if c := look(); c.History.Refusals != 0 {
			t.Errorf("%d refusals a day later", c.History.Refusals)
		}
	},
	"PoliciesAreKeptAndTheirUseIsOnRecord": func(t *testing.T, b *Bench) {
		one := policy.Version{Name: "one", SHA256: "1111111111111111111111111111111111111111111111111111111111111111"}
		two := policy.Version{Name: "two", SHA256: "2222222222222222222222222222222222222222222222222222222222222222"}
		for _, v := range []policy.Version{one, one, two, one} {
			b.ok(b.UsePolicy(b.ctx(), b.Operator(), Directory, v, "text of "+v.Name))
		}
		b.ok(b.UsePolicy(b.ctx(), b.Operator(), "other", one, "text of one"))
		var used []string
		for _, u := range all(b, b.PolicyUses(b.ctx())) {
			if u.Directory == Directory {
				used = append(used, u.Name)
			}
		}
		if diff := cmp.Diff([]string{"one", "two", "one"}, used); diff != "" {
			t.Error(diff)
		}
		p, err := b.Policy(b.ctx(), two.SHA256)
		b.ok(err)
		if p.Text != "text of two" || p.Version != two || !p.CreatedAt.Equal(b.Now.Truncate(time.Microsecond)) {
			t.Errorf("policy %+v", p)
		}
		_, err = b.Policy(b.ctx(), "none")
		b.wantError(err, issuance.ErrNotFound)
		if n := len(b.trail(audit.Filter{Action: audit.PolicyActivated})); n != 4 {
			t.Errorf("%d audit rows", n)
		}
	},
	"DecisionsAreFoundByWhatTheyWereAbout": func(t *testing.T, b *Bench) {
		issued := b.Issued()
		b.Now = b.Now.Add(time.Hour)
		since := b.Now
		code, value := b.Mint()
		held := b.HeldFor(b.Ready(value), heldDevice)
		find := func(f issuance.DecisionFilter) (ids []issuance.DecisionID) {
			t.Helper()
			for _, d := range all(b, b.Decisions(b.ctx(), f)) {
				ids = append(ids, d.ID)
			}
			return ids
		}
		of := func(id issuance.DecisionID) issuance.EvidenceID {
			d, err := b.Decision(b.ctx(), id)
			b.ok(err)
			return d.Evidence
		}
		both, late := []issuance.DecisionID{issued.Decision, held.Decision}, []issuance.DecisionID{held.Decision}
		for name, test := range map[string]struct {
			filter issuance.DecisionFilter
			want   []issuance.DecisionID
		}{
			"all":       {issuance.DecisionFilter{}, both},
			"since":     {issuance.DecisionFilter{Since: since}, late},
			"held":      {issuance.DecisionFilter{Outcome: policy.Hold}, late},
			"issued":    {issuance.DecisionFilter{Outcome: policy.Issue}, both[:1]},
			"device":    {issuance.DecisionFilter{Device: held.Device}, late},
			"code":      {issuance.DecisionFilter{Code: code.ID}, late},
			"evidence":  {issuance.DecisionFilter{Evidence: of(held.Decision)}, late},
			"issued on": {issuance.DecisionFilter{Evidence: issued.Evidence}, nil},
			"directory": {issuance.DecisionFilter{Directory: Directory}, both},
			"elsewhere": {issuance.DecisionFilter{Directory: "other"}, nil},
			"page":      {issuance.DecisionFilter{Page: issuance.Page{After: string(issued.Decision), Limit: 5}}, late},
		} {
			if diff := cmp.Diff(test.want, find(test.filter)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
	},
}
