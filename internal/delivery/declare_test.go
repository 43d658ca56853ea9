package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

func TestDeclareRendersWhatTheTemplateSays(t *testing.T) {
	d := newDesk(t)
	got := d.declared(sams())
	if !got.Fresh || got.Credential.Revision != 1 || got.Credential.Template != "staff" || got.Credential.Directory != "default" {
		t.Errorf("credential %+v, fresh %v", got.Credential, got.Fresh)
	}
	document := d.document(got.Delivery)
	if document.DirectoryURL != testDirectory || document.SubjectAltName.RFC822Name != "sam@example.com" || len(document.Subject) != 2 {
		t.Errorf("document %+v", document)
	}
	code, err := d.store.CodeByValue(t.Context(), "default", document.ClientIdentifier)
	if err != nil || code.ID != got.Code.ID {
		t.Fatalf("the code in the document is %+v, %v", code, err)
	}
	if code.Serial != testSerial || code.UDID != testUDID || code.Labels["owner"] != "sam@example.com" || !code.ExpiresAt.Equal(testNow.Add(10*24*time.Hour)) {
		t.Errorf("code %+v", code)
	}
	if diff := cmp.Diff(requested(document), code.Minted); diff != "" {
		t.Errorf("the code does not remember what its document asks for (-document +code):\n%s", diff)
	}
	var asset struct {
		ServerToken string
		Payload     struct {
			Reference struct {
				DataURL string
				Size    int
				Hash    string `json:"Hash-SHA-256"`
			}
		}
	}
	if err := json.Unmarshal(got.Asset, &asset); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(got.Document.Body)
	reference := asset.Payload.Reference
	if reference.Size != len(got.Document.Body) || reference.Hash != hex.EncodeToString(sum[:]) || asset.ServerToken != got.Credential.AssetToken {
		t.Errorf("the asset %s does not describe the document", got.Asset)
	}
	secret, ok := strings.CutPrefix(reference.DataURL, "https://id.example.com/credential/")
	if stored := got.Document; !ok || stored.PathHash != sha256.Sum256([]byte(secret)) || stored.MDM || stored.FetchLifetime != time.Hour {
		t.Errorf("document %+v at %s", got.Document, reference.DataURL)
	}
	if got.Credential.RenewBefore != 30*24*time.Hour || got.Credential.RevokeSuperseded {
		t.Errorf("credential %+v", got.Credential)
	}
}

func TestDeclareReturnsWhatStandsByteForByte(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	stands := func(state string) {
		t.Helper()
		rows := len(d.trail(""))
		again := d.declared(sams())
		if again.Fresh || again.Credential.ID != first.Credential.ID || string(again.Asset) != string(first.Asset) || string(again.Configuration) != string(first.Configuration) {
			t.Errorf("%s: another declaration", state)
		}
		if n := len(d.trail("")); n != rows {
			t.Errorf("%s: %d rows were written", state, n-rows)
		}
	}
	stands("unfetched")
	d.fetch(first.Delivery)
	stands("fetched")
	d.enrol(first.Delivery)
	d.now = d.now.Add(20 * 24 * time.Hour)
	stands("consumed")
	byUDID := sams()
	byUDID.Serial = ""
	if again := d.declared(byUDID); again.Fresh || again.Credential.ID != first.Credential.ID {
		t.Error("the same device by its UDID got another credential")
	}
}

func TestDeclareMintsAnewWhatDiedUnused(t *testing.T) {
	for name, end := range map[string]func(*desk, *Declared){
		"expired":           func(d *desk, first *Declared) { d.now = first.Code.ExpiresAt },
		"expired after use": func(d *desk, first *Declared) { d.fetch(first.Delivery); d.now = d.now.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			first := d.declared(sams())
			end(d, first)
			again := d.declared(sams())
			if !again.Fresh || again.Credential.ID != first.Credential.ID || again.Credential.Revision != 2 || again.Code.ID == first.Code.ID {
				t.Fatalf("got %+v", again.Credential)
			}
			if again.Credential.AssetToken == first.Credential.AssetToken || urlOf(t, again.Delivery) == urlOf(t, first.Delivery) {
				t.Error("the asset did not change with its document")
			}
			if again.Credential.ConfigurationToken != first.Credential.ConfigurationToken {
				t.Error("the configuration's token changed although its bytes did not")
			}
			if reason := d.reason(first.Credential.ID, 2); reason != issuance.RenderReminted {
				t.Errorf("reason %q", reason)
			}
		})
	}
}

