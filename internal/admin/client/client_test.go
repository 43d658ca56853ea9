package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

// serve is a client of a server that answers as a test wants.
func serve(t *testing.T, handle http.HandlerFunc) *client.Client {
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return client.New(s.URL+"/", nil, "assay_secret")
}

func TestRequestCarriesTokenAndConditions(t *testing.T) {
	api := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for name, want := range map[string]string{"Authorization": "Bearer assay_secret", "Content-Type": "application/json", "If-Match": `"r1"`} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
		if r.Method != "PATCH" || r.URL.EscapedPath() != "/api/v1/devices/a%2Fb" || string(body) != `{"labels":{"a":"b"}}` {
			t.Errorf("%s %s %s", r.Method, r.URL.EscapedPath(), body)
		}
		fmt.Fprint(w, `{"id":"dev_1"}`)
	})
	got, err := api.UpdateDevice(t.Context(), "a/b", admin.DeviceChange{Labels: map[string]string{"a": "b"}}, `"r1"`)
	if err != nil || got.ID != "dev_1" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestProblemIsAnError(t *testing.T) {
	api := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.WriteHeader(422)
		fmt.Fprint(w, `{"status":422,"title":"T","detail":"validation failed","check":"invalid-request","errors":[{"message":"expected string","location":"body.x"}]}`)
	})
	_, err := api.Code(t.Context(), "code_1")
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != 422 || p.Title != "T" || p.Check != "invalid-request" || len(p.Errors) != 1 || err.Error() != "validation failed; body.x: expected string" {
		t.Errorf("got %v", err)
	}
}

func TestProblemSaysEachFaultOnce(t *testing.T) {
	p := client.Problem{Detail: "body.serial: blanks", Errors: []client.ProblemDetail{
		{Message: "blanks", Location: "body.serial"}, {Message: "blanks", Location: "body.udid"}, {Message: "other"},
	}}
	if got := p.Error(); got != "body.serial: blanks; body.udid: blanks; other" {
		t.Error(got)
	}
}

func TestAnswerOfSomethingElseIsSaidToBeThat(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"proxy's page": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(502)
			fmt.Fprint(w, "<html>secret</html>")
		},
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"no JSON":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>") },
		"cut off": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			fmt.Fprint(w, `{"id"`)
		},
		"too large": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, client.MaxAnswer+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, handle).Code(t.Context(), "code_1")
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTokenFollowsNoRedirect(t *testing.T) {
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("the stranger was asked") }))
	defer stranger.Close()
	api := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, stranger.URL, http.StatusTemporaryRedirect)
	})
	if _, err := api.Code(t.Context(), "code_1"); err == nil {
		t.Error("a redirect is an answer")
	}
}

func TestListGoesOnUntilItsEndOrItsReader(t *testing.T) {
	pages := 0
	api := serve(t, func(w http.ResponseWriter, r *http.Request) {
		pages++
		switch r.URL.Query().Get("cursor") {
		case "":
			fmt.Fprint(w, `{"items":[{"id":"1"},{"id":"2"}],"next":"n"}`)
		case "n": // a page may hold nothing, and not be the last
			fmt.Fprint(w, `{"items":[],"next":"m"}`)
		case "m":
			fmt.Fprint(w, `{"items":[{"id":"3"}]}`)
		}
		if r.URL.Query().Get("status") != "unused" || r.URL.Query().Has("serial") {
			t.Errorf("query %s", r.URL.RawQuery)
		}
	})
	var ids []string
	for code, err := range api.Codes(t.Context(), client.CodeFilter{Status: "unused"}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, code.ID)
	}
	if strings.Join(ids, "") != "123" || pages != 3 {
		t.Errorf("%v in %d pages", ids, pages)
	}
	for range api.Codes(t.Context(), client.CodeFilter{Status: "unused"}) {
		break
	}
	if pages != 4 {
		t.Errorf("%d pages were read for one thing", pages-3)
	}
}

func TestListEndsWithItsFirstError(t *testing.T) {
	api := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") != "" {
			w.WriteHeader(500)
			return
		}
		fmt.Fprint(w, `{"items":[{"id":"1"}],"next":"n"}`)
	})
	items, failures := 0, 0
	for _, err := range api.Devices(t.Context(), client.DeviceFilter{}) {
		if err != nil {
			failures++
			continue
		}
		items++
	}
	if items != 1 || failures != 1 {
		t.Errorf("%d items, %d errors", items, failures)
	}
}

func TestErrorNamesNoQuery(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	for _, err := range client.New(s.URL, nil, "").Devices(t.Context(), client.DeviceFilter{Serial: "C02SECRET"}) {
		if err == nil || strings.Contains(err.Error(), "C02SECRET") {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.New(s.URL, nil, "").Healthy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestInProcessAnswersLikeAServer(t *testing.T) {
	rt := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI != "/a?b=c" || r.Body == nil {
			t.Errorf("request %q", r.RequestURI)
		}
		w.Header().Set("X", "1")
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusTeapot) // too late
		w.Header().Set("X", "2")
		fmt.Fprint(w, "hello")
	}))
	q, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x/a?b=c", nil)
	answer, err := rt.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusAccepted || answer.Header.Get("X") != "1" || string(body) != "hello" || answer.ContentLength != 5 {
		t.Errorf("got %d %v %q", answer.StatusCode, answer.Header, body)
	}
}
