package admin_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"assay/internal/admin"
	"assay/internal/manual"
)

const page = "../../docs/api.md"

var update = flag.Bool("update", false, "write the generated part of docs/api.md, and testdata/openapi.json")

func TestManualListsScopesWithTheirRoutes(t *testing.T) {
	d := newRig(t, nil).document
	var table strings.Builder
	table.WriteString("| scope | lets a token | routes |\n|---|---|---|\n")
	for _, scope := range admin.Scopes() {
		var routes []string
		for _, op := range d.operations {
			if op.scope == string(scope) {
				routes = append(routes, "`"+op.method+" "+op.path+"`")
			}
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", scope, scope.Meaning(), strings.Join(routes, " "))
	}
	manual.Part(t, page, "scopes", table.String(), *update, "go test ./internal/admin -run Manual -update")
}

// TestManualsRequestsWork makes the manual's requests, one after another.
func TestManualsRequestsWork(t *testing.T) {
	r := newRig(t, nil)
	token, _ := r.token(admin.Scopes()...)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^    api (?:-X ([A-Z]+) )?"?\$API(/[^" \n]*)"?(?: -H '([^:]+): ([^']*)')?(?: --json '(.*)')?$`)
	found := line.FindAllStringSubmatch(string(text), -1)
	if n := strings.Count(string(text), "\n    api "); len(found) != n || n < 8 {
		t.Fatalf("%d of %d requests can be read", len(found), n)
	}
	declared := ""
	for _, m := range found {
		method, path, body := m[1], strings.ReplaceAll(m[2], "$CREDENTIAL", declared), m[5]
		if method == "" {
			method = "GET"
		}
		if body != "" {
			method = "POST"
		}
		if _, err := url.Parse(path); err != nil {
			t.Error(err)
		}
		var header []string
		if m[3] != "" {
			header = []string{m[3], m[4]}
		}
		answer, said := r.do(method, path, token, body, header...)
		if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %d %s", m[0], answer.StatusCode, said)
		}
		if path == "/credentials" {
			var c admin.Credential
			if err := json.Unmarshal([]byte(said), &c); err != nil {
				t.Fatal(err)
			}
			declared = c.ID
		}
	}
}
