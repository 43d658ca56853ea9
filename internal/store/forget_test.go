package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"assay/csr"
	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
	"assay/policy"
)

// What a device and its owner are called, wherever that may stand.
const (
	forgetSerial = "C02XK1" // as storetest's evidence has it
	forgetUDID   = "00008110-000A"
	forgetOwner  = "OWNER-TO-FORGET"
)

// everywhere leaves traces of the device in every table that can hold them, and returns its id.
func everywhere(t *testing.T, s *store.Store, b *storetest.Bench) issuance.DeviceID {
	t.Helper()
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	labels := map[string]string{"owner": forgetOwner}
	results, err := s.ImportDevices(ctx, b.Operator(), issuance.Import{Source: "csv:" + forgetOwner + ".csv", Listings: []issuance.Listing{{Serial: forgetSerial, UDID: "LISTED-" + forgetUDID, Labels: labels}}})
	ok(err)
	other, err := s.ImportDevices(ctx, b.Operator(), issuance.Import{Source: "csv:other", Listings: []issuance.Listing{{Serial: "ANOTHER", UDID: "X"}, {Serial: "ANOTHER", UDID: "LISTED-" + forgetUDID}}})
	ok(err)
	_, err = s.ImportDevices(ctx, b.Operator(), issuance.Import{Source: "folder:" + forgetOwner, Listings: []issuance.Listing{{Serial: forgetSerial, UDID: "CONTRADICTED"}}})
	ok(err)
	resolve(t, s, b)
	if other[1].Conflict != issuance.UDIDClaimed {
		t.Fatalf("import %+v", other)
	}
	minted := &csr.Request{Subject: csr.Name{{{Type: "2.5.4.3", Value: forgetOwner}}}, KeyType: csr.EC, KeySize: 384}
	input := func(d *issuance.Decision) {
		d.Input = &policy.Input{Code: &policy.Code{Serial: forgetSerial, Labels: labels}, Request: minted, Device: &policy.Device{Labels: labels}}
	}
	// Two certificates, one of them renewed; a decision that refused, one that held.
	for range 2 {
		_, value := b.Mint(func(m *issuance.Mint) {
			m.Serial, m.UDID, m.Labels, m.Minted = forgetSerial, forgetUDID, labels, minted
		})
		claim := b.ClaimFor(b.Ready(value))
		input(&claim.Decision)
		claim.Certificate.ExpectedSerial, claim.Certificate.ExpectedUDID = forgetSerial, forgetUDID
		cert, err := s.BeginIssue(ctx, b.Call(), claim)
		ok(err)
		done := storetest.CompletionFor(cert)
		done.DER = []byte("certificate of " + forgetSerial + forgetOwner)
		_, err = s.CompleteIssue(ctx, b.Call(), done)
		ok(err)
	}
	_, value := b.Mint(func(m *issuance.Mint) { m.Serial, m.Labels = forgetSerial, labels })
	o := b.Ready(value)
	refusal := issuance.OrderRefusal{Account: o.Account, Order: o.ID, Decision: b.ClaimFor(o).Decision, Refusal: issuance.Refusal{Check: "score"},
		Attested: issuance.Device{Serial: forgetSerial, UDID: forgetUDID}}
	refusal.Decision.Decision.Outcome = policy.Refuse // about no row: only what it rested on names the device
	input(&refusal.Decision)
	_, err = s.RefuseOrder(ctx, b.Call(), refusal)
	ok(err)
	b.HeldFor(b.Ready(value), issuance.Device{Serial: forgetSerial, UDID: forgetUDID})
	// Evidence that failed: its object and the device's own words.
	_, unbound := b.Mint()
	failed := storetest.AnswerFor(b.Pending(unbound))
	failed.Refusal = &issuance.Refusal{Check: "freshness"}
	failed.Evidence.Failed, failed.Evidence.Facts = "freshness", nil
	failed.Evidence.Object, failed.Evidence.DeviceError = []byte("object\x00"+forgetSerial), "device "+forgetSerial+" says no"
	_, err = s.AnswerChallenge(ctx, b.Call(), failed)
	ok(err)
	// A credential, delivered and reported on.
	r := b.Rendering(forgetSerial, "wifi")
	r.Device.Labels, r.Code.Labels, r.Code.Minted = labels, labels, minted
	k := b.Rendered(r)
	_, err = s.RecordReports(ctx, b.Operator(), []issuance.CredentialReport{{Credential: k.ID, Report: issuance.StatusReport{ReceivedAt: b.Now,
		Asset: &issuance.DeclarationState{Identifier: "a", Valid: "invalid", Reasons: []issuance.DeclarationReason{{Code: "Error", Description: forgetOwner}}}}}})
	ok(err)
	fingerprint := strings.Repeat("ab", 32)
	_, err = s.UpdateDevice(ctx, b.Operator(), results[0].Device, 0, map[string]string{"owner": forgetOwner, forgetOwner: "x"}, &fingerprint)
	ok(err)
	return results[0].Device
}

