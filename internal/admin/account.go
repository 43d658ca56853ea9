package admin

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"assay/internal/issuance"
)

// account leaves an audit row of each use of a known token, and a log line of each refusal. Neither
// holds anything of the request but its method, its route and the id in its path.
func (a *API) account(r *http.Request, u *use, route string, status int) {
	request := r.Method + " " + route
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodPut, http.MethodOptions}, r.Method) {
		request = "(other) " + route // whoever calls may choose any method
	}
	leftOut, ok := a.noted.worthNoting(u, status, a.config.Now())
	if !ok {
		return
	}
	log, ctx := a.config.Log, context.WithoutCancel(r.Context()) // the use is kept whether or not the client still listens
	if u.token != "" {
		tokenUse := issuance.TokenUse{Token: u.token, Request: request, Status: status, Check: u.check, Thing: thingOf(r), LeftOut: leftOut}
		if err := a.config.Store.RecordTokenUse(ctx, issuance.Call{Now: a.config.Now(), From: r.RemoteAddr}, tokenUse); err != nil {
			log.ErrorContext(ctx, "note use of token", "token", u.token, "request", request, "error", err)
		}
	}
	if status < http.StatusBadRequest {
		return
	}
	attrs := []any{"request", request, "status", status, "check", u.check, "token", u.token, "from", r.RemoteAddr}
	if leftOut > 0 {
		attrs = append(attrs, "left_out", leftOut)
	}
	if status < http.StatusInternalServerError {
		log.WarnContext(ctx, "API request refused", attrs...)
		return
	}
	log.ErrorContext(ctx, "API request failed", append(attrs, "error", u.cause)...)
}

// sampler chooses what is written down of those who have no live token, so that they cannot fill the
// disk: of a token that is over one use a minute for each check, of all others one request a second.
type sampler struct {
	mu   sync.Mutex
	last map[sample]tally
}

// sample is a kind of request. There are as many as dead tokens, and a few.
type sample struct {
	token issuance.TokenID
	check string
}

// tally is when one of a kind was written down, and how many were not since.
type tally struct {
	at      time.Time
	leftOut int
}

// worthNoting reports whether to write a request down, and how many like it were left out before it.
func (s *sampler) worthNoting(u *use, status int, now time.Time) (leftOut int, ok bool) {
	switch {
	case u.dead:
		return s.take(sample{u.token, u.check}, time.Minute, now)
	case u.token != "" || u.operator != "":
		return 0, true
	case status >= http.StatusInternalServerError: // not to be missed among refusals
		return s.take(sample{check: "failed"}, time.Second, now)
	case status >= http.StatusBadRequest:
		return s.take(sample{check: "refused"}, time.Second, now)
	}
	return 0, true
}

func (s *sampler) take(kind sample, every time.Duration, now time.Time) (leftOut int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[sample]tally{}
	}
	before, seen := s.last[kind]
	if seen && now.Sub(before.at).Abs() < every { // either way: a clock that was put back silences nobody
		before.leftOut++
		s.last[kind] = before
		return 0, false
	}
	s.last[kind] = tally{at: now}
	return before.leftOut, true
}

// thingForms are the forms of what a path names, by the parameter's name.
var thingForms = map[string]*regexp.Regexp{
	"credential":  regexp.MustCompile(`^cred_[0-9a-z]{26}$`),
	"code":        regexp.MustCompile(`^code_[0-9a-z]{26}$`),
	"certificate": regexp.MustCompile(`^(cert_[0-9a-z]{26}|[0-9A-Fa-f:]{1,64})$`),
	"device":      regexp.MustCompile(`^dev_[0-9a-z]{26}$`),
	"template":    regexp.MustCompile(`^[0-9a-z-]{1,63}$`),
}

// thingOf is what a request's path names; "" for nothing, and for what has another form: whoever calls
// can write anything there, by mistake also a code, whose letters of both cases no form admits.
func thingOf(r *http.Request) string {
	for name, form := range thingForms {
		if value := r.PathValue(name); form.MatchString(value) {
			return value
		}
	}
	return ""
}
