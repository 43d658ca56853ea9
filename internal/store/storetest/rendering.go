package storetest

import (
	"crypto/rand"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/policy"
)

// Rendering is the first rendering of a template for a device, with a fresh code that lives a day,
// bound to the serial.
func (b *Bench) Rendering(serial, template string) issuance.Rendering {
	id, err := issuance.NewID[issuance.CredentialID](b.Now, rand.Reader)
	b.ok(err)
	value, path := rand.Text(), rand.Text()
	return issuance.Rendering{
		ID: id, Reason: issuance.RenderDeclared, Device: issuance.Device{Serial: serial}, Template: template, Directory: Directory,
		Code:     issuance.Mint{Directory: Directory, Value: value, Serial: serial, Lifetime: 24 * time.Hour},
		Document: issuance.Document{PathHash: pathHash(path), Body: []byte("document with " + value), SHA256: "ab", FetchLifetime: time.Hour},
		Asset:    []byte("asset at " + path), Configuration: []byte("configuration of " + id),
		AssetToken: "asset " + rand.Text(), ConfigurationToken: "configuration " + rand.Text(),
		RenewBefore: 30 * 24 * time.Hour,
	}
}

// Again is the next rendering of a device's credential.
func (b *Bench) Again(k issuance.DeviceCredential) issuance.Rendering {
	device, err := b.Device(b.ctx(), k.Device)
	b.ok(err)
	r := b.Rendering(device.Serial, k.Template)
	r.ID, r.Revision, r.Reason, r.Device.UDID = k.ID, k.Revision, issuance.RenderRenewed, device.UDID
	return r
}

// Rendered stores a rendering.
func (b *Bench) Rendered(r issuance.Rendering) issuance.DeviceCredential {
	b.T.Helper()
	k, err := b.render(r)
	b.ok(err)
	return k
}

func (b *Bench) render(r issuance.Rendering) (issuance.DeviceCredential, error) {
	results, err := b.RenderCredentials(b.ctx(), b.Operator(), []issuance.Rendering{r})
	if err != nil {
		return issuance.DeviceCredential{}, err
	}
	return results[0].Credential, results[0].Err
}

// wantCredential checks that a credential is stored as it is here.
func (b *Bench) wantCredential(want issuance.DeviceCredential) issuance.Delivery {
	b.T.Helper()
	d, err := b.Delivery(b.ctx(), want.ID)
	b.ok(err)
	if diff := cmp.Diff(want, d.Credential); diff != "" {
		b.T.Fatal(diff)
	}
	return d
}

// listed are the ids of the credentials that a filter selects.
func (b *Bench) listed(f issuance.CredentialFilter) (ids []issuance.CredentialID) {
	b.T.Helper()
	for _, k := range all(b, b.DeviceCredentials(b.ctx(), f)) {
		ids = append(ids, k.ID)
	}
	return ids
}

// wrote runs what must change nothing, and checks that it added no code and no audit row.
func (b *Bench) wroteNothing(run func()) {
	b.T.Helper()
	count := func() [2]int {
		return [2]int{len(all(b, b.Codes(b.ctx(), issuance.CodeFilter{}))), len(b.trail(audit.Filter{}))}
	}
	before := count()
	run()
	if after := count(); after != before {
		b.T.Errorf("%v codes and audit rows became %v", before, after)
	}
}