// resolve resolves every conflict of a list of the owner's.
func resolve(t *testing.T, s *store.Store, b *storetest.Bench) {
	t.Helper()
	resolved := 0
	for c, err := range s.Conflicts(t.Context(), issuance.ConflictFilter{Open: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if c.Source != "folder:"+forgetOwner {
			continue
		}
		if _, err := s.ResolveConflict(t.Context(), b.Operator(), c.ID); err != nil {
			t.Fatal(err)
		}
		resolved++
	}
	if resolved == 0 {
		t.Fatal("the list contradicts nothing")
	}
}

// traces are the places in the database where the device or its owner is still named.
func traces(t *testing.T, s *store.Store) (places []string) {
	t.Helper()
	tables, err := s.ReadPool().QueryContext(t.Context(), `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for tables.Next() {
		var name string
		if err := tables.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := errors.Join(tables.Err(), tables.Close()); err != nil || len(names) < 20 {
		t.Fatalf("%d tables, %v", len(names), err)
	}
	for _, name := range names {
		rows, err := s.ReadPool().QueryContext(t.Context(), `SELECT * FROM "`+name+`"`)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			into := make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			for i, value := range values {
				text := fmt.Sprint(value)
				if blob, ok := value.([]byte); ok {
					text = string(blob)
				}
				for _, secret := range []string{forgetSerial, forgetUDID, forgetOwner} {
					if strings.Contains(text, secret) {
						places = append(places, name+"."+columns[i])
					}
				}
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return places
}

func TestForgottenDeviceLeavesNoTrace(t *testing.T) {
	path := newPath(t)
	s := openAt(t, path)
	b := storetest.NewBench(t, s)
	id := everywhere(t, s, b)
	if before := traces(t, s); len(before) < 20 {
		t.Fatalf("the test leaves too few traces to find: %v", before)
	}
	b.Now = b.Now.Add(time.Minute)
	_, err := s.ForgetDevice(t.Context(), b.Operator(), id, false)
	if has, ok := errors.AsType[*issuance.HasCertificatesError](err); !ok || has.Valid != 2 {
		t.Fatalf("error %v", err)
	}
	done, err := s.ForgetDevice(t.Context(), b.Operator(), id, true)
	if err != nil {
		t.Fatal(err)
	}
	if done.Certificates != 2 || done.Revoked != 2 || done.Evidence < 4 || done.AuditRows < 10 {
		t.Errorf("done %+v", done)
	}
	if left := traces(t, s); len(left) != 0 {
		t.Errorf("still named in %v", left)
	}
	for _, file := range []string{path, path + "-wal"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{forgetSerial, forgetOwner} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s still holds %s", file, secret)
			}
		}
	}
	// The audit still verifies: what was erased was erased, and nothing was altered.
	erased := 0
	for row, err := range s.Audit(t.Context(), audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch err := audit.VerifyPersonal(row); {
		case errors.Is(err, audit.ErrErased):
			erased++
		case err != nil:
			t.Errorf("%s: %v", row.ID, err)
		}
	}
	if erased != done.AuditRows {
		t.Errorf("%d rows are erased, %d were said to be", erased, done.AuditRows)
	}
	// What is not personal stays: that certificates were issued, decided on and revoked.
	for c, err := range s.Certificates(t.Context(), issuance.CertificateFilter{Device: id}) {
		if err != nil || c.Status != issuance.CertificateRevoked || c.Serial == "" {
			t.Errorf("certificate %+v, %v", c, err)
		}
		d, err := s.Decision(t.Context(), c.Decision) // with the key, which is as little a name as the serial number is: docs/privacy.md
		if err != nil || d.Input != nil || d.Decision.Outcome != policy.Issue {
			t.Errorf("decision %+v, %v", d, err)
		}
		if _, err := s.Evidence(t.Context(), c.Evidence); err != nil {
			t.Error(err)
		}
		if _, err := s.Order(t.Context(), c.Order); err != nil {
			t.Error(err)
		}
		_, err = s.CollectCertificate(t.Context(), b.Call(), c.ID, func(issuance.Certificate) error { return nil })
		if !errors.Is(err, issuance.ErrConflict) {
			t.Errorf("an erased certificate is delivered: %v", err)
		}
	}
	if again, err := s.ForgetDevice(t.Context(), b.Operator(), id, false); err != nil || again.Revoked != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, err := s.DeviceLike(t.Context(), forgetSerial, ""); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("the device is still found: %v", err)
	}
	// It may come back, as a new one.
	fresh, err := s.ImportDevices(t.Context(), b.Operator(), issuance.Import{Source: "csv:new", Listings: []issuance.Listing{{Serial: forgetSerial}}})
	if err != nil || fresh[0].Device == id || fresh[0].Change != issuance.ImportAdded {
		t.Errorf("back again: %+v, %v", fresh, err)
	}
}

func TestADeviceIsNotForgottenWhileItsCertificateIsIssued(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	code, value := b.Mint(func(m *issuance.Mint) { m.Serial = forgetSerial })
	b.Claimed(value)
	if _, err := s.ForgetDevice(t.Context(), b.Operator(), code.Device, true); !errors.Is(err, issuance.ErrConflict) {
		t.Fatalf("error %v", err)
	}
	if d, err := s.Device(t.Context(), code.Device); err != nil || d.Serial != forgetSerial {
		t.Errorf("device %+v, %v", d, err)
	}
	if _, err := s.ForgetDevice(t.Context(), b.Operator(), "dev_none", true); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestForgettingErasesNothingOfADeviceWithALongerName(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	ctx := t.Context()
	lists, err := s.ImportDevices(ctx, b.Operator(), issuance.Import{Source: "csv:fleet", Listings: []issuance.Listing{
		{Serial: forgetSerial[:4], UDID: forgetUDID[:10]}, {Serial: forgetSerial[1:]}}})
	if err != nil {
		t.Fatal(err)
	}
	kept := b.Issued()
	_, value := b.Mint()
	answer := storetest.AnswerFor(b.Pending(value))
	answer.Evidence.Object = append([]byte{0x0c, byte(len(forgetSerial))}, forgetSerial+"0"...)
	if _, err := s.AnswerChallenge(ctx, b.Call(), answer); err != nil {
		t.Fatal(err)
	}
	before := traces(t, s)
	for _, device := range lists {
		if done, err := s.ForgetDevice(ctx, b.Operator(), device.Device, true); err != nil || done.Evidence != 0 {
			t.Fatalf("done %+v, %v", done, err)
		}
	}
	e, err := s.Evidence(ctx, kept.Evidence)
	if err != nil || e.Facts == nil || e.Object == nil {
		t.Errorf("evidence of another device: %+v, %v", e, err)
	}
	if left := traces(t, s); len(left) < len(before)-2 { // its own row of the inventory, and of the audit
		t.Errorf("named in %v before, in %v now", before, left)
	}
}

func TestForgettingFindsOtherSpellingsAndOtherDevicesConflicts(t *testing.T) {
	s := openAt(t, newPath(t))
	b := storetest.NewBench(t, s)
	ctx := t.Context()
	list := func(source string, l issuance.Listing) issuance.ImportResult {
		t.Helper()
		results, err := s.ImportDevices(ctx, b.Operator(), issuance.Import{Source: source, Listings: []issuance.Listing{l}})
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	list("csv:other", issuance.Listing{Serial: "OTHER", UDID: "OTHERS"})
	if r := list("csv:fleet", issuance.Listing{Serial: "OTHER", UDID: forgetUDID}); r.Conflict != issuance.UDIDDiffers {
		t.Fatalf("import %+v", r)
	}
	device := list("csv:fleet", issuance.Listing{Serial: "C02XK9", UDID: strings.ToLower(forgetUDID)}).Device
	_, value := b.Mint()
	answer := storetest.AnswerFor(b.Pending(value)) // refused, by its UDID alone
	answer.Refusal = &issuance.Refusal{Check: "bound-udid"}
	answer.Evidence.Failed, answer.Evidence.Facts.Identifiers = "bound-udid", answer.Evidence.Facts.Identifiers[1:]
	answer.Evidence.Object = append([]byte{0x0c, byte(len(forgetUDID))}, forgetUDID+"0\x03"...)
	answered, err := s.AnswerChallenge(ctx, b.Call(), answer)
	if err != nil {
		t.Fatal(err)
	}
	unread := answer // only the object names it, and a sequence follows there: its tag is the digit 0
	_, value = b.Mint()
	unread.Order, unread.Evidence.Facts = b.Pending(value).ID, nil
	if _, err := s.AnswerChallenge(ctx, b.Call(), unread); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ForgetDevice(ctx, b.Operator(), device, true); err != nil {
		t.Fatal(err)
	}
	e, err := s.Evidence(ctx, answered.Evidence)
	if err != nil || e.Facts != nil || e.Object != nil {
		t.Errorf("evidence %+v, %v", e, err)
	}
	order, err := s.Order(ctx, answered.ID)
	if err != nil || order.Identifier.Value != "" {
		t.Errorf("the order still names %q, %v", order.Identifier.Value, err)
	}
	if left := traces(t, s); len(left) != 0 {
		t.Errorf("still named in %v", left)
	}
}
