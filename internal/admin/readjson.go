package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// maxDepth is how deep the JSON of a request may nest.
const maxDepth = 32

// How much the JSON of a request may hold. Without these limits a body of nothing but brackets would
// become a hundred times its size before any rule sees it.
const (
	maxElements = 1000   // of one array, members of one object
	maxValues   = 50_000 // of the whole body: a batch of 500 with 64 labels each has 34,000
)

// Refusals of bodies that hold too much: unlike those that are no JSON, they are invalid-request.
var (
	errTooManyElements = fmt.Errorf("an array or object has more than %d elements", maxElements)
	errTooManyValues   = fmt.Errorf("more than %d values", maxValues)
)

// readJSON decodes a request's JSON. Beside what encoding/json refuses, it refuses members that stand
// twice in an object, because two readers could take either, nesting beyond maxDepth, and more than a
// request can hold. Its errors may quote the body at length.
func readJSON(data []byte, v any) error {
	if err := checkJSON(data, maxElements, maxValues); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// checkJSON is readJSON without reading: elements and values are how much there may be.
func checkJSON(data []byte, elements, values int) error {
	c := checker{json.NewDecoder(bytes.NewReader(data)), elements, values}
	c.json.UseNumber()
	if err := c.value(0); err != nil {
		return err
	}
	if _, err := c.json.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// unbounded is for bodies of other systems, which are bounded by their bytes alone.
const unbounded = math.MaxInt

type checker struct {
	json     *json.Decoder
	elements int // that an array or object may have
	values   int // that may still come
}

// value reads one value, depth levels deep.
func (c *checker) value(depth int) error {
	if c.values--; c.values < 0 {
		return errTooManyValues
	}
	token, err := c.json.Token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("nested more than %d levels deep", maxDepth)
	}
	seen := map[string]bool{}
	for n := 0; c.json.More(); n++ {
		if n == c.elements {
			return errTooManyElements
		}
		if open == '{' {
			token, err := c.json.Token()
			if err != nil {
				return err
			}
			name, _ := token.(string)
			if seen[name] {
				return fmt.Errorf("twice in one object: member %q", name)
			}
			seen[name] = true
		}
		if err := c.value(depth + 1); err != nil {
			return err
		}
	}
	_, err = c.json.Token()
	return err
}

// maxQuoted is how many bytes of a piece of a request an answer quotes.
const maxQuoted = 100

// shorten cuts what comes out of a request to maxQuoted bytes.
func shorten(text string) string {
	if len(text) <= maxQuoted {
		return text
	}
	cut := maxQuoted - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
