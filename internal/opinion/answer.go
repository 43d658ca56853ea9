package opinion

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of an answer.
const (
	maxScore  = 1000 // either way
	maxTags   = 16
	maxWord   = 32  // bytes of a verdict or tag
	maxReason = 300 // bytes that are kept
)

// word is the form of verdicts and tags: they are compared, stored and shown.
var word = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// integer is the form of a score: no fraction and no exponent, which readers round differently.
var integer = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,8})$`)

// answer is what the service says.
type answer struct {
	id      string
	verdict string
	score   int
	tags    []string
	reason  string
}

// parseAnswer reads {"id", "verdict", "score", "tags", "reason"}, the last two of which may be left out. It
// refuses whatever two readers could take differently: members that are unknown, stand twice or differ in
// case, null, and what follows the object. Errors quote nothing: they are logged.
func parseAnswer(body []byte) (answer, error) {
	if !utf8.Valid(body) {
		return answer{}, errors.New("the answer is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return answer{}, errors.New("the answer is no JSON object")
	}
	var a answer
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return answer{}, errors.New("the answer is not JSON")
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return answer{}, errors.New("the answer is not JSON")
		}
		member, _ := name.(string)
		if seen[member] {
			return answer{}, errors.New("the answer has a member twice")
		}
		seen[member] = true
		if err := a.set(member, value); err != nil {
			return answer{}, err
		}
	}
	if _, err := d.Token(); err != nil {
		return answer{}, errors.New("the answer is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return answer{}, errors.New("something follows the answer")
	}
	// A score that is left out would be 0, which a policy takes for known.
	for _, name := range []string{"id", "verdict", "score"} {
		if !seen[name] {
			return answer{}, fmt.Errorf("the answer lacks %s", name)
		}
	}
	return a, nil
}

// set reads one member.
func (a *answer) set(name string, value json.RawMessage) (err error) {
	switch name {
	case "id":
		a.id, err = parseText(name, value)
	case "verdict":
		a.verdict, err = parseWord(name, value)
	case "score":
		a.score, err = parseScore(value)
	case "tags":
		a.tags, err = parseTags(value)
	case "reason":
		a.reason, err = parseText(name, value)
		a.reason = clean(a.reason)
	default:
		err = errors.New("the answer has a member that is none of id, verdict, score, tags, reason")
	}
	return err
}

func parseText(name string, value json.RawMessage) (string, error) {
	var text string
	if value[0] != '"' || json.Unmarshal(value, &text) != nil {
		return "", fmt.Errorf("%s is no text", name)
	}
	return text, nil
}

func parseWord(name string, value json.RawMessage) (string, error) {
	text, err := parseText(name, value)
	if err != nil {
		return "", err
	}
	if len(text) > maxWord || !word.MatchString(text) {
		return "", fmt.Errorf("%s is no word of lower-case letters, digits and single hyphens, at most %d", name, maxWord)
	}
	return text, nil
}

func parseScore(value json.RawMessage) (int, error) {
	if !integer.Match(value) {
		return 0, errors.New("score is no whole number")
	}
	score, err := strconv.Atoi(string(value))
	if err != nil || score < -maxScore || score > maxScore {
		return 0, fmt.Errorf("score is not within ±%d", maxScore)
	}
	return score, nil
}

func parseTags(value json.RawMessage) ([]string, error) {
	var values []json.RawMessage
	if value[0] != '[' || json.Unmarshal(value, &values) != nil {
		return nil, errors.New("tags is no list")
	}
	if len(values) > maxTags {
		return nil, fmt.Errorf("tags has more than %d", maxTags)
	}
	tags := make([]string, 0, len(values))
	for _, v := range values {
		tag, err := parseWord("a tag", v)
		if err != nil {
			return nil, err
		}
		if slices.Contains(tags, tag) {
			return nil, errors.New("tags has one twice")
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// clean makes a text fit to be stored and shown. It is not refused for what is in it: a service may well
// quote what a device wrote, and no device shall get an answer thrown away by what it writes.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	return cut(strings.TrimSpace(text), maxReason)
}

// cut shortens a text to so many bytes.
func cut(text string, most int) string {
	const dots = "…"
	if len(text) <= most {
		return text
	}
	end := most - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}
