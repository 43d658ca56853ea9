package abm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Checks that an answer can fail, as stable names.
const (
	CheckCredentials = "credentials" // client ID, key ID or key are not (any longer) those of an account
	CheckScope       = "scope"       // the account is not one of this service
	CheckToken       = "token"       // a fresh token was refused
	CheckPermission  = "permission"  // the account may not see devices
	CheckRateLimit   = "rate-limit"  // too many requests
	CheckService     = "service"     // Apple's service failed
	CheckNetwork     = "network"     // nobody answered, or the answer broke off
	CheckAnswer      = "answer"      // the answer is not of Apple's published form
	CheckMissing     = "missing"     // there is no such device
	CheckRequest     = "request"     // Apple's service took the request for wrong
)

// Error is a request that came to nothing.
type Error struct {
	Call    string    // what was tried
	Check   string    // the check that failed: one of the names above
	Status  int       // HTTP status; 0 if there was no answer
	Said    string    // what the other side said, shortened
	RetryAt time.Time // when it wants to be asked again; zero if it did not say
	Tries   int       // how often it was tried
	Err     error     // the cause, if the other side said nothing

	again bool // whether it may help to ask again
}

func (e *Error) Error() string {
	text := e.Call + ": "
	switch {
	case e.Err != nil:
		text += e.Err.Error()
	case e.Said != "":
		text += fmt.Sprintf("status %d: %s", e.Status, e.Said)
	default:
		text += fmt.Sprintf("status %d", e.Status)
	}
	if e.Tries > 1 {
		text += fmt.Sprintf(" (tried %d times)", e.Tries)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Advice is what a person does about it.
func (e *Error) Advice() string {
	switch e.Check {
	case CheckCredentials:
		return "compare clientID and keyID with the API account in Apple Business or School Manager; a key that was revoked or replaced there needs its successor's keyID and keyFile; is this machine's clock right?"
	case CheckScope:
		return "the account is not one of this service: say api: business or api: school"
	case CheckToken:
		return "the account may just have been removed or its key revoked; look at it in Apple Business or School Manager"
	case CheckPermission:
		return "the account's role may not view devices, or new terms wait to be accepted in Apple Business or School Manager"
	case CheckRateLimit:
		if !e.RetryAt.IsZero() {
			return "nothing is to be done: the listing goes on behind what was read, not before " + e.RetryAt.UTC().Format(time.RFC3339)
		}
		return "nothing is to be done: the listing goes on behind what was read at the next sync; if this lasts, sync less often"
	case CheckService:
		return "nothing is to be done: Apple's service failed; the next sync tries again"
	case CheckNetwork:
		return "can this machine reach Apple's servers on port 443, by itself or through the proxy of HTTPS_PROXY?"
	case CheckAnswer:
		return "does something between here and Apple answer in its place? Otherwise Apple changed the API's form, and this program has to be brought up to date"
	}
	return "this program and Apple's service do not understand each other: is it up to date?"
}

// unexpected is an answer that is not of the published form. To ask again may help: it may be that of a
// service that just starts.
func unexpected(what string, err error) *Error {
	return &Error{Call: what, Check: CheckAnswer, Status: http.StatusOK, Err: err, again: true}
}

// notJSON says so without quoting the answer, which may hold a token.
func notJSON(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s is not of the type that it should be", e.Field)
	}
	return errors.New("the answer is not JSON")
}

// unreachable is a request without an answer. The URL is left out: it may name a device.
func unreachable(what string, err error) *Error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	return &Error{Call: what, Check: CheckNetwork, Err: err, again: true}
}

// refusal is an answer other than 200.
func (c *Client) refusal(answer *http.Response, what string, body []byte, secret string) *Error {
	e := &Error{Call: what, Status: answer.StatusCode, RetryAt: retryAt(answer.Header.Get("Retry-After"), c.config.Now())}
	code, text := said(body)
	e.Said = presentable(strings.ReplaceAll(text, secret, "…"))
	switch {
	case answer.StatusCode == http.StatusTooManyRequests:
		e.Check, e.again = CheckRateLimit, true
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusRequestTimeout:
		e.Check, e.again = CheckService, true
	case what == tokenCall && code == "invalid_scope":
		e.Check = CheckScope
	case what == tokenCall && (answer.StatusCode == http.StatusBadRequest || answer.StatusCode == http.StatusUnauthorized):
		e.Check = CheckCredentials // invalid_client, most of all
	case answer.StatusCode == http.StatusUnauthorized:
		e.Check = CheckToken
	case answer.StatusCode == http.StatusForbidden:
		e.Check = CheckPermission
	case answer.StatusCode == http.StatusNotFound && what == deviceCall:
		e.Check = CheckMissing
	case answer.StatusCode/100 == 4:
		e.Check = CheckRequest
	default: // a redirect, most likely of a proxy that wants a password
		e.Check = CheckAnswer
	}
	return e
}

// said is what a refusal says: the API's own form ("ErrorResponse.Errors") or OAuth's (RFC 6749, section
// 5.2), whose code is also returned.
func said(body []byte) (code, text string) {
	var answer struct {
		Errors []struct {
			Code   string `json:"code"`
			Title  string `json:"title"`
			Detail string `json:"detail"`
		} `json:"errors"`
		Error json.RawMessage `json:"error"`
		Why   string          `json:"error_description"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", ""
	}
	if json.Unmarshal(answer.Error, &code) == nil && code != "" {
		return code, strings.TrimSuffix(code+": "+answer.Why, ": ")
	}
	var all []string
	for _, e := range answer.Errors[:min(len(answer.Errors), 3)] {
		all = append(all, strings.TrimSuffix(e.Code+": "+e.Title+": "+e.Detail, ": "))
	}
	return "", strings.Join(all, "; ")
}

// presentable is a text from outside as one that logs and terminals can show, cut short.
func presentable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "…"
	}
	return text
}
