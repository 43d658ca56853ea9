package policy

import (
	"testing"
)

func TestExamplesDecideAsTheySay(t *testing.T) {
	if len(Examples()) < 4 {
		t.Fatalf("examples %v", Examples())
	}
	for _, name := range Examples() {
		text, err := Example(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(name, text)
		if err != nil {
			t.Fatal(err)
		}
		results := p.Test(t.Context())
		if len(results) < 3 {
			t.Errorf("%s has %d tests", name, len(results))
		}
		for _, r := range results {
			if !r.Passed {
				t.Errorf("%s: %s: %v", name, r.Name, r.Faults)
			}
		}
		for _, w := range p.Warnings() {
			t.Errorf("%s: %s", name, w)
		}
	}
	if _, err := Example("../builtin"); err == nil {
		t.Error("an example that there is not")
	}
}
