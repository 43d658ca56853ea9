package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// State is in short where a device's credential stands.
type State string

// States.
const (
	StateDelivered State = "delivered" // the declarations are out; nothing more is known
	StateFetched   State = "fetched"   // the device has the document, and no certificate yet
	StateRefused   State = "refused"   // the server refused the device, or the device the server
	StateEnrolled  State = "enrolled"  // the device has its certificate
	StateRenewing  State = "renewing"  // a new code is out, and the certificate before is still valid
	StateDead      State = "dead"      // code or certificate came to their end; the diagnosis says whether somebody has to renew it
	StateWithdrawn State = "withdrawn"
)

// Stage names what a diagnosis found.
type Stage string

// Stages, in the order in which a credential can reach them.
const (
	StageWithdrawn          Stage = "withdrawn"
	StageNotPushed          Stage = "not-pushed"          // the MDM could not be given the declarations
	StageNeverFetched       Stage = "never-fetched"       // nobody asked for the document
	StageFetchRefused       Stage = "fetch-refused"       // it was asked for without the right MDM identity
	StageNoACME             Stage = "no-acme-contact"     // fetched, and no order was placed
	StageOrderOpen          Stage = "order-open"          // an order was placed, and the device came no further yet
	StageACMERefused        Stage = "acme-refused"        // the ACME server refused
	StageIssuing            Stage = "issuing"             // the certificate is being issued
	StageNeverCollected     Stage = "never-collected"     // issued, and not downloaded
	StageUnreported         Stage = "unreported"          // downloaded; the device says nothing of it yet
	StageInstalled          Stage = "installed"           // the device lists it
	StageOtherInstalled     Stage = "other-installed"     // the device lists another certificate
	StageNotInstalled       Stage = "not-installed"       // the device lists its certificates, and none is this
	StageDeviceFailed       Stage = "device-failed"       // downloaded; the device says that it failed
	StageAskedAgain         Stage = "asked-again"         // the document was asked for again after its code was used
	StageRenewalBlocked     Stage = "renewal-blocked"     // due, and cannot be rendered
	StageCertificateRevoked Stage = "certificate-revoked" // and not renewed since
	StageCertificateExpired Stage = "certificate-expired" // and not renewed since
	StageExpiredUnfetched   Stage = "expired-unfetched"   // the code ended before anybody asked for the document
	StageExpiredFetched     Stage = "expired-fetched"     // the code ended after the document was fetched
	StageExhausted          Stage = "exhausted"           // too many tries with the code were refused
	StageCodeRevoked        Stage = "code-revoked"        // an operator revoked the code
)

// Case is what the server knows of a device's credential.
type Case struct {
	Delivery issuance.Delivery
	// Issued is the certificate that the present code became; nil for none.
	Issued *issuance.Certificate
	// Held is the newest certificate that the device collected (Delivery.Credential.Certificate), which
	// may be Issued; nil for none.
	Held *issuance.Certificate
	// Trail is the audit rows of the present code, oldest first.
	Trail []audit.Row
	Now   time.Time
}

// Diagnosis says where a device's credential stands and what to do about it.
type Diagnosis struct {
	Stage  Stage
	State  State
	Text   string // what happened, in a sentence or two
	Advice string // what to do next; "" if nothing is to be done
}

// Diagnose explains what became of a credential on its device, from the server's own record: all that
// a device says of any failure is Error.AssetCannotBeDownloaded.
func Diagnose(c Case) Diagnosis {
	if at := c.Delivery.Credential.WithdrawnAt; !at.IsZero() {
		return Diagnosis{StageWithdrawn, StateWithdrawn, "Withdrawn at " + moment(at) + ".", ""}
	}
	d := c.stand()
	// The document is out of sight while another certificate still serves the device.
	if c.heldBefore() {
		if d.State == StateDelivered || d.State == StateFetched {
			d.State = StateRenewing
		}
		d.Text += " The certificate before is valid until " + moment(c.Held.NotAfter) + "."
	}
	// Whatever else would help does not, before the inventory says something else.
	if device := &c.Delivery.Device; device.Barred() {
		d.Text += " The device is " + string(device.State) + ", and gets nothing more."
		d.Advice = adviceBarred
	}
	return d
}

// heldBefore reports whether the device has a living certificate from before the present code.
func (c *Case) heldBefore() bool {
	return c.Held != nil && c.Held.Code != c.Delivery.Code.ID && c.Held.Status == issuance.CertificateValid && c.Now.Before(c.Held.NotAfter)
}

