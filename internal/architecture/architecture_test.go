// Package architecture holds the arrows between the rooms: docs/architecture.md says which package
// may import which, and this test says no to any other.
package architecture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var tableRow = regexp.MustCompile("^\\| `([a-z0-9/-]+)` \\|[^|]*\\| ([^|]*) \\|$")

// allowed reads the table "room | purpose | may import" of the architecture page.
func allowed(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	rooms := map[string][]string{}
	scanner := bufio.NewScanner(bytes.NewReader(page))
	for scanner.Scan() {
		if m := tableRow.FindStringSubmatch(scanner.Text()); m != nil {
			rooms[m[1]] = strings.Fields(strings.Trim(m[2], "– "))
		}
	}
	if len(rooms) < 10 {
		t.Fatalf("found %d rooms in docs/architecture.md: has the table changed its form?", len(rooms))
	}
	return rooms
}

func TestArrowsGoOneWay(t *testing.T) {
	rooms := allowed(t)
	command := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		room := strings.TrimPrefix(pkg.ImportPath, "assay/")
		if room == "internal/architecture" {
			continue
		}
		seen[room] = true
		may, ok := rooms[room]
		if !ok {
			t.Errorf("package %s is not in docs/architecture.md", room)
			continue
		}
		for _, imported := range pkg.Imports {
			other, ours := strings.CutPrefix(imported, "assay/")
			if ours && !slices.Contains(may, other) && !slices.Contains(may, "all") {
				t.Errorf("%s imports %s: docs/architecture.md does not allow that arrow", room, other)
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("docs/architecture.md names %s, which does not exist", room)
		}
	}
}
