package delivery

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/policy"
)

func TestRenewReplacesAllButTheIdentifiers(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	second, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, first.Credential.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Fresh || second.Credential.ID != first.Credential.ID || second.Credential.Revision != 2 || second.Code.ID == first.Code.ID {
		t.Errorf("got %+v", second.Credential)
	}
	if second.Credential.AssetToken == first.Credential.AssetToken || urlOf(t, second.Delivery) == urlOf(t, first.Delivery) {
		t.Error("the asset did not change")
	}
	if old, err := d.store.Code(t.Context(), first.Code.ID); err != nil || old.Status != issuance.CodeRevoked {
		t.Errorf("the unused code before is %s, %v", old.Status, err)
	}
	if reason := d.reason(first.Credential.ID, 2); reason != issuance.RenderRenewed {
		t.Errorf("reason %q", reason)
	}
}

func TestRenewTakesTheTemplateAsItIsNow(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	d.write("staff", strings.Replace(staffTemplate, "Example Inc.", "Renamed Inc.", 1))
	d.now = d.now.Add(time.Minute)
	if again := d.declared(sams()); string(again.Document.Body) != string(first.Document.Body) {
		t.Error("a template's change reached a document that stands")
	}
	second, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.document(second.Delivery).Subject[0][0].Value(); got != "Renamed Inc." {
		t.Errorf("subject %q", got)
	}
}

func TestRenewRefuses(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	if _, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 7); !errors.Is(err, issuance.ErrConflict) {
		t.Errorf("another revision: %v", err)
	}
	if _, err := d.declarer.Renew(t.Context(), d.call(), "cred_none", 0); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("unknown credential: %v", err)
	}
	d.bench.Now = d.now
	d.bench.Claimed(d.document(first.Delivery).ClientIdentifier)
	if _, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0); !errors.Is(err, issuance.ErrConflict) {
		t.Errorf("while a certificate is issued: %v", err)
	}
	d.remove("staff")
	_, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Check != CheckTemplateKnown {
		t.Errorf("template gone: %v", err)
	}
}

func TestNothingIsRenderedForALostDevice(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	other := sams()
	other.Template = "kiosk"
	d.write("kiosk", staffTemplate)
	for _, state := range []string{"lost", "retired"} {
		if _, _, err := d.store.SetDeviceState(t.Context(), d.call(), first.Device.ID, 0, issuance.StateChange{State: policy.State(state)}); err != nil {
			t.Fatal(err)
		}
		_, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
		if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Check != CheckDeviceState || !strings.Contains(refused.Text, state) {
			t.Errorf("%s, renewed: %v", state, err)
		}
		d.refused(other, CheckDeviceState)
	}
	// What stands is answered as before: it is the same bytes, and opens nothing.
	if again := d.declared(sams()); again.Fresh || again.Credential.Revision != 1 {
		t.Errorf("got %+v", again.Credential)
	}
	if _, _, err := d.store.SetDeviceState(t.Context(), d.call(), first.Device.ID, 0, issuance.StateChange{State: policy.Expected}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0); err != nil {
		t.Errorf("taken back: %v", err)
	}
}

// remove deletes a template's file and lets enough time pass for it to be noticed.
func (d *desk) remove(template string) {
	d.Helper()
	if err := os.Remove(filepath.Join(d.folder, template+".yaml")); err != nil {
		d.Fatal(err)
	}
	d.now = d.now.Add(2 * templateCheck)
}

func TestRenewUnderAKeyHappensOnce(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	call := d.call()
	call.Once = onceFor("k", "renew")
	second, err := d.declarer.Renew(t.Context(), call, first.Credential.ID, 1)
	if err != nil || !second.Fresh {
		t.Fatalf("got %+v, %v", second, err)
	}
	again, err := d.declarer.Renew(t.Context(), call, first.Credential.ID, 1)
	if err != nil || again.Fresh || again.Credential.Revision != 2 || string(again.Asset) != string(second.Asset) {
		t.Errorf("the same key renewed again: %+v, %v", again, err)
	}
	call.Once = onceFor("another", "renew")
	if _, err := d.declarer.Renew(t.Context(), call, first.Credential.ID, 1); !errors.Is(err, issuance.ErrConflict) {
		t.Errorf("another key for a revision that is past: %v", err)
	}
}