// stand is the diagnosis of the present code.
func (c *Case) stand() Diagnosis {
	switch code := &c.Delivery.Code; code.StatusAt(c.Now) {
	case issuance.CodeConsumed:
		return c.used()
	case issuance.CodeIssuing:
		return Diagnosis{StageIssuing, StateFetched, "The certificate is being issued.", ""}
	case issuance.CodeRevoked:
		return Diagnosis{StageCodeRevoked, StateDead, "The code was revoked at " + moment(code.RevokedAt) + c.lastRefused() + ".", adviceRenew}
	case issuance.CodeExhausted:
		return Diagnosis{StageExhausted, StateDead, fmt.Sprintf("The code is used up: %d tries were refused%s.", code.Tries, c.lastRefused()),
			join(issuance.AdviceOn(code.LastRefusal), adviceRenew)}
	case issuance.CodeExpired:
		return c.expired()
	}
	if d, contact := c.acme(); contact {
		return d
	}
	return c.document()
}

func (c *Case) expired() Diagnosis {
	code, document := &c.Delivery.Code, &c.Delivery.Document
	if document.FetchedAt.IsZero() {
		text := "Nobody asked for the document before its code ended at " + moment(code.ExpiresAt)
		if !document.RefusedAt.IsZero() && document.RefusedAt.Before(code.ExpiresAt) {
			text = "The document was asked for, but refused (" + document.RefusedCheck + "), before its code ended at " + moment(code.ExpiresAt)
		}
		text += c.lastRefused() + c.reported() + "."
		if row := c.renderingRefused(); row != nil {
			return Diagnosis{StageRenewalBlocked, StateDead, text + " It cannot be rendered again: " + row.Check + detailOf(row) + ".", adviceBlocked}
		}
		advice := "Assay renders it again by itself; see that the MDM gets the new declarations to the device."
		if document.RefusedAt.IsZero() && c.lastStep() == nil && c.reported() == "" {
			advice += " " + adviceProfile
		}
		return Diagnosis{StageExpiredUnfetched, StateDead, text, advice}
	}
	text := "The document was fetched at " + moment(document.FetchedAt) + ", and its code ended unused at " + moment(code.ExpiresAt) + c.lastRefused() + c.reported() + "."
	if row := c.renderingRefused(); row != nil {
		return Diagnosis{StageRenewalBlocked, StateDead, text + " It cannot be rendered again: " + row.Check + detailOf(row) + ".", adviceBlocked}
	}
	advice := adviceRenew
	if due := c.Delivery.Credential.DueAt; !due.IsZero() {
		advice = "Assay renders it again by itself at " + moment(due) + "; mend what the device failed at before."
	}
	return Diagnosis{StageExpiredFetched, StateDead, text, join(issuance.AdviceOn(code.LastRefusal), advice)}
}

// acmeSteps are the actions of the trail by which a device's ACME run shows, and what each says of it
// when it was done.
var acmeSteps = map[audit.Action]string{
	audit.OrderCreated:      "placed an order",
	audit.ChallengeAnswered: "answered the challenge",
	audit.CSRChecked:        "sent its certificate request",
	audit.DecisionTaken:     "sent its certificate request",
	audit.IssueBegun:        "sent its certificate request",
	audit.IssueAbandoned:    "sent its certificate request, but the certificate was not issued",
	audit.RequestRefused:    "made a request",
}

// lastStep is the last row of the device's ACME run; nil if there was none.
func (c *Case) lastStep() *audit.Row {
	return c.last(func(row *audit.Row) bool {
		return acmeSteps[row.Action] != "" && row.Detail["problem"] != renderProblem
	})
}

// last is the last row of a kind; nil if there is none. Rows sort to the millisecond, their times are
// more exact.
func (c *Case) last(is func(*audit.Row) bool) *audit.Row {
	var last *audit.Row
	for i := range c.Trail {
		if row := &c.Trail[i]; is(row) && (last == nil || !row.Time.Before(last.Time)) {
			last = row
		}
	}
	return last
}

// lastRefused is where the last try was refused, as the end of a sentence; "" if it was not.
func (c *Case) lastRefused() string {
	if row := c.lastStep(); row != nil && row.Outcome == audit.Refused {
		return "; the last try was refused at " + moment(row.Time) + " (" + row.Check + ")"
	}
	return ""
}

