package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/installation"
	"assay/internal/opinion"
	"assay/policy"
)

// askOpinion runs `assay opinion test`.
func askOpinion(t *testing.T, dir string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), append([]string{"opinion", "test", "--dir", dir}, args...),
		&terminal{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Now: time.Now})
	return code, stdout.String(), stderr.String()
}

// opinionInstallation is an installation that asks a service.
func opinionInstallation(t *testing.T, url string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "id")
	_, err := installation.Init(t.Context(), dir, installation.InitOptions{Name: "Example Inc.", Listen: "127.0.0.1:0", Now: time.Now, From: "operator:test"})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "assay.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "\nopinion: {url: '%s', secretFile: opinion.secrets}\n", url)
	for name, data := range map[string][]byte{config: text, filepath.Join(dir, "opinion.secrets"): []byte("whsec_" + strings.Repeat("AAAA", 8))} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpinionTestShowsTheAnswer(t *testing.T) {
	var body []byte
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		var request struct{ ID string }
		_ = json.Unmarshal(body, &request)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%q,"verdict":"clean","score":-3,"tags":["patched","old-os"],"reason":"\u001b[31mok"}`, request.ID)
	}))
	defer service.Close()
	dir := opinionInstallation(t, service.URL)
	code, out, errs := askOpinion(t, dir)
	if code != exitDone || errs != "" {
		t.Errorf("exit code %d, %s", code, errs)
	}
	for _, want := range []string{"Asked " + service.URL + ": test request opinion_", "\nAnswered in ", "verdict  clean", "score    -3", "tags     patched, old-os", "reason   [31mok"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	if !bytes.Contains(body, []byte(`"test":true`)) || !bytes.Contains(body, []byte("FAKE00000001")) {
		t.Errorf("sent %s", body)
	}

	// A stored decision's input, in place of the invented one.
	input := opinion.Sample(time.Now())
	input.Directory = "fleet"
	data, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ = askOpinion(t, dir, "--input", file, "--json")
	var line map[string]any
	if err := json.Unmarshal([]byte(out), &line); err != nil || code != exitDone {
		t.Fatalf("exit code %d, %v in %s", code, err, out)
	}
	if line["answered"] != true || line["verdict"] != "clean" || line["score"] != -3.0 || line["url"] != service.URL || line["milliseconds"] == nil {
		t.Errorf("%s", out)
	}
	if !bytes.Contains(body, []byte(`"directory":"fleet"`)) || !bytes.Contains(body, []byte(`"test":true`)) {
		t.Errorf("sent %s", body)
	}
	for name, text := range map[string]string{"unknown": `{"device":{"owner":"x"}}`, "two": string(data) + "{}", "none": "hello"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := askOpinion(t, dir, "--input", file); code != exitUsage || !strings.Contains(errs, "is no input of a decision") {
			t.Errorf("%s: exit code %d, %s", name, code, errs)
		}
	}
}

func TestOpinionTestSaysWhyThereIsNoAnswer(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	defer service.Close()
	dir := opinionInstallation(t, service.URL)
	code, out, _ := askOpinion(t, dir)
	if code != exitNo {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"NO answer after ", ": status\n", "with status 401", "who are you?", "the same secret"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	code, out, _ = askOpinion(t, dir, "--json")
	if code != exitNo || !strings.Contains(out, `"answered":false,"failure":"status","error":"the service answered with status 401","status":401,"received":"who are you?\n"`) {
		t.Errorf("exit code %d, %s", code, out)
	}
	if err := os.Chmod(filepath.Join(dir, "opinion.secrets"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := askOpinion(t, dir); code != exitUsage || !strings.Contains(errs, "chmod 600") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

func TestOpinionTestNeedsAService(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "id")
	if _, err := installation.Init(t.Context(), dir, installation.InitOptions{Name: "Example Inc.", Listen: "127.0.0.1:0", Now: time.Now, From: "operator:test"}); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := askOpinion(t, dir); code != exitUsage || !strings.Contains(errs, "no service outside is configured") || !strings.Contains(errs, "hint: ") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

func TestEveryFailureThatSomebodyCanMendHasAHint(t *testing.T) {
	for failure, want := range map[string]bool{
		opinion.Timeout: true, opinion.Unreachable: true, opinion.Status: true, opinion.Malformed: true, opinion.WrongID: true, opinion.Unsigned: true,
		opinion.Canceled: false, opinion.Unsendable: false,
	} {
		r := &opinion.Report{Opinion: &policy.Opinion{Failure: failure}, Status: http.StatusFound}
		if got := opinionHint(r); (got != "") != want {
			t.Errorf("%s: hint %q", failure, got)
		}
	}
}
