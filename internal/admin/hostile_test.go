package admin_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"assay/internal/admin"
	"assay/internal/issuance"
)

func TestMalformedBodiesAreRefusedByName(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	deep := strings.Repeat("[", 33) + strings.Repeat("]", 33)
	for name, c := range map[string]struct {
		path, body string
		header     []string
		status     int
		check      string
		says       string
	}{
		"unknown member":           {"/codes", `{"codes":[{"serail":"x"}]}`, nil, 422, "invalid-request", "serail"},
		"member in another case":   {"/codes", `{"codes":[{"Serial":"x"}]}`, nil, 422, "invalid-request", "Serial"},
		"member twice":             {"/codes", `{"codes":[{"serial":"x","serial":"y"}]}`, nil, 400, "malformed-request", "twice"},
		"wrong type":               {"/codes", `{"codes":[{"serial":7}]}`, nil, 422, "invalid-request", "body.codes[0].serial"},
		"none":                     {"/codes", `{"codes":[]}`, nil, 422, "invalid-request", "body.codes"},
		"null":                     {"/codes", `{"codes":null}`, nil, 422, "invalid-request", "body.codes"},
		"too many":                 {"/codes", `{"codes":[` + strings.Repeat("{},", 500) + `{}]}`, nil, 422, "invalid-request", "500"},
		"serial not UTF-8":         {"/codes", "{\"codes\":[{\"serial\":\"\xff\"}]}", nil, 422, "device-named", "UTF-8"},
		"half a character":         {"/codes", `{"codes":[{"labels":{"owner":"\ud800"}}]}`, nil, 422, "labels", "UTF-8"},
		"name lost before":         {"/credentials", `{"template":"wifi","udid":"\ufffd"}`, nil, 422, "device-named", "UTF-8"},
		"no JSON":                  {"/codes", `{`, nil, 400, "malformed-request", "body"},
		"two values":               {"/codes", `{"codes":[{}]}{}`, nil, 400, "malformed-request", "follows"},
		"deep":                     {"/codes", deep, nil, 400, "malformed-request", "deep"},
		"very deep":                {"/codes", strings.Repeat("[", 100_000), nil, 400, "malformed-request", "deep"},
		"deep report":              {"/status", `{"a":` + deep + `}`, nil, 400, "malformed-request", "deep"},
		"very deep event":          {"/status/nanomdm", strings.Repeat(`{"a":`, 100_000), nil, 400, "malformed-request", "deep"},
		"report of another type":   {"/status", `[]`, nil, 422, "status-report", "body"},
		"event without topic":      {"/status/nanomdm", `{}`, nil, 422, "nanomdm-event", "topic"},
		"text":                     {"/codes", `{"codes":[{}]}`, []string{"Content-Type", "text/plain"}, 415, "content-type", "application/json"},
		"form":                     {"/status/nanomdm", `{"topic":"x"}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "content-type", "application/json"},
		"kind of JSON":             {"/codes", `{"codes":[{}]}`, []string{"Content-Type", "application/merge-patch+json"}, 415, "content-type", "application/json"},
		"compressed":               {"/codes", `{"codes":[{}]}`, []string{"Content-Encoding", "gzip"}, 415, "content-encoding", "encoded"},
		"body where none is taken": {"/codes/code_x/revoke", `{"reason":"x"}`, nil, 400, "body-unexpected", "body"},
		"nothing":                  {"/codes", ` `, nil, 400, "malformed-request", "body"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, body := r.do("POST", c.path, token, c.body, c.header...)
			r.wantProblem(answer, body, c.status, c.check)
			if !strings.Contains(body, c.says) {
				t.Errorf("%s does not say %q", body, c.says)
			}
			if len(body) > 4<<10 {
				t.Errorf("the answer to a faulty request has %d bytes", len(body))
			}
		})
	}
	if n := len(collect(t, r.store.Codes(t.Context(), issuance.CodeFilter{}))); n != 0 {
		t.Errorf("%d codes were minted", n)
	}
}

func TestBodiesAreBoundedByRoute(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	for path, limit := range map[string]int{
		"/codes": 4 << 20, "/codes/find": 1 << 20, "/credentials": 1 << 20, "/credentials/batch": 4 << 20, "/documents": 1 << 20,
		"/status": 1 << 20, "/status/nanomdm": 2 << 20,
	} {
		t.Run(path, func(t *testing.T) {
			answer, body := r.do("POST", path, token, "{}"+strings.Repeat(" ", limit-1))
			r.wantProblem(answer, body, http.StatusRequestEntityTooLarge, "body-too-large")
			if strings.Contains(body, fmt.Sprint(limit+1)) {
				t.Errorf("the refusal names a limit that is none: %s", body)
			}
			answer, body = r.do("POST", path, token, "{}"+strings.Repeat(" ", limit-2))
			if answer.StatusCode == http.StatusRequestEntityTooLarge {
				t.Errorf("a body of the limit itself is refused: %s", body)
			}
		})
	}
}

func TestBodyIsNotReadBeforeTheTokenIsKnown(t *testing.T) {
	r := newRig(t, nil)
	w := httptest.NewRecorder()
	q := httptest.NewRequest("POST", admin.Prefix+"/codes", unreadable{t})
	q.Header.Set("Content-Type", "application/json")
	r.api.Handler().ServeHTTP(w, q)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("got %d", w.Code)
	}
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("a stranger's body is read")
	return 0, errors.New("not to be read")
}

func TestOtherMethodsAndPathsAreRefused(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	answer, body := r.do("PUT", "/codes", token, "")
	r.wantProblem(answer, body, http.StatusMethodNotAllowed, "method")
	if allow := answer.Header.Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("Allow: %s", allow)
	}
	for _, path := range []string{"/", "/code", "/codes/", "/codes//x", "/codes/a/../../devices", "/codes/a/b/c"} {
		answer, body := r.do("GET", path, token, "")
		r.wantProblem(answer, body, http.StatusNotFound, "no-route")
	}
	if answer, body := r.do("HEAD", "/codes", token, ""); answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %d %s", answer.StatusCode, body)
	}
}

func TestUnknownErrorsAreLoggedAndNotTold(t *testing.T) {
	var fail func() error
	r := newRig(t, func(c *admin.Config) { c.Store = failing{Store: c.Store, code: func() error { return fail() }} })
	token, _ := r.token(admin.CodesRead)
	for name, c := range map[string]struct {
		fail   func() error
		status int
		check  string
		logged string
	}{
		"error":   {func() error { return errors.New("disk on fire") }, 500, "internal", "disk on fire"},
		"panic":   {func() error { panic("index out of hand") }, 500, "internal", "index out of hand"},
		"where":   {func() error { panic("again") }, 500, "internal", "admin_test.failing.Code"}, // the stack
		"busy":    {func() error { return fmt.Errorf("write: %w", issuance.ErrOverloaded) }, 503, "overloaded", "store is overloaded"},
		"ended":   {func() error { return fmt.Errorf("read: %w", context.Canceled) }, 503, "request-ended", "canceled"},
		"timeout": {func() error { return context.DeadlineExceeded }, 503, "too-slow", "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			fail = c.fail
			answer, body := r.do("GET", "/codes/code_x", token, "")
			if answer.StatusCode != c.status || !strings.Contains(body, c.check) || strings.Contains(body, c.logged) {
				t.Errorf("got %d %s", answer.StatusCode, body)
			}
			if retry := answer.Header.Get("Retry-After"); (retry == "1") != (c.check == "overloaded") {
				t.Errorf("Retry-After: %q", retry)
			}
			if !strings.Contains(r.log.String(), c.logged) {
				t.Errorf("not logged: %s", r.log.String())
			}
		})
	}
}

func TestAnAnswerThatPanicsHalfwayIsCut(t *testing.T) {
	r := newRig(t, nil)
	r.api.Handle("GET /half", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("[1, "))
		panic("index out of hand")
	})
	defer func() {
		if p := recover(); p != http.ErrAbortHandler || !strings.Contains(r.log.String(), "index out of hand") {
			t.Errorf("the client takes half for the whole: %v\n%s", p, r.log)
		}
	}()
	r.api.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/half", nil))
}

func TestNewRefusesWhatWouldFailLater(t *testing.T) {
	whole := newRig(t, nil).config
	for name, change := range map[string]func(*admin.Config){
		"store": func(c *admin.Config) { c.Store = nil }, "declarer": func(c *admin.Config) { c.Declarer = nil },
		"clock": func(c *admin.Config) { c.Now = nil }, "directories": func(c *admin.Config) { c.Directories = nil },
	} {
		c := whole
		change(&c)
		if _, err := admin.New(c); err == nil {
			t.Errorf("an API without %s was made", name)
		}
	}
}
