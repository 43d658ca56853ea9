package integrity

import (
	"fmt"

	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

// oneOf reports whether a value is among others.
func oneOf[T comparable](value T, others ...T) bool {
	for _, other := range others {
		if value == other {
			return true
		}
	}
	return false
}

// unless is what is wrong, unless it is right.
func unless(right bool, format string, args ...any) string {
	if right {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// parts are the statuses of an order's authorization and challenge.
type parts struct {
	authorization issuance.AuthorizationStatus
	challenge     issuance.ChallengeStatus
}

// legalParts are those that go with an order's status. What is given up (deactivated) is so from any state, and a
// valid order keeps its certificate then.
var legalParts = map[issuance.OrderStatus][]parts{
	issuance.OrderPending:    {{"pending", "pending"}},
	issuance.OrderReady:      {{"valid", "valid"}},
	issuance.OrderProcessing: {{"valid", "valid"}},
	issuance.OrderValid:      {{"valid", "valid"}, {"deactivated", "valid"}},
	issuance.OrderInvalid:    {{"valid", "valid"}, {"invalid", "invalid"}, {"deactivated", "valid"}, {"deactivated", "invalid"}},
}

// serialOf is the status that the row of an order's serial has; an order that claimed none has no such row.
var serialOf = map[issuance.OrderStatus][]issuance.CertificateStatus{
	issuance.OrderProcessing: {issuance.CertificateReserved},
	issuance.OrderValid:      {issuance.CertificateValid, issuance.CertificateRevoked},
	issuance.OrderInvalid:    {issuance.CertificateAbandoned},
}

var orderRules = []rule[store.OrderState]{
	{Rule{"order-state", "order, authorization and challenge are in a combination that there is, and an invalid order says why"}, func(o *store.OrderState) string {
		if !oneOf(parts{o.Authorization, o.Challenge}, legalParts[o.Status]...) {
			return fmt.Sprintf("order, authorization and challenge are %s, %s, %s", o.Status, o.Authorization, o.Challenge)
		}
		return unless(o.Refused == (o.Status == issuance.OrderInvalid), "it is %s, and says why it was refused: %t", o.Status, o.Refused)
	}},
	{Rule{"order-account", "an order belongs to an account of its directory"}, func(o *store.OrderState) string {
		return unless(o.AccountDirectory == o.Directory, "its account is of directory %q, and it is of %q", o.AccountDirectory, o.Directory)
	}},
	{Rule{"order-claim", "an order claimed a serial exactly if it is being, was, or failed to be issued"}, func(o *store.OrderState) string {
		claims := o.Status == issuance.OrderProcessing || o.Status == issuance.OrderValid
		mayClaim := claims || o.Status == issuance.OrderInvalid
		switch {
		case claims && !o.Claimed, o.Claimed && !mayClaim:
			return fmt.Sprintf("it is %s, and claimed a serial: %t", o.Status, o.Claimed)
		case o.Claimed && !oneOf(o.SerialStatus, serialOf[o.Status]...):
			return fmt.Sprintf("it is %s, and its serial is %q", o.Status, o.SerialStatus)
		}
		return unless(o.Claimed || o.Serial == "", "it claimed no serial, but %s was reserved for it", o.Serial)
	}},
	{Rule{"order-certificate", "a valid order names the certificate that was issued for it, and no other order names one"}, func(o *store.OrderState) string {
		want := issuance.CertificateID("")
		if o.Status == issuance.OrderValid {
			want = o.Serial
		}
		return unless(o.Certificate == want, "it is %s and names certificate %q, but %q was issued for it", o.Status, o.Certificate, want)
	}},
	{Rule{"order-evidence", "an order whose challenge is valid was proved by evidence of its own"}, func(o *store.OrderState) string {
		if o.Evidence == "" || o.Status == issuance.OrderInvalid && o.EvidenceOrder == "" { // retention may have removed what was refused
			return unless(o.Evidence != "" || o.Challenge != issuance.ChallengeValid, "its challenge is valid, and there is no evidence")
		}
		return unless(o.EvidenceOrder == o.ID, "its evidence %s is of %q", o.Evidence, o.EvidenceOrder)
	}},
	{Rule{"order-decision", "an order that got a serial has a decision of its own"}, func(o *store.OrderState) string {
		if o.Decision == "" || !o.Claimed && o.DecisionOrder == "" { // retention may have removed what was refused
			return unless(o.Decision != "" || !o.Claimed, "it claimed a serial without a decision")
		}
		return unless(o.DecisionOrder == o.ID, "its decision %s is of %q", o.Decision, o.DecisionOrder)
	}},
	{Rule{"order-code", "the code of an order that is being or was issued is its own"}, func(o *store.OrderState) string {
		want := map[issuance.OrderStatus]issuance.CodeStatus{issuance.OrderProcessing: issuance.CodeIssuing, issuance.OrderValid: issuance.CodeConsumed}[o.Status]
		if o.Code == "" {
			return ""
		}
		if o.CodeStatus == "" {
			return fmt.Sprintf("its code %s is missing", o.Code)
		}
		return unless(want == "" || o.CodeStatus == want && o.CodeOrder == o.ID, "it is %s, but its code is %s by order %q", o.Status, o.CodeStatus, o.CodeOrder)
	}},
}

// codeStates are the numbers of certificates of a code by its status, and the statuses that its order and its
// certificate have.
var codeStates = map[issuance.CodeStatus]struct {
	certificates int
	order        issuance.OrderStatus
}{
	issuance.CodeUnused:   {0, ""},
	issuance.CodeRevoked:  {0, ""},
	issuance.CodeIssuing:  {1, issuance.OrderProcessing},
	issuance.CodeConsumed: {1, issuance.OrderValid},
}

var codeRules = []rule[store.CodeState]{
	{Rule{"code-once", "a code that is used has exactly one certificate or reserved serial, any other has none"}, func(c *store.CodeState) string {
		want := codeStates[c.Status].certificates
		return unless(c.Certificates == want, "it is %s and has %d certificates, not %d", c.Status, c.Certificates, want)
	}},
	{Rule{"code-certificate", "a consumed code names its certificate"}, func(c *store.CodeState) string {
		if c.Status != issuance.CodeConsumed {
			return unless(c.Certificate == "", "it is %s, but names certificate %s", c.Status, c.Certificate)
		}
		return unless(c.CertificateCode == c.ID && oneOf(c.CertificateStatus, issuance.CertificateValid, issuance.CertificateRevoked),
			"it names certificate %q, which is %q, of code %q", c.Certificate, c.CertificateStatus, c.CertificateCode)
	}},
	{Rule{"code-order", "a code that is being used, or was, names the order that does, or did"}, func(c *store.CodeState) string {
		want := codeStates[c.Status].order
		if want == "" {
			return unless(c.Order == "", "it is %s, but names order %s", c.Status, c.Order)
		}
		return unless(c.OrderStatus == want && c.OrderCode == c.ID, "it is %s by order %q, which is %q, of code %q", c.Status, c.Order, c.OrderStatus, c.OrderCode)
	}},
	{Rule{"code-document", "the document with a code in it is erased once the code is used or revoked"}, func(c *store.CodeState) string {
		return unless(c.Documents == 0 || oneOf(c.Status, issuance.CodeUnused, issuance.CodeIssuing), "it is %s, but its document was not erased", c.Status)
	}},
}

var accountRules = []rule[store.AccountState]{
	{Rule{"account-orders", "an account counts its orders right: one that counts none leaves"}, func(a *store.AccountState) string {
		return unless(a.Orders == a.Says, "it has %d orders, but counts %d", a.Orders, a.Says)
	}},
}

// partRule: what an order that is there does not name is of no order, and an order only leaves with what was
// not issued.
func partRule(name, what string, mayStay func(policy.Outcome) bool) []rule[store.PartState] {
	return []rule[store.PartState]{{Rule{name, what + " is named by its order, which leaves only if nothing was issued"}, func(p *store.PartState) string {
		if p.OrderStatus == "" {
			return unless(mayStay(p.Outcome), "its order %s is missing, and its outcome is %q", p.Order, p.Outcome)
		}
		return unless(p.OrderPart == p.ID, "its order %s names %q", p.Order, p.OrderPart)
	}}}
}

var (
	evidenceRules = partRule("evidence-order", "evidence", func(o policy.Outcome) bool { return o == policy.Refuse || o == policy.Hold })
	decisionRules = partRule("decision-order", "a decision", func(o policy.Outcome) bool { return o != policy.Issue })
)

var holdRules = []rule[store.HoldState]{
	{Rule{"hold-order", "an approval that is being used, or was, is so by an order that is being, or was, issued"}, func(h *store.HoldState) string {
		want := map[issuance.HoldStatus]issuance.OrderStatus{issuance.HoldClaimed: issuance.OrderProcessing, issuance.HoldUsed: issuance.OrderValid}[h.Status]
		return unless(h.OrderStatus == want, "it is %s, and its order is %q", h.Status, h.OrderStatus)
	}},
	{Rule{"hold-decision", "a hold that waits for a person has its decision"}, func(h *store.HoldState) string {
		return unless(h.DecisionOrder != "" || oneOf(h.Status, issuance.HoldUsed, issuance.HoldDeclined), "it is %s, and its decision is missing", h.Status)
	}},
}
