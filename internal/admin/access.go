package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"assay/internal/issuance"

	"github.com/danielgtaylor/huma/v2"
)

// What a route says of itself in Operation.Metadata.
const (
	scopeKey  = "scope"  // its Scope; a route without one opens to nobody
	publicKey = "public" // true: no token is needed
	basicKey  = "basic"  // true: the token may also be a Basic password
)

// use is one request as it is accounted for.
type use struct {
	operator string           // who calls in this process, with all scopes; "" for the network
	token    issuance.TokenID // whose token it is; "" for none that is known
	dead     bool             // whether that token is over
	scopes   []string         // of a token that is good
	check    string           // the failed check of a refused request
	cause    error            // what the client is not told
}

type useKey struct{}

// useOf is the request's account. A context without one panics: then a handler would run that nobody
// let in.
func useOf(ctx context.Context) *use { return ctx.Value(useKey{}).(*use) }

// who names the caller as the audit keeps him.
func (u *use) who() string {
	if u.operator != "" {
		return u.operator
	}
	return "token:" + string(u.token)
}

// may reports whether the caller has a scope, beside the route's own.
func (u *use) may(scope Scope) bool {
	return u.operator != "" || slices.Contains(u.scopes, string(scope))
}

// call says when and for whom a change is made.
func (a *API) call(ctx context.Context) issuance.Call {
	return issuance.Call{Now: a.config.Now(), From: useOf(ctx).who()}
}

// admit lets a request in that may use its route, or answers why not. It stands before every handler,
// and reads nothing of the body but whether there is one.
func (a *API) admit(ctx huma.Context, next func(huma.Context)) {
	p := a.mayUse(ctx)
	if p == nil {
		p = checkBody(ctx)
	}
	if p != nil {
		a.writeProblem(ctx, p)
		return
	}
	next(ctx)
}

// mayUse is the one place that decides who may use which route.
func (a *API) mayUse(ctx huma.Context) *Problem {
	u, op := useOf(ctx.Context()), ctx.Operation()
	if op.Metadata[publicKey] == true || u.operator != "" {
		return nil
	}
	basic := op.Metadata[basicKey] == true
	value, p := bearer(ctx.Header("Authorization"), basic)
	if p != nil {
		return p
	}
	hash, ok := hashToken(value)
	if !ok {
		return unauthorized("token-malformed", basic, "this is not a token of Assay: they begin with %s", tokenPrefix)
	}
	token, err := a.config.Store.TokenByHash(ctx.Context(), hash)
	if errors.Is(err, issuance.ErrNotFound) {
		return unauthorized("token-unknown", basic, "the token is unknown here")
	} else if err != nil {
		return problemOf(fmt.Errorf("look the token up: %w", err))
	}
	u.token, u.dead = token.ID, !token.LiveAt(a.config.Now())
	if !token.RevokedAt.IsZero() {
		return unauthorized("token-revoked", basic, "the token was revoked")
	}
	if u.dead {
		return unauthorized("token-expired", basic, "the token has expired")
	}
	u.scopes = token.Scopes
	scope, ok := op.Metadata[scopeKey].(Scope)
	if !ok || !u.may(scope) {
		return scopeMissing(scope)
	}
	return nil
}

// scopeMissing refuses a token without a scope.
func scopeMissing(scope Scope) *Problem {
	p := refuse(http.StatusForbidden, "scope-missing", "the token lacks the scope %s", scope)
	p.challenge = fmt.Sprintf(`Bearer realm="assay", error="insufficient_scope", scope="%s"`, scope)
	return p
}

// bearer takes the token out of an Authorization header (RFC 6750, section 2.1); where basic is
// allowed, also out of a Basic password, for senders that can only put it into a URL.
func bearer(header string, basic bool) (string, *Problem) {
	if header == "" {
		p := unauthorized("token-missing", basic, "a bearer token is needed: Authorization: Bearer %s…", tokenPrefix)
		p.challenge = strings.TrimSuffix(p.challenge, `, error="invalid_token"`)
		return "", p
	}
	scheme, value, _ := strings.Cut(header, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimLeft(value, " "), nil // one blank or more (RFC 9110, section 11.4)
	}
	if basic && strings.EqualFold(scheme, "Basic") {
		r := http.Request{Header: http.Header{"Authorization": {header}}}
		if _, password, ok := r.BasicAuth(); ok {
			return password, nil
		}
	}
	return "", unauthorized("token-malformed", basic, "the Authorization header holds no bearer token")
}

// unauthorized is a refusal for want of a live token, with the challenge of RFC 6750, section 3.
func unauthorized(check string, basic bool, format string, args ...any) *Problem {
	p := refuse(http.StatusUnauthorized, check, format, args...)
	p.challenge = `Bearer realm="assay", error="invalid_token"`
	if basic {
		p.challenge = `Basic realm="assay", ` + p.challenge
	}
	return p
}

// checkBody refuses bodies that are not JSON, and those that the route would ignore.
func checkBody(ctx huma.Context) *Problem {
	var first [1]byte
	if ctx.Operation().RequestBody == nil {
		if n, _ := io.ReadFull(ctx.BodyReader(), first[:]); n > 0 {
			return refuse(http.StatusBadRequest, "body-unexpected", "this request takes no body")
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(ctx.Header("Content-Type"))
	if err != nil || kind != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "content-type", "the body's Content-Type must be application/json")
	}
	if coding := ctx.Header("Content-Encoding"); coding != "" && coding != "identity" {
		return refuse(http.StatusUnsupportedMediaType, "content-encoding", "the body must not be encoded")
	}
	return nil
}

// writeProblem answers a problem from before or beside a handler.
func (a *API) writeProblem(ctx huma.Context, p *Problem) {
	noteProblem(useOf(ctx.Context()), p)
	writeProblem(ctx.BodyWriter().(http.ResponseWriter), p)
}

// noteProblem keeps of a problem what the log and the audit say.
func noteProblem(u *use, p *Problem) { u.check, u.cause = cmp.Or(u.check, p.Check), p.cause }
