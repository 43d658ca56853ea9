package admin_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

func TestMintedCodesWorkAndAreShownOnce(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.CodesWrite, admin.CodesRead)
	codes := must[[]admin.Code](t)(api.MintCodes(t.Context(), []admin.MintCode{
		{Serial: "C02XK1", Labels: map[string]string{"owner": "sam"}, Lifetime: "30d", AllowUnattested: true}, {},
	}, ""))
	if len(codes) != 2 || !issuance.IsCode(codes[0].Code) || codes[0].Code == codes[1].Code {
		t.Fatalf("minted %+v", codes)
	}
	want := admin.Code{
		ID: codes[0].ID, Code: codes[0].Code, Directory: "default", Status: "unused", Device: codes[0].Device, Serial: "C02XK1",
		Labels: map[string]string{"owner": "sam"}, AllowUnattested: true, CreatedAt: r.Now(), ExpiresAt: r.Now().Add(30 * 24 * time.Hour),
	}
	if diff := cmp.Diff(want, codes[0], nearTime); diff != "" || codes[0].Device == "" {
		t.Error(diff)
	}
	if got := codes[1].ExpiresAt.Sub(codes[1].CreatedAt); got != 24*time.Hour {
		t.Errorf("without a lifetime a code lives %s", got)
	}
	want.Code = ""
	for name, get := range map[string]func() (admin.Code, error){
		"by id":                 func() (admin.Code, error) { return api.Code(t.Context(), codes[0].ID) },
		"by value":              func() (admin.Code, error) { return api.FindCode(t.Context(), "", codes[0].Code) },
		"by value in directory": func() (admin.Code, error) { return api.FindCode(t.Context(), "default", codes[0].Code) },
	} {
		if diff := cmp.Diff(want, must[admin.Code](t)(get()), nearTime); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for code := range api.Codes(t.Context(), client.CodeFilter{}) {
		if code.Code != "" {
			t.Error("a list shows the value of a code")
		}
	}
}

// nearTime compares times as the store keeps them.
var nearTime = cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond })

func TestMintIsAllOrNothing(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	for name, c := range map[string]struct {
		mint   admin.MintCode
		status int
		check  string
	}{
		"unknown directory":  {admin.MintCode{Directory: "other"}, http.StatusNotFound, "directory-known"},
		"lifetime of nobody": {admin.MintCode{Lifetime: "soon"}, http.StatusUnprocessableEntity, "lifetime"},
		"negative lifetime":  {admin.MintCode{Lifetime: "-1h"}, http.StatusUnprocessableEntity, "lifetime"},
		"no lifetime at all": {admin.MintCode{Lifetime: "0d"}, http.StatusUnprocessableEntity, "lifetime"},
		"too long a life":    {admin.MintCode{Lifetime: "366d"}, http.StatusUnprocessableEntity, "lifetime"},
		"overflowing life":   {admin.MintCode{Lifetime: "9223372036854775807d"}, http.StatusUnprocessableEntity, "lifetime"},
		"blank at the end":   {admin.MintCode{Serial: "C02XK1 "}, http.StatusUnprocessableEntity, "device-named"},
		"line break":         {admin.MintCode{UDID: "a\nb"}, http.StatusUnprocessableEntity, "device-named"},
		"long serial":        {admin.MintCode{Serial: strings.Repeat("A", 256)}, http.StatusUnprocessableEntity, "device-named"},
		"nameless label":     {admin.MintCode{Labels: map[string]string{"": "x"}}, http.StatusUnprocessableEntity, "labels"},
		"long label":         {admin.MintCode{Labels: map[string]string{"x": strings.Repeat("A", 5000)}}, http.StatusUnprocessableEntity, "labels"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := api.MintCodes(t.Context(), []admin.MintCode{{}, c.mint}, "")
			p := wantRefused(t, err, c.status, c.check)
			if c.status == http.StatusUnprocessableEntity && (len(p.Errors) != 1 || !strings.HasPrefix(p.Errors[0].Location, "body.codes[1].")) {
				t.Errorf("the problem does not say where: %+v", p.Errors)
			}
		})
	}
	if codes := collect(t, api.Codes(t.Context(), client.CodeFilter{})); len(codes) != 0 {
		t.Errorf("%d codes were minted all the same", len(codes))
	}
}

func TestSameIdempotencyKeyMintsOnce(t *testing.T) {
	r := newRig(t, nil)
	api := r.client(admin.CodesWrite)
	mints := []admin.MintCode{{Serial: "C02XK1"}, {}}
	const askers = 16
	answers := make([][]admin.Code, askers)
	var all sync.WaitGroup
	for i := range askers {
		all.Go(func() { answers[i], _ = api.MintCodes(t.Context(), mints, "order 66") })
	}
	all.Wait()
	for i := range answers {
		if diff := cmp.Diff(answers[0], answers[i]); diff != "" || len(answers[i]) != 2 || answers[i][0].Code == "" {
			t.Fatalf("answer %d is another: %s", i, diff)
		}
	}
	if n := len(collect(t, r.store.Codes(t.Context(), issuance.CodeFilter{}))); n != 2 {
		t.Errorf("%d codes were minted", n)
	}
	if code := must[issuance.Code](t)(r.store.CodeByValue(t.Context(), "default", answers[0][0].Code)); string(code.ID) != answers[0][0].ID {
		t.Error("the value that was answered is not the code's")
	}
	_, err := api.MintCodes(t.Context(), mints[:1], "order 66")
	wantRefused(t, err, http.StatusUnprocessableEntity, "idempotency-key-reused")
	other := must[[]admin.Code](t)(r.client(admin.CodesWrite).MintCodes(t.Context(), mints, "order 66"))
	if other[0].ID == answers[0][0].ID {
		t.Error("another token got the codes of the first")
	}
	r.wait(issuance.OnceLifetime + time.Minute)
	if again := must[[]admin.Code](t)(api.MintCodes(t.Context(), mints, "order 66")); again[0].ID == answers[0][0].ID {
		t.Error("the key is remembered for longer than it says")
	}
}