var renderingTests = map[string]func(*testing.T, *Bench){
	"RenderingIsStoredWhole": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		r.Device.UDID, r.Device.Labels = "UDID-1", map[string]string{"owner": "Ann", "empty": ""}
		r.Document.MDM, r.RevokeSuperseded = true, true
		results, err := b.RenderCredentials(b.ctx(), b.Operator(), []issuance.Rendering{r})
		b.ok(err)
		k := results[0].Credential
		now := b.Now.Truncate(time.Microsecond)
		code, err := b.CodeByValue(b.ctx(), Directory, r.Code.Value)
		b.ok(err)
		want := issuance.DeviceCredential{
			ID: r.ID, Device: code.Device, Template: "wifi", Directory: Directory, Revision: 1, Document: k.Document, Code: code.ID,
			AssetToken: r.AssetToken, ConfigurationToken: r.ConfigurationToken, RenewBefore: r.RenewBefore, RevokeSuperseded: true,
			DueAt: now.Add(24 * time.Hour), CreatedAt: now, RenderedAt: now,
		}
		if diff := cmp.Diff(want, k); diff != "" || code.Device == "" {
			t.Error(diff)
		}
		d := b.wantCredential(want)
		document := r.Document
		document.ID, document.Code, document.Credential, document.CreatedAt = k.Document, code.ID, k.ID, now
		wantDelivery := issuance.Delivery{
			Credential: want, Code: code, Document: document, Asset: r.Asset, Configuration: r.Configuration,
			Device: issuance.Device{ID: code.Device, Serial: "SER1", UDID: "UDID-1", Labels: map[string]string{"owner": "Ann"}, Revision: 1, CreatedAt: now,
				State: policy.Expected, Sources: b.written("serial", "udid", "state", "label:owner")},
		}
		if diff := cmp.Diff(wantDelivery, d); diff != "" {
			t.Error(diff)
		}
		of, err := b.DeliveryOf(b.ctx(), k.Device, "wifi")
		b.ok(err)
		if diff := cmp.Diff(d, of); diff != "" {
			t.Error(diff)
		}
		_, err = b.DeliveryOf(b.ctx(), k.Device, "vpn")
		b.wantError(err, issuance.ErrNotFound)
		_, err = b.Delivery(b.ctx(), "cred_none")
		b.wantError(err, issuance.ErrNotFound)
		row := b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.CredentialRendered, audit.Done, "")
		if diff := cmp.Diff(map[string]string{"credential": string(k.ID), "template": "wifi", "revision": "1", "reason": "declared"}, row.Detail); diff != "" {
			t.Error(diff)
		}
		b.wantAudited(audit.Filter{Code: string(code.ID)}, audit.CodeMinted, audit.Done, "")
	},
	"RenderingAgainReplacesEverything": func(t *testing.T, b *Bench) {
		first := b.Rendering("SER1", "wifi")
		k := b.Rendered(first)
		b.ok(b.MarkPushed(b.ctx(), b.Operator(), k.ID, issuance.PushOutcome{Pushed: k.AssetToken + " " + k.ConfigurationToken, Done: true}))
		_, err := b.RecordReports(b.ctx(), b.Operator(), []issuance.CredentialReport{{Credential: k.ID, Report: issuance.StatusReport{ReceivedAt: b.Now, Installed: "ab"}}})
		b.ok(err)
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 0 {
			t.Errorf("not pushed: %v", got)
		}
		b.Now = b.Now.Add(time.Hour)
		r := b.Again(k)
		r.Directory, r.Code.Directory, r.RenewBefore, r.RevokeSuperseded = "other", "other", time.Hour, true
		again := b.Rendered(r)
		now := b.Now.Truncate(time.Microsecond)
		want := issuance.DeviceCredential{
			ID: k.ID, Device: k.Device, Template: "wifi", Directory: "other", Revision: 2, Document: again.Document, Code: again.Code,
			AssetToken: r.AssetToken, ConfigurationToken: r.ConfigurationToken, RenewBefore: time.Hour, RevokeSuperseded: true,
			DueAt: now.Add(24 * time.Hour), Pushed: k.AssetToken + " " + k.ConfigurationToken, PushedAt: k.CreatedAt, CreatedAt: k.CreatedAt, RenderedAt: now,
		}
		if diff := cmp.Diff(want, again); diff != "" {
			t.Error(diff)
		}
		d := b.wantCredential(want)
		if string(d.Document.Body) != string(r.Document.Body) || string(d.Asset) != string(r.Asset) || string(d.Configuration) != string(r.Configuration) {
			t.Errorf("delivery %+v", d)
		}
		if d.Code.ID == k.Code || d.Document.ID == k.Document {
			t.Error("code or document stayed")
		}
		old := b.wantCode(k.Code, issuance.CodeRevoked)
		if !old.RevokedAt.Equal(now) {
			t.Errorf("revoked at %v", old.RevokedAt)
		}
		b.wantAudited(audit.Filter{Code: string(k.Code)}, audit.CodeRevoked, audit.Done, "")
		gone, err := b.DocumentByPath(b.ctx(), first.Document.PathHash, b.Now)
		b.ok(err)
		if gone.Body != nil || gone.CodeStatus != issuance.CodeRevoked || gone.Credential != k.ID || gone.Device.ID != k.Device {
			t.Errorf("old document %+v", gone)
		}
		if got := b.listed(issuance.CredentialFilter{NotPushed: true}); len(got) != 1 {
			t.Errorf("not pushed: %v", got)
		}
	},
	"ConsumedCodeIsNotRevokedByTheNext": func(t *testing.T, b *Bench) {
		r := b.Rendering("C02XK1", "wifi")
		k := b.Rendered(r)
		_, cert := b.Claimed(r.Code.Value)
		_, err := b.CompleteIssue(b.ctx(), b.Operator(), CompletionFor(cert))
		b.ok(err)
		b.Rendered(b.Again(k))
		b.wantCode(k.Code, issuance.CodeConsumed)
		b.wantCertificate(cert.ID, issuance.CertificateValid)
	},
	"RenderingNeedsTheCredentialAsItTookIt": func(t *testing.T, b *Bench) {
		other := b.Rendered(b.Rendering("SER2", "wifi"))
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		k = b.Rendered(b.Again(k))
		for name, change := range map[string]func(*issuance.Rendering){
			"an earlier revision":   func(r *issuance.Rendering) { r.Revision = 1 },
			"a later revision":      func(r *issuance.Rendering) { r.Revision = 3 },
			"an unknown id":         func(r *issuance.Rendering) { r.ID = "cred_none" },
			"another template":      func(r *issuance.Rendering) { r.Template = "vpn" },
			"another device":        func(r *issuance.Rendering) { r.Device.Serial = "SER2" },
			"an unknown device":     func(r *issuance.Rendering) { r.Device.Serial = "SER3" },
			"as new, its id":        func(r *issuance.Rendering) { r.Revision, r.Template = 0, "vpn" },
			"as new, with new id":   func(r *issuance.Rendering) { r.ID, r.Revision = "cred_new", 0 },
			"as new, another's id":  func(r *issuance.Rendering) { r.ID, r.Revision, r.Device.Serial = other.ID, 0, "SER4" },
			"the id of another one": func(r *issuance.Rendering) { r.ID, r.Revision = other.ID, other.Revision },
		} {
			r := b.Again(k)
			change(&r)
			b.wroteNothing(func() {
				if _, err := b.render(r); err != issuance.ErrConflict {
					t.Errorf("%s: error is %v, want %v", name, err, issuance.ErrConflict)
				}
			})
		}
		b.wantCredential(k)
		b.wantCredential(other)
	},
	"NothingIsRenderedWhileACertificateIsIssued": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		k := b.Rendered(r)
		o, _ := b.Claimed(r.Code.Value)
		again := b.Again(k)
		b.wroteNothing(func() {
			_, err := b.render(again)
			b.wantError(err, issuance.ErrConflict)
			_, err = b.WithdrawCredential(b.ctx(), b.Operator(), k.ID, 0)
			b.wantError(err, issuance.ErrConflict)
		})
		b.wantCode(k.Code, issuance.CodeIssuing)
		b.wantCredential(k)
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), o.ID, issuance.Refusal{Check: "x"}))
		b.Rendered(again)
	},
	"ConflictingRenderingLeavesTheOthersAlone": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		stale := b.Again(k)
		stale.Revision = 7
		batch := []issuance.Rendering{
			b.Rendering("SER2", "wifi"), stale, b.Rendering("SER2", "wifi"), // the third is the first one's device and template
			b.Rendering("SER2", "vpn"), b.Again(k),
		}
		results, err := b.RenderCredentials(b.ctx(), b.Operator(), batch)
		b.ok(err)
		for i, want := range []error{nil, issuance.ErrConflict, issuance.ErrConflict, nil, nil} {
			if results[i].Err != want {
				t.Errorf("rendering %d: error is %v, want %v", i, results[i].Err, want)
			}
			if want == nil {
				b.wantCredential(results[i].Credential)
			}
			if _, err := b.CodeByValue(b.ctx(), Directory, batch[i].Code.Value); (err == nil) != (want == nil) {
				t.Errorf("code of rendering %d: %v", i, err)
			}
		}
		if results[0].Credential.Device != results[3].Credential.Device {
			t.Error("one device has two rows")
		}
		if n := len(b.listed(issuance.CredentialFilter{Device: results[0].Credential.Device})); n != 2 {
			t.Errorf("the device has %d credentials, want 2", n)
		}
		if n := len(b.listed(issuance.CredentialFilter{Template: "wifi"})); n != 2 {
			t.Errorf("the template has %d credentials, want 2", n)
		}
	},
	"FaultyRenderingStopsTheWholeBatch": func(t *testing.T, b *Bench) {
		good := b.Rendering("SER1", "wifi")
		for name, change := range map[string]func(*issuance.Rendering){
			"no id":            func(r *issuance.Rendering) { r.ID = "" },
			"no template":      func(r *issuance.Rendering) { r.Template = "" },
			"no asset":         func(r *issuance.Rendering) { r.Asset = nil },
			"no configuration": func(r *issuance.Rendering) { r.Configuration = nil },
			"no device":        func(r *issuance.Rendering) { r.Device = issuance.Device{} },
			"short code":       func(r *issuance.Rendering) { r.Code.Value = "guessable" },
			"no lifetime":      func(r *issuance.Rendering) { r.Code.Lifetime = 0 },
			"code twice":       func(r *issuance.Rendering) { r.Code.Value = good.Code.Value },
			"path twice":       func(r *issuance.Rendering) { r.Document.PathHash = good.Document.PathHash },
		} {
			faulty := b.Rendering("SER2", "wifi")
			change(&faulty)
			b.wroteNothing(func() {
				_, err := b.RenderCredentials(b.ctx(), b.Operator(), []issuance.Rendering{good, faulty})
				if err == nil || name == "no device" && !strings.Contains(err.Error(), name) {
					t.Errorf("%s: error is %v", name, err)
				}
			})
		}
		var tooMany []issuance.Rendering
		for i := range store.MaxMint + 1 {
			tooMany = append(tooMany, b.Rendering(strconv.Itoa(i), "wifi"))
		}
		if _, err := b.RenderCredentials(b.ctx(), b.Operator(), tooMany); err == nil {
			t.Error("a batch over the limit was rendered")
		}
		if results, err := b.RenderCredentials(b.ctx(), b.Operator(), nil); err != nil || len(results) != 0 {
			t.Errorf("empty batch: %v, error %v", results, err)
		}
	},
	"OneOf16DeclaresATemplateOnADevice": func(t *testing.T, b *Bench) {
		_, err := oneWinner(race(16, func(int) error {
			_, err := b.render(b.Rendering("SER1", "wifi"))
			return err
		}), issuance.ErrConflict)
		b.ok(err)
		if n := len(all(b, b.Codes(b.ctx(), issuance.CodeFilter{}))); n != 1 {
			t.Errorf("%d codes", n)
		}
	},
	"OneOf16RendersARevisionAgain": func(t *testing.T, b *Bench) {
		k := b.Rendered(b.Rendering("SER1", "wifi"))
		renderings := make([]issuance.Rendering, 16)
		for i := range renderings {
			renderings[i] = b.Again(k)
		}
		winner, err := oneWinner(race(16, func(i int) error {
			_, err := b.render(renderings[i])
			return err
		}), issuance.ErrConflict)
		b.ok(err)
		d, err := b.Delivery(b.ctx(), k.ID)
		b.ok(err)
		if d.Credential.Revision != 2 || string(d.Asset) != string(renderings[winner].Asset) {
			t.Errorf("delivery %+v", d)
		}
		alive := all(b, b.Codes(b.ctx(), issuance.CodeFilter{Status: issuance.CodeUnused, Now: b.Now}))
		if len(alive) != 1 || alive[0].ID != d.Code.ID {
			t.Errorf("%d codes are alive", len(alive))
		}
	},
	"LabelsAreMergedIntoTheDevices": func(t *testing.T, b *Bench) {
		render := func(template string, revision int, labels map[string]string) error {
			r := b.Rendering("SER1", template)
			r.Device.Labels, r.Device.Revision = labels, revision
			_, err := b.render(r)
			return err
		}
		want := func(revision int, labels map[string]string) {
			t.Helper()
			d, err := b.DeviceLike(b.ctx(), "SER1", "")
			b.ok(err)
			if diff := cmp.Diff(labels, d.Labels); diff != "" || d.Revision != revision {
				t.Errorf("revision %d, want %d; labels %s", d.Revision, revision, diff)
			}
		}
		b.ok(render("a", 0, map[string]string{"owner": "Ann", "site": "Oslo"}))
		want(1, map[string]string{"owner": "Ann", "site": "Oslo"})
		b.ok(render("b", 1, map[string]string{"owner": "Bob", "site": "", "room": "7"}))
		want(2, map[string]string{"owner": "Bob", "site": "Oslo", "room": "7"})
		b.ok(render("c", 1, map[string]string{"owner": "Bob"})) // read before, but it undoes nothing
		b.wroteNothing(func() { b.wantError(render("d", 1, map[string]string{"owner": "Ann"}), issuance.ErrConflict) })
		b.ok(render("e", 2, nil))
		b.ok(render("f", 0, map[string]string{"site": "Oslo"}))
		want(2, map[string]string{"owner": "Bob", "site": "Oslo", "room": "7"})
		b.ok(render("g", 0, map[string]string{"site": "Rome"}))
		want(3, map[string]string{"owner": "Bob", "site": "Rome", "room": "7"})
	},
	"CredentialsThatAreDueAreListedInTheirOrder": func(t *testing.T, b *Bench) {
		var want []issuance.CredentialID
		for _, hours := range []int{3, 1, 2} {
			r := b.Rendering("SER"+strconv.Itoa(hours), "wifi")
			r.Code.Lifetime = time.Duration(hours) * time.Hour
			want = append(want, b.Rendered(r).ID)
		}
		want = []issuance.CredentialID{want[1], want[2], want[0]}
		for hours, n := range map[int]int{1: 0, 2: 1, 3: 2, 4: 3} {
			if got := b.listed(issuance.CredentialFilter{DueBefore: b.Now.Add(time.Duration(hours) * time.Hour)}); len(got) != n {
				t.Errorf("before %d hours: %v, want %d", hours, got, n)
			}
		}
		if got := b.listed(issuance.CredentialFilter{DueBefore: b.Now.Add(time.Hour * 24)}); !slices.Equal(got, want) {
			t.Errorf("due: %v, want %v", got, want)
		}
		_, err := b.WithdrawCredential(b.ctx(), b.Operator(), want[0], 0)
		b.ok(err)
		if got := b.listed(issuance.CredentialFilter{DueBefore: b.Now.Add(time.Hour * 24)}); !slices.Equal(got, want[1:]) {
			t.Errorf("due: %v, want %v", got, want[1:])
		}
	},
}
