package kmfddm

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"assay/internal/delivery"

	"github.com/google/go-cmp/cmp"
)

// record is a KMFDDM that writes down what it is asked.
type record struct {
	calls  []string
	bodies []string
	answer func(n int, w http.ResponseWriter)
}

func (r *record) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	name, key, _ := q.BasicAuth()
	body, _ := io.ReadAll(q.Body)
	r.calls = append(r.calls, name+":"+key+" "+q.Method+" "+q.RequestURI)
	r.bodies = append(r.bodies, string(body))
	r.answer(len(r.calls), w)
}

func newRecord(t *testing.T, answer func(n int, w http.ResponseWriter)) (*record, *Client) {
	t.Helper()
	r := &record{answer: answer}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	client, err := New(Options{URL: server.URL + "/", Key: "key"})
	if err != nil {
		t.Fatal(err)
	}
	return r, client
}

func changed(_ int, w http.ResponseWriter)   { w.WriteHeader(http.StatusNoContent) }
func unchanged(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusNotModified) }

func testPush() delivery.Push {
	return delivery.Push{
		Enrollment: "00008110-FACADE01",
		Asset:      []byte(`{"a":1}`), Configuration: []byte(`{"c":1}`), Activation: []byte(`{"x":1}`),
		AssetIdentifier: "assay.cred_1.asset", ConfigurationIdentifier: "assay.cred_1.identity", ActivationIdentifier: "assay.cred_1.activation",
	}
}

func TestPushStoresThenJoinsThenNotifiesOnce(t *testing.T) {
	for name, answer := range map[string]func(int, http.ResponseWriter){"new": changed, "repeated": unchanged} {
		r, client := newRecord(t, answer)
		if err := client.Push(t.Context(), testPush()); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"PUT /v1/declarations?nonotify=1",
			"PUT /v1/declarations?nonotify=1",
			"PUT /v1/declarations?nonotify=1",
			"PUT /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.asset&nonotify=1",
			"PUT /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.identity&nonotify=1",
			"PUT /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.activation&nonotify=1",
			"PUT /v1/enrollment-sets/00008110-FACADE01?nonotify=1&set=assay.cred_1",
			"POST /v1/notify?id=00008110-FACADE01",
		}
		for i := range want {
			want[i] = "kmfddm:key " + want[i]
		}
		if diff := cmp.Diff(want, r.calls); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff([]string{`{"a":1}`, `{"c":1}`, `{"x":1}`, "", "", "", "", ""}, r.bodies); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWithdrawalGoesBackwards(t *testing.T) {
	r, client := newRecord(t, changed)
	p := testPush()
	p.Withdrawn, p.Asset, p.Configuration, p.Activation = true, nil, nil, nil
	if err := client.Push(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"DELETE /v1/enrollment-sets/00008110-FACADE01?nonotify=1&set=assay.cred_1",
		"DELETE /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.activation&nonotify=1",
		"DELETE /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.identity&nonotify=1",
		"DELETE /v1/set-declarations/assay.cred_1?declaration=assay.cred_1.asset&nonotify=1",
		"DELETE /v1/declarations/assay.cred_1.activation",
		"DELETE /v1/declarations/assay.cred_1.identity",
		"DELETE /v1/declarations/assay.cred_1.asset",
		"POST /v1/notify?id=00008110-FACADE01",
	}
	for i := range want {
		want[i] = "kmfddm:key " + want[i]
	}
	if diff := cmp.Diff(want, r.calls); diff != "" {
		t.Error(diff)
	}
}

func TestPushEndsAtTheFirstFailureAndSaysWhich(t *testing.T) {
	for _, test := range []struct {
		at, status int
		body       string
		want       []string
	}{
		{1, 401, "Unauthorized\n", []string{"enrollment 00008110-FACADE01", "store asset assay.cred_1.asset", "status 401: Unauthorized", "-api flag"}},
		{2, 400, `{"error":"parsing\u001b[31m declaration"}`, []string{"store configuration", "status 400: parsing [31m declaration", "v0.8.3"}},
		{4, 404, "404 page not found", []string{"add asset assay.cred_1.asset to set assay.cred_1", "without /v1"}},
		{7, 500, `{"error":"` + strings.Repeat("x", 9000) + `"}`, []string{"join set assay.cred_1 to the enrollment", "status 500", "xxx…", "log says more"}},
		{8, 302, "", []string{"notify the enrollment", "status 302"}},
	} {
		r, client := newRecord(t, func(n int, w http.ResponseWriter) {
			if n == test.at {
				w.Header().Set("Location", "/v1/declarations")
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}
		})
		err := client.Push(t.Context(), testPush())
		failure, ok := errors.AsType[*Error](err)
		if !ok || failure.Status != test.status || len(r.calls) != test.at {
			t.Errorf("%d: %v after %d calls", test.status, err, len(r.calls))
			continue
		}
		if len(err.Error()) > 500 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not say %q", err, want)
			}
		}
	}
}

