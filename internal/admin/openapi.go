package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"

	"assay/internal/audit"

	"github.com/danielgtaylor/huma/v2"
)

// The security schemes, as the document names them.
const (
	bearerScheme = "token"
	basicScheme  = "tokenAsPassword"
)

// tags are the chapters of the document.
var tags = []*huma.Tag{
	{Name: "codes", Description: "One-time codes that devices enrol with."},
	{Name: "certificates", Description: "Issued certificates, with the evidence and decision behind each."},
	{Name: "devices", Description: "Devices that an operator expects or that evidence established."},
	{Name: "templates", Description: "Credential templates: files of the installation, which this API only shows."},
	{Name: "credentials", Description: "A template on a device: its document, its declarations, its code and its certificate as they follow one another."},
	{Name: "status", Description: "What devices report to their MDM."},
	{Name: "audit", Description: "What was done and refused."},
	{Name: "service", Description: "The API itself."},
}

const aboutAPI = `Identity documents and certificates for managed devices.

Every request but the ones tagged *service* needs a bearer token with the scope that the route names
(x-scope). Lists answer a page and the cursor of the next one. Single things carry an ETag. Refusals are
problem documents (RFC 9457) whose member check is the stable name of the failed check.`

// description begins the OpenAPI document, with huma's own pages, links and other formats turned off.
func description(version string, note huma.Transformer) huma.Config {
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: readJSON}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: "Assay admin API", Version: version, Description: aboutAPI},
			Servers: []*huma.Server{{URL: Prefix}},
			Tags:    tags,
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					bearerScheme: {Type: "http", Scheme: "bearer", BearerFormat: tokenPrefix + "…", Description: "A token of `assay token mint`."},
					basicScheme:  {Type: "http", Scheme: "basic", Description: "The same token as the password, with any user name, for senders that can only put it into a URL."},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": format, "json": format}, // "json": of problem+json
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{note},
	}
}

// schemaName names the schema of a type: those of this package by their own name, others with their
// package before it, because several have a Reason or a Request.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Name() == "" || strings.HasSuffix(t.PkgPath(), "/internal/admin") {
		return name
	}
	owner := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	if owner == "" {
		return name
	}
	return strings.ToUpper(owner[:1]) + owner[1:] + name
}

// rawAnswer is an answer that is not JSON of a type of ours.
type rawAnswer struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// health says that the server answers.
type health struct {
	Body struct {
		Status string `json:"status" enum:"ok"`
	}
}

// addDescription adds the routes that need no token, and freezes the document: the routes that are
// there by then are those that it describes.
func (a *API) addDescription() error {
	var text, yaml []byte
	public := func(path, id, summary, kind string) route {
		return route{method: http.MethodGet, path: path, id: id, tag: "service", public: true, summary: summary,
			description: "Needs no token. " + kind}
	}
	add(a, public("/healthz", "health", "Whether the server answers", "Says nothing of what it depends on."),
		func(context.Context, *struct{}) (*health, error) {
			out := &health{}
			out.Body.Status = "ok"
			return out, nil
		})
	add(a, public("/openapi.json", "openapi-json", "This document, as JSON", "application/vnd.oai.openapi+json is what others call it; it is sent as application/json."),
		func(context.Context, *struct{}) (*rawAnswer, error) {
			return &rawAnswer{ContentType: "application/json", Body: text}, nil
		})
	add(a, public("/openapi.yaml", "openapi-yaml", "This document, as YAML", "Sent as application/yaml (RFC 9512)."),
		func(context.Context, *struct{}) (*rawAnswer, error) {
			return &rawAnswer{ContentType: "application/yaml", Body: yaml}, nil
		})
	doc := a.huma.OpenAPI()
	describeRaw(doc.Paths["/openapi.json"].Get, "application/json", &huma.Schema{Type: huma.TypeObject})
	describeRaw(doc.Paths["/openapi.yaml"].Get, "application/yaml", &huma.Schema{Type: huma.TypeString})
	doc.Components.Schemas.Schema(reflect.TypeFor[audit.Row](), false, "")
	delete(doc.Components.Schemas.Map()["AuditRow"].Properties, "salt") // with it, erased values could be guessed
	var err error
	if text, err = json.Marshal(doc); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return err
	}
	text = append(b.Bytes(), '\n')
	yaml, err = doc.YAML()
	return err
}

// describeRaw says of an operation with a rawAnswer what huma does not think of bytes.
func describeRaw(op *huma.Operation, kind string, schema *huma.Schema) {
	op.Responses["200"].Content = map[string]*huma.MediaType{kind: {Schema: schema}}
	delete(op.Responses["200"].Headers, "Content-Type")
}