// acme is the diagnosis by the device's ACME run with the present code, if there was one.
func (c *Case) acme() (Diagnosis, bool) {
	row := c.lastStep()
	if row == nil {
		return Diagnosis{}, false
	}
	did := acmeSteps[row.Action]
	if row.Outcome == audit.Refused {
		return Diagnosis{StageACMERefused, StateRefused, fmt.Sprintf("The device %s at %s and was refused: %s%s%s.",
			did, moment(row.Time), row.Check, detailOf(row)+shownBy(row), c.reported()), join(issuance.AdviceOn(row.Check), "Then renew the credential: devices do not try again by themselves.")}, true
	}
	if row.Action == audit.IssueAbandoned {
		return Diagnosis{StageACMERefused, StateRefused, "The device " + did + " at " + moment(row.Time) + c.reported() + ".",
			"The server's log says why; then renew the credential."}, true
	}
	d := Diagnosis{StageOrderOpen, StateFetched, "The device " + did + " at " + moment(row.Time), ""}
	if c.Now.Sub(row.Time) > runLimit {
		d.Text += ", and came no further" + c.reported()
		d.Advice = "The connection broke, or the device gave up: it makes one run of about a minute. " + adviceRenew
	}
	d.Text += "."
	return d, true
}

// runLimit is after how long a device that was heard of is taken to have given up: its client ends an
// enrolment after about a minute.
const runLimit = 2 * time.Minute

// detailOf is the detail of a refusal, if the trail has one.
func detailOf(row *audit.Row) string {
	if detail := row.Detail["detail"]; detail != "" {
		return " (" + detail + ")"
	}
	return ""
}

// shownBy is what the device itself showed of what it was refused for, as the end of a sentence; ""
// where that is of no interest, or not known any more.
func shownBy(row *audit.Row) string {
	switch p := row.Personal; {
	case p == nil:
	case row.Check == "bound-serial" && p.Serial != "":
		return "; the device attested the serial number " + quote(p.Serial)
	case row.Check == "bound-udid" && p.UDID != "":
		return "; the device attested the UDID " + quote(p.UDID)
	case row.Check == "evidence" && p.DeviceError != "":
		return "; the device says " + quote(p.DeviceError)
	}
	return ""
}

// document is the diagnosis by the document while its code is alive and was never ordered with.
func (c *Case) document() Diagnosis {
	document, k := &c.Delivery.Document, &c.Delivery.Credential
	switch {
	case document.RefusedAt.After(document.FetchedAt):
		return Diagnosis{StageFetchRefused, StateRefused, "The document was asked for at " + moment(document.RefusedAt) + " and refused: " + document.RefusedCheck + c.reported() + ".",
			fetchAdvice(document.RefusedCheck)}
	case !document.FetchedAt.IsZero() && c.Now.Sub(document.FetchedAt) <= runLimit:
		return Diagnosis{StageNoACME, StateFetched, "The device fetched the document at " + moment(document.FetchedAt) + c.reported() + ".", ""}
	case !document.FetchedAt.IsZero():
		return Diagnosis{StageNoACME, StateFetched, "The device fetched the document at " + moment(document.FetchedAt) + " and placed no order with it" + c.reported() + ".",
			"It could not make the key (HardwareBound, KeyType and KeySize against its model), could not reach the ACME directory, or does not trust its TLS certificate. " + adviceRenew}
	case k.PushError != "":
		return Diagnosis{StageNotPushed, StateDelivered, "The MDM could not be given the declarations: " + k.PushError + ".",
			"Assay tries again by itself; mend the MDM or push.enrollment."}
	case c.reported() != "":
		return Diagnosis{StageNeverFetched, StateDelivered, "Nobody asked for the document since " + moment(document.CreatedAt) + c.reported() + ".",
			"The device could not reach the document's URL: look at its name, route and TLS certificate from the device's network."}
	}
	return Diagnosis{StageNeverFetched, StateDelivered, "Nobody asked for the document since " + moment(document.CreatedAt) + ".",
		"See that the MDM has the declarations, that an activation names the configuration, and that the device was told to synchronise. " + adviceProfile}
}

// used is the diagnosis of a code that became a certificate.
func (c *Case) used() Diagnosis {
	document := &c.Delivery.Document
	switch {
	case c.Issued == nil:
		return Diagnosis{StageNeverCollected, StateDead, "The code was used, but its certificate is not known any more.", adviceRenew}
	case c.Issued.Status == issuance.CertificateRevoked:
		return Diagnosis{StageCertificateRevoked, StateDead, "The certificate was revoked at " + moment(c.Issued.RevokedAt) + ".", adviceRenew}
	case !c.Now.Before(c.Issued.NotAfter):
		return Diagnosis{StageCertificateExpired, StateDead, "The certificate expired at " + moment(c.Issued.NotAfter) + ".", adviceRenew}
	case document.RefusedCheck == checkCode+string(issuance.CodeConsumed) && document.RefusedAt.After(c.Issued.CollectedAt) && !c.confirmed(document.RefusedAt):
		lost := "the device lost the certificate or never got it"
		if !c.Issued.CollectedAt.IsZero() {
			lost = "the device lost the certificate"
		}
		// A dead document is refused before anybody is asked who he is.
		return Diagnosis{StageAskedAgain, StateRefused, "The certificate was issued, but the document was asked for again at " + moment(document.RefusedAt) + c.reported() +
			": " + lost + ", or somebody else has the document's URL.",
			"The refusal in the audit trail has the address that asked. If it was the device, it was erased, restored, or cut off. " + adviceRenew}
	case c.Issued.CollectedAt.IsZero():
		return c.uncollected()
	}
	return c.collected()
}

