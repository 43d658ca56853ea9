package admin_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/audit"
)

// everyOperation runs a test for each operation that needs a token, with a request for it.
func everyOperation(t *testing.T, r *rig, test func(t *testing.T, op operation, path, body string)) {
	n := 0
	for _, op := range r.document.operations {
		if op.public {
			continue
		}
		n++
		body := ""
		if op.body {
			body = "{}"
		}
		t.Run(op.method+" "+op.path, func(t *testing.T) {
			r.t = t
			test(t, op, parameter.ReplaceAllString(op.path, "x"), body)
		})
	}
	if n < 20 {
		t.Fatalf("only %d operations need a token", n)
	}
}

func TestEveryOperationNeedsALiveToken(t *testing.T) {
	r := newRig(t, nil)
	expiring, expired := r.token(admin.Scopes()...)
	r.wait(91 * 24 * time.Hour)
	leaked, revoked := r.token(admin.Scopes()...)
	if _, err := r.store.RevokeToken(t.Context(), r.bench.Operator(), revoked); err != nil {
		t.Fatal(err)
	}
	unknown, _, _ := admin.NewToken(strings.NewReader(strings.Repeat("x", 32)))
	everyOperation(t, r, func(t *testing.T, op operation, path, body string) {
		for check, token := range map[string]string{
			"token-missing": "", "token-unknown": unknown, "token-expired": expiring, "token-revoked": leaked, "token-malformed": "assay_short",
		} {
			answer, text := r.do(op.method, path, token, body)
			r.wantProblem(answer, text, http.StatusUnauthorized, check)
			challenge := answer.Header.Get("WWW-Authenticate")
			if !strings.Contains(challenge, `Bearer realm="assay"`) || strings.Contains(challenge, "invalid_token") != (token != "") {
				t.Errorf("%s: WWW-Authenticate: %s", check, challenge)
			}
		}
	})
	r.t = t
	for id, check := range map[string]string{string(expired): "token-expired", string(revoked): "token-revoked"} {
		n := 0
		for row := range r.store.Audit(t.Context(), audit.Filter{Action: audit.TokenUsed, Refused: true}) {
			if row.Detail["token"] == id && row.Check == check && row.Detail["status"] == "401" {
				n++
			}
		}
		if n != 1 { // all within one minute
			t.Errorf("%d uses with %s are audited", n, check)
		}
	}
}

func TestEveryOperationNeedsItsOwnScope(t *testing.T) {
	r := newRig(t, nil)
	everyOperation(t, r, func(t *testing.T, op operation, path, body string) {
		others := slices.DeleteFunc(admin.Scopes(), func(s admin.Scope) bool { return string(s) == op.scope })
		token, id := r.token(others...)
		answer, text := r.do(op.method, path, token, body)
		r.wantProblem(answer, text, http.StatusForbidden, "scope-missing")
		if !strings.Contains(text, op.scope) || !strings.Contains(answer.Header.Get("WWW-Authenticate"), `scope="`+op.scope+`"`) {
			t.Errorf("the answer does not name the scope: %s", text)
		}
		uses := r.uses(id)
		if len(uses) != 1 || uses[0].Check != "scope-missing" || uses[0].Detail["status"] != "403" || uses[0].Detail["request"] != op.method+" "+admin.Prefix+op.path {
			t.Errorf("audited: %v", uses)
		}
		only, _ := r.token(admin.Scope(op.scope))
		if answer, text := r.do(op.method, path, only, body); answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized {
			t.Errorf("with its scope: %d %s", answer.StatusCode, text)
		}
	})
}