// Whoever declares again and again must not undo what a person decided; whoever renews decides anew.
func TestDeclareLeavesWhatAPersonEnded(t *testing.T) {
	for check, end := range map[string]func(*desk, *Declared){
		CheckCodeRevoked: func(d *desk, first *Declared) { d.revoke(first.Code.ID) },
		CheckWithdrawn: func(d *desk, first *Declared) {
			if _, err := d.store.WithdrawCredential(d.Context(), d.call(), first.Credential.ID, 0); err != nil {
				d.Fatal(err)
			}
		},
	} {
		d := newDesk(t)
		first := d.declared(sams())
		end(d, first)
		refused, ok := errors.AsType[*RefusedError](d.declare(sams())[0].Err)
		if !ok || refused.Check != check || !strings.Contains(refused.Text, string(first.Credential.ID)) {
			t.Errorf("%s: got %v", check, refused)
		}
		d.now = d.now.Add(365 * 24 * time.Hour)
		if n := d.renderDue(10); n != 0 {
			t.Errorf("%s: rendered by itself", check)
		}
		renewed, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
		if err != nil || renewed.Code.ID == first.Code.ID || !renewed.Credential.WithdrawnAt.IsZero() {
			t.Errorf("%s: renewed %+v, %v", check, renewed, err)
		}
		if again := d.declared(sams()); again.Fresh {
			t.Errorf("%s: the renewed one does not stand", check)
		}
	}
}

func TestWithdrawnCredentialHasNoDeclarations(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	if _, err := d.store.WithdrawCredential(t.Context(), d.call(), first.Credential.ID, 0); err != nil {
		t.Fatal(err)
	}
	if withdrawn := d.delivery(first.Credential.ID); Declarations(&withdrawn, true) != nil {
		t.Errorf("a withdrawn credential has declarations: %s", Declarations(&withdrawn, true))
	}
}

func TestDeclareOfADeviceTwiceInABatchIsOneCredential(t *testing.T) {
	d := newDesk(t)
	results := d.declare(sams(), sams(), Request{Template: "mdm", Serial: testSerial}, sams())
	fresh := 0
	for i, r := range results {
		if r.Err != nil {
			t.Fatal(i, r.Err)
		}
		if i != 2 && r.Declared.Credential.ID != results[0].Declared.Credential.ID {
			t.Errorf("request %d got another credential", i)
		}
		if i != 2 && r.Declared.Fresh {
			fresh++
		}
	}
	if fresh != 1 {
		t.Errorf("%d were rendered, want 1", fresh)
	}
	if results[2].Declared.Credential.ID == results[0].Declared.Credential.ID {
		t.Error("two templates share a credential")
	}
}

