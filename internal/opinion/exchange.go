package opinion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"assay/policy"
)

// Report is one exchange with the service.
type Report struct {
	ID       string // of the request
	Sent     []byte // body of the request
	Status   int    // HTTP status; 0 if there was no reply
	Received []byte // body of the reply, as far as it was read
	Took     time.Duration
	Opinion  *policy.Opinion
	Err      error // why there is no answer; it shows nothing of the bodies
}

// failed is an exchange without an answer.
type failed struct {
	failure string
	err     error
}

// exchange asks once.
func (c *Client) exchange(ctx context.Context, in policy.Input, test bool) Report {
	began := c.Now()
	r := Report{Opinion: &policy.Opinion{Required: c.Required}}
	a, failed := c.converse(ctx, &r, in, test)
	r.Took = c.Now().Sub(began)
	r.Opinion.ID = r.ID
	if failed != nil {
		r.Err, r.Opinion.Failure = failed.err, failed.failure
		// What a device wrote must not be what silences the service.
		r.Opinion.Required = r.Opinion.Required || failed.failure == Unsendable
		return r
	}
	r.Opinion.Answered = true
	r.Opinion.Verdict, r.Opinion.Score, r.Opinion.Tags, r.Opinion.Reason = a.verdict, a.score, a.tags, a.reason
	return r
}

// converse makes the request, sends it and reads the answer. The budget is for all of it.
func (c *Client) converse(ctx context.Context, r *Report, in policy.Input, test bool) (answer, *failed) {
	var err error
	if r.ID, err = newID(c.Random); err != nil {
		return answer{}, &failed{Unsendable, err}
	}
	if r.Sent, err = encode(r.ID, in, test); err != nil {
		return answer{}, &failed{Unsendable, err}
	}
	own, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	secrets := *c.secrets.Load() // of the request and its answer, whatever replaces them meanwhile
	header, err := c.post(own, r, secrets)
	switch {
	case err != nil && ctx.Err() != nil:
		return answer{}, &failed{Canceled, ctx.Err()}
	case err != nil && (own.Err() != nil || isTimeout(err)):
		return answer{}, &failed{Timeout, fmt.Errorf("no whole answer within %s", c.Timeout)}
	case err != nil:
		return answer{}, &failed{Unreachable, err}
	case r.Status != http.StatusOK:
		return answer{}, &failed{Status, fmt.Errorf("the service answered with status %d", r.Status)}
	}
	return c.read(r, header, secrets)
}

// post sends the request and reads the reply, whatever it is.
func (c *Client) post(ctx context.Context, r *Report, secrets []Secret) (http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(r.Sent))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "assay")
	// A kept connection may have died meanwhile: then, and only if no byte of a reply came, the transport
	// sends the same request again, on another. The key says that it may; empty, it is not sent.
	request.Header["Idempotency-Key"] = nil
	Sign(request.Header, r.ID, r.Sent, secrets, c.Now())
	reply, err := c.http.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // without the URL
		}
		return nil, err
	}
	defer reply.Body.Close()
	r.Status = reply.StatusCode
	r.Received, err = io.ReadAll(io.LimitReader(reply.Body, maxAnswer+1))
	if r.Status != http.StatusOK {
		err = nil // the status says enough, however its text ended
	}
	return reply.Header, err
}

// read takes an answer from the reply. One that is signed for another request, or names another, might be
// an old answer that somebody sends again.
func (c *Client) read(r *Report, header http.Header, secrets []Secret) (answer, *failed) {
	if len(r.Received) > maxAnswer {
		return answer{}, &failed{Malformed, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)}
	}
	if c.SignedResponses {
		if err := Verify(header, r.Received, secrets, c.Now()); err != nil {
			return answer{}, &failed{Unsigned, fmt.Errorf("the answer: %w", err)}
		}
		if header.Get(headerID) != r.ID {
			return answer{}, &failed{WrongID, errors.New("the answer is signed for another request")}
		}
	}
	if media, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || media != "application/json" {
		return answer{}, &failed{Malformed, errors.New("the answer's Content-Type is not application/json")}
	}
	a, err := parseAnswer(r.Received)
	if err != nil {
		return answer{}, &failed{Malformed, err}
	}
	if a.id != r.ID {
		return answer{}, &failed{WrongID, errors.New("the answer's id is not the request's")}
	}
	return a, nil
}

func isTimeout(err error) bool {
	timed, ok := errors.AsType[net.Error](err)
	return ok && timed.Timeout()
}

// health is what the exchange says about the service. Only a service that is not there or asks for a rest
// is given one. An answer that is wrong costs no time, and may have been provoked: a device that could
// open the circuit by what it writes would silence the service for all others.
func (r *Report) health() health {
	switch r.Opinion.Failure {
	case Canceled, Unsendable:
		return unknown
	case Timeout, Unreachable:
		return down
	case Status:
		if r.Status >= http.StatusInternalServerError || r.Status == http.StatusTooManyRequests {
			return down
		}
	}
	return working
}
