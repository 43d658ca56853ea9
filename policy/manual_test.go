package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const manual = "../docs/policy.md"

var update = flag.Bool("update", false, "write the generated part of docs/policy.md")

func TestManualListsTheAttributes(t *testing.T) {
	var table strings.Builder
	table.WriteString("| attribute | type | meaning |\n|---|---|---|\n")
	for _, a := range Attributes() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", a.Name, a.Type, a.Meaning)
	}
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- generated: attributes -->\n", "<!-- end -->"
	head, rest, found := strings.Cut(string(text), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("the manual has no place for attributes")
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(manual, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("run `go test ./policy -run Manual -update`:\n%s", diff)
	}
}

// TestManualsExampleDecides: the policy that the manual shows is one, and its test passes.
func TestManualsExampleDecides(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```yaml\nversion: 1\n")
	example, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the manual has no example")
	}
	p, err := Parse("manual", []byte("version: 1\n"+example))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Test(t.Context()) {
		if !r.Passed {
			t.Errorf("%s: %v", r.Name, r.Faults)
		}
	}
	for _, w := range p.Warnings() {
		t.Error(w)
	}
}
