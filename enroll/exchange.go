package enroll

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"assay/acme"
)

// What Apple's client sends with every request.
const (
	userAgent       = "com.apple.security.acmeclient/1.0"
	contentTypeJSON = "application/json"
	contentTypeJOSE = "application/jose+json"
)

// maxReply is the largest reply, in bytes, that is read.
const maxReply = 128 << 10

// newTransport makes the connection pool of one device: its own, without proxy or client
// certificate.
func newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// reply is a successful reply.
type reply struct {
	url      string
	status   int
	location string
	nonce    string
	body     []byte
}

// abort ends the run because of what this reply says.
func (a *reply) abort(reason Reason, detail string) *Abort {
	return &Abort{Reason: reason, Detail: detail, URL: a.url, Status: a.status}
}

// decode reads the reply's JSON object. Only members that the device needs are looked at.
func (a *reply) decode(into any) *Abort {
	if p := acme.DecodeStrict(a.body, into); p != nil {
		return a.abort(ReasonReply, "reply is not the JSON object that it must be")
	}
	return nil
}

// plain sends a GET or HEAD as Apple's client does: with a body, although it is empty of meaning.
func (r *run) plain(ctx context.Context, step Step, method, url string) (*reply, *Abort) {
	return r.send(ctx, step, method, url, contentTypeJSON, []byte("{}"))
}

// post sends a signed request, with the key before there is an account and with the account's URL
// after. A nil payload is a POST-as-GET. Every reply must bring the next nonce.
func (r *run) post(ctx context.Context, step Step, url string, payload []byte) (*reply, *Abort) {
	body, err := acme.Sign(r.accountKey, r.accountURL, r.nonce, url, payload)
	if err == nil && r.client.Device.DropsZeros() {
		body, err = dropZeros(body)
	}
	if err != nil {
		return nil, &Abort{Reason: ReasonTransport, Detail: "request cannot be signed", URL: url, Err: err}
	}
	a, abort := r.send(ctx, step, http.MethodPost, url, contentTypeJOSE, body)
	if abort != nil {
		return nil, abort
	}
	if a.nonce == "" {
		return nil, a.abort(ReasonNoNonce, "reply has no Replay-Nonce")
	}
	r.nonce = a.nonce
	return a, nil
}

// send makes one request and reads the reply. Any status but 200, 201 with Location and 204 with a
// nonce ends the run; nothing is ever sent twice.
func (r *run) send(ctx context.Context, step Step, method, url, contentType string, body []byte) (*reply, *Abort) {
	start := r.client.now()
	exchanged := Exchanged{Step: step, Method: method, URL: url}
	response, content, err := r.roundTrip(ctx, method, url, contentType, body)
	exchanged.Took = r.client.now().Sub(start)
	if response != nil {
		exchanged.Status = response.StatusCode
		if response.StatusCode >= 400 {
			exchanged.Problem = readProblem(content)
		}
	}
	r.client.observe(exchanged)
	if err != nil {
		return nil, &Abort{Reason: ReasonTransport, Detail: method + " failed", URL: url, Status: exchanged.Status, Err: err}
	}
	if len(content) > maxReply {
		return nil, &Abort{Reason: ReasonReply, Detail: "reply is too large", URL: url, Status: response.StatusCode}
	}
	a := &reply{
		url:      url,
		status:   response.StatusCode,
		location: response.Header.Get("Location"),
		nonce:    response.Header.Get("Replay-Nonce"),
		body:     content,
	}
	switch {
	case a.status == http.StatusOK:
	case a.status == http.StatusCreated && a.location != "":
	case a.status == http.StatusCreated:
		return nil, a.abort(ReasonNoLocation, "status 201 without Location")
	case a.status == http.StatusNoContent && a.nonce != "":
	case a.status == http.StatusNoContent:
		return nil, a.abort(ReasonNoNonce, "status 204 without Replay-Nonce")
	default:
		abort := a.abort(ReasonHTTPStatus, fmt.Sprintf("HTTP status %d", a.status))
		abort.Problem = exchanged.Problem
		return nil, abort
	}
	return a, nil
}

// roundTrip returns the response with its body, of which it reads at most one byte too many.
func (r *run) roundTrip(ctx context.Context, method, url, contentType string, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.client.limits.request, requestLimit))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	request.GetBody = nil // without it net/http cannot send a request again on a new connection
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Content-Type", contentType)
	response, err := r.http.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	return response, content, err
}

// readProblem reads a problem document, leniently: it is for people.
func readProblem(body []byte) *acme.Problem {
	var p acme.Problem
	if len(body) > maxReply || json.Unmarshal(body, &p) != nil || p.Type == "" {
		return nil
	}
	p.Type, p.Detail, p.Check = readable(p.Type), readable(p.Detail), readable(p.Check)
	return &p
}

// readable makes a server's text fit for a terminal: without control characters, and of bounded
// length.
func readable(text string) string {
	const most = 500
	clean := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
	if runes := []rune(clean); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return clean
}

// dropZeros takes the leading zero bytes of r and s out of a request's ES256 signature, as Apple
// systems before about iOS 18 and macOS 15 do.
func dropZeros(body []byte) ([]byte, error) {
	var jws struct {
		Protected string `json:"protected"`
		Payload   string `json:"payload"`
		Signature string `json:"signature"`
	}
	if err := json.Unmarshal(body, &jws); err != nil {
		return nil, err
	}
	signature, err := base64.RawURLEncoding.DecodeString(jws.Signature)
	if err != nil {
		return nil, err
	}
	half := len(signature) / 2
	short := append(bytes.TrimLeft(signature[:half:half], "\x00"), bytes.TrimLeft(signature[half:], "\x00")...)
	jws.Signature = base64.RawURLEncoding.EncodeToString(short)
	return json.Marshal(jws)
}
