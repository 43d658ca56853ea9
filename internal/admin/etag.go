package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// etagOf is the strong entity tag of a thing as it is answered. Of a thing with a revision it begins
// with that, so that If-Match can become the store's own condition.
func etagOf(revision int, thing any) (string, error) {
	text, err := json.Marshal(thing)
	if err != nil {
		return "", fmt.Errorf("make ETag: %w", err)
	}
	sum := sha256.Sum256(text)
	tag := base64.RawURLEncoding.EncodeToString(sum[:18])
	if revision > 0 {
		tag = "r" + strconv.Itoa(revision) + "-" + tag
	}
	return `"` + tag + `"`, nil
}

// Conditions is the header of a change that may be conditional.
type Conditions struct {
	IfMatch string `header:"If-Match" maxLength:"255" doc:"ETag of the thing as you know it. If it was changed since, nothing is changed: 412. Only the revision in the tag counts, not what else the thing shows."`
}

// revision is the revision that the change is conditional on; 0 for no condition.
func (c *Conditions) revision() (int, *Problem) {
	tag := strings.TrimSpace(c.IfMatch)
	if tag == "" || tag == "*" {
		return 0, nil
	}
	inner, quoted := strings.CutPrefix(tag, `"r`)
	inner, ended := strings.CutSuffix(inner, `"`)
	number, _, _ := strings.Cut(inner, "-")
	revision, err := strconv.Atoi(number)
	if !quoted || !ended || err != nil || revision < 1 {
		return 0, refuse(http.StatusPreconditionFailed, "if-match", "If-Match names no ETag of such a thing (one tag, as it was answered)")
	}
	return revision, nil
}

// changed is the refusal of a change whose condition failed.
func changed() *Problem {
	return refuse(http.StatusPreconditionFailed, "if-match", "it was changed since: fetch it again, then decide again")
}

// tagged is the answer of one thing with its ETag.
type tagged[T any] struct {
	ETag string `header:"ETag" doc:"Strong entity tag."`
	Body T
}

func tag[T any](revision int, thing T) (*tagged[T], error) {
	etag, err := etagOf(revision, thing)
	if err != nil {
		return nil, err
	}
	return &tagged[T]{ETag: etag, Body: thing}, nil
}

// Known is the header of a request that need not be answered again.
type Known struct {
	IfNoneMatch string `header:"If-None-Match" doc:"ETag of the thing as you know it: answers 304 if it is still that."`
}
