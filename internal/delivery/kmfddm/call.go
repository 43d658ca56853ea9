package kmfddm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

// Error is a call that KMFDDM did not carry out.
type Error struct {
	Enrollment string
	Call       string // what was tried
	Status     int    // HTTP status; 0 if there was no answer
	Said       string // KMFDDM's text, shortened
	Advice     string // what to do
	Err        error  // the cause, if there was no answer
}

func (e *Error) Error() string {
	text := fmt.Sprintf("push to KMFDDM for enrollment %s: %s: ", e.Enrollment, e.Call)
	if e.Err != nil {
		text += e.Err.Error()
	} else {
		text += fmt.Sprintf("status %d", e.Status)
	}
	if e.Said != "" {
		text += ": " + e.Said
	}
	return text + " (" + e.Advice + ")"
}

func (e *Error) Unwrap() error { return e.Err }

// do makes a request for an enrollment. secret is that of the document's URL, "" for none.
func (c *Client) do(ctx context.Context, enrollment, secret string, step call) error {
	address := c.base + "/v1/" + strings.Join(escaped(step.path), "/")
	if len(step.query) > 0 {
		address += "?" + step.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, step.method, address, bytes.NewReader(step.body))
	if err != nil {
		return fmt.Errorf("push to KMFDDM for enrollment %s: %s: %w", enrollment, step.what, err)
	}
	request.SetBasicAuth(user, c.key)
	if step.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return &Error{Enrollment: enrollment, Call: step.what, Err: err, Advice: "is KMFDDM running at " + c.base + "?"}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	switch {
	case response.StatusCode == http.StatusNotModified, response.StatusCode/100 == 2 && err == nil:
		return nil
	case response.StatusCode/100 == 2:
		return &Error{Enrollment: enrollment, Call: step.what, Err: err, Advice: "the answer broke off; pushing again is harmless"}
	}
	return &Error{Enrollment: enrollment, Call: step.what, Status: response.StatusCode, Said: said(body, secret), Advice: advice(response.StatusCode)}
}

func escaped(path []string) []string {
	all := make([]string, len(path))
	for i, element := range path {
		all[i] = url.PathEscape(element)
	}
	return all
}

// said is KMFDDM's own text of an error, which is {"error": text}, made fit to be shown: without what
// it quotes of the document's URL, then cut.
func said(body []byte, secret string) string {
	var answer struct {
		Error string `json:"error"`
	}
	text := string(body)
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		text = answer.Error
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, strings.TrimSpace(hide(text, secret)))
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "…"
	}
	return text
}

// secretPath is where a document is served, to the last character that a secret can have. JSON may
// have its slashes escaped.
var secretPath = regexp.MustCompile(`/credential\\?/[A-Za-z0-9_-]+`)

// minSecret is how much of the secret, from its beginning, is taken for a part of it.
const minSecret = 8

// hide removes documents' paths from a text, and the secret also where KMFDDM quotes only a part of
// its URL.
func hide(text, secret string) string {
	text = secretPath.ReplaceAllString(text, "/credential/…")
	if len(secret) < minSecret {
		return text
	}
	for from := 0; ; {
		i := strings.Index(text[from:], secret[:minSecret])
		if i < 0 {
			return text
		}
		i += from
		end := i + minSecret
		for end < len(text) && end-i < len(secret) && text[end] == secret[end-i] {
			end++
		}
		text = text[:i] + "…" + text[end:]
		from = i + len("…")
	}
}

// secretOf is the last element of the DataURL of an asset declaration; "" if it has none.
func secretOf(asset []byte) string {
	var d struct {
		Payload struct{ Reference struct{ DataURL string } }
	}
	if json.Unmarshal(asset, &d) != nil {
		return ""
	}
	return d.Payload.Reference.DataURL[strings.LastIndexByte(d.Payload.Reference.DataURL, '/')+1:]
}

func advice(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "is the API key the one of KMFDDM's -api flag?"
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed, status/100 == 3:
		return "is this KMFDDM's own URL, without /v1? NanoMDM is another server"
	case status == http.StatusBadRequest:
		return "KMFDDM took the declaration for wrong; this release is tested with v0.8.3"
	}
	return "KMFDDM's log says more; pushing again is harmless"
}
