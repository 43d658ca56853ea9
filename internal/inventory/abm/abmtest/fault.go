package abmtest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

// Endpoint is a part of the stand-in.
type Endpoint string

// The endpoints.
const (
	Token Endpoint = "token" // requests for tokens
	List  Endpoint = "list"  // listings
	One   Endpoint = "one"   // requests for one device
)

// Fault is how one request goes wrong. It gets the answer that would have been right.
type Fault func(s *Service, w http.ResponseWriter, r *http.Request, right Answer)

// Answer is a complete answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

func (a Answer) write(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // an error here is the client's: it is gone
}

// Fail makes the next requests to an endpoint go wrong, one fault each; nil lets one pass.
func (s *Service) Fail(e Endpoint, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[e] = append(s.faults[e], faults...)
}

// serve answers a request as it should be, or as a fault has it.
func (s *Service) serve(e Endpoint, right func(*http.Request) Answer, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	name := r.Method + " " + r.URL.RequestURI()
	if e == Token {
		name = "TOKEN"
	}
	s.requests = append(s.requests, name)
	var fault Fault
	if queue := s.faults[e]; len(queue) > 0 {
		fault, s.faults[e] = queue[0], queue[1:]
	}
	s.mu.Unlock()
	answer := right(r)
	if fault == nil {
		answer.write(w)
		return
	}
	fault(s, w, r, answer)
}

// Repeated is a fault, so many times.
func Repeated(n int, f Fault) []Fault {
	all := make([]Fault, n)
	for i := range all {
		all[i] = f
	}
	return all
}

// Status answers with a status and, for Retry-After, a value ("" for none).
func Status(status int, retryAfter string) Fault {
	return func(_ *Service, w http.ResponseWriter, _ *http.Request, _ Answer) {
		answer := refusal(status, "UNEXPECTED_ERROR", "An unexpected error occurred.")
		if retryAfter != "" {
			answer.Header.Set("Retry-After", retryAfter)
		}
		answer.write(w)
	}
}

// OAuthError answers 400 with an error code of RFC 6749, section 5.2.
func OAuthError(code string) Fault {
	return func(_ *Service, w http.ResponseWriter, _ *http.Request, _ Answer) { oauthError(code).write(w) }
}

// Raw answers with a status, a content type and a body.
func Raw(status int, contentType, body string) Fault {
	return func(_ *Service, w http.ResponseWriter, _ *http.Request, _ Answer) {
		Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)}.write(w)
	}
}

// Echo refuses and quotes what it was sent, secrets included.
func Echo(_ *Service, w http.ResponseWriter, r *http.Request, _ Answer) {
	refusal(http.StatusForbidden, "FORBIDDEN", "You sent "+r.Header.Get("Authorization")+" "+r.FormValue("client_assertion")).write(w)
}

// Truncated sends the first half of the answer as if that were all.
func Truncated(_ *Service, w http.ResponseWriter, _ *http.Request, right Answer) {
	right.Body = right.Body[:len(right.Body)/2]
	right.write(w)
}

// BrokenOff ends the connection in the middle of the answer.
func BrokenOff(_ *Service, w http.ResponseWriter, _ *http.Request, right Answer) {
	w.Header().Set("Content-Length", strconv.Itoa(len(right.Body)))
	right.Body = right.Body[:len(right.Body)/2]
	right.write(w)
}

// Dropped ends the connection before any answer.
func Dropped(_ *Service, _ http.ResponseWriter, _ *http.Request, _ Answer) {
	panic(http.ErrAbortHandler)
}

// Slow answers nothing until the client gives up.
func Slow(_ *Service, _ http.ResponseWriter, r *http.Request, _ Answer) { <-r.Context().Done() }

// Revoked makes every token worthless just before the answer.
func Revoked(s *Service, w http.ResponseWriter, _ *http.Request, _ Answer) {
	s.RevokeTokens()
	unauthorized().write(w)
}

// Redirected sends the client elsewhere.
func Redirected(to string) Fault {
	return func(_ *Service, w http.ResponseWriter, r *http.Request, _ Answer) {
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}
}

// Oversized sends the right answer, with so many blanks before it that it is at least n bytes.
func Oversized(n int) Fault {
	return func(_ *Service, w http.ResponseWriter, _ *http.Request, right Answer) {
		right.Body = append(bytes.Repeat([]byte(" "), n), right.Body...)
		right.write(w)
	}
}

// Changed sends the right answer of a listing, changed.
func Changed(change func(document map[string]any)) Fault {
	return func(_ *Service, w http.ResponseWriter, _ *http.Request, right Answer) {
		var document map[string]any
		if err := json.Unmarshal(right.Body, &document); err != nil {
			panic("abmtest: " + err.Error())
		}
		change(document)
		right.Body = encoded(document)
		right.write(w)
	}
}

func encoded(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("abmtest: " + err.Error())
	}
	return body
}