// confirmed reports whether the device listed the certificate after a time.
func (c *Case) confirmed(since time.Time) bool {
	report := c.Delivery.Credential.Report
	return report != nil && report.ReceivedAt.After(since) && report.Installed == fingerprintOf(c.Issued)
}

func (c *Case) uncollected() Diagnosis {
	d := Diagnosis{StageNeverCollected, StateFetched, "The certificate was issued at " + moment(c.Issued.IssuedAt) + " and was not downloaded yet.", ""}
	if c.Now.Sub(c.Issued.IssuedAt) > runLimit {
		d.State = StateDead
		d.Text = "The certificate was issued at " + moment(c.Issued.IssuedAt) + " and never downloaded" + c.reported() + "."
		d.Advice = "The connection broke, or the device gave up. " + adviceRenew
	}
	return d
}

// collected is the diagnosis of a certificate that the device downloaded.
func (c *Case) collected() Diagnosis {
	text := "The certificate was downloaded at " + moment(c.Issued.CollectedAt)
	report := c.Delivery.Credential.Report
	if row := c.renderingRefused(); row != nil {
		return Diagnosis{StageRenewalBlocked, StateEnrolled, "The certificate is valid until " + moment(c.Issued.NotAfter) + ", but it cannot be renewed: " + row.Check + detailOf(row) + ".",
			adviceBlocked}
	}
	// What was reported before the download says nothing of it.
	if report == nil || report.ReceivedAt.Before(c.Issued.CollectedAt) {
		return Diagnosis{StageUnreported, StateEnrolled, text + "; the device has not reported it yet.", ""}
	}
	switch {
	case report.Installed == fingerprintOf(c.Issued):
		return Diagnosis{StageInstalled, StateEnrolled, text + ", and the device reports it as installed.", ""}
	case c.reported() != "":
		return Diagnosis{StageDeviceFailed, StateRefused, text + c.reported() + ".",
			"The server did its part: look at the device's own log of com.apple.security.acmeclient. " + adviceRenew}
	case report.Uninstalled:
		return Diagnosis{StageNotInstalled, StateRefused, text + ", but the device does not list it any more.", "It was removed, or never installed. " + adviceRenew}
	case report.Installed != "":
		return Diagnosis{StageOtherInstalled, StateEnrolled, text + ", but the device lists another certificate for it: SHA-256 " + report.Installed + ".",
			"After a renewal the device may still list the one before; its next report tells."}
	}
	return Diagnosis{StageUnreported, StateEnrolled, text + "; the device has not listed it yet.", ""}
}

// renderingRefused is the row that says why the credential, which is due, could not be rendered.
func (c *Case) renderingRefused() *audit.Row {
	if due := c.Delivery.Credential.DueAt; due.IsZero() || due.After(c.Now) {
		return nil
	}
	return c.last(func(row *audit.Row) bool {
		return row.Outcome == audit.Refused && row.Detail["problem"] == renderProblem
	})
}

// reported is the failure that the device reports, as the end of a sentence; "" for none. Only what
// is invalid failed: a device also gives reasons for what is merely not active yet.
func (c *Case) reported() string {
	report := c.Delivery.Credential.Report
	if report == nil {
		return ""
	}
	for _, state := range []*issuance.DeclarationState{report.Asset, report.Configuration} {
		if state == nil || state.Valid != "invalid" {
			continue
		}
		if len(state.Reasons) == 0 {
			return "; the device reports that the declaration is invalid"
		}
		return "; the device reports " + quote(state.Reasons[0].Code)
	}
	return ""
}

const (
	adviceRenew   = "Renew the credential: the device gets a new document."
	adviceProfile = "A profile is not fetched: if it went out as one, the device has not been heard of."
	adviceBarred  = "If it came back, `assay device expect` takes it back; then renew the credential. Its valid certificates, if it has any, end with `assay certificate revoke`."
	adviceBlocked = "The server's log says what is missing; then renew the credential."
)

// fingerprintOf is the SHA-256 of a certificate as devices' reports are matched by it.
func fingerprintOf(c *issuance.Certificate) string {
	sum := sha256.Sum256(c.DER)
	return hex.EncodeToString(sum[:])
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// join makes one advice of two.
func join(first, second string) string {
	if first == "" {
		return second
	}
	if last := first[len(first)-1]; last != '.' {
		first += "."
	}
	return first + " " + second
}
