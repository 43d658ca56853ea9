package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// mdm is an MDM that keeps what is pushed to it, by enrollment and Identifier.
type mdm struct {
	held   map[string]map[string]string
	pushes int
	fail   func(Push) error
}

func (m *mdm) Push(_ context.Context, push Push) error {
	m.pushes++
	if m.fail != nil {
		if err := m.fail(push); err != nil {
			return err
		}
	}
	if m.held == nil {
		m.held = map[string]map[string]string{}
	}
	if push.Withdrawn {
		delete(m.held, push.Enrollment)
		return nil
	}
	m.held[push.Enrollment] = map[string]string{
		push.AssetIdentifier: string(push.Asset), push.ConfigurationIdentifier: string(push.Configuration), push.ActivationIdentifier: string(push.Activation),
	}
	return nil
}

func (d *desk) outbox(pusher Pusher, enrollment string) *Outbox {
	d.Helper()
	o, err := NewOutbox(d.store, pusher, enrollment, slog.New(slog.NewTextHandler(&d.log, nil)))
	if err != nil {
		d.Fatal(err)
	}
	return o
}

func (d *desk) pushDue(o *Outbox) int {
	d.Helper()
	n, err := o.PushDue(d.Context(), d.now)
	if err != nil {
		d.Fatal(err)
	}
	return n
}

// many declares the MDM template for devices with UDIDs.
func (d *desk) many(n int) []Result {
	d.Helper()
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Template: "mdm", Serial: fmt.Sprintf("C02%04d", i), UDID: fmt.Sprintf("00008110-%04d", i)}
	}
	return d.declare(requests...)
}