func (d *desk) renderDue(limit int) int {
	d.Helper()
	n, err := d.declarer.RenderDue(d.Context(), d.now, limit)
	if err != nil {
		d.Fatal(err)
	}
	return n
}

func TestRenderDueRenewsCertificatesInTime(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	d.fetch(first.Delivery)
	d.enrol(first.Delivery) // valid for 90 days from now, renewed 30 days before
	if d.now = testNow.Add(59 * 24 * time.Hour); d.renderDue(10) != 0 {
		t.Error("renewed too early")
	}
	if d.now = testNow.Add(61 * 24 * time.Hour); d.renderDue(10) != 1 {
		t.Error("not renewed in time")
	}
	renewed := d.delivery(first.Credential.ID)
	if renewed.Credential.Revision != 2 || renewed.Code.Status != issuance.CodeUnused {
		t.Errorf("got %+v", renewed.Credential)
	}
	if reason := d.reason(first.Credential.ID, 2); reason != issuance.RenderRenewed {
		t.Errorf("reason %q", reason)
	}
	if d.renderDue(10) != 0 {
		t.Error("renewed twice")
	}
}

func TestRenderDueMintsAnewWhatNobodyFetched(t *testing.T) {
	d := newDesk(t)
	unfetched := d.declared(sams())
	fetched := d.declared(Request{Template: "mdm", Serial: testSerial})
	d.now = unfetched.Code.ExpiresAt.Add(-time.Minute)
	d.fetch(fetched.Delivery)
	if d.now = d.now.Add(time.Hour); d.renderDue(10) != 1 {
		t.Error("want the one that nobody fetched, and no other")
	}
	if got := d.delivery(unfetched.Credential.ID); got.Credential.Revision != 2 {
		t.Errorf("revision %d", got.Credential.Revision)
	}
	if reason := d.reason(unfetched.Credential.ID, 2); reason != issuance.RenderReminted {
		t.Errorf("reason %q", reason)
	}
}

func TestWhatCannotBeRenderedHoldsNothingUp(t *testing.T) {
	d := newDesk(t)
	bad := d.declared(sams()) // first due
	d.now = d.now.Add(time.Minute)
	good := d.declared(Request{Template: "mdm", Serial: "C02GOOD"})
	d.remove("staff")
	d.now = testNow.Add(31 * 24 * time.Hour)
	if n := d.renderDue(1); n != 1 {
		t.Errorf("%d rendered", n)
	}
	if got := d.delivery(good.Credential.ID); got.Credential.Revision != 2 {
		t.Error("the good one behind it was not rendered")
	}
	reports := func() int { return strings.Count(d.log.String(), "credential cannot be rendered") }
	if rows := d.trail(audit.RequestRefused); reports() != 1 || len(rows) != 1 || rows[0].Check != CheckTemplateKnown || rows[0].Code != string(bad.Code.ID) {
		t.Errorf("%d log lines, audit rows %+v", reports(), rows)
	}
	if !strings.Contains(d.log.String(), testSerial) {
		t.Errorf("the log does not name the device:\n%s", d.log.String())
	}
	for range 50 { // every minute
		d.now = d.now.Add(time.Minute)
		d.renderDue(10)
	}
	if reports() != 1 {
		t.Errorf("reported %d times within the hour", reports())
	}
	d.now = d.now.Add(time.Hour)
	if d.renderDue(10); reports() != 2 {
		t.Errorf("tried %d times after an hour, want 2", reports())
	}
	d.write("staff", staffTemplate)
	d.now = d.now.Add(2 * time.Hour)
	if n := d.renderDue(10); n != 1 || d.delivery(bad.Credential.ID).Credential.Revision != 2 {
		t.Errorf("%d rendered once the template is back", n)
	}
}

