// Package client speaks the admin API, over the network or to handlers in this process.
//
// It follows no redirect, so that a token goes to no other host than the one that it was given for;
// it reads at most MaxAnswer bytes of an answer; and it retries nothing: whoever wants to repeat a
// change gives it an idempotency key.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"assay/internal/admin"
)

// MaxAnswer is the largest answer that is read, in bytes.
const MaxAnswer = 32 << 20

// Problem is an answer that refuses (RFC 9457).
type Problem struct {
	Status int             `json:"-"`      // HTTP status, the answer's own
	Title  string          `json:"title"`  // the status in words
	Detail string          `json:"detail"` // what is wrong with this request
	Check  string          `json:"check"`  // stable name of the failed check
	Errors []ProblemDetail `json:"errors"` // what is wrong with which member, for a malformed request
}

// ProblemDetail is one fault of a malformed request.
type ProblemDetail struct {
	Message  string `json:"message"`
	Location string `json:"location"` // such as body.codes[3].serial
}

func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	for _, e := range p.Errors {
		fault := e.Message
		if e.Location != "" {
			fault = e.Location + ": " + e.Message
		}
		if !strings.Contains(text, fault) { // the detail may be the one fault's
			text += "; " + fault
		}
	}
	return text
}

// Client speaks the admin API of one server.
type Client struct {
	base  string
	http  *http.Client
	token string

	// OnPage, if not nil, is called after each page of a list that has another one behind it.
	OnPage func()
}

// New returns a client of the server at base, such as "https://id.example.com:8443", through rt (nil:
// http.DefaultTransport), with a bearer token ("": none, for handlers in this process).
func New(base string, rt http.RoundTripper, token string) *Client {
	return &Client{
		base: strings.TrimSuffix(base, "/") + admin.Prefix,
		http: &http.Client{
			Transport:     rt,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		token: token,
	}
}

// request is one request: the path below the API's prefix, and what goes with it.
type request struct {
	method, path string
	query        url.Values
	body         any // JSON, or a []byte as it is
	ifMatch, key string
}

// do sends a request and decodes the answer's JSON into out (nil: the body is thrown away; a *[]byte
// takes it as it is). It returns the answer without its body.
func (c *Client) do(ctx context.Context, q request, out any) (*http.Response, error) {
	what := q.method + " " + q.path
	req, err := c.newRequest(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, unwrapURL(err))
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, MaxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%s: read the answer: %w", what, err)
	}
	if len(body) > MaxAnswer {
		return nil, fmt.Errorf("%s: the answer is larger than %d bytes", what, MaxAnswer)
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, problemOf(answer, body)
	}
	switch out := out.(type) {
	case nil:
	case *[]byte:
		*out = body
	default:
		if err := json.Unmarshal(body, out); err != nil {
			return nil, fmt.Errorf("%s: the answer is not what this program understands: %w", what, err)
		}
	}
	return answer, nil
}

func (c *Client) newRequest(ctx context.Context, q request) (*http.Request, error) {
	var body io.Reader
	switch value := q.body.(type) {
	case nil:
	case []byte:
		body = bytes.NewReader(value)
	default:
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	target := c.base + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range map[string]string{"If-Match": q.ifMatch, "Idempotency-Key": q.key} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// unwrapURL takes the URL out of the error: it may name a serial number.
func unwrapURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// problemOf reads a refusal, also one of something else between here and the server.
func problemOf(answer *http.Response, body []byte) *Problem {
	p := &Problem{Status: answer.StatusCode, Title: http.StatusText(answer.StatusCode)}
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if err != nil || kind != "application/problem+json" {
		p.Detail = fmt.Sprintf("the server answers %d %s without saying why; is it an Assay admin API?", p.Status, p.Title)
		return p
	}
	if said := *p; json.Unmarshal(body, &said) == nil {
		p = &said
	}
	return p
}

// list yields the things of a list, page after page. The first error ends it.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		page := url.Values{}
		for name, values := range query {
			page[name] = values
		}
		page.Set("limit", "500")
		for {
			var got admin.List[T]
			if _, err := c.do(ctx, request{method: http.MethodGet, path: path, query: page}, &got); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range got.Items {
				if !yield(item, nil) {
					return
				}
			}
			if got.Next == "" {
				return
			}
			if c.OnPage != nil {
				c.OnPage()
			}
			page.Set("cursor", got.Next)
		}
	}
}

// one sends a request whose answer is one thing.
func one[T any](ctx context.Context, c *Client, q request) (T, error) {
	var got T
	_, err := c.do(ctx, q, &got)
	return got, err
}

// tagged is one with the answer's ETag, for a later If-Match.
func tagged[T any](ctx context.Context, c *Client, q request) (T, string, error) {
	var got T
	answer, err := c.do(ctx, q, &got)
	if err != nil {
		return got, "", err
	}
	return got, answer.Header.Get("ETag"), nil
}
