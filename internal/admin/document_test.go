package admin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"assay/internal/admin"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// operation is one operation of the OpenAPI document.
type operation struct {
	method, path string // path with its parameters
	scope        string // x-scope
	public       bool   // no security
	body         bool
	said         map[string]any
}

// document is the OpenAPI document, with its schemas ready to validate.
type document struct {
	whole      map[string]any
	operations []operation
	mu         sync.Mutex // of compiler
	compiler   *jsonschema.Compiler
}

const documentURL = "https://assay.test/openapi.json"

func documentOf(t *testing.T, api *admin.API) *document {
	t.Helper()
	w := httptest.NewRecorder()
	api.Handler().ServeHTTP(w, httptest.NewRequest("GET", admin.Prefix+"/openapi.json", nil))
	parsed, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		t.Fatalf("OpenAPI document (%d): %v", w.Code, err)
	}
	d := &document{whole: parsed.(map[string]any), compiler: jsonschema.NewCompiler()}
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(documentURL, parsed); err != nil {
		t.Fatal(err)
	}
	for path, item := range d.whole["paths"].(map[string]any) {
		for method, said := range item.(map[string]any) {
			op := operation{method: strings.ToUpper(method), path: path, said: said.(map[string]any)}
			op.scope, _ = op.said["x-scope"].(string)
			op.public = op.said["security"] == nil
			op.body = op.said["requestBody"] != nil
			d.operations = append(d.operations, op)
		}
	}
	slices.SortFunc(d.operations, func(a, b operation) int { return strings.Compare(a.path+" "+a.method, b.path+" "+b.method) })
	return d
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// find is the operation of a request: the one with the fewest parameters that fits.
func (d *document) find(method, path string) *operation {
	var found *operation
	for i := range d.operations {
		op := &d.operations[i]
		pattern := regexp.MustCompile("^" + parameter.ReplaceAllString(op.path, "[^/]+") + "$")
		if (op.method == method || op.method == "GET" && method == "HEAD") && pattern.MatchString(path) &&
			(found == nil || strings.Count(op.path, "{") < strings.Count(found.path, "{")) {
			found = op
		}
	}
	return found
}

// schema compiles the schema at a place of the document.
func (d *document) schema(t *testing.T, steps ...string) *jsonschema.Schema {
	t.Helper()
	for i, step := range steps {
		steps[i] = strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(step)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.compiler.Compile(documentURL + "#/" + strings.Join(steps, "/"))
	if err != nil {
		t.Fatalf("schema at %v: %v", steps, err)
	}
	return s
}

// checked is a RoundTripper that holds every answer against the document.
type checked struct {
	t *testing.T
	http.RoundTripper
	document *document
}

func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	var asked []byte
	if r.Body != nil {
		asked, _ = io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(asked))
	}
	answer, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	if err := c.check(r, asked, answer, body); err != nil {
		c.t.Errorf("%s %s: %v\n%.2000s", r.Method, r.URL.Path, err, body)
	}
	return answer, nil
}

func (c checked) check(r *http.Request, asked []byte, answer *http.Response, body []byte) error {
	if answer.Header.Get("Cache-Control") != "no-store" {
		return fmt.Errorf("Cache-Control is %q", answer.Header.Get("Cache-Control"))
	}
	op := c.document.find(r.Method, strings.TrimPrefix(r.URL.Path, admin.Prefix))
	if op == nil {
		if answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusMethodNotAllowed {
			return fmt.Errorf("the document has no such operation, but the answer is %d", answer.StatusCode)
		}
		return nil
	}
	status := strconv.Itoa(answer.StatusCode)
	said, ok := op.said["responses"].(map[string]any)[status].(map[string]any)
	if !ok {
		return fmt.Errorf("the document does not say that it may answer %s", status)
	}
	if answer.StatusCode < 300 && len(asked) > 0 {
		if err := validate(c.document.schema(c.t, "paths", op.path, strings.ToLower(op.method), "requestBody", "content", "application/json", "schema"), asked); err != nil {
			return fmt.Errorf("it took a request that the document forbids: %w", err)
		}
	}
	if r.Method == "HEAD" || answer.StatusCode == http.StatusNotModified {
		return nil
	}
	kind := answer.Header.Get("Content-Type")
	if said["content"] == nil || said["content"].(map[string]any)[kind] == nil {
		return fmt.Errorf("the document does not say that %s may be of type %s", status, kind)
	}
	if kind != "application/json" && kind != "application/problem+json" {
		return nil
	}
	return validate(c.document.schema(c.t, "paths", op.path, strings.ToLower(op.method), "responses", status, "content", kind, "schema"), body)
}