func TestRenderDueAuditsNothingPersonal(t *testing.T) {
	d := newDesk(t)
	d.declared(sams())
	d.write("staff", strings.Replace(staffTemplate, "{device.labels.owner}", "{device.labels.owner} {device.labels.missing}", 1))
	d.now = testNow.Add(31 * 24 * time.Hour)
	d.renderDue(10)
	rows := d.trail(audit.RequestRefused)
	if len(rows) != 1 || rows[0].Check != CheckRendering || !strings.Contains(rows[0].Detail["detail"], "SubjectAltName rfc822Name") {
		t.Fatalf("rows %+v", rows)
	}
	for _, value := range rows[0].Detail {
		if strings.Contains(value, testSerial) || strings.Contains(value, "sam@") {
			t.Errorf("the trail's detail has %q", value)
		}
	}
}

func TestADeviceWithoutNameIsNeverRendered(t *testing.T) {
	d := newDesk(t)
	d.write("unbound", strings.Replace(mdmTemplate, "authentication: MDM", "bind: []", 1))
	d.now = d.now.Add(time.Minute)
	err := d.declarer.render(&issuance.Rendering{Template: "unbound", Device: issuance.Device{ID: "dev_1"}}, d.now)
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Check != CheckDeviceNamed {
		t.Errorf("got %v", err)
	}
}

func TestRenderDueKeepsToItsLimit(t *testing.T) {
	d := newDesk(t)
	const devices = renderBatch + 20
	var requests []Request
	for i := range devices {
		requests = append(requests, Request{Template: "mdm", Serial: fmt.Sprintf("C02%04d", i)})
	}
	d.declare(requests...)
	d.now = testNow.Add(31 * 24 * time.Hour)
	if n := d.renderDue(renderBatch + 5); n != renderBatch+5 {
		t.Errorf("%d rendered, want the limit", n)
	}
	if n := d.renderDue(1000); n != 15 {
		t.Errorf("%d rendered, want the rest", n)
	}
}

func TestRenderDueLeavesWithdrawnOnesAlone(t *testing.T) {
	d := newDesk(t)
	c := d.declared(sams())
	if _, err := d.store.WithdrawCredential(t.Context(), d.call(), c.Credential.ID, 0); err != nil {
		t.Fatal(err)
	}
	d.now = testNow.Add(31 * 24 * time.Hour)
	if n := d.renderDue(10); n != 0 {
		t.Errorf("%d rendered", n)
	}
}

// Between list and rendering a device may fetch its document.
func TestRenderDueReadsAgainWhatItListed(t *testing.T) {
	d := newDesk(t)
	c := d.declared(sams())
	stale := c.Credential
	d.fetch(c.Delivery)
	if n, err := d.declarer.renderDue(t.Context(), d.call(), []issuance.DeviceCredential{stale}); n != 0 || err != nil {
		t.Errorf("%d rendered, %v: a document that was just fetched was taken away", n, err)
	}
}

func TestBackoffDoublesAndForgets(t *testing.T) {
	var b backoff[int]
	at := testNow
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		until, again := b.failed(1, at, time.Minute, 5*time.Minute)
		if until.Sub(at) != want || again != (i > 0) || b.ready(1, until.Add(-1)) || !b.ready(1, until) || !b.ready(2, at) {
			t.Errorf("failure %d waits %s, want %s", i+1, until.Sub(at), want)
		}
		at = until
	}
	b.succeeded(1)
	until, again := b.failed(1, at, time.Minute, 5*time.Minute)
	if until.Sub(at) != time.Minute || again {
		t.Errorf("after a success it waits %s, again %t", until.Sub(at), again)
	}
	if !b.ready(1, until.AddDate(-10, 0, 0)) {
		t.Error("a clock that was ahead holds it back for years")
	}
}

// hopeless is a store whose credentials are all due, and cannot be read.
type hopeless struct {
	Credentials
	ids   []issuance.CredentialID
	tries map[issuance.CredentialID]int
}

func (h *hopeless) DeviceCredentials(context.Context, issuance.CredentialFilter) iter.Seq2[issuance.DeviceCredential, error] {
	return func(yield func(issuance.DeviceCredential, error) bool) {
		for _, id := range h.ids {
			if !yield(issuance.DeviceCredential{ID: id, DueAt: testNow}, nil) {
				return
			}
		}
	}
}