func TestReplayShowsWhatBecameOfTheCode(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	first := must[[]admin.Code](t)(api.MintCodes(t.Context(), []admin.MintCode{{}}, "k"))
	must[admin.Code](t)(api.RevokeCode(t.Context(), first[0].ID))
	again := must[[]admin.Code](t)(api.MintCodes(t.Context(), []admin.MintCode{{}}, "k"))
	if again[0].ID != first[0].ID || again[0].Code != first[0].Code || again[0].Status != "revoked" {
		t.Errorf("got %+v", again[0])
	}
}

func TestIdempotencyKeyIsPrintableAndShort(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.CodesWrite)
	for name, key := range map[string]string{"long": strings.Repeat("k", 256), "control": "a\x01b", "not ASCII": "schlüssel"} {
		t.Run(name, func(t *testing.T) {
			answer, body := r.do("POST", "/codes", token, `{"codes":[{}]}`, "Idempotency-Key", key)
			r.wantProblem(answer, body, http.StatusUnprocessableEntity, "invalid-request")
		})
	}
	if answer, body := r.do("POST", "/codes", token, `{"codes":[{}]}`, "Idempotency-Key", strings.Repeat("k", 255)); answer.StatusCode != http.StatusCreated {
		t.Errorf("got %d %s", answer.StatusCode, body)
	}
}

func TestRevokedCodeCannotBeRevokedAgain(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	code := must[[]admin.Code](t)(api.MintCodes(t.Context(), []admin.MintCode{{}}, ""))[0]
	if got := must[admin.Code](t)(api.RevokeCode(t.Context(), code.ID)); got.Status != "revoked" || got.RevokedAt.IsZero() {
		t.Errorf("got %+v", got)
	}
	_, err := api.RevokeCode(t.Context(), code.ID)
	wantRefused(t, err, http.StatusConflict, "code-unused")
	_, err = api.RevokeCode(t.Context(), "code_x")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	_, err = api.FindCode(t.Context(), "", "no such value")
	wantRefused(t, err, http.StatusNotFound, "not-found")
	_, err = api.FindCode(t.Context(), "other", code.Code)
	wantRefused(t, err, http.StatusNotFound, "directory-known")
	rows := collect(t, api.Audit(t.Context(), client.AuditFilter{Code: code.ID, Action: string(audit.CodeRevoked)}))
	if len(rows) != 1 || !strings.HasPrefix(rows[0].Personal.From, "token:token_") {
		t.Errorf("audited %+v", rows)
	}
}

func TestListsPageByThemselvesAndFilter(t *testing.T) {
	r := newRig(t, nil)
	api := r.client()
	var minted []string
	for range 3 {
		for _, c := range must[[]admin.Code](t)(api.MintCodes(t.Context(), make([]admin.MintCode, 400), "")) {
			minted = append(minted, c.ID)
		}
		r.wait(time.Second)
	}
	var listed []string
	for _, c := range collect(t, api.Codes(t.Context(), client.CodeFilter{})) {
		listed = append(listed, c.ID)
	}
	slices.Sort(minted)
	if !slices.Equal(listed, minted) {
		t.Errorf("%d codes are listed, %d were minted", len(listed), len(minted))
	}
	must[admin.Code](t)(api.RevokeCode(t.Context(), minted[7]))
	if revoked := collect(t, api.Codes(t.Context(), client.CodeFilter{Status: "revoked"})); len(revoked) != 1 || revoked[0].ID != minted[7] {
		t.Errorf("revoked: %v", revoked)
	}
	r.wait(25 * time.Hour)
	if n := len(collect(t, api.Codes(t.Context(), client.CodeFilter{Status: "expired"}))); n != 1199 {
		t.Errorf("%d codes are expired", n)
	}
	if n := len(collect(t, api.Codes(t.Context(), client.CodeFilter{Directory: "other"}))); n != 0 {
		t.Errorf("%d codes of another directory", n)
	}
}

func TestCursorOfAnotherListIsRefused(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	r.do("POST", "/codes", token, `{"codes":[{"serial":"A"}]}`)
	r.wait(time.Second)
	r.do("POST", "/codes", token, `{"codes":[{"serial":"B"}]}`)
	_, body := r.do("GET", "/codes?limit=1", token, "")
	_, cursor, _ := strings.Cut(body, `"next":"`)
	cursor, _, _ = strings.Cut(cursor, `"`)
	if cursor == "" {
		t.Fatalf("no cursor in %s", body)
	}
	if answer, body := r.do("GET", "/codes?limit=1&cursor="+cursor, token, ""); answer.StatusCode != http.StatusOK || strings.Contains(body, "next") || !strings.Contains(body, `"B"`) {
		t.Errorf("second page: %s", body)
	}
	for name, query := range map[string]string{
		"of another list": "/devices?cursor=" + cursor, "not base64": "/codes?cursor=!!", "cut": "/codes?cursor=" + cursor[:5], "extended": "/codes?cursor=" + cursor + "=",
		"no version": "/codes?cursor=Y29kZV94",
	} {
		t.Run(name, func(t *testing.T) {
			answer, body := r.do("GET", query, token, "")
			r.wantProblem(answer, body, http.StatusBadRequest, "bad-cursor")
		})
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "cursor=" + strings.Repeat("A", 201), "stauts=unused", "status=valid"} {
		answer, body := r.do("GET", "/codes?"+query, token, "")
		r.wantProblem(answer, body, http.StatusUnprocessableEntity, "invalid-request")
	}
}
