package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"
)

const publishedExample = "../../credential/testdata/published.json"

// checkCredential runs `assay credential check` and returns its exit code and what it wrote.
func checkCredential(t *testing.T, stdin string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	term := &terminal{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr, Now: time.Now}
	code = run(t.Context(), append([]string{"credential", "check"}, args...), term)
	return code, stdout.String(), stderr.String()
}

func TestCredentialCheckPassesThePublishedExample(t *testing.T) {
	code, out, errOut := checkCredential(t, "", publishedExample, "--target", "ios:17.4,chip=A12")
	if code != exitDone || errOut != "" {
		t.Errorf("exit code %d, standard error %q", code, errOut)
	}
	for _, want := range []string{
		"warning  $.SubjectAltName.rfc822Name  line 10, column 23",
		"for ios:17.4,chip=A12\n  fits",
		publishedExample + ": no errors, 3 warnings\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("output that is not for a terminal has styles")
	}
}

func TestCredentialCheckPutsErrorsBeforeWarnings(t *testing.T) {
	code, out, _ := checkCredential(t, `{"Colour": 1, "KeySize": "384"}`, "-", "--target", "macos:14.0")
	if code != exitNo {
		t.Errorf("exit code %d, want %d", code, exitNo)
	}
	lastError, firstWarning := strings.LastIndex(out, "\n  error "), strings.Index(out, "\n  warning ")
	if lastError < 0 || firstWarning < lastError {
		t.Errorf("errors do not come first:\n%s", out)
	}
	for _, want := range []string{"$.KeySize", "fix: write the number without quotes: 384", "wrong-type (Apple schema", "-: 6 errors, 1 warning\n", "for macos:14.0\n  nothing to add to the errors above"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestCredentialCheckCountsTheTargetsErrors(t *testing.T) {
	code, out, _ := checkCredential(t, "", publishedExample, "--target", "ios:17.4,chip=A12", "--target", "ios:16.7,chip=A11")
	if code != exitNo || !strings.Contains(out, ": 1 error, 3 warnings\n") || !strings.Contains(out, "for ios:16.7,chip=A11\n  error    $") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestCredentialCheckJSONIsOneObjectAFile(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`[]`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := checkCredential(t, "", "--json", publishedExample, bad, "--target", "macos:14.0,chip=T2")
	if code != exitNo {
		t.Errorf("exit code %d, want %d", code, exitNo)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), out)
	}
	var got [2]checkedFile
	for i, line := range lines {
		if err := json.Unmarshal([]byte(line), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !got[0].OK || got[0].Errors != 0 || got[0].Warnings != 4 || got[0].Targets[0].Findings[0].Rule != "target-attest-ignored" {
		t.Errorf("published example: %+v", got[0])
	}
	if got[1].OK || got[1].Errors != 1 || got[1].Findings[0].Rule != "not-an-object" {
		t.Errorf("bad document: %+v", got[1])
	}
	if !strings.Contains(lines[1], `"targets":[{"target":"macos:14.0,chip=T2","findings":[]}]`) {
		t.Errorf("no findings are not an empty list: %s", lines[1])
	}
}

func TestCredentialCheckReadsOnBehindAnUnreadableFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.json")
	code, out, errOut := checkCredential(t, "", missing, publishedExample)
	if code != exitUsage || !strings.Contains(errOut, missing) || !strings.Contains(out, publishedExample+": no errors") {
		t.Errorf("exit code %d, standard error %q, output:\n%s", code, errOut, out)
	}
	code, out, _ = checkCredential(t, "", "--json", missing)
	if code != exitUsage || !strings.Contains(out, `"ok":false`) || !strings.Contains(out, `"unreadable":`) {
		t.Errorf("exit code %d, output:\n%s", code, out)
	}
}

func TestCredentialCheckReportsAnOversizeDocument(t *testing.T) {
	code, out, _ := checkCredential(t, strings.Repeat(" ", 70000), "-")
	if code != exitNo || !strings.Contains(out, "document-too-large") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestCredentialCheckRefusesWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{publishedExample, "--target", "android:14"}, "hint: a target is written like"},
		{[]string{publishedExample, "--target", ""}, "the platform is ios"},
		{[]string{"-", "-"}, "only once"},
		{nil, "<file>"},
	} {
		code, _, errOut := checkCredential(t, "", c.args...)
		if code != exitUsage || !strings.Contains(errOut, c.says) {
			t.Errorf("%q: exit code %d, standard error %q; want %q", c.args, code, errOut, c.says)
		}
	}
}

func TestCredentialCheckStopsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	err := (&credentialCheck{Files: []string{publishedExample}}).Run(ctx, &terminal{Out: &out}, &globals{})
	if diff := cmp.Diff("", out.String()); err == nil || diff != "" {
		t.Errorf("error %v, output %s", err, diff)
	}
}

func TestCredentialCheckHelpHasExampleAndExitCodes(t *testing.T) {
	code, out, _ := checkCredential(t, "", "--help")
	if code != exitDone || !strings.Contains(out, "assay credential check acme.json") || !strings.Contains(out, "Exit codes") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestFindingsWrapAtTheTerminalsWidth(t *testing.T) {
	p := newFindingPrinter(&terminal{Out: &bytes.Buffer{}})
	p.width = 40
	var b strings.Builder
	p.paragraph(&b, "DirectoryURL uses http: devices speak ACME over https only", p.faint)
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Errorf("%d lines:\n%s", len(lines), b.String())
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "           ") || lipgloss.Width(line) > 40 {
			t.Errorf("line is not indented or too wide: %q", line)
		}
	}
}