func TestTwoDeclaresAtOnceAgree(t *testing.T) {
	d := newDesk(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	assets := map[string]int{}
	fresh := 0
	for range 8 {
		wg.Go(func() {
			results, err := d.declarer.Declare(context.Background(), d.call(), []Request{sams()})
			if err != nil || results[0].Err != nil {
				t.Errorf("got %v, %v", results, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			assets[string(results[0].Declared.Asset)]++
			if results[0].Declared.Fresh {
				fresh++
			}
		})
	}
	wg.Wait()
	if len(assets) != 1 || fresh != 1 {
		t.Errorf("%d different assets, %d fresh ones", len(assets), fresh)
	}
}

func TestDeclareRefusesADeviceByName(t *testing.T) {
	d := newDesk(t)
	other := d.declared(Request{Template: "staff", Serial: "C02OTHER", UDID: "00008110-000B", Labels: map[string]string{"owner": "kim@example.com"}})
	sam := d.declared(sams())
	for name, c := range map[string]struct {
		request Request
		check   string
		says    []string
	}{
		"no name":           {Request{Template: "staff"}, CheckDeviceNamed, []string{"serial number", "UDID"}},
		"two devices":       {Request{Template: "staff", Serial: testSerial, UDID: "00008110-000B"}, CheckDeviceConflict, []string{string(sam.Device.ID), string(other.Device.ID)}},
		"another serial":    {Request{Template: "staff", Serial: "C02NEW", UDID: testUDID}, CheckDeviceConflict, []string{string(sam.Device.ID), testSerial, "C02NEW"}},
		"another UDID":      {Request{Template: "staff", Serial: testSerial, UDID: "00008110-000C"}, CheckDeviceConflict, []string{string(sam.Device.ID), testUDID}},
		"unknown template":  {Request{Template: "none", Serial: testSerial}, CheckTemplateKnown, []string{"none"}},
		"a label is wanted": {Request{Template: "staff", Serial: "C02NEW", Labels: map[string]string{"owner": ""}}, CheckRendering, []string{"C02NEW", "owner"}},
	} {
		t.Run(name, func(t *testing.T) {
			refused := d.refused(c.request, c.check)
			for _, word := range c.says {
				if !strings.Contains(refused.Error(), word) {
					t.Errorf("%q does not say %s", refused, word)
				}
			}
		})
	}
	if n := len(d.trail(audit.CredentialRendered)); n != 2 {
		t.Errorf("%d renderings, want the 2 of the good requests", n)
	}
}

func TestDeclareRefusesABindingToNothing(t *testing.T) {
	d := newDesk(t)
	d.write("bound", strings.Replace(mdmTemplate, "authentication: MDM", "bind: [udid]", 1))
	d.write("unbound", strings.Replace(mdmTemplate, "authentication: MDM", "bind: []", 1))
	d.now = d.now.Add(time.Minute)
	d.refused(Request{Template: "bound", Serial: testSerial}, CheckRendering)
	if got := d.declared(Request{Template: "bound", Serial: testSerial, UDID: testUDID}); got.Code.Serial != "" || got.Code.UDID != testUDID {
		t.Errorf("code is bound to %q and %q", got.Code.Serial, got.Code.UDID)
	}
	if got := d.declared(Request{Template: "unbound", Serial: testSerial}); got.Code.Serial != "" || got.Code.UDID != "" || got.Device.Serial != testSerial {
		t.Errorf("code is bound to %q and %q", got.Code.Serial, got.Code.UDID)
	}
}

func TestDeclareServesMDMTemplatesByTheMDMListenerOnly(t *testing.T) {
	d := newDesk(t)
	got := d.declared(Request{Template: "mdm", Serial: testSerial})
	if url := urlOf(t, got.Delivery); !strings.HasPrefix(url, "https://id.example.com:8444/credential/") || !got.Document.MDM {
		t.Errorf("document at %s, MDM %v", url, got.Document.MDM)
	}
	d.declarer.MDMURL = ""
	d.refused(Request{Template: "mdm", Serial: "C02NEW"}, CheckMDMListener)
}

func TestDeclareRefusesATemplateOfNoDirectory(t *testing.T) {
	d := newDesk(t)
	d.declarer.DirectoryURL = func(string) (string, error) { return "", errors.New("no such directory") }
	d.refused(sams(), CheckDirectoryKnown)
}

func TestDeclareUsesWhatIsKnownOfTheDevice(t *testing.T) {
	d := newDesk(t)
	d.declared(sams())
	d.write("second", staffTemplate)
	d.now = d.now.Add(time.Minute)
	got := d.declared(Request{Template: "second", UDID: strings.ToLower(testUDID), Labels: map[string]string{"team": "Field", "owner": ""}})
	document := d.document(got.Delivery)
	if document.SubjectAltName.RFC822Name != "sam@example.com" || len(document.Subject) != 3 || got.Code.Serial != testSerial {
		t.Errorf("document %+v, bound to %s", document, got.Code.Serial)
	}
	if diff := cmp.Diff(map[string]string{"owner": "sam@example.com", "team": "Field"}, got.Device.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestOneBadDeviceLeavesTheBatchAlone(t *testing.T) {
	d := newDesk(t)
	lacking := Request{Template: "staff", Serial: "C02LACK"}
	results := d.declare(lacking, sams(), Request{Template: "none", Serial: "X"})
	if results[0].Err == nil || results[1].Err != nil || results[2].Err == nil || !results[1].Declared.Fresh {
		t.Errorf("results %+v", results)
	}
	if _, err := d.declarer.Declare(t.Context(), d.call(), make([]Request, MaxRequests+1)); err == nil {
		t.Error("a batch over the limit was taken")
	}
	d.declarer.Store = brokenCredentials{d.store}
	if _, err := d.declarer.Declare(t.Context(), d.call(), []Request{lacking, {Template: "mdm", Serial: "C02NEW"}}); !errors.Is(err, errDisk) {
		t.Errorf("got %v, want everybody's error", err)
	}
}

var errDisk = errors.New("disk on fire")

// brokenCredentials cannot write.
type brokenCredentials struct{ Credentials }

func (brokenCredentials) RenderCredentials(context.Context, issuance.Call, []issuance.Rendering) ([]issuance.RenderResult, error) {
	return nil, errDisk
}

// contested loses every rendering to somebody else.
type contested struct{ Credentials }

func (contested) RenderCredentials(_ context.Context, _ issuance.Call, r []issuance.Rendering) ([]issuance.RenderResult, error) {
	return slices.Repeat([]issuance.RenderResult{{Err: issuance.ErrConflict}}, len(r)), nil
}

func TestDeclareGivesUpWhereOthersKeepWinning(t *testing.T) {
	d := newDesk(t)
	d.declarer.Store = contested{d.store}
	if result := d.declare(sams())[0]; !errors.Is(result.Err, issuance.ErrConflict) {
		t.Errorf("got %+v", result)
	}
}

// end lets a credential's code end unused, an hour after its document was fetched, and returns when.
func (d *desk) end(declared *Declared) time.Time {
	d.Helper()
	d.fetch(declared.Delivery)
	d.now = d.now.Add(time.Hour)
	return d.now
}

func onceFor(key, request string) *issuance.Once {
	return &issuance.Once{Key: sha256.Sum256([]byte(key)), Request: sha256.Sum256([]byte(request))}
}

func TestDeclareUnderAKeyHappensOnce(t *testing.T) {
	d := newDesk(t)
	call := d.call()
	call.Once = onceFor("k", "declare sam")
	requests := []Request{sams(), sams()} // the second loses to the first: the key must not stop it
	results, err := d.declarer.Declare(t.Context(), call, requests)
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatalf("got %+v, %v", results, err)
	}
	first := results[0].Declared
	call.Now = d.end(first) // but for the key, it would be rendered again
	results, err = d.declarer.Declare(t.Context(), call, requests)
	if err != nil || results[0].Err != nil || results[0].Declared.Fresh || results[0].Declared.Credential.Revision != first.Credential.Revision {
		t.Errorf("the same key rendered again: %+v, %v", results, err)
	}
	call.Once = onceFor("k", "declare somebody else")
	if _, err := d.declarer.Declare(t.Context(), call, []Request{{Template: "mdm", Serial: "C02NEW"}}); !errors.Is(err, issuance.ErrOnceReused) {
		t.Errorf("the key of another request: %v", err)
	}
	call.Once = onceFor("another", "declare sam")
	if results, err = d.declarer.Declare(t.Context(), call, requests); err != nil || !results[0].Declared.Fresh {
		t.Errorf("another key: %+v, %v", results, err)
	}
}

// losing loses some renderings of its first call: those from this one on.
type losing struct {
	Credentials
	from  int
	calls int
}

func (l *losing) RenderCredentials(ctx context.Context, call issuance.Call, r []issuance.Rendering) ([]issuance.RenderResult, error) {
	if l.calls++; l.calls > 1 {
		return l.Credentials.RenderCredentials(ctx, call, r)
	}
	lost := slices.Repeat([]issuance.RenderResult{{Err: issuance.ErrConflict}}, len(r)-l.from)
	if l.from == 0 {
		return lost, nil
	}
	results, err := l.Credentials.RenderCredentials(ctx, call, r[:l.from])
	return append(results, lost...), err
}

func TestAKeyHoldsForAllTriesOfABatch(t *testing.T) {
	requests := []Request{sams(), {Template: "mdm", Serial: "C02OTHER"}}
	for from, name := range []string{"all are lost at first", "one is lost at first"} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.declarer.Store = &losing{Credentials: d.store, from: from}
			call := d.call()
			call.Once = onceFor("k", "declare two")
			results, err := d.declarer.Declare(t.Context(), call, requests)
			if err != nil || results[0].Err != nil || results[1].Err != nil || !results[0].Declared.Fresh || !results[1].Declared.Fresh {
				t.Fatalf("got %+v, %v", results, err)
			}
			call.Now = d.end(results[0].Declared)
			if results, err = d.declarer.Declare(t.Context(), call, requests); err != nil || results[0].Err != nil || results[0].Declared.Fresh {
				t.Errorf("the same key rendered again: %+v, %v", results, err)
			}
		})
	}
}

func TestDeclarationsAreAssetConfigurationActivation(t *testing.T) {
	d := newDesk(t)
	got := d.declared(sams())
	for _, activation := range []bool{false, true} {
		want := []string{AssetIdentifier(got.Credential.ID), ConfigurationIdentifier(got.Credential.ID)}
		if activation {
			want = append(want, ActivationIdentifier(got.Credential.ID))
		}
		var identifiers []string
		for _, declaration := range Declarations(&got.Delivery, activation) {
			var parsed struct{ Identifier string }
			if err := json.Unmarshal(declaration, &parsed); err != nil {
				t.Fatal(err)
			}
			identifiers = append(identifiers, parsed.Identifier)
		}
		if diff := cmp.Diff(want, identifiers); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDeclareOfAFullBatch(t *testing.T) {
	d := newDesk(t)
	requests := make([]Request, MaxRequests)
	for i := range requests {
		requests[i] = sams()
		requests[i].Serial, requests[i].UDID = fmt.Sprintf("C02%05d", i), ""
	}
	seen := map[issuance.CredentialID]bool{}
	for _, r := range d.declare(requests...) {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		seen[r.Declared.Credential.ID] = true
	}
	if len(seen) != MaxRequests {
		t.Errorf("%d credentials", len(seen))
	}
}

func TestDeclareStoresLabelsOfWhatStandsForTheNextRendering(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	moved := sams()
	moved.Labels = map[string]string{"owner": "kim@example.com"}
	call := d.call()
	call.Once = onceFor("k", "declare sam")
	results, err := d.declarer.Declare(t.Context(), call, []Request{moved, {Template: "mdm", Serial: "C02OTHER"}})
	if err != nil || results[0].Err != nil || results[1].Err != nil {
		t.Fatalf("got %+v, %v", results, err)
	}
	stood := results[0].Declared
	if stood.Fresh || string(stood.Asset) != string(first.Asset) || stood.Device.Labels["owner"] != "kim@example.com" {
		t.Errorf("fresh %t, labels %v", stood.Fresh, stood.Device.Labels)
	}
	rows := len(d.trail(""))
	if d.declared(moved); len(d.trail("")) != rows {
		t.Error("the same labels again were written again")
	}
	renewed, err := d.declarer.Renew(t.Context(), d.call(), first.Credential.ID, 0)
	if err != nil || renewed.Device.Labels["owner"] != "kim@example.com" {
		t.Errorf("renewed with %v, %v", renewed, err)
	}
}

func TestDeclareRefusesOneUDIDOfTwoDevicesInABatch(t *testing.T) {
	d := newDesk(t)
	results := d.declare(Request{Template: "mdm", Serial: "C02S1", UDID: "U-1"}, Request{Template: "mdm", Serial: "C02S2", UDID: "U-1"})
	refused, ok := errors.AsType[*RefusedError](results[1].Err)
	if results[0].Err != nil || !ok || refused.Check != CheckDeviceConflict {
		t.Errorf("got %+v", results)
	}
}

// A clean-up whose clock was ahead erased documents whose codes still live.
func TestDeclareMintsAnewWhereTheDocumentIsGone(t *testing.T) {
	d := newDesk(t)
	first := d.declared(sams())
	if _, err := d.store.CleanUp(t.Context(), first.Code.ExpiresAt); err != nil {
		t.Fatal(err)
	}
	if again := d.declared(sams()); !again.Fresh {
		t.Error("declared stands a document that nobody can fetch")
	}
}

func TestDeclareBoundsTheLabelsOfADevice(t *testing.T) {
	d := newDesk(t)
	many := func(prefix string, n, size int) Request {
		r := sams()
		for i := range n {
			r.Labels[fmt.Sprintf("%s%d", prefix, i)] = strings.Repeat("x", size)
		}
		return r
	}
	d.declared(many("a", 40, 10))
	d.refused(many("b", 40, 10), CheckLabels)   // with those that it has
	d.refused(many("a", 10, 4000), CheckLabels) // longer ones in their place
	d.declared(many("a", 40, 20))
}