func TestEachUseOfATokenIsAudited(t *testing.T) {
	r := newRig(t, nil)
	token, id := r.token(admin.CodesRead)
	r.do("GET", "/codes?limit=3", token, "")
	r.wait(time.Second) // rows of one moment have no order
	r.do("HEAD", "/codes", token, "")
	r.wait(time.Second)
	r.do("GET", "/codes/code_x", token, "")
	want := [][3]string{{"GET /api/v1/codes", "200", ""}, {"HEAD /api/v1/codes", "200", ""}, {"GET /api/v1/codes/{code}", "404", "not-found"}}
	var got [][3]string
	for _, row := range r.uses(id) {
		got = append(got, [3]string{row.Detail["request"], row.Detail["status"], row.Check})
		if row.Personal == nil || row.Personal.From != "in-process" {
			t.Errorf("the row does not say where it came from: %+v", row.Personal)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("audited %v, want %v", got, want)
	}
}

func TestUseThatCannotBeAuditedIsLogged(t *testing.T) {
	r := newRig(t, func(c *admin.Config) { c.Store = failing{Store: c.Store, use: errors.New("disk on fire")} })
	token, _ := r.token(admin.CodesRead)
	if answer, _ := r.do("GET", "/codes", token, ""); answer.StatusCode != http.StatusOK {
		t.Errorf("got %d", answer.StatusCode)
	}
	if !strings.Contains(r.log.String(), "disk on fire") {
		t.Error("nothing is logged")
	}
}

func TestTokenOpensNothingInAnotherForm(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	for name, header := range map[string]string{
		"no scheme": token, "other scheme": "Token " + token, "Basic": "Basic " + base64.StdEncoding.EncodeToString([]byte("x:"+token)),
		"tab": "Bearer\t" + token, "blank and tab": "Bearer \t" + token, "no blank": "Bearer" + token, "with more": "Bearer " + token + "A", "upper case": "Bearer " + strings.ToUpper(token),
		"huge": "Bearer assay_" + strings.Repeat("A", 1<<20), "not base64url": "Bearer assay_" + strings.Repeat("!", 43),
	} {
		t.Run(name, func(t *testing.T) {
			answer, body := r.do("GET", "/codes", "", "", "Authorization", header)
			r.wantProblem(answer, body, http.StatusUnauthorized, "token-malformed")
		})
	}
	for _, header := range []string{"bearer " + token, "Bearer  " + token, "Bearer   " + token} {
		if answer, _ := r.do("GET", "/codes", "", "", "Authorization", header); answer.StatusCode != http.StatusOK {
			t.Errorf("%q is refused: %d", header[:9], answer.StatusCode)
		}
	}
}

func TestNanoMDMMayPutTheTokenIntoItsURL(t *testing.T) {
	r := newRig(t, nil)
	token, id := r.token(admin.StatusWrite)
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("nanomdm:"+token))
	const event = `{"topic":"mdm.Connect"}`
	if answer, body := r.do("POST", "/status/nanomdm", "", event, "Authorization", basic); answer.StatusCode != http.StatusOK {
		t.Errorf("got %d %s", answer.StatusCode, body)
	}
	if len(r.uses(id)) != 1 {
		t.Error("the use is not audited")
	}
	answer, body := r.do("POST", "/status", "", "{}", "Authorization", basic)
	r.wantProblem(answer, body, http.StatusUnauthorized, "token-malformed")
	if challenge := answer.Header.Get("WWW-Authenticate"); strings.Contains(challenge, "Basic") {
		t.Errorf("a password is asked for where none is taken: %s", challenge)
	}
	answer, _ = r.do("POST", "/status/nanomdm", "", event)
	if challenge := answer.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Basic ") {
		t.Errorf("no password is asked for: %s", challenge)
	}
}

func TestOperatorInThisProcessHasEveryScopeAndHisName(t *testing.T) {
	r := newRig(t, nil)
	api := client.New(base, checked{t, client.InProcess(r.api.As("operator:sam")), r.document}, "")
	codes, err := api.MintCodes(t.Context(), []admin.MintCode{{Serial: "C02XK1"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	rows := collect(t, api.Audit(t.Context(), client.AuditFilter{Code: codes[0].ID}))
	if len(rows) != 1 || rows[0].Personal.From != "operator:sam" {
		t.Errorf("audited: %+v", rows)
	}
	if used := collect(t, api.Audit(t.Context(), client.AuditFilter{Action: string(audit.TokenUsed)})); len(used) != 0 {
		t.Errorf("a token that is none was used: %v", used)
	}
	defer func() {
		if recover() == nil {
			t.Error("an operator without a name is let in")
		}
	}()
	r.api.As("")
}

func TestOperatorInThisProcessIsToldWhatFailed(t *testing.T) {
	r := newRig(t, func(c *admin.Config) {
		c.Store = failing{Store: c.Store, code: func() error { return errors.New("disk on fire") }}
	})
	_, err := client.New(base, client.InProcess(r.api.As("operator:sam")), "").Code(t.Context(), "code_x")
	if p := wantRefused(t, err, http.StatusInternalServerError, "internal"); !strings.Contains(p.Detail, "disk on fire") {
		t.Errorf("he is told %q", p.Detail)
	}
}

func TestRefusalIsLoggedWithoutWhatItHeld(t *testing.T) {
	r := newRig(t, nil)
	token, id := r.token(admin.CodesRead)
	r.do("POST", "/codes/find", token, `{"code":"SECRETVALUE"}`)
	r.do("POST", "/codes", token, `{"codes":[{"serial":"SECRETVALUE"}]}`, "Idempotency-Key", "SECRETVALUE")
	r.do("GET", "/codes/SECRETVALUE?x=SECRETVALUE", token, "")
	r.do("GET", "/SECRETVALUE", token, "")
	r.wait(time.Second) // strangers have one line a second
	r.do("SECRETVALUE", "/codes", token, "")
	logged := r.log.String()
	for _, want := range []string{
		`request="POST /api/v1/codes/find" status=404 check=not-found token=` + string(id),
		`request="POST /api/v1/codes" status=403 check=scope-missing`,
		`request="GET /api/v1/codes/{code}" status=422 check=invalid-request`,
		`request="GET none" status=404 check=no-route`,
		`request="(other) none" status=405 check=method`,
	} {
		if !strings.Contains(logged, want) {
			t.Errorf("not logged: %s", want)
		}
	}
	var trail strings.Builder
	for row := range r.store.Audit(t.Context(), audit.Filter{}) {
		for _, value := range row.Detail {
			trail.WriteString(value + "\n")
		}
	}
	for name, text := range map[string]string{"log": logged, "audit": trail.String()} {
		if strings.Contains(text, "SECRETVALUE") || strings.Contains(text, token) {
			t.Errorf("the %s holds what the request held:\n%s", name, text)
		}
	}
}
