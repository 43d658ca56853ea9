package delivery

import (
	"strings"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// renderedAt, fetched and so on are the moments of a usual enrolment.
var (
	renderedAt = testNow
	fetched    = testNow.Add(10 * time.Minute)
	ordered    = testNow.Add(11 * time.Minute)
	collected  = testNow.Add(12 * time.Minute)
	later      = testNow.Add(30 * time.Minute)
	codesEnd   = testNow.Add(24 * time.Hour)
	certsEnd   = testNow.Add(90 * 24 * time.Hour)
)

// situation is a case that a test changes: a credential that was just rendered.
type situation struct{ Case }

func newSituation(change ...func(*situation)) Case {
	s := &situation{Case{Now: later, Delivery: issuance.Delivery{
		Credential: issuance.DeviceCredential{ID: credentialA, RenderedAt: renderedAt, DueAt: codesEnd},
		Code:       issuance.Code{ID: "code_1", Status: issuance.CodeUnused, CreatedAt: renderedAt, ExpiresAt: codesEnd},
		Document:   issuance.Document{CreatedAt: renderedAt},
	}}}
	for _, c := range change {
		c(s)
	}
	return s.Case
}

// What can happen, each on top of what happened before.
func isFetched(s *situation) {
	s.Delivery.Document.FetchedAt, s.Delivery.Credential.DueAt = fetched, time.Time{}
}

func isTriedAgain(s *situation) {
	s.Delivery.Credential.DueAt = codesEnd.Add(issuance.RetryPause)
}

func did(action audit.Action) func(*situation) {
	return func(s *situation) {
		s.Trail = append(s.Trail, audit.Row{Time: ordered, Action: action, Outcome: audit.Done})
	}
}

func refusedAt(action audit.Action, check string) func(*situation) {
	return func(s *situation) {
		s.Trail = append(s.Trail, audit.Row{Time: ordered.Add(time.Second), Action: action, Outcome: audit.Refused, Check: check,
			Detail: map[string]string{"problem": "unauthorized", "detail": "no good"}})
	}
}

// shows adds to the last row of the trail what the device showed.
func shows(p audit.Personal) func(*situation) {
	return func(s *situation) { s.Trail[len(s.Trail)-1].Personal = &p }
}

func issued(s *situation) {
	s.Delivery.Code.Status, s.Delivery.Code.UsedAt = issuance.CodeConsumed, ordered
	s.Delivery.Credential.DueAt = time.Time{}
	s.Issued = &issuance.Certificate{ID: "cert_1", Code: "code_1", Status: issuance.CertificateValid, DER: []byte("certificate"), IssuedAt: ordered, NotAfter: certsEnd}
}

func isCollected(s *situation) {
	s.Issued.CollectedAt = collected
	s.Held = s.Issued
	s.Delivery.Credential.Certificate, s.Delivery.Credential.DueAt = s.Issued.ID, certsEnd.Add(-30*24*time.Hour)
}

func reports(at time.Time, report issuance.StatusReport) func(*situation) {
	return func(s *situation) {
		report.ReceivedAt = at
		s.Delivery.Credential.Report = &report
	}
}

func failure(at time.Time) func(*situation) {
	return reports(at, issuance.StatusReport{Asset: &issuance.DeclarationState{Valid: "invalid", Reasons: []issuance.DeclarationReason{{Code: "Error.AssetCannotBeDownloaded"}}}})
}

func listsIt(at time.Time) func(*situation) {
	return func(s *situation) {
		reports(at, issuance.StatusReport{Installed: fingerprintOf(s.Issued)})(s)
	}
}

func turnedAway(at time.Time, check string) func(*situation) {
	return func(s *situation) { s.Delivery.Document.RefusedAt, s.Delivery.Document.RefusedCheck = at, check }
}

func now(at time.Time) func(*situation) { return func(s *situation) { s.Now = at } }

func code(status issuance.CodeStatus) func(*situation) {
	return func(s *situation) {
		s.Delivery.Code.Status, s.Delivery.Code.RevokedAt = status, later
		if status == issuance.CodeExhausted {
			s.Delivery.Code.Status, s.Delivery.Code.Tries, s.Delivery.Code.LastRefusal = issuance.CodeUnused, issuance.MaxTriesPerCode, "freshness"
		}
	}
}

// holdsOld gives the device a living certificate of an earlier code.
func holdsOld(s *situation) {
	s.Held = &issuance.Certificate{ID: "cert_0", Code: "code_0", Status: issuance.CertificateValid, CollectedAt: renderedAt.Add(-time.Hour), NotAfter: later.Add(time.Hour)}
}

func pushFails(s *situation) { s.Delivery.Credential.PushError = "connection refused" }

func cannotRender(s *situation) {
	s.Trail = append(s.Trail, audit.Row{Time: s.Now, Action: audit.RequestRefused, Outcome: audit.Refused, Check: CheckTemplateKnown,
		Detail: map[string]string{"problem": renderProblem, "detail": "template staff"}})
	s.Delivery.Credential.DueAt = s.Now
}

func TestDiagnosis(t *testing.T) {
	for name, c := range map[string]struct {
		happened []func(*situation)
		stage    Stage
		state    State
		says     string // in Text
		advises  string // in Advice; "" for none at all
	}{
		// The MDM's part.
		"just rendered":          {nil, StageNeverFetched, StateDelivered, "Nobody asked for the document", "synchronise. A profile is not fetched: if it went out as one, the device has not been heard of."},
		"the MDM cannot be told": {[]func(*situation){pushFails}, StageNotPushed, StateDelivered, "connection refused", "push.enrollment"},
		"the device says it cannot download, and never came": {[]func(*situation){failure(later)}, StageNeverFetched, StateDelivered, "AssetCannotBeDownloaded", "from the device's network"},
		"withdrawn": {[]func(*situation){isFetched, func(s *situation) { s.Delivery.Credential.WithdrawnAt = later }}, StageWithdrawn, StateWithdrawn, "Withdrawn", ""},

		// The document.
		"asked for without identity":               {[]func(*situation){turnedAway(fetched, CheckIdentityShown)}, StageFetchRefused, StateRefused, CheckIdentityShown, "trustedProxies"},
		"by another device":                        {[]func(*situation){turnedAway(fetched, CheckIdentityField), failure(later)}, StageFetchRefused, StateRefused, "AssetCannotBeDownloaded", "mdm.match"},
		"refused first, then fetched":              {[]func(*situation){turnedAway(renderedAt, CheckIdentityShown), isFetched, now(fetched)}, StageNoACME, StateFetched, "fetched the document", ""},
		"fetched, then refused":                    {[]func(*situation){isFetched, turnedAway(later, CheckIdentityExpired)}, StageFetchRefused, StateRefused, CheckIdentityExpired, "expired"},
		"just fetched":                             {[]func(*situation){isFetched, now(fetched.Add(time.Minute))}, StageNoACME, StateFetched, "fetched the document", ""},
		"fetched, no order":                        {[]func(*situation){isFetched}, StageNoACME, StateFetched, "placed no order", "HardwareBound"},
		"fetched, no order, and the device's word": {[]func(*situation){isFetched, failure(later)}, StageNoACME, StateFetched, "AssetCannotBeDownloaded", "TLS"},

		// The ACME run.
		"order placed":                {[]func(*situation){isFetched, did(audit.OrderCreated), now(ordered)}, StageOrderOpen, StateFetched, "placed an order", ""},
		"order placed, no more":       {[]func(*situation){isFetched, did(audit.OrderCreated)}, StageOrderOpen, StateFetched, "came no further", "Renew"},
		"challenge answered, no more": {[]func(*situation){isFetched, did(audit.OrderCreated), did(audit.ChallengeAnswered)}, StageOrderOpen, StateFetched, "answered the challenge", "Renew"},
		"by a profile, without fetch": {[]func(*situation){did(audit.OrderCreated), now(ordered)}, StageOrderOpen, StateFetched, "placed an order", ""},
		"refused evidence":            {[]func(*situation){isFetched, did(audit.OrderCreated), refusedAt(audit.ChallengeAnswered, "evidence")}, StageACMERefused, StateRefused, "evidence (no good)", "--allow-unattested"},
		"refused by an attest check":  {[]func(*situation){isFetched, did(audit.OrderCreated), refusedAt(audit.ChallengeAnswered, "freshness")}, StageACMERefused, StateRefused, "freshness", "Then renew"},
		"refused for another device":  {[]func(*situation){isFetched, did(audit.OrderCreated), refusedAt(audit.DecisionTaken, "bound-serial"), failure(later)}, StageACMERefused, StateRefused, "AssetCannotBeDownloaded", "another device"},
		"refused for another serial":  {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "bound-serial"), shows(audit.Personal{Serial: "C39XX0AB12CE", UDID: "U"})}, StageACMERefused, StateRefused, `bound-serial (no good); the device attested the serial number "C39XX0AB12CE".`, "another device"},
		"refused for another UDID":    {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "bound-udid"), shows(audit.Personal{Serial: "C39XX0AB12CE", UDID: "U"}), failure(later)}, StageACMERefused, StateRefused, `; the device attested the UDID "U"; the device reports`, "provisioning UDID"},
		"refused, and since erased":   {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "bound-serial"), shows(audit.Personal{From: "192.0.2.1"})}, StageACMERefused, StateRefused, "bound-serial (no good).", "another device"},
		"refused an error":            {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "evidence"), shows(audit.Personal{DeviceError: "no\nnetwork"})}, StageACMERefused, StateRefused, `evidence (no good); the device says "no\nnetwork".`, "see that the device reaches Apple's attestation service"},
		"refused CSR":                 {[]func(*situation){isFetched, did(audit.OrderCreated), did(audit.ChallengeAnswered), refusedAt(audit.CSRChecked, "attested-key")}, StageACMERefused, StateRefused, "attested-key", "Then renew"},
		"refused request":             {[]func(*situation){isFetched, did(audit.OrderCreated), refusedAt(audit.RequestRefused, "nonce")}, StageACMERefused, StateRefused, "nonce", "held a nonce"},
		"refused, then a new order": {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "evidence"), func(s *situation) {
			s.Trail = append(s.Trail, audit.Row{Time: later, Action: audit.OrderCreated, Outcome: audit.Done})
		}}, StageOrderOpen, StateFetched, "placed an order", ""},
		"the server could not sign": {[]func(*situation){isFetched, did(audit.OrderCreated), did(audit.IssueBegun), did(audit.IssueAbandoned)}, StageACMERefused, StateRefused, "not issued", "server's log"},
		"being issued":              {[]func(*situation){isFetched, did(audit.IssueBegun), code(issuance.CodeIssuing)}, StageIssuing, StateFetched, "being issued", ""},

		// The certificate.
		"issued a moment ago":             {[]func(*situation){isFetched, issued, now(ordered.Add(time.Minute))}, StageNeverCollected, StateFetched, "not downloaded yet", ""},
		"issued, never downloaded":        {[]func(*situation){isFetched, issued}, StageNeverCollected, StateDead, "never downloaded", "Renew"},
		"downloaded":                      {[]func(*situation){isFetched, issued, isCollected}, StageUnreported, StateEnrolled, "not reported it yet", ""},
		"downloaded, an older report":     {[]func(*situation){isFetched, issued, failure(fetched), isCollected}, StageUnreported, StateEnrolled, "not reported it yet", ""},
		"downloaded, a report without it": {[]func(*situation){isFetched, issued, isCollected, reports(later, issuance.StatusReport{Asset: &issuance.DeclarationState{Valid: "valid"}})}, StageUnreported, StateEnrolled, "not listed it yet", ""},
		"installed":                       {[]func(*situation){isFetched, issued, isCollected, listsIt(later)}, StageInstalled, StateEnrolled, "installed", ""},
		"another one is installed":        {[]func(*situation){isFetched, issued, isCollected, reports(later, issuance.StatusReport{Installed: "abcd"})}, StageOtherInstalled, StateEnrolled, "abcd", "next report"},
		"not installed any more":          {[]func(*situation){isFetched, issued, isCollected, reports(later, issuance.StatusReport{Uninstalled: true})}, StageNotInstalled, StateRefused, "does not list it", "removed"},
		"downloaded, the device failed":   {[]func(*situation){isFetched, issued, isCollected, failure(later)}, StageDeviceFailed, StateRefused, "AssetCannotBeDownloaded", "com.apple.security.acmeclient"},
		"asked for again":                 {[]func(*situation){isFetched, issued, isCollected, turnedAway(later, "code-consumed")}, StageAskedAgain, StateRefused, ": the device lost the certificate, or somebody else", "erased"},
		"asked for again before download": {[]func(*situation){isFetched, issued, turnedAway(later, "code-consumed")}, StageAskedAgain, StateRefused, "never got it", "Renew"},
		"asked for again, but installed":  {[]func(*situation){isFetched, issued, isCollected, turnedAway(collected.Add(time.Minute), "code-consumed"), listsIt(later)}, StageInstalled, StateEnrolled, "installed", ""},
		"revoked":                         {[]func(*situation){isFetched, issued, isCollected, func(s *situation) { s.Issued.Status, s.Issued.RevokedAt = issuance.CertificateRevoked, later }}, StageCertificateRevoked, StateDead, "revoked", "Renew"},
		"expired":                         {[]func(*situation){isFetched, issued, isCollected, now(certsEnd)}, StageCertificateExpired, StateDead, "expired", "Renew"},
		"its row is gone":                 {[]func(*situation){isFetched, issued, func(s *situation) { s.Issued = nil }}, StageNeverCollected, StateDead, "not known any more", "Renew"},
		"due, and the template is gone":   {[]func(*situation){isFetched, issued, isCollected, cannotRender}, StageRenewalBlocked, StateEnrolled, CheckTemplateKnown, "log"},

		// A renewal, while the certificate before is alive.
		"renewal out":              {[]func(*situation){holdsOld}, StageNeverFetched, StateRenewing, "The certificate before is valid until", "synchronise"},
		"renewal fetched":          {[]func(*situation){holdsOld, isFetched, did(audit.OrderCreated), now(ordered)}, StageOrderOpen, StateRenewing, "The certificate before is valid until", ""},
		"renewal refused":          {[]func(*situation){holdsOld, isFetched, refusedAt(audit.ChallengeAnswered, "evidence")}, StageACMERefused, StateRefused, "The certificate before is valid until", "--allow"},
		"renewal done":             {[]func(*situation){holdsOld, isFetched, issued, isCollected, listsIt(later)}, StageInstalled, StateEnrolled, "installed", ""},
		"renewal after expiry":     {[]func(*situation){holdsOld, now(later.Add(2 * time.Hour))}, StageNeverFetched, StateDelivered, "Nobody asked", "synchronise"},
		"renewal of a revoked one": {[]func(*situation){holdsOld, func(s *situation) { s.Held.Status = issuance.CertificateRevoked }}, StageNeverFetched, StateDelivered, "Nobody asked", "synchronise"},

		// Dead codes.
		"ended unfetched":                              {[]func(*situation){now(codesEnd)}, StageExpiredUnfetched, StateDead, "Nobody asked for the document before", "by itself; see that the MDM gets the new declarations to the device. A profile is not fetched"},
		"ended after refused fetches":                  {[]func(*situation){turnedAway(fetched, CheckIdentityShown), now(codesEnd)}, StageExpiredUnfetched, StateDead, CheckIdentityShown, "declarations to the device."},
		"ended unfetched, template gone":               {[]func(*situation){now(codesEnd), cannotRender}, StageRenewalBlocked, StateDead, CheckTemplateKnown, "log"},
		"ended after the fetch":                        {[]func(*situation){isFetched, now(codesEnd)}, StageExpiredFetched, StateDead, "ended unused", "Renew"},
		"ended after the fetch, not for the last time": {[]func(*situation){isFetched, isTriedAgain, now(codesEnd)}, StageExpiredFetched, StateDead, "ended unused", "by itself"},
		"ended after the fetch, template gone":         {[]func(*situation){isFetched, now(codesEnd), cannotRender}, StageRenewalBlocked, StateDead, CheckTemplateKnown, "log"},
		"ended after a refusal":                        {[]func(*situation){isFetched, refusedAt(audit.ChallengeAnswered, "evidence"), now(codesEnd)}, StageExpiredFetched, StateDead, "(evidence)", "Renew"},
		"exhausted":                                    {[]func(*situation){isFetched, code(issuance.CodeExhausted)}, StageExhausted, StateDead, "32 tries", "Renew"},
		"revoked by an operator":                       {[]func(*situation){code(issuance.CodeRevoked)}, StageCodeRevoked, StateDead, "revoked", "Renew"},
		"dead while the old one is alive":              {[]func(*situation){holdsOld, code(issuance.CodeRevoked)}, StageCodeRevoked, StateDead, "The certificate before is valid until", "Renew"},
	} {
		t.Run(name, func(t *testing.T) {
			d := Diagnose(newSituation(c.happened...))
			if d.Stage != c.stage || d.State != c.state {
				t.Errorf("got %s (%s), want %s (%s): %s", d.Stage, d.State, c.stage, c.state, d.Text)
			}
			if !strings.Contains(d.Text, c.says) {
				t.Errorf("text %q does not say %q", d.Text, c.says)
			}
			if !strings.Contains(d.Advice, c.advises) || c.advises == "" && d.Advice != "" {
				t.Errorf("advice %q, want %q", d.Advice, c.advises)
			}
			if !strings.HasSuffix(d.Text, ".") || strings.Contains(d.Text, "..") || strings.Contains(d.Text, "0001-") {
				t.Errorf("text %q", d.Text)
			}
		})
	}
}

