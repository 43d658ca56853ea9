package admin

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// maxBody is the largest body of a request, unless the route says otherwise.
const maxBody = 1 << 20

// route is what a route says of itself.
type route struct {
	method, path string
	id           string // of the operation
	tag          string
	scope        Scope
	summary      string
	description  string
	status       int   // of success; 0: 200
	limit        int64 // bytes of the body; 0: maxBody
	basic        bool  // whether the token may also come as a Basic password
	public       bool  // no token is needed; then scope is ""
	raw          bool  // the handler reads the body itself
	also         map[int]string
}

// add adds a route. There is no other way to: so none lacks its scope, and every error goes through
// problemOf.
func add[I, O any](a *API, r route, handle func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Tags: []string{r.tag}, Summary: r.summary, Description: r.description,
		DefaultStatus: r.status, RejectUnknownQueryParameters: true, SkipValidateBody: r.raw,
		MaxBodyBytes: cmp.Or(r.limit, maxBody) + 1, // huma refuses a body of the limit itself
		Metadata:     map[string]any{publicKey: r.public, basicKey: r.basic},
		Responses:    map[string]*huma.Response{},
	}
	problems := []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusServiceUnavailable}
	if !r.public {
		op.Metadata[scopeKey] = r.scope
		op.Extensions = map[string]any{"x-scope": string(r.scope)}
		op.Security = []map[string][]string{{bearerScheme: {string(r.scope)}}}
		if r.basic {
			op.Security = append(op.Security, map[string][]string{basicScheme: {}})
		}
		problems = append(problems, http.StatusUnauthorized, http.StatusForbidden)
	}
	if r.method == http.MethodPost || r.method == http.MethodPatch {
		problems = append(problems, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusRequestTimeout)
	}
	for status := range r.also {
		if status >= http.StatusBadRequest {
			problems = append(problems, status)
		}
	}
	op.Errors = slices.Compact(slices.Sorted(slices.Values(problems)))
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, problemOf(err)
		}
		return out, nil
	})
	describe(a.huma.OpenAPI(), r)
}

// describe says in the document what huma cannot know of a route: which answers there are beside the
// usual one, and what they mean.
func describe(doc *huma.OpenAPI, r route) {
	item := doc.Paths[r.path]
	op := map[string]*huma.Operation{
		http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
	}[r.method]
	usual := op.Responses["200"]
	if r.status != 0 {
		usual = op.Responses[strconv.Itoa(r.status)]
	}
	for _, status := range slices.Sorted(maps.Keys(r.also)) {
		response := op.Responses[strconv.Itoa(status)]
		switch {
		case response != nil:
		case status == http.StatusNotModified:
			response = &huma.Response{Headers: usual.Headers}
		default:
			response = &huma.Response{Content: usual.Content, Headers: usual.Headers}
		}
		response.Description = r.also[status]
		op.Responses[strconv.Itoa(status)] = response
	}
}
