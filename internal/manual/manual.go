// Package manual holds the parts of the manuals that are made from the code to what they are made of. Only
// tests import it.
package manual

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Part fails the test unless the part of a page between <!-- generated: name --> and <!-- end --> is want;
// with update it writes the part instead. Hint is the command that does so.
func Part(t *testing.T, page, name, want string, update bool, hint string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- generated: "+name+" -->\n", "<!-- end -->"
	head, rest, found := strings.Cut(string(text), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for %s", page, name)
	}
	whole := head + begin + want + end + tail
	if update {
		if err := os.WriteFile(page, []byte(whole), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(whole, string(text)); diff != "" {
		t.Errorf("run `%s`:\n%s", hint, diff)
	}
}