func TestPushBringsTheDeclarationsOnce(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	id := declared.Credential.ID
	m := &mdm{}
	o := d.outbox(m, "")
	if n := d.pushDue(o); n != 1 {
		t.Fatalf("%d pushed", n)
	}
	want := map[string]map[string]string{testUDID: {
		AssetIdentifier(id): string(declared.Asset), ConfigurationIdentifier(id): string(declared.Configuration), ActivationIdentifier(id): string(Activation(id)),
	}}
	if diff := cmp.Diff(want, m.held); diff != "" {
		t.Error(diff)
	}
	if got := d.delivery(id).Credential; got.Pushed != got.AssetToken+" "+got.ConfigurationToken || !got.PushedAt.Equal(d.now) {
		t.Errorf("noted %q at %s", got.Pushed, got.PushedAt)
	}
	if n := d.pushDue(o); n != 0 || m.pushes != 1 {
		t.Errorf("pushed again: %d", m.pushes)
	}
	if ok, failed := testutil.ToFloat64(o.Metrics.pushed), testutil.ToFloat64(o.Metrics.notPushed); ok != 1 || failed != 0 {
		t.Errorf("%v good and %v failed pushes counted", ok, failed)
	}
	renewed, err := d.declarer.Renew(t.Context(), d.call(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := d.pushDue(o); n != 1 || m.held[testUDID][AssetIdentifier(id)] != string(renewed.Asset) {
		t.Error("the renewal was not pushed")
	}
}

func TestFailedPushIsNotedAndTriedLater(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	url := urlOf(t, declared.Delivery)
	m := &mdm{fail: func(p Push) error {
		var asset struct {
			Payload struct{ Reference struct{ DataURL string } }
		}
		if err := json.Unmarshal(p.Asset, &asset); err != nil {
			return err
		}
		return errors.New("400: cannot take " + asset.Payload.Reference.DataURL + strings.Repeat("!", 2000))
	}}
	o := d.outbox(m, "")
	for range 3 {
		if n := d.pushDue(o); n != 0 {
			t.Fatalf("%d pushed", n)
		}
	}
	if m.pushes != 1 {
		t.Errorf("%d tries within a moment", m.pushes)
	}
	failure := d.delivery(declared.Credential.ID).Credential.PushError
	if !strings.HasPrefix(failure, "400: cannot take") || len(failure) > maxPushFailure {
		t.Errorf("noted %q", failure)
	}
	for _, secret := range d.secrets(declared.Delivery) {
		if strings.Contains(failure, secret) || strings.Contains(d.log.String(), secret) {
			t.Errorf("note or log hold %q", secret)
		}
	}
	if !strings.Contains(d.log.String(), testSerial) || strings.Contains(d.log.String(), url) {
		t.Errorf("log: %s", d.log.String())
	}
	m.fail = nil
	if d.now = d.now.Add(firstPushPause); d.pushDue(o) != 1 {
		t.Error("not tried again")
	}
	if ok, failed := testutil.ToFloat64(o.Metrics.pushed), testutil.ToFloat64(o.Metrics.notPushed); ok != 1 || failed != 1 {
		t.Errorf("%v good and %v failed pushes counted, want one of each", ok, failed)
	}
	if failure := d.delivery(declared.Credential.ID).Credential.PushError; failure != "" {
		t.Errorf("after a success it still says %q", failure)
	}
}

func TestADeviceTheMDMRefusesHoldsNobodyUp(t *testing.T) {
	d := newDesk(t)
	d.many(20)
	m := &mdm{fail: func(p Push) error {
		if strings.HasSuffix(p.Enrollment, "5") {
			return errors.New("no such enrollment")
		}
		return nil
	}}
	if n := d.pushDue(d.outbox(m, "")); n != 18 || m.pushes != 20 {
		t.Errorf("%d of %d pushed, want all but two of 20", n, m.pushes)
	}
}

func TestAnMDMThatIsDownIsLeftAlone(t *testing.T) {
	d := newDesk(t)
	d.many(30)
	m := &mdm{fail: func(Push) error { return errors.New("connection refused") }}
	o := d.outbox(m, "")
	if d.pushDue(o); m.pushes != maxPushFaults {
		t.Errorf("%d tries in one run", m.pushes)
	}
	m.fail = nil
	if n := d.pushDue(o); n != 30-maxPushFaults {
		t.Errorf("%d pushed in the next run", n)
	}
}

func TestPushKeepsToItsBatch(t *testing.T) {
	d := newDesk(t)
	d.many(pushBatch + 7)
	o := d.outbox(&mdm{}, "{device.serial}")
	if first, second := d.pushDue(o), d.pushDue(o); first != pushBatch || second != 7 {
		t.Errorf("pushed %d, then %d", first, second)
	}
}

func TestPushRefusesADeviceWithoutEnrollment(t *testing.T) {
	d := newDesk(t)
	for i := range 2 * maxPushFaults {
		d.declared(Request{Template: "mdm", Serial: fmt.Sprintf("C02NOUDID%d", i)})
	}
	known := d.declared(Request{Template: "mdm", Serial: testSerial, UDID: testUDID})
	for _, enrollment := range []string{"", "{device.udid?}"} {
		m := &mdm{}
		o := d.outbox(m, enrollment)
		d.pushDue(o)
		if m.held[""] != nil || len(m.held) > 1 {
			t.Errorf("%q: the MDM has %v", enrollment, m.held)
		}
	}
	if got := d.delivery(known.Credential.ID).Credential; got.Pushed == "" {
		t.Error("the device behind them was held up")
	}
	nameless := d.declared(Request{Template: "mdm", Serial: "C02NOUDID0"})
	if failure := nameless.Credential.PushError; !strings.Contains(failure, "UDID") && !strings.Contains(failure, "push.enrollment") {
		t.Errorf("noted %q", failure)
	}
}

func TestPushTakesBackWhatWasWithdrawn(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	m := &mdm{}
	o := d.outbox(m, "")
	d.pushDue(o)
	if _, err := d.store.WithdrawCredential(t.Context(), d.call(), declared.Credential.ID, 0); err != nil {
		t.Fatal(err)
	}
	if n := d.pushDue(o); n != 1 {
		t.Errorf("%d pushed", n)
	}
	if len(m.held) != 0 {
		t.Errorf("the MDM still has %v", m.held)
	}
	if got := d.delivery(declared.Credential.ID).Credential.Pushed; got != "" {
		t.Errorf("noted %q", got)
	}
	again, err := d.declarer.Renew(t.Context(), d.call(), declared.Credential.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := d.pushDue(o); n != 1 || m.held[testUDID][AssetIdentifier(again.Credential.ID)] != string(again.Asset) {
		t.Error("revived, and not pushed")
	}
}

// A push that is under way while the credential is rendered again leaves it to be pushed.
func TestPushOfWhatIsRenderedMeanwhileIsNotTheLast(t *testing.T) {
	d := newDesk(t)
	id := d.declared(sams()).Credential.ID
	m := &mdm{}
	m.fail = func(Push) error {
		m.fail = nil
		_, err := d.declarer.Renew(t.Context(), d.call(), id, 0)
		return err
	}
	o := d.outbox(m, "")
	d.pushDue(o)
	if n := d.pushDue(o); n != 1 || m.held[testUDID][AssetIdentifier(id)] != string(d.delivery(id).Asset) {
		t.Error("the MDM has an old declaration, and nobody knows")
	}
}

func TestPushOfNothingAndOfABrokenStore(t *testing.T) {
	d := newDesk(t)
	o := d.outbox(&mdm{}, "")
	if err := o.Push(t.Context(), d.call(), "cred_none"); !errors.Is(err, issuance.ErrNotFound) {
		t.Errorf("unknown credential: %v", err)
	}
	declared := d.declared(sams())
	broken, err := NewOutbox(forgetful{d.store}, &mdm{}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.PushDue(t.Context(), d.now); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
	if err := d.outbox(&mdm{fail: func(Push) error { return errDisk }}, "").Push(t.Context(), d.call(), declared.Credential.ID); !errors.Is(err, errDisk) {
		t.Errorf("an operator's push says %v", err)
	}
}

// forgetful cannot note what was pushed.
type forgetful struct{ PushStore }

func (forgetful) MarkPushed(context.Context, issuance.Call, issuance.CredentialID, issuance.PushOutcome) error {
	return errDisk
}

func TestPushIsCutOffInTime(t *testing.T) {
	d := newDesk(t)
	declared := d.declared(sams())
	var left time.Duration
	o := d.outbox(pusherFunc(func(ctx context.Context, _ Push) error {
		deadline, ok := ctx.Deadline()
		if !ok {
			return errors.New("no deadline")
		}
		left = time.Until(deadline)
		return nil
	}), "")
	if err := o.Push(t.Context(), d.call(), declared.Credential.ID); err != nil || left > pushTimeout {
		t.Errorf("%v; a push may take %s", err, left)
	}
}

type pusherFunc func(context.Context, Push) error

func (f pusherFunc) Push(ctx context.Context, push Push) error { return f(ctx, push) }

func TestNewOutboxRefusesOneNameForAll(t *testing.T) {
	for _, enrollment := range []string{"everybody", "{device.name}", "{"} {
		if o, err := NewOutbox(nil, &mdm{}, enrollment, nil); err == nil || o != nil {
			t.Errorf("%q was taken", enrollment)
		}
	}
}

// Devices that the MDM does not know, or whose id nobody knows, hold up no other for ever.
func TestPushDueGoesRound(t *testing.T) {
	for name, udid := range map[string]string{"of unknown id": "", "refused by the MDM": "bad-%05d"} {
		d := newDesk(t)
		for from := 0; from < 300; from += 100 {
			var requests []Request
			for i := from; i < from+100; i++ {
				r := Request{Template: "mdm", Serial: fmt.Sprintf("C02%05d", i)}
				if udid != "" {
					r.UDID = fmt.Sprintf(udid, i)
				}
				requests = append(requests, r)
			}
			d.declare(requests...)
		}
		d.now = d.now.Add(time.Millisecond)
		good := d.declared(Request{Template: "mdm", Serial: "GOOD", UDID: testUDID}).Credential.ID
		o := d.outbox(&mdm{fail: func(p Push) error {
			if p.Enrollment != testUDID {
				return errors.New("404 no such enrollment")
			}
			return nil
		}}, "")
		rounds := 0
		for d.delivery(good).Credential.Pushed == "" && rounds < 70 {
			rounds++
			d.now = d.now.Add(time.Minute)
			d.pushDue(o)
		}
		if d.delivery(good).Credential.Pushed == "" {
			t.Errorf("300 devices %s: one behind them is not pushed within %d minutes", name, rounds)
		}
	}
}

// Two pushes at once, of two revisions: whichever comes last at the MDM, the newest is there in the end.
func TestPushesThatCrossAreMendedByTheNext(t *testing.T) {
	d := newDesk(t)
	id := d.declared(sams()).Credential.ID
	m := &mdm{}
	o := d.outbox(m, "")
	m.fail = func(Push) error { // while the first is under way, the credential is renewed and pushed
		m.fail = nil
		if _, err := d.declarer.Renew(t.Context(), d.call(), id, 0); err != nil {
			return err
		}
		return d.outbox(m, "").Push(t.Context(), d.call(), id)
	}
	if err := o.Push(t.Context(), d.call(), id); err != nil {
		t.Fatal(err)
	}
	d.pushDue(o)
	if m.held[testUDID][AssetIdentifier(id)] != string(d.delivery(id).Asset) {
		t.Error("the MDM has an old declaration, and nobody knows")
	}
	if n := d.pushDue(o); n != 0 {
		t.Errorf("%d pushed once more", n)
	}
}

// A push that nobody could note is taken back all the same when the credential is withdrawn.
func TestPushThatWasNotNotedIsTakenBack(t *testing.T) {
	d := newDesk(t)
	id := d.declared(sams()).Credential.ID
	m := &mdm{}
	o, err := NewOutbox(&deafAfterwards{PushStore: d.store}, m, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Push(t.Context(), d.call(), id); !errors.Is(err, errDisk) || len(m.held) == 0 {
		t.Fatalf("got %v, held %v", err, m.held)
	}
	if _, err := d.store.WithdrawCredential(t.Context(), d.call(), id, 0); err != nil {
		t.Fatal(err)
	}
	if n := d.pushDue(d.outbox(m, "")); n != 1 || len(m.held) != 0 {
		t.Errorf("%d pushed; the MDM still has %v", n, m.held)
	}
}

// deafAfterwards notes that a push begins, and cannot note how it ends.
type deafAfterwards struct {
	PushStore
	began bool
}

func (s *deafAfterwards) MarkPushed(ctx context.Context, call issuance.Call, id issuance.CredentialID, o issuance.PushOutcome) error {
	if s.began {
		return errDisk
	}
	s.began = true
	return s.PushStore.MarkPushed(ctx, call, id, o)
}
