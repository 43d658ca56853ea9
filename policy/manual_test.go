package policy

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"assay/internal/manual"
)

const page = "../docs/policy.md"

var update = flag.Bool("update", false, "write the generated part of docs/policy.md")

func TestManualListsTheAttributes(t *testing.T) {
	var table strings.Builder
	table.WriteString("| attribute | type | meaning |\n|---|---|---|\n")
	for _, a := range Attributes() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", a.Name, a.Type, a.Meaning)
	}
	manual.Part(t, page, "attributes", table.String(), *update, "go test ./policy -run Manual -update")
}

// TestManualsExampleDecides: the policy that the manual shows is one, and its test passes.
func TestManualsExampleDecides(t *testing.T) {
	text, err := os.ReadFile(page)
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