func (h *hopeless) Delivery(_ context.Context, id issuance.CredentialID) (issuance.Delivery, error) {
	h.tries[id]++
	return issuance.Delivery{}, errDisk
}

func TestRenderDueTriesEachOnceAndOnlySoManyInVain(t *testing.T) {
	d := newDesk(t)
	h := &hopeless{tries: map[issuance.CredentialID]int{}}
	for i := range 3*maxPutOff + 7 {
		h.ids = append(h.ids, issuance.CredentialID(fmt.Sprintf("cred_%026d", i)))
	}
	d.declarer.Store = h
	for round := range 4 {
		if n, err := d.declarer.RenderDue(t.Context(), testNow.Add(time.Hour), 1000); n != 0 || err != nil {
			t.Fatalf("rendered %d, %v", n, err)
		}
		if want := min((round+1)*maxPutOff, len(h.ids)); len(h.tries) != want {
			t.Errorf("round %d: %d were tried, want %d", round, len(h.tries), want)
		}
	}
	for id, n := range h.tries {
		if n != 1 {
			t.Errorf("%s was tried %d times", id, n)
		}
	}
}

// unreadable cannot read one credential.
type unreadable struct {
	PushStore
	id issuance.CredentialID
}

func (u unreadable) Delivery(ctx context.Context, id issuance.CredentialID) (issuance.Delivery, error) {
	if id == u.id {
		return issuance.Delivery{}, errDisk
	}
	return u.PushStore.Delivery(ctx, id)
}

func TestOneUnreadableCredentialHoldsUpNoOther(t *testing.T) {
	d := newDesk(t)
	bad := d.declared(Request{Template: "mdm", Serial: "C02BAD", UDID: "U-BAD"})
	d.now = d.now.Add(time.Millisecond)
	good := d.declared(Request{Template: "mdm", Serial: "C02GOOD", UDID: "U-GOOD"})
	store := unreadable{d.store, bad.Credential.ID}
	m := &mdm{}
	o, err := NewOutbox(store, m, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := o.PushDue(t.Context(), d.now); n != 1 || !errors.Is(err, errDisk) {
		t.Errorf("%d pushed, %v", n, err)
	}
	d.declarer.Store = store
	d.now = good.Code.ExpiresAt.Add(time.Second)
	if n, err := d.declarer.RenderDue(t.Context(), d.now, 10); n != 1 || err != nil {
		t.Errorf("%d rendered, %v", n, err)
	}
}

// A device whose certificate somebody revoked gets no other one by itself.
func TestRevokingEndsARenewalThatIsUnderWay(t *testing.T) {
	for name, fetched := range map[string]bool{"not fetched": false, "fetched": true} {
		d := newDesk(t)
		first := d.declared(sams())
		held := d.enrol(first.Delivery)
		renewed, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if fetched {
			d.fetch(renewed.Delivery)
		}
		if _, err := d.store.RevokeCertificate(t.Context(), d.call(), issuance.Revocation{Certificate: held.ID, Reason: 1}); err != nil {
			t.Fatal(err)
		}
		now := d.delivery(first.Credential.ID)
		if now.Code.Status != issuance.CodeRevoked || now.Document.Body != nil || !now.Credential.DueAt.IsZero() {
			t.Errorf("%s: code %s, document %d bytes, due %v", name, now.Code.Status, len(now.Document.Body), now.Credential.DueAt)
		}
		if refused, ok := errors.AsType[*RefusedError](d.declare(sams())[0].Err); !ok || refused.Check != CheckCodeRevoked {
			t.Errorf("%s: declared again: %v", name, refused)
		}
	}
}

func TestRevokingWhileTheNextIsIssuedEndsRenewing(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	held := d.enrol(first.Delivery)
	renewed, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	next := d.issue(renewed.Delivery)
	if _, err := d.store.RevokeCertificate(t.Context(), d.call(), issuance.Revocation{Certificate: held.ID, Reason: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.store.CollectCertificate(t.Context(), d.call(), next.ID, func(issuance.Certificate) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if due := d.delivery(first.Credential.ID).Credential.DueAt; !due.IsZero() {
		t.Errorf("renews by itself at %v, although a person revoked the certificate before", due)
	}
}
