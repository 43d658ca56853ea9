package ca

import (
	"fmt"
	"regexp"
)

// maxPattern is the longest pattern that is read, in bytes.
const maxPattern = 1024

// Pattern is a regular expression (RE2 syntax) that a whole value must match. The zero Pattern
// matches nothing.
type Pattern struct {
	text string
	re   *regexp.Regexp
}

// UnmarshalText reads the pattern from configuration.
func (p *Pattern) UnmarshalText(text []byte) error {
	if len(text) > maxPattern {
		return fmt.Errorf("pattern is longer than %d bytes", maxPattern)
	}
	// Compiled alone first: "a)(b" would be sound between the parentheses below.
	if _, err := regexp.Compile(string(text)); err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	re, err := regexp.Compile(`\A(?:` + string(text) + `)\z`)
	if err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	*p = Pattern{text: string(text), re: re}
	return nil
}

// MarshalText writes the pattern as it was read.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// IsZero reports whether there is no pattern.
func (p Pattern) IsZero() bool { return p.re == nil }

// match reports whether the whole value matches.
func (p Pattern) match(value string) bool { return p.re != nil && p.re.MatchString(value) }