// What the server writes down must be what the diagnosis reads.
func TestDiagnosisOfALostDeviceAdvisesNoRenewal(t *testing.T) {
	dead := func(s *situation) { s.Delivery.Code.Status, s.Delivery.Code.RevokedAt = issuance.CodeRevoked, later }
	if d := Diagnose(newSituation(dead)); d.Advice != adviceRenew {
		t.Fatalf("of a device in order: %+v", d)
	}
	d := Diagnose(newSituation(dead, func(s *situation) { s.Delivery.Device.State = "lost" }))
	if d.State != StateDead || d.Advice != adviceBarred || !strings.Contains(d.Text, "The device is lost") {
		t.Errorf("got %+v", d)
	}
}

func TestDiagnosisOfARealEnrolment(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	id := declared.Credential.ID
	diagnose := func() Diagnosis {
		t.Helper()
		c := Case{Delivery: d.delivery(id), Now: d.now}
		for _, certificate := range []struct {
			id   issuance.CertificateID
			into **issuance.Certificate
		}{{c.Delivery.Code.Certificate, &c.Issued}, {c.Delivery.Credential.Certificate, &c.Held}} {
			if certificate.id == "" {
				continue
			}
			read, err := d.store.Certificate(t.Context(), certificate.id)
			if err != nil {
				t.Fatal(err)
			}
			*certificate.into = &read
		}
		for row, err := range d.store.Audit(t.Context(), audit.Filter{Code: string(c.Delivery.Code.ID)}) {
			if err != nil {
				t.Fatal(err)
			}
			c.Trail = append(c.Trail, row)
		}
		return Diagnose(c)
	}
	want := func(when string, stage Stage, state State) {
		t.Helper()
		if got := diagnose(); got.Stage != stage || got.State != state {
			t.Errorf("%s: got %s (%s): %s", when, got.Stage, got.State, got.Text)
		}
		d.now = d.now.Add(10 * time.Minute)
	}
	want("declared", StageNeverFetched, StateDelivered)
	d.fetch(declared.Delivery)
	want("fetched", StageNoACME, StateFetched)
	d.bench.Now = d.now
	d.bench.Ready(d.document(declared.Delivery).ClientIdentifier)
	want("order ready", StageOrderOpen, StateFetched)
	certificate := d.enrol(declared.Delivery)
	want("enrolled", StageUnreported, StateEnrolled)
	if _, err := d.store.RecordReports(t.Context(), d.call(), []issuance.CredentialReport{{Credential: id,
		Report: issuance.StatusReport{ReceivedAt: d.now, Installed: fingerprintOf(&certificate)}}}); err != nil {
		t.Fatal(err)
	}
	want("reported", StageInstalled, StateEnrolled)
	get(d.main(d.store), "GET", urlOf(t, declared.Delivery))
	want("asked for again", StageAskedAgain, StateRefused)
	if _, err := d.declarer.Renew(t.Context(), d.call(), id, 0); err != nil {
		t.Fatal(err)
	}
	want("renewed", StageNeverFetched, StateRenewing)
	d.remove("staff")
	d.now = d.now.Add(11 * 24 * time.Hour)
	d.renderDue(10)
	want("template gone", StageRenewalBlocked, StateDead)
	if _, err := d.store.WithdrawCredential(t.Context(), d.call(), id, 0); err != nil {
		t.Fatal(err)
	}
	want("withdrawn", StageWithdrawn, StateWithdrawn)
}
