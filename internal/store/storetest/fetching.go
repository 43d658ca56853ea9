package storetest

import (
	"crypto/rand"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
)

// fetched asks for a rendering's document now.
func (b *Bench) fetched(r issuance.Rendering) issuance.FetchedDocument {
	b.T.Helper()
	d, err := b.DocumentByPath(b.ctx(), r.Document.PathHash, b.Now)
	b.ok(err)
	return d
}

var fetchTests = map[string]func(*testing.T, *Bench){
	"FirstFetchStartsTheCodesLastHour": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		k := b.Rendered(r)
		d := b.fetched(r)
		if string(d.Body) != string(r.Document.Body) || d.CodeStatus != issuance.CodeUnused || d.FetchLifetime != time.Hour || d.Device.Serial != "SER1" || d.Credential != k.ID {
			t.Errorf("document %+v", d)
		}
		b.Now = b.Now.Add(2 * time.Hour)
		first := b.Now.Truncate(time.Microsecond)
		b.ok(b.MarkFetched(b.ctx(), b.Call(), d.ID))
		k.DueAt = first.Add(time.Hour + issuance.RetryPause)
		b.wantCredential(k)
		row := b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.DocumentFetched, audit.Done, "")
		if row.Code != string(k.Code) || row.Detail["credential"] != string(k.ID) {
			t.Errorf("row %+v", row)
		}
		b.Now = b.Now.Add(time.Hour - time.Microsecond)
		b.ok(b.MarkFetched(b.ctx(), b.Call(), d.ID))
		if d = b.fetched(r); !d.FetchedAt.Equal(first) || d.Body == nil {
			t.Errorf("document %+v", d)
		}
		if c := b.wantCode(k.Code, issuance.CodeUnused); !c.ExpiresAt.Equal(first.Add(time.Hour)) {
			t.Errorf("code ends at %v", c.ExpiresAt)
		}
		if n := len(b.trail(audit.Filter{Action: audit.DocumentFetched})); n != 1 {
			t.Errorf("%d audit rows", n)
		}
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Documents != 0 {
			t.Error("a live document was erased")
		}
		b.Now = first.Add(time.Hour)
		if d = b.fetched(r); d.Body != nil || d.CodeStatus != issuance.CodeExpired {
			t.Errorf("document %+v", d)
		}
		if cleaned, err = b.CleanUp(b.ctx(), b.Now); err != nil || cleaned.Documents != 1 {
			t.Errorf("cleaned %+v, error %v", cleaned, err)
		}
		_, err = b.OrderFor(b.Account, r.Code.Value)
		if err == nil {
			t.Error("the code outlives its last hour")
		}
	},
	"FetchNeverLengthensALife": func(t *testing.T, b *Bench) {
		for _, lifetime := range []time.Duration{0, 25 * time.Hour} {
			r := b.Rendering("SER1", "wifi"+lifetime.String())
			r.Document.FetchLifetime = lifetime
			k := b.Rendered(r)
			b.ok(b.MarkFetched(b.ctx(), b.Call(), k.Document))
			if c := b.wantCode(k.Code, issuance.CodeUnused); !c.ExpiresAt.Equal(k.RenderedAt.Add(24 * time.Hour)) {
				t.Errorf("%v: code ends at %v", lifetime, c.ExpiresAt)
			}
		}
	},
	"DeadDocumentIsNotFetched": func(t *testing.T, b *Bench) {
		for name, c := range map[string]struct {
			end    func(r issuance.Rendering, k issuance.DeviceCredential)
			status issuance.CodeStatus
		}{
			"revoked": {func(_ issuance.Rendering, k issuance.DeviceCredential) {
				_, err := b.RevokeCode(b.ctx(), b.Operator(), k.Code)
				b.ok(err)
			}, issuance.CodeRevoked},
			"expired": {func(issuance.Rendering, issuance.DeviceCredential) { b.Now = b.Now.Add(24 * time.Hour) }, issuance.CodeExpired},
			"exhausted": {func(r issuance.Rendering, _ issuance.DeviceCredential) {
				for range issuance.MaxTriesPerCode {
					a := AnswerFor(b.Pending(r.Code.Value))
					a.Refusal = &issuance.Refusal{Check: "freshness"}
					_, err := b.AnswerChallenge(b.ctx(), b.Call(), a)
					b.ok(err)
				}
			}, issuance.CodeExhausted},
			"issuing": {func(r issuance.Rendering, _ issuance.DeviceCredential) { b.Claimed(r.Code.Value) }, issuance.CodeIssuing},
		} {
			r := b.Rendering("SER-"+name, "wifi")
			k := b.Rendered(r)
			c.end(r, k)
			if d := b.fetched(r); d.Body != nil || d.CodeStatus != c.status || d.Device.ID != k.Device {
				t.Errorf("%s: document %+v", name, d)
			}
			b.wroteNothing(func() { b.wantError(b.MarkFetched(b.ctx(), b.Call(), k.Document), issuance.ErrConflict) })
			if c.status == issuance.CodeRevoked {
				k.DueAt = time.Time{}
			}
			if d := b.wantCredential(k); !d.Document.FetchedAt.IsZero() || name != "expired" && d.Document.Body != nil {
				t.Errorf("%s: document %+v", name, d.Document)
			}
		}
		b.wantError(b.MarkFetched(b.ctx(), b.Call(), "doc_none"), issuance.ErrNotFound)
	},
	"FetchedDocumentNamesItsDevice": func(t *testing.T, b *Bench) {
		unbound := b.Rendering("SER1", "wifi")
		unbound.Code.Serial, unbound.Document.MDM = "", true
		k := b.Rendered(unbound)
		if d := b.fetched(unbound); d.Device.ID != k.Device || !d.MDM {
			t.Errorf("document %+v", d)
		}
		if c := b.wantCode(k.Code, issuance.CodeUnused); c.Device != "" {
			t.Errorf("unbound code names device %s", c.Device)
		}
		code, _ := b.Mint(WithDocument("bound"), func(m *issuance.Mint) { m.Serial, m.Document.Credential = "SER2", k.ID })
		d, err := b.DocumentByPath(b.ctx(), pathHash("bound"), b.Now)
		b.ok(err)
		if d.Device.ID != code.Device || d.Device.Serial != "SER2" || d.MDM || d.Credential != "" {
			t.Errorf("document %+v", d)
		}
		b.Mint(WithDocument("free"))
		d, err = b.DocumentByPath(b.ctx(), pathHash("free"), b.Now)
		b.ok(err)
		if d.Device.ID != "" || d.Device.Revision != 0 || d.Body == nil {
			t.Errorf("document %+v", d)
		}
	},
	"RefusedFetchesAreNotedOnceAMinute": func(t *testing.T, b *Bench) {
		r := b.Rendering("SER1", "wifi")
		k := b.Rendered(r)
		rows := func() int { return len(b.trail(audit.Filter{Device: string(k.Device), Refused: true})) }
		for _, err := range race(16, func(int) error { return b.RefuseFetch(b.ctx(), b.Call(), k.Document, "mdm-identity") }) {
			b.ok(err)
		}
		row := b.wantAudited(audit.Filter{Device: string(k.Device)}, audit.DocumentFetched, audit.Refused, "mdm-identity")
		if row.Code != string(k.Code) || row.Detail["credential"] != string(k.ID) {
			t.Errorf("row %+v", row)
		}
		at := b.Now.Truncate(time.Microsecond)
		b.Now = b.Now.Add(time.Minute - time.Microsecond)
		b.ok(b.RefuseFetch(b.ctx(), b.Call(), k.Document, "other"))
		if d := b.fetched(r); !d.RefusedAt.Equal(at) || d.RefusedCheck != "mdm-identity" || d.Body == nil || rows() != 1 {
			t.Errorf("document %+v, %d rows", d, rows())
		}
		b.Now = b.Now.Add(time.Microsecond)
		b.ok(b.RefuseFetch(b.ctx(), b.Call(), k.Document, "other"))
		if d := b.fetched(r); !d.RefusedAt.Equal(at.Add(time.Minute)) || d.RefusedCheck != "other" || rows() != 2 {
			t.Errorf("document %+v, %d rows", d, rows())
		}
		b.Now = b.Now.AddDate(-1, 0, 0) // the clock was ahead
		b.ok(b.RefuseFetch(b.ctx(), b.Call(), k.Document, "other"))
		if rows() != 3 {
			t.Error("a clock that was ahead keeps refusals from being noted")
		}
		b.wantError(b.RefuseFetch(b.ctx(), b.Call(), "doc_none", "x"), issuance.ErrNotFound)
	},
	"FetchAndRenderingRace": func(t *testing.T, b *Bench) {
		served := 0
		for range 30 {
			k := b.Rendered(b.Rendering("SER1", "wifi"+rand.Text()))
			again := b.Again(k)
			errs := race(2, func(i int) error {
				if i == 0 {
					return b.MarkFetched(b.ctx(), b.Call(), k.Document)
				}
				_, err := b.render(again)
				return err
			})
			b.ok(errs[1])
			if errs[0] == nil {
				served++
			} else {
				b.wantError(errs[0], issuance.ErrConflict)
			}
			b.wantCode(k.Code, issuance.CodeRevoked)
			d, err := b.Delivery(b.ctx(), k.ID)
			b.ok(err)
			if d.Code.Status != issuance.CodeUnused || !d.Credential.DueAt.Equal(d.Code.ExpiresAt) || !d.Document.FetchedAt.IsZero() {
				t.Fatalf("delivery %+v", d)
			}
		}
		t.Logf("%d fetches came first", served)
	},
}
