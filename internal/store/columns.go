package store

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	"assay/internal/issuance"
)

// stamp is a time as it is stored: microseconds since 1970 UTC, 0 for the zero time.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// timeOf is the time that stamp stored.
func timeOf(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// null is an optional reference: NULL where there is none.
func null[T ~string](id T) any {
	if id == "" {
		return nil
	}
	return string(id)
}

// labelsText is a map as JSON, "" for an empty one.
func labelsText(labels map[string]string) (string, error) {
	if len(labels) == 0 {
		return "", nil
	}
	text, err := json.Marshal(labels)
	return string(text), err
}

// labelsOf is the map that labelsText stored.
func labelsOf(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	var labels map[string]string
	err := json.Unmarshal([]byte(text), &labels)
	return labels, err
}

// refusalText is a refusal as JSON, "" for none.
func refusalText(r *issuance.Refusal) (string, error) {
	if r == nil {
		return "", nil
	}
	text, err := json.Marshal(r)
	return string(text), err
}

// refusalOf is the refusal that refusalText stored.
func refusalOf(text string) (*issuance.Refusal, error) {
	if text == "" {
		return nil, nil
	}
	var r issuance.Refusal
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// truncate cuts text to at most n bytes, between characters.
func truncate(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// flag is a truth value as it is stored.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