func TestAnErrorNeverHoldsAPartOfTheDocumentsSecret(t *testing.T) {
	const secret = "Ab3-Ef7_Ij1MnOpQrStUvWxYz0123456"
	url := "https://id.example.com/credential/" + secret
	for name, said := range map[string]string{
		"whole":                      "cannot read " + url,
		"cut by our own limit":       strings.Repeat("x", 200-len("https://id.example.com/credential/")-12) + url,
		"cut by KMFDDM":              "cannot read " + url[:len(url)-20],
		"cut short":                  "cannot read https://id.example.com/credential/Ab3-E",
		"in the declaration":         `{"error":"cannot read {\"DataURL\":\"https:\\/\\/id.example.com\\/credential\\/` + secret + `\"}"}`,
		"without its path":           "no such thing: " + secret + " (" + secret[:12] + ")",
		"cut by the limit of bytes":  strings.Repeat(" ", maxAnswer-20) + secret,
		"of an earlier one, escaped": `https:\/\/id.example.com\/credential\/Zy9876543210zyxwvutsrqponmlkji`,
		"of an earlier document":     "cannot replace https://id.example.com/credential/Zy9876543210zyxwvutsrqponmlkji",
	} {
		_, client := newRecord(t, func(_ int, w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, said)
		})
		p := testPush()
		p.Asset = declarationJSON(t, "com.apple.asset.credential.acme", p.AssetIdentifier, map[string]any{"Reference": map[string]any{"DataURL": url}})
		err := client.Push(t.Context(), p)
		if failure, ok := errors.AsType[*Error](err); !ok || !strings.Contains(failure.Said, "…") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, part := range []string{secret[:4], secret[12:16], secret[len(secret)-4:], "Zy98"} {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestPushSaysWhenNobodyAnswers(t *testing.T) {
	_, client := newRecord(t, changed)
	client.base = "http://127.0.0.1:1"
	err := client.Push(t.Context(), testPush())
	if failure, ok := errors.AsType[*Error](err); !ok || failure.Status != 0 || !strings.Contains(err.Error(), "is KMFDDM running at http://127.0.0.1:1?") {
		t.Errorf("error %v", err)
	}
}

func TestPushEndsWhenKMFDDMHangs(t *testing.T) {
	release := make(chan struct{})
	_, client := newRecord(t, func(int, http.ResponseWriter) { <-release })
	defer close(release)
	if client.http.Timeout != callLimit {
		t.Errorf("a call may take %v", client.http.Timeout)
	}
	client.http.Timeout = 50 * time.Millisecond
	if err := client.Push(t.Context(), testPush()); err == nil {
		t.Error("pushed to a server that hangs")
	}
}

func TestPushRefusesNamesThatWouldReachOthers(t *testing.T) {
	for name, change := range map[string]func(*delivery.Push){
		"no enrollment":        func(p *delivery.Push) { p.Enrollment = "" },
		"two enrollments":      func(p *delivery.Push) { p.Enrollment = "A,B" },
		"another path":         func(p *delivery.Push) { p.Enrollment = ".." },
		"path separator":       func(p *delivery.Push) { p.Enrollment = "a/b" },
		"space":                func(p *delivery.Push) { p.Enrollment = "a b" },
		"control character":    func(p *delivery.Push) { p.Enrollment = "a\x00" },
		"long enrollment":      func(p *delivery.Push) { p.Enrollment = strings.Repeat("a", 256) },
		"another identifier":   func(p *delivery.Push) { p.AssetIdentifier = "assay.cred_1" },
		"no credential":        func(p *delivery.Push) { p.AssetIdentifier = ".asset" },
		"no asset identifier":  func(p *delivery.Push) { p.AssetIdentifier = "" },
		"no asset":             func(p *delivery.Push) { p.Asset = nil },
		"no configuration":     func(p *delivery.Push) { p.Configuration = nil },
		"no activation":        func(p *delivery.Push) { p.Activation = nil },
		"identifier with path": func(p *delivery.Push) { p.ActivationIdentifier = "a/b" },
	} {
		r, client := newRecord(t, changed)
		p := testPush()
		change(&p)
		if err := client.Push(t.Context(), p); err == nil || len(r.calls) > 0 {
			t.Errorf("%s: %v after %d calls", name, err, len(r.calls))
		}
	}
}

func TestEnrollmentIDsOfUserChannelsAreEscaped(t *testing.T) {
	r, client := newRecord(t, changed)
	p := testPush()
	p.Enrollment = "UDID:user@example.com"
	if err := client.Push(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := r.calls[len(r.calls)-1]; got != "kmfddm:key POST /v1/notify?id=UDID%3Auser%40example.com" {
		t.Error(got)
	}
}

func TestNewRefusesUnusableOptions(t *testing.T) {
	for _, o := range []Options{
		{URL: "", Key: "k"}, {URL: "127.0.0.1:9002", Key: "k"}, {URL: "ftp://127.0.0.1", Key: "k"},
		{URL: "http://kmfddm.example.com", Key: "k"}, {URL: "https://a:secret@kmfddm.example.com", Key: "k"},
		{URL: "https://kmfddm.example.com?x=1", Key: "k"}, {URL: "http://127.0.0.1:9002", Key: ""},
	} {
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, o := range []Options{
		{URL: "https://kmfddm.example.com", Key: "k"}, {URL: "http://[::1]:9002", Key: "k"}, {URL: "http://localhost:9002/", Key: "k"},
		{URL: "http://kmfddm.example.com", Key: "k", PlainHTTP: true},
	} {
		if _, err := New(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// declarationJSON is a declaration as Assay renders it.
func declarationJSON(t *testing.T, kind, identifier string, payload any) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"Type": kind, "Identifier": identifier, "ServerToken": "ours", "Payload": payload})
	if err != nil {
		t.Fatal(err)
	}
	return data
}
