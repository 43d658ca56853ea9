package abm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	maxAnswer   = 8 << 20 // bytes of an answer; a thousand devices have about one
	maxRefusal  = 64 << 10
	maxTries    = 7
	firstPause  = 2 * time.Second
	lastPause   = time.Minute
	maxRetryDay = 24 * time.Hour // the longest wish for a pause that is believed
)

// What is tried, as errors name it.
const (
	tokenCall  = "request access token"
	listCall   = "list devices"
	deviceCall = "ask for a device"
)

// userAgent names this program: some of Apple's services refuse requests without a name.
const userAgent = "Assay (inventory)"

// get asks the API for something with the present token, again where that may help, and parses the
// answer. A token that is refused is renewed once ("whenever … return a '401' response", "Request an access
// token").
func get[T any](ctx context.Context, c *Client, what, path string, query url.Values, parse func([]byte) (T, error)) (T, error) {
	address := c.config.URL + "/v1/" + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	renewed := false
	once := func() (T, error) {
		var none T
		for {
			token, err := c.bearer(ctx)
			if err != nil {
				return none, err
			}
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
			if err != nil {
				return none, fmt.Errorf("%s: %w", what, err)
			}
			request.Header.Set("Authorization", "Bearer "+token)
			body, fault := c.send(request, what, token)
			if fault != nil && fault.Status == http.StatusUnauthorized && !renewed {
				renewed = true
				c.tokens.drop(token)
				continue
			}
			if fault != nil {
				return none, fault
			}
			got, err := parse(body)
			if err != nil {
				return none, unexpected(what, err)
			}
			return got, nil
		}
	}
	return persist(ctx, c, once)
}

// persist does something until it succeeds, fails for good, or Patience is over.
func persist[T any](ctx context.Context, c *Client, once func() (T, error)) (T, error) {
	end := c.config.Now().Add(c.config.Patience)
	for try := 1; ; try++ {
		got, err := once()
		fault, known := errors.AsType[*Error](err)
		if err == nil || !known {
			return got, err
		}
		fault.Tries = try
		next := c.config.Now().Add(c.pauseAfter(try))
		if fault.RetryAt.After(next) {
			next = fault.RetryAt
		}
		if !fault.again || try == maxTries || next.After(end) {
			return got, fault
		}
		if err := c.config.Wait(ctx, next.Sub(c.config.Now())); err != nil {
			return got, err
		}
	}
}

// pauseAfter is how long to wait after a try that failed: twice as long each time, less up to a half by
// chance, so that many that failed together do not come back together.
func (c *Client) pauseAfter(try int) time.Duration {
	whole := min(firstPause<<(try-1), lastPause)
	var chance [4]byte
	if _, err := io.ReadFull(c.config.Random, chance[:]); err != nil {
		return whole
	}
	return whole - time.Duration(float64(whole)/2*float64(binary.BigEndian.Uint32(chance[:]))/(1<<32))
}

// send makes one request and returns the body of a good answer. secret is taken out of whatever the
// other side says in a bad one.
func (c *Client) send(request *http.Request, what, secret string) ([]byte, *Error) {
	request.Header.Set("Accept", "application/json") // without it, the API answers 406 to some clients
	request.Header.Set("User-Agent", userAgent)
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, unreachable(what, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal)) // what came of it says enough
		return nil, c.refusal(answer, what, body, secret)
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || !isJSON(kind) {
		return nil, &Error{Call: what, Check: CheckAnswer, Status: answer.StatusCode, Err: fmt.Errorf("the answer is %.60q, not JSON", kind)}
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, unreachable(what, fmt.Errorf("the answer broke off: %w", err))
	}
	if len(body) > maxAnswer {
		return nil, &Error{Call: what, Check: CheckAnswer, Status: answer.StatusCode, Err: fmt.Errorf("the answer is larger than %d bytes", maxAnswer)}
	}
	return bytes.TrimSpace(body), nil
}

func isJSON(kind string) bool {
	return kind == "application/json" || kind == "application/vnd.api+json"
}

// retryAt is when a Retry-After (RFC 9110, section 10.2.3: seconds or a date) allows the next request; zero
// if there is none that can be read.
func retryAt(header string, now time.Time) time.Time {
	if header == "" {
		return time.Time{}
	}
	if seconds, err := strconv.ParseUint(header, 10, 63); err == nil {
		return now.Add(time.Duration(min(seconds, uint64(maxRetryDay/time.Second))) * time.Second)
	}
	date, err := http.ParseTime(header)
	if err != nil || date.Before(now) {
		return time.Time{}
	}
	if latest := now.Add(maxRetryDay); date.After(latest) {
		return latest
	}
	return date
}
