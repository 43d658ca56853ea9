package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"assay/internal/installation"

	"github.com/alecthomas/kong"
)

// documents are the texts that show commands to people.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../deploy/*.service"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no documents at %s: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts[strings.TrimPrefix(file, "../../")] = string(text)
		}
	}
	return texts
}

// parseCommand parses what follows "assay" on a shell's command line, up to the first operator.
func parseCommand(t *testing.T, line string) error {
	t.Helper()
	for _, operator := range []string{"&", "#", ">", "|", ")"} {
		line, _, _ = strings.Cut(line, operator)
	}
	args := strings.Fields(strings.NewReplacer(`"Example Inc."`, "Example", `"`, "", `'`, "").Replace(line))
	parser, err := kong.New(&cli{}, kong.Name("assay"), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return err
}

// everyShell refuses what some shell that people type into reads differently: zsh, the one of macOS, hands a
// comment to the command, and takes ?, * and [ outside quotes for the names of files.
func everyShell(line string) error {
	bare := regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(line, "")
	if strings.ContainsAny(bare, "#?*[") {
		return errors.New("zsh reads it differently: quote it, and comment in the text around")
	}
	return nil
}

// TestCommandsInDocumentsParse takes every command line of the documents; those within a sentence
// may leave out what the sentence is not about.
func TestCommandsInDocumentsParse(t *testing.T) {
	line := regexp.MustCompile(`(?m)^(?:    |#   ).*?\bassay ([a-z].*)$`)
	span := regexp.MustCompile("`assay\\s([a-z][^`]*)`")
	incomplete := regexp.MustCompile(`^(missing flags: |expected ("<|"[a-z]+",|one of ))`)
	lines, spans := 0, 0
	for name, text := range documents(t) {
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[0], "./cmd/assay") || strings.HasPrefix(m[1], "assay") {
				continue // go build, and the service's user
			}
			if err := parseCommand(t, m[1]); err != nil {
				t.Errorf("%s: assay %s: %v", name, m[1], err)
			}
			if err := everyShell(m[1]); err != nil {
				t.Errorf("%s: assay %s: %v", name, m[1], err)
			}
			lines++
		}
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			if err := parseCommand(t, m[1]); err != nil && !incomplete.MatchString(err.Error()) {
				t.Errorf("%s: `assay %s`: %v", name, m[1], err)
			}
			spans++
		}
	}
	if lines < 10 || spans < 5 {
		t.Errorf("found %d command lines and %d within sentences", lines, spans)
	}
}

// TestReadmeSessionWorksAsTyped runs "Try it without a device" in a shell, on a free port.
func TestReadmeSessionWorksAsTyped(t *testing.T) {
	_, session, found := strings.Cut(documents(t)["README.md"], "## Try it without a device\n\n")
	var script []string
	for line := range strings.Lines(session) {
		typed, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		script = append(script, typed)
	}
	if !found || len(script) < 5 || !strings.HasPrefix(script[0], "go build -o assay ") {
		t.Fatalf("README.md has another session: %q", script)
	}
	dir := t.TempDir()
	for file, link := range map[string]string{"assay": must(os.Executable()), "docs": must(filepath.Abs("../../docs"))} {
		if err := os.Symlink(link, filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.Join(script[1:], "")
	text = strings.Replace(text, " init --dir ./test ", " init --dir ./test --listen "+freeAddress(t)+" --admin-listen 127.0.0.1:0 ", 1)
	const serve = "serve --dir ./test &\n"
	if strings.Count(text, serve) != 1 {
		t.Fatalf("the session does not serve:\n%s", text)
	}
	// Who types is slower than the server's start.
	text = strings.Replace(text, serve, serve+"until [ -s ./test/server.url ]; do sleep 0.05; done\n", 1)
	text = "trap 'kill $! 2>/dev/null || true' EXIT\n" + text      // also where a line fails
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // where the server does not start, nobody waits for ever
	defer cancel()
	command := exec.CommandContext(ctx, "sh", "-e")
	command.Dir, command.Stdin, command.WaitDelay = dir, strings.NewReader(text), 10*time.Second
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"evidence +attested", "subject +CN=FAKE00000001", "Credential wifi: enrolled", "(?m)^cert_\\w+ +valid +FAKE"} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the session does not show %s:\n%s", want, out)
		}
	}
}

// TestAnyMDMSessionWorksAsTyped runs all commands of docs/with-any-mdm.md, in their order, against one server.
func TestAnyMDMSessionWorksAsTyped(t *testing.T) {
	const here, elsewhere, list = "--dir DIR", "https://id.example.com:8444", "serial,owner\nC02XEXAMPLE2,sam@example.com\n"
	dir := t.TempDir()
	if err := errors.Join(os.Symlink(must(os.Executable()), filepath.Join(dir, "assay")), os.WriteFile(filepath.Join(dir, "devices.csv"), []byte(list), 0o600)); err != nil {
		t.Fatal(err)
	}
	var session strings.Builder
	commands := 0
	for line := range strings.Lines(documents(t)["docs/with-any-mdm.md"]) {
		typed, indented := strings.CutPrefix(line, "    ")
		if !indented {
			continue
		}
		commands++
		typed = strings.TrimSpace(typed)
		if strings.HasPrefix(typed, "assay device report ") { // the device reports the first asset
			session.WriteString("cp id/certs/serving-root.pem .\n" +
				`id=$(basename declarations/*.asset.json .json)` + "\n" +
				`echo '{"StatusItems":{"management":{"declarations":{"assets":[{"identifier":"'$id'","active":true,"valid":"valid"}]}}}}' > report.json` + "\n")
		}
		session.WriteString("./" + strings.NewReplacer(here, "--dir ./id", elsewhere, `"$(cat id/admin.url)"`).Replace(typed) + "\n")
	}
	if commands < 8 {
		t.Fatalf("docs/with-any-mdm.md has only %d commands:\n%s", commands, session.String())
	}
	text := "./assay init --dir ./id --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0\n./assay serve --dir ./id &\n" +
		"trap 'kill $! 2>/dev/null || true' EXIT\nuntil [ -s id/admin.url ]; do sleep 0.05; done\n" + session.String()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "sh", "-e")
	command.Dir, command.Stdin, command.WaitDelay = dir, strings.NewReader(text), 10*time.Second
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`(?m)^declarations/assay\.cred_\w+\.identity\.json$`, "devices.csv: 1 device: 1 declared", "Recorded for cred_", "Wrote wifi.mobileconfig", "Renewed cred_", "Credential wifi: delivered"} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the session does not show %s:\n%s", want, out)
		}
	}
}

// TestConfigurationInDocumentsLoads takes the example of docs/operations.md as assay.yaml.
func TestConfigurationInDocumentsLoads(t *testing.T) {
	_, text, found := strings.Cut(documents(t)["docs/operations.md"], "\n    version: 1\n")
	if !found {
		t.Fatal("docs/operations.md shows no configuration")
	}
	var config strings.Builder
	config.WriteString("version: 1\n")
	for line := range strings.Lines(text) {
		setting, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		config.WriteString(setting)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "assay.yaml"), []byte(config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := installation.LoadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%s %v %v", c.URL, c.Directories["default"].Identifiers, c.Attestation["apple"].Roots); got != "https://id.example.com [code] [builtin]" {
		t.Errorf("the example reads as %s", got)
	}
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func must(path string, err error) string {
	if err != nil {
		panic(err)
	}
	return path
}
