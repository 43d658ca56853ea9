package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/internal/counterpart"
)

// sessionOf returns the indented lines of a document's section, as a person types them.
func sessionOf(t *testing.T, document, section string) string {
	t.Helper()
	_, text, found := strings.Cut(documents(t)[document], "\n## "+section+"\n")
	if !found {
		t.Fatalf("%s has no section %q", document, section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var typed strings.Builder
	for line := range strings.Lines(text) {
		if command, indented := strings.CutPrefix(line, "    "); indented {
			typed.WriteString(command)
		}
	}
	return typed.String()
}

// TestNanoMDMSessionWorksAsTyped runs "Try it on one machine" with the real NanoMDM and KMFDDM, on
// free ports.
func TestNanoMDMSessionWorksAsTyped(t *testing.T) {
	for _, program := range []string{"nanomdm", "kmfddm", "curl", "bash"} {
		counterpart.Require(t, program)
	}
	text := sessionOf(t, "docs/with-nanomdm.md", "Try it on one machine")
	_, text, found := strings.Cut(text, "kmfddm@v0.8.3\n") // .ci/install installs them
	if !found || strings.Count(text, " &\n") != 3 || !strings.HasSuffix(strings.TrimSpace(text), "kill %3 %2 %1") {
		t.Fatalf("docs/with-nanomdm.md has another session:\n%s", text)
	}
	text = strings.Replace(text, "assay init --dir ./id ", "assay init --dir ./id --listen 127.0.0.1:8443 --admin-listen 127.0.0.1:8444 ", 1)
	for _, port := range []string{"8443", "8444", "8445", "9000", "9002"} {
		address := freeAddress(t)
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, address)
		// Who types is slower than a server's start.
		for _, start := range []string{"serve --dir ./id >", "kmfddm -listen " + address, "nanomdm -listen " + address} {
			if port != "8443" && strings.HasPrefix(start, "serve") {
				continue
			}
			if at := strings.Index(text, start); at >= 0 {
				end := at + strings.Index(text[at:], "\n") + 1
				text = text[:end] + "until curl -ks https://" + address + " -o /dev/null || curl -s http://" + address + " -o /dev/null; do sleep 0.05; done\n" + text[end:]
			}
		}
	}
	// And slower than NanoMDM's webhook, which comes after its answer to the device.
	show := "assay credential show --dir ./id --device FAKE00000001\n"
	if strings.Count(text, show) != 1 {
		t.Fatalf("the session does not show the credential:\n%s", text)
	}
	text = strings.Replace(text, show, "for i in $(seq 200); do assay credential show --dir ./id --device FAKE00000001 | grep -q 'reports it as installed' && break; sleep 0.05; done\n"+show, 1)

	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(must(os.Executable()), filepath.Join(dir, "bin", "assay")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // where a server does not start, nobody waits for ever
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-e", "-m")
	command.Dir, command.WaitDelay = dir, 10*time.Second
	command.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	command.Stdin = strings.NewReader("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + text)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"enrolled with http://127.0.0.1", "the MDM has nothing for it", "took command DeclarativeManagement",
		`enrolled for identity of assay\.cred_\w+\.asset`, "reported management.declarations security.certificate.list",
		"reports it as installed", "certificate +[0-9a-f]{64} ", `(?m)^cert_\w+ +valid, superseded +FAKE00000001(.|\n)*^cert_\w+ +valid +FAKE00000001`,
		`removed identity of assay\.cred_\w+\.asset`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the session does not show %s:\n%s", want, out)
		}
	}
}
