package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
)

// steering are characters that a terminal obeys: ESC, CSI in one character (C1), and the override of the
// writing direction.
const steering = "FAKE\x1b[2J\u009b31m\u202e1"

// adminAt is an API that answers some paths; the flags reach it.
func adminAt(t *testing.T, answers map[string]any) (flags []string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, found := answers[strings.TrimPrefix(r.URL.Path, "/api/v1")]
		if !found {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			answer = map[string]any{"detail": "the device " + steering + " has none"}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(token, []byte("assay_x\n"), 0o600), os.WriteFile(ca, certificatePEM(server.Certificate().Raw), 0o600)); err != nil {
		t.Fatal(err)
	}
	return []string{"--server", server.URL, "--token-file", token, "--ca-file", ca}
}

// TestNothingFromElsewhereSteersTheTerminal: whatever a device or a server says, tables, pages and errors
// show it escaped.
func TestNothingFromElsewhereSteersTheTerminal(t *testing.T) {
	code := admin.Code{ID: "code_1", Status: "unused", Serial: steering, UDID: steering, LastRefusal: steering, Labels: map[string]string{"owner": steering}}
	certificate := admin.Certificate{ID: "cert_1", Status: "valid", DeviceSerial: steering, Code: steering}
	flags := adminAt(t, map[string]any{
		"/codes": admin.List[admin.Code]{Items: []admin.Code{code}}, "/codes/code_1": code,
		"/certificates": admin.List[admin.Certificate]{Items: []admin.Certificate{certificate}},
		"/audit": admin.List[map[string]any]{Items: []map[string]any{{
			"id": "audit_1", "time": "2026-03-01T12:00:00Z", "action": steering, "outcome": "refused", "check": steering, "order": steering,
			"detail": map[string]string{"detail": steering, "name": steering}, "personal": map[string]string{"serial": steering},
		}}},
	})
	for _, args := range [][]string{{"code", "list"}, {"code", "show", "code_1"}, {"certificate", "list"}, {"audit", "list"}, {"device", "list"}} {
		_, out, errs := assay(t, strings.NewReader(""), slices.Concat(args, flags)...)
		if strings.ContainsAny(out+errs, "\x1b\u009b\u202e") || !strings.Contains(out+errs, `FAKE\x1b[2J\u009b31m\u202e1`) {
			t.Errorf("%s: %q, %q", args, out, errs)
		}
	}
	var errs bytes.Buffer
	report(&terminal{Err: &errs}, withHint(errors.New("one\n"+steering), "look\n"+steering))
	if got := errs.String(); got != "assay: one\n"+`FAKE\x1b[2J\u009b31m\u202e1`+"\nhint: look\n"+`FAKE\x1b[2J\u009b31m\u202e1`+"\n" {
		t.Errorf("an error is %q", got)
	}
}

// TestALongListSaysThatItGoesOn: where pages hold nothing, all is silent otherwise.
func TestALongListSaysThatItGoesOn(t *testing.T) {
	pages := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := admin.List[admin.Credential]{Items: []admin.Credential{}, Next: "more"}
		if pages++; pages == 3 {
			page = admin.List[admin.Credential]{Items: []admin.Credential{{ID: "cred_1"}}}
		}
		_ = json.NewEncoder(w).Encode(page)
	}))
	t.Cleanup(server.Close)
	var out, errs bytes.Buffer
	now := time.Now()
	term := &terminal{Out: &out, Err: &errs, Now: func() time.Time { now = now.Add(progressInterval * 2 / 3); return now }}
	api := client.New(server.URL, nil, "")
	things := api.Credentials(t.Context(), client.CredentialFilter{State: "dead"})
	err := printList(term, &globals{}, api, things, newTable(&out, "credentials", "ID"), func(c admin.Credential) []string { return []string{c.ID} })
	if err != nil || errs.String() != "credentials: 0 so far\n" || !strings.Contains(out.String(), "cred_1") {
		t.Errorf("%v, out %q, err %q", err, &out, &errs)
	}
}
