package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"assay/internal/installation"

	"filippo.io/age"
	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"assay": main})
}

// TestScripts runs testdata/script: each is a session at a terminal, with these commands added:
//
//	exits CODE COMMAND…     runs a command, which must end with this exit code
//	ready DIR               waits until the server on the folder runs, and sets SERVER to its URL
//	let NAME REGEXP         sets NAME to the last output's first group that matches
//	fields KEY…             the last output is JSON lines, each with exactly these keys
//	expand FILE             replaces ${NAME} in a file
//	agekey FILE             makes an age identity, and sets RECIPIENT to its recipient
//	abm VERB …              a stand-in for Apple Business Manager (scriptABM)
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": scriptExits, "ready": scriptReady, "let": scriptLet, "fields": scriptFields, "expand": scriptExpand, "abm": scriptABM, "agekey": scriptAgeKey,
		},
	})
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready DIR")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	i, err := installation.Open(ctx, ts.MkAbs(args[0]), time.Now)
	ts.Check(err)
	defer i.Close()
	url, err := i.AwaitServer(ctx)
	ts.Check(err)
	ts.Setenv("SERVER", url)
}

func scriptLet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: let NAME REGEXP")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func scriptFields(ts *testscript.TestScript, neg bool, want []string) {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	slices.Sort(want)
	for _, line := range lines {
		var object map[string]json.RawMessage
		ts.Check(json.Unmarshal([]byte(line), &object))
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(object))); neg || diff != "" {
			ts.Fatalf("keys of %s (-want +got):\n%s", line, diff)
		}
	}
}

func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

func scriptAgeKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agekey FILE")
	}
	identity, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(identity.String()+"\n"), 0o600))
	ts.Setenv("RECIPIENT", identity.Recipient().String())
}

// TestEveryCommandExplainsItself: what it does, an example that parses, and its exit codes.
func TestEveryCommandExplainsItself(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.Name("assay"))
	if err != nil {
		t.Fatal(err)
	}
	commands := parser.Model.Leaves(true)
	if len(commands) < 20 {
		t.Fatalf("found %d commands", len(commands))
	}
	example := regexp.MustCompile(`(?m)^\s+assay (\S.*)$`)
	for _, command := range commands {
		path := strings.Fields(command.FullPath())[1:]
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), append(path, "--help"), &terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now})
			if code != exitDone || errs.Len() > 0 {
				t.Errorf("exit code %d, errors %q", code, errs.String())
			}
			for _, want := range []string{"Usage: assay " + strings.Join(path, " "), "Exit codes: 0 ", "Example"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("help does not say %q:\n%s", want, out.String())
				}
			}
			examples := example.FindAllStringSubmatch(out.String(), -1)
			if len(examples) == 0 {
				t.Errorf("help has no example:\n%s", out.String())
			}
		})
	}
}

// TestHelpExamplesParse takes every example of every help text as a command line.
func TestHelpExamplesParse(t *testing.T) {
	model, err := kong.New(&cli{}, kong.Name("assay"))
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^\s+assay (.*)$`)
	parsed := 0
	for _, command := range model.Model.Leaves(true) {
		for _, m := range example.FindAllStringSubmatch(command.Detail, -1) {
			if err := parseCommand(t, m[1]); err != nil {
				t.Errorf("%s: example %q: %v", command.FullPath(), m[1], err)
			}
			if err := everyShell(m[1]); err != nil {
				t.Errorf("%s: example %q: %v", command.FullPath(), m[1], err)
			}
			parsed++
		}
	}
	if parsed < 20 {
		t.Errorf("found %d examples", parsed)
	}
}
