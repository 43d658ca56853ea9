package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"assay/credential"
	"assay/internal/delivery"
	"assay/internal/issuance"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
)

// maxFaults bounds the faults that one problem lists.
const maxFaults = 50

// Problem is an answer that refuses (RFC 9457, section 3.1). Its type is about:blank: the check tells
// one problem from another.
type Problem struct {
	Status int     `json:"status" doc:"HTTP status."`
	Title  string  `json:"title" doc:"The status in words."`
	Detail string  `json:"detail" doc:"What is wrong with this request."`
	Check  string  `json:"check" doc:"Stable name of the failed check." example:"scope-missing"`
	Errors []Fault `json:"errors,omitempty" nullable:"false" doc:"What is wrong with which member of a malformed request."`

	challenge  string // WWW-Authenticate
	retryAfter string // Retry-After, in seconds
	cause      error  // for the log
}

// Fault is one fault of a malformed request.
type Fault struct {
	Message  string `json:"message" doc:"What is wrong."`
	Location string `json:"location,omitempty" doc:"Where, such as body.codes[3].serial."`
}

func (p *Problem) Error() string { return p.Check + ": " + p.Detail }

func (p *Problem) Unwrap() error { return p.cause }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType makes problem documents of JSON answers.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders are the headers that go with the problem.
func (p *Problem) GetHeaders() http.Header {
	header := http.Header{}
	for name, value := range map[string]string{"WWW-Authenticate": p.challenge, "Retry-After": p.retryAfter} {
		if value != "" {
			header.Set(name, value)
		}
	}
	return header
}

// refuse makes a problem of a check.
func refuse(status int, check, format string, args ...any) *Problem {
	return &Problem{Status: status, Title: http.StatusText(status), Check: check, Detail: fmt.Sprintf(format, args...)}
}

// malformedChecks names the checks that huma makes of a request before any handler sees it.
var malformedChecks = map[int]string{
	http.StatusBadRequest:            "malformed-request",
	http.StatusRequestTimeout:        "body-too-slow",
	http.StatusRequestEntityTooLarge: "body-too-large",
	http.StatusUnsupportedMediaType:  "content-type",
	http.StatusUnprocessableEntity:   "invalid-request",
}

// init makes huma speak problems with a check, and tell members by their exact case: huma has no other
// way to say so than these variables. This package is the only one in the program that uses huma.
func init() {
	huma.NewError = malformed
	huma.ValidateStrictCasing = true
}

// enumMessage begins huma's message of a value that is none of an enumeration's.
var enumMessage, _, _ = strings.Cut(validation.MsgExpectedOneOf, "%s")

// malformed is the problem of a request that huma refused. The refused values themselves are left out:
// they may be secrets, and as large as the body.
func malformed(status int, message string, errs ...error) huma.StatusError {
	p := refuse(status, cmp.Or(malformedChecks[status], internalCheck), "%s", message)
	tooMuch := false
	if p.Check == internalCheck {
		p.cause = errors.Join(errs...)
		p.Detail = internalDetail
		return p
	}
	if status == http.StatusRequestEntityTooLarge { // huma names a limit that is one byte off
		p.Detail = "the body is larger than this request may be"
	}
	for _, err := range errs {
		if len(p.Errors) == maxFaults {
			break
		}
		if detail, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			p.Errors = append(p.Errors, Fault{Message: schemaMessage(detail.Message), Location: shorten(detail.Location)})
			tooMuch = tooMuch || detail.Message == errTooManyElements.Error() || detail.Message == errTooManyValues.Error()
		} else if err != nil {
			p.Errors = append(p.Errors, Fault{Message: shorten(err.Error())})
		}
	}
	if tooMuch { // it is JSON, and huma takes every error of a decoder for the opposite
		p.Status, p.Title, p.Check = http.StatusUnprocessableEntity, http.StatusText(http.StatusUnprocessableEntity), malformedChecks[http.StatusUnprocessableEntity]
	}
	return p
}

// schemaMessage shortens a message of huma's, but for the choices of an enumeration: those are the
// schema's own.
func schemaMessage(message string) string {
	if strings.HasPrefix(message, enumMessage) {
		return message
	}
	return shorten(message)
}

// What a client learns of a failure of the server.
const (
	internalCheck  = "internal"
	internalDetail = "the server failed; its log says why"
)

// problemOf is the one place that turns errors into problems. What it does not know is the server's
// fault, of which the client learns nothing more.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if invalid, ok := errors.AsType[*credential.InvalidError](err); ok {
		return invalidDocument(invalid.Findings)
	}
	if p := deliveryProblem(err); p != nil {
		return p
	}
	var p *Problem
	switch {
	case errors.Is(err, issuance.ErrNotFound):
		p = refuse(http.StatusNotFound, "not-found", "there is no such thing")
	case errors.Is(err, issuance.ErrConflict):
		p = refuse(http.StatusConflict, "state-changed", "it is not in a state that allows this, or was changed meanwhile")
	case errors.Is(err, issuance.ErrOnceReused):
		p = refuse(http.StatusUnprocessableEntity, "idempotency-key-reused", "another request was made under this Idempotency-Key")
	case errors.Is(err, issuance.ErrOverloaded):
		p = refuse(http.StatusServiceUnavailable, "overloaded", "too many changes wait already: nothing was changed; ask again in a second")
		p.retryAfter = "1"
	case errors.Is(err, context.Canceled):
		p = refuse(http.StatusServiceUnavailable, "request-ended", "the request ended before it was answered")
	case errors.Is(err, context.DeadlineExceeded):
		p = refuse(http.StatusServiceUnavailable, "too-slow", "the request could not be answered in time")
	default:
		p = refuse(http.StatusInternalServerError, internalCheck, internalDetail)
	}
	p.cause = err
	return p
}

// deliveryProblem turns the errors of deliveries into problems; nil for any other.
func deliveryProblem(err error) *Problem {
	if _, ok := errors.AsType[*issuance.RepeatedError](err); ok {
		return madeBefore()
	}
	if unreadable, ok := errors.AsType[*delivery.UnreadableError](err); ok {
		p := refuse(http.StatusServiceUnavailable, "templates-readable", "%v", unreadable)
		p.cause = err
		return p
	}
	if errors.Is(err, delivery.ErrDocumentOver) {
		return refuse(http.StatusConflict, "document-alive", "the document is over (its code is used, revoked or expired), and a profile would hold its dead code: renew the credential")
	}
	refused, ok := errors.AsType[*delivery.RefusedError](err)
	if !ok {
		return nil
	}
	status := http.StatusUnprocessableEntity
	if slices.Contains([]string{delivery.CheckDeviceConflict, delivery.CheckDeviceState, delivery.CheckWithdrawn, delivery.CheckCodeRevoked}, refused.Check) {
		status = http.StatusConflict
	}
	return refuse(status, refused.Check, "%s", strings.TrimSpace(refused.Text))
}

// invalidDocument lists what breaks rules in a credential document.
func invalidDocument(findings credential.Findings) *Problem {
	p := refuse(http.StatusUnprocessableEntity, "document-invalid", "the credential document breaks a rule")
	for _, f := range findings {
		if f.Severity == credential.Error && len(p.Errors) < maxFaults {
			p.Errors = append(p.Errors, Fault{Message: f.Message, Location: "body.document" + strings.TrimPrefix(f.Path, "$")})
		}
	}
	return p
}
