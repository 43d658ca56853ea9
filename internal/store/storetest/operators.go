package storetest

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
)

func (b *Bench) token(value string) (issuance.Token, error) {
	return b.AddToken(b.ctx(), b.Operator(), issuance.Token{Name: "ci", Scopes: []string{"codes:read", "audit:read"}, ExpiresAt: b.Now.Add(time.Hour)}, sha256.Sum256([]byte(value)))
}

var tokenTests = map[string]func(*testing.T, *Bench){
	"TokenIsFoundByItsHash": func(t *testing.T, b *Bench) {
		k, err := b.token("one")
		b.ok(err)
		now := b.Now.Truncate(time.Microsecond)
		want := issuance.Token{ID: k.ID, Name: "ci", Scopes: []string{"codes:read", "audit:read"}, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
		found, err := b.TokenByHash(b.ctx(), sha256.Sum256([]byte("one")))
		b.ok(err)
		for _, got := range []issuance.Token{k, found} {
			if diff := cmp.Diff(want, got); diff != "" || k.ID == "" {
				t.Error(diff)
			}
		}
		_, err = b.TokenByHash(b.ctx(), sha256.Sum256([]byte("two")))
		b.wantError(err, issuance.ErrNotFound)
		row := b.wantAudited(audit.Filter{}, audit.TokenMinted, audit.Done, "")
		if row.Detail["token"] != string(k.ID) || row.Detail["scopes"] != "codes:read audit:read" || !slices.Equal(row.Personal.Names, []string{"ci"}) {
			t.Errorf("row %+v, %+v", row, row.Personal)
		}
		for name, faulty := range map[string]issuance.Token{
			"no scope":      {ExpiresAt: b.Now.Add(time.Hour)},
			"no end":        {Scopes: []string{"x"}},
			"over already":  {Scopes: []string{"x"}, ExpiresAt: b.Now},
			"the same hash": {Scopes: []string{"x"}, ExpiresAt: b.Now.Add(time.Hour)},
		} {
			hash := sha256.Sum256([]byte(name))
			if name == "the same hash" {
				hash = sha256.Sum256([]byte("one"))
			}
			if _, err := b.AddToken(b.ctx(), b.Operator(), faulty, hash); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	},
	"TokenIsRevokedOnce": func(t *testing.T, b *Bench) {
		k, err := b.token("one")
		b.ok(err)
		other, err := b.token("two")
		b.ok(err)
		_, err = oneWinner(race(16, func(int) error {
			revoked, err := b.RevokeToken(b.ctx(), b.Operator(), k.ID)
			if err == nil && revoked.RevokedAt.IsZero() {
				return fmt.Errorf("token %+v", revoked)
			}
			return err
		}), issuance.ErrConflict)
		b.ok(err)
		_, err = b.RevokeToken(b.ctx(), b.Operator(), "token_none")
		b.wantError(err, issuance.ErrNotFound)
		var live []issuance.TokenID
		for _, k := range all(b, b.Tokens(b.ctx(), issuance.Page{})) {
			if k.LiveAt(b.Now) {
				live = append(live, k.ID)
			}
		}
		if !slices.Equal(live, []issuance.TokenID{other.ID}) {
			t.Errorf("live: %v", live)
		}
		b.wantAudited(audit.Filter{}, audit.TokenRevoked, audit.Done, "")
	},
	"EveryUseOfATokenIsAudited": func(t *testing.T, b *Bench) {
		k, err := b.token("one")
		b.ok(err)
		lastUse := func() time.Time {
			found, err := b.TokenByHash(b.ctx(), sha256.Sum256([]byte("one")))
			b.ok(err)
			return found.LastUsedAt
		}
		b.ok(b.RecordTokenUse(b.ctx(), b.Operator(), issuance.TokenUse{Token: k.ID, Request: "GET /api/v1/audit", Status: 403, Check: "scope"}))
		if !lastUse().IsZero() {
			t.Error("a refused use counts as a use")
		}
		b.wantAudited(audit.Filter{Refused: true}, audit.TokenUsed, audit.Refused, "scope")
		use := issuance.TokenUse{Token: k.ID, Request: "GET /api/v1/codes", Status: 200}
		b.ok(b.RecordTokenUse(b.ctx(), b.Operator(), use))
		row := b.wantAudited(audit.Filter{}, audit.TokenUsed, audit.Done, "")
		if diff := cmp.Diff(map[string]string{"token": string(k.ID), "request": "GET /api/v1/codes", "status": "200"}, row.Detail); diff != "" {
			t.Error(diff)
		}
		first := b.Now.Truncate(time.Microsecond)
		b.Now = b.Now.Add(time.Minute - time.Microsecond)
		b.ok(b.RecordTokenUse(b.ctx(), b.Operator(), use))
		if !lastUse().Equal(first) {
			t.Errorf("last used at %v, want %v", lastUse(), first)
		}
		b.Now = b.Now.Add(time.Microsecond)
		b.ok(b.RecordTokenUse(b.ctx(), b.Operator(), use))
		if !lastUse().Equal(first.Add(time.Minute)) {
			t.Errorf("last used at %v", lastUse())
		}
		if n := len(b.trail(audit.Filter{Action: audit.TokenUsed})); n != 4 {
			t.Errorf("%d audit rows, want 4", n)
		}
		b.wantError(b.RecordTokenUse(b.ctx(), b.Operator(), issuance.TokenUse{Token: "token_none"}), issuance.ErrNotFound)
	},
}

// once is an operator's command now that happens once.
func (b *Bench) once(key, request, keep string) issuance.Call {
	c := b.Operator()
	c.Once = &issuance.Once{Key: sha256.Sum256([]byte(key)), Request: sha256.Sum256([]byte(request)), Keep: []byte(keep)}
	return c
}

func (b *Bench) mintOnce(call issuance.Call) error {
	_, err := b.MintCodes(b.ctx(), call, []issuance.Mint{{Directory: Directory, Value: rand.Text(), Lifetime: time.Hour}})
	return err
}

func (b *Bench) wantRepeated(err error, kept string) {
	b.T.Helper()
	if repeated, ok := errors.AsType[*issuance.RepeatedError](err); !ok || string(repeated.Kept) != kept {
		b.T.Fatalf("error is %v, want what was kept: %q", err, kept)
	}
}

var onceTests = map[string]func(*testing.T, *Bench){
	"OneOf16MintsUnderAKey": func(t *testing.T, b *Bench) {
		errs := race(16, func(i int) error { return b.mintOnce(b.once("key", "mint", fmt.Sprintf("seed %d", i))) })
		winner := slices.Index(errs, nil)
		if winner < 0 {
			t.Fatalf("nobody minted: %v", errs)
		}
		for i, err := range errs {
			if i != winner {
				b.wantRepeated(err, fmt.Sprintf("seed %d", winner))
			}
		}
		if n := len(all(b, b.Codes(b.ctx(), issuance.CodeFilter{}))); n != 1 {
			t.Errorf("%d codes were minted under one key", n)
		}
		b.ok(b.mintOnce(b.once("other key", "mint", "")))
	},
	"KeyBelongsToItsRequest": func(t *testing.T, b *Bench) {
		b.ok(b.mintOnce(b.once("key", "mint", "seed")))
		b.wroteNothing(func() {
			b.wantError(b.mintOnce(b.once("key", "mint two", "seed")), issuance.ErrOnceReused)
			b.wantRepeated(b.mintOnce(b.once("key", "mint", "another seed")), "seed")
		})
	},
	"KeyIsForgottenAfterADay": func(t *testing.T, b *Bench) {
		b.ok(b.mintOnce(b.once("key", "mint", "seed")))
		b.ok(b.mintOnce(b.once("second", "mint", "seed")))
		b.Now = b.Now.Add(issuance.OnceLifetime - time.Microsecond)
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Keys != 0 {
			t.Errorf("cleaned %+v", cleaned)
		}
		b.wantRepeated(b.mintOnce(b.once("key", "mint", "")), "seed")
		b.Now = b.Now.Add(time.Microsecond)
		b.ok(b.mintOnce(b.once("key", "mint two", "seed two"))) // expired counts as unknown
		cleaned, err = b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Keys != 1 {
			t.Errorf("cleaned %+v", cleaned)
		}
		b.wantRepeated(b.mintOnce(b.once("key", "mint two", "")), "seed two")
		b.ok(b.mintOnce(b.once("second", "mint", "")))
	},
	"KeyOfAChangeThatWasNotMadeIsUnknown": func(t *testing.T, b *Bench) {
		call := b.once("key", "change", "seed")
		if _, err := b.MintCodes(b.ctx(), call, []issuance.Mint{{Directory: Directory, Value: rand.Text(), UDID: "U", Lifetime: time.Hour, Document: new(issuance.Document)},
			{Directory: Directory, Value: rand.Text(), Lifetime: time.Hour, Document: new(issuance.Document)}}); err == nil {
			t.Fatal("one path was published twice")
		}
		code, _ := b.Mint()
		_, err := b.RevokeCode(b.ctx(), b.Operator(), code.ID)
		b.ok(err)
		for range 2 { // a refusal, which is kept
			_, err = b.RevokeCode(b.ctx(), call, code.ID)
			b.wantError(err, issuance.ErrConflict)
		}
		stale := b.Rendering("SER1", "wifi")
		stale.Revision = 3
		for range 2 {
			results, err := b.RenderCredentials(b.ctx(), call, []issuance.Rendering{stale})
			b.ok(err)
			b.wantError(results[0].Err, issuance.ErrConflict)
		}
		results, err := b.RenderCredentials(b.ctx(), call, []issuance.Rendering{stale, b.Rendering("SER1", "wifi")})
		b.ok(err)
		b.ok(results[1].Err)
		_, err = b.RenderCredentials(b.ctx(), call, []issuance.Rendering{stale})
		b.wantRepeated(err, "seed")
	},
}

// paged reads a list in pages and checks that they are the whole list, in its order.
func paged[T any](b *Bench, name string, limit int, list func(issuance.Page) iter.Seq2[T, error], id func(T) string) {
	b.T.Helper()
	whole := all(b, list(issuance.Page{}))
	var joined []T
	for after := ""; ; {
		page := all(b, list(issuance.Page{After: after, Limit: limit}))
		joined = append(joined, page...)
		if len(page) < limit {
			break
		}
		if len(page) > limit {
			b.T.Fatalf("%s: a page has %d rows, more than %d", name, len(page), limit)
		}
		after = id(page[len(page)-1])
	}
	if diff := cmp.Diff(whole, joined); diff != "" || len(whole) <= limit {
		b.T.Errorf("%s: %d rows in pages of %d: %s", name, len(whole), limit, diff)
	}
}

var pageTests = map[string]func(*testing.T, *Bench){
	"EveryListHasPages": func(t *testing.T, b *Bench) {
		for i := range 7 {
			r := b.Rendering(fmt.Sprintf("SER%d", i), "wifi")
			r.Code.Lifetime = time.Duration(1+i%3) * time.Hour // some are due at the same time
			k := b.Rendered(r)
			_, err := b.token(string(k.ID))
			b.ok(err)
			b.Now = b.Now.Add(time.Duration(i%3) * time.Hour)
			b.Issued()
			b.Now = Start
		}
		later := b.Now.Add(1000 * 24 * time.Hour)
		paged(b, "codes", 3, func(p issuance.Page) iter.Seq2[issuance.Code, error] {
			return b.Codes(b.ctx(), issuance.CodeFilter{Page: p})
		}, func(c issuance.Code) string { return string(c.ID) })
		for name, f := range map[string]issuance.CertificateFilter{"certificates": {}, "certificates by expiry": {ExpiringBefore: later}} {
			paged(b, name, 2, func(p issuance.Page) iter.Seq2[issuance.Certificate, error] {
				f.Page = p
				return b.Certificates(b.ctx(), f)
			}, func(c issuance.Certificate) string { return string(c.ID) })
		}
		paged(b, "devices", 2, func(p issuance.Page) iter.Seq2[issuance.Device, error] {
			return b.Devices(b.ctx(), issuance.DeviceFilter{Page: p})
		}, func(d issuance.Device) string { return string(d.ID) })
		for name, f := range map[string]issuance.CredentialFilter{"credentials": {}, "due": {DueBefore: later}, "not pushed": {NotPushed: true}} {
			paged(b, name, 2, func(p issuance.Page) iter.Seq2[issuance.DeviceCredential, error] {
				f.Page = p
				return b.DeviceCredentials(b.ctx(), f)
			}, func(k issuance.DeviceCredential) string { return string(k.ID) })
		}
		paged(b, "tokens", 1, func(p issuance.Page) iter.Seq2[issuance.Token, error] { return b.Tokens(b.ctx(), p) },
			func(k issuance.Token) string { return string(k.ID) })
		paged(b, "audit", 5, func(p issuance.Page) iter.Seq2[audit.Row, error] {
			return b.Audit(b.ctx(), audit.Filter{After: p.After, Limit: p.Limit})
		}, func(r audit.Row) string { return r.ID })
	},
	"PageMayBeLongerThanARead": func(t *testing.T, b *Bench) {
		var mints []issuance.Mint
		for range 450 {
			mints = append(mints, issuance.Mint{Directory: Directory, Value: rand.Text(), Lifetime: time.Hour})
		}
		_, err := b.MintCodes(b.ctx(), b.Operator(), mints)
		b.ok(err)
		for _, limit := range []int{199, 200, 201, 400, 449} {
			paged(b, "codes", limit, func(p issuance.Page) iter.Seq2[issuance.Code, error] {
				return b.Codes(b.ctx(), issuance.CodeFilter{Page: p, Status: issuance.CodeUnused, Now: b.Now})
			}, func(c issuance.Code) string { return string(c.ID) })
		}
	},
	"PageBehindAnUnknownRowIsAnError": func(t *testing.T, b *Bench) {
		page := issuance.Page{After: "none"}
		for _, err := range b.Certificates(b.ctx(), issuance.CertificateFilter{Page: page, ExpiringBefore: b.Now}) {
			b.wantError(err, issuance.ErrNotFound)
			return
		}
		t.Error("no error")
	},
	"RefusalsAreListedAlone": func(t *testing.T, b *Bench) {
		b.Issued()
		b.ok(b.RecordStrangers(b.ctx(), b.Now, map[string]int{"jws": 1}))
		rows := b.trail(audit.Filter{Refused: true})
		if len(rows) != 1 || rows[0].Action != audit.StrangersRefused {
			t.Errorf("rows %+v", rows)
		}
	},
}