func validate(schema *jsonschema.Schema, body []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

func TestDocumentDescribesEveryRouteAndNoOther(t *testing.T) {
	r := newRig(t, nil)
	d := r.document
	paths := map[string]bool{"/": true, "/docs": true, "/schemas/Code": true, "/openapi": true, "/openapi-3.0.json": true, "/openapi-3.0.yaml": true}
	for _, op := range d.operations {
		paths[parameter.ReplaceAllString(op.path, "x")] = true
	}
	for path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			answer, body := r.do(method, path, "", "")
			described := d.find(method, path) != nil
			if served := answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusMethodNotAllowed; served != described {
				t.Errorf("%s %s is served: %t, described: %t (%d %s)", method, path, served, described, answer.StatusCode, body)
			}
		}
	}
}

func TestDocumentIsTheOneThatWasAgreed(t *testing.T) {
	const golden = "testdata/openapi.json"
	_, got := newRig(t, nil).do("GET", "/openapi.json", "", "")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the public API changed. If that is meant, run `go test ./internal/admin -run Document -update`:\n%s", diff)
	}
}

func TestDocumentExplainsEveryOperation(t *testing.T) {
	r := newRig(t, nil)
	d := r.document
	if d.whole["openapi"] != "3.1.0" {
		t.Errorf("OpenAPI %v", d.whole["openapi"])
	}
	known := map[string]bool{}
	for _, s := range admin.Scopes() {
		known[string(s)] = true
	}
	used := map[string]bool{}
	for _, op := range d.operations {
		name := op.method + " " + op.path
		for _, member := range []string{"summary", "description", "operationId"} {
			if text, _ := op.said[member].(string); text == "" {
				t.Errorf("%s has no %s", name, member)
			}
		}
		if op.public != (op.scope == "") || op.scope != "" && !known[op.scope] {
			t.Errorf("%s: scope %q, public %t", name, op.scope, op.public)
		}
		used[op.scope] = true
		for status, response := range op.said["responses"].(map[string]any) {
			if response.(map[string]any)["description"] == "" {
				t.Errorf("%s does not say what %s means", name, status)
			}
		}
	}
	for scope := range known {
		if !used[scope] {
			t.Errorf("scope %s opens nothing", scope)
		}
	}
	row := d.whole["components"].(map[string]any)["schemas"].(map[string]any)["AuditRow"].(map[string]any)
	if row["properties"].(map[string]any)["salt"] != nil {
		t.Error("the document offers the salt of audit rows")
	}
}

func TestDocumentIsServedAsJSONAndYAMLWithoutToken(t *testing.T) {
	r := newRig(t, nil)
	answer, text := r.do("GET", "/openapi.json", "", "")
	if answer.StatusCode != http.StatusOK || !json.Valid([]byte(text)) {
		t.Errorf("JSON: %d", answer.StatusCode)
	}
	answer, text = r.do("GET", "/openapi.yaml", "", "")
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "application/yaml" || !strings.Contains(text, "openapi: 3.1.0") {
		t.Errorf("YAML: %d %.100s", answer.StatusCode, text)
	}
	if answer, text := r.do("GET", "/healthz", "", ""); answer.StatusCode != http.StatusOK || !strings.Contains(text, `"ok"`) {
		t.Errorf("health: %d %s", answer.StatusCode, text)
	}
}
