package acme

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Limits on every JSON text that arrives. Real requests nest four deep and have ten members.
const (
	maxDepth   = 16
	maxMembers = 64
)

// member is one member of a JSON object: its decoded name and its value as sent.
type member struct {
	name  string
	value []byte
}

// scanObject reads a JSON text that must be exactly one object and returns its members in order.
// Unlike encoding/json it refuses duplicate names at every depth (RFC 7515, section 4, and RFC
// 8259, section 4: parsers disagree about which one counts), text that is not UTF-8, deep nesting
// and trailing data.
func scanObject(data []byte) ([]member, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("text is not UTF-8")
	}
	s := &scanner{data: data}
	s.space()
	if s.peek() != '{' {
		return nil, errors.New("not a JSON object")
	}
	members, err := s.object(1)
	if err != nil {
		return nil, err
	}
	s.space()
	if s.pos != len(data) {
		return nil, fmt.Errorf("data after the object, at byte %d", s.pos)
	}
	return members, nil
}

// scanner walks a JSON text once (RFC 8259).
type scanner struct {
	data []byte
	pos  int
}

// peek returns the next byte, or 0 at the end (0 never starts a token).
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// take consumes the byte c if it is next.
func (s *scanner) take(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) syntaxError() error {
	return fmt.Errorf("JSON syntax error at byte %d", s.pos)
}

func (s *scanner) value(depth int) error {
	c := s.peek()
	if depth > maxDepth && (c == '{' || c == '[') {
		return fmt.Errorf("JSON nested deeper than %d", maxDepth)
	}
	switch {
	case c == '{':
		_, err := s.object(depth)
		return err
	case c == '[':
		return s.array(depth)
	case c == '"':
		_, err := s.string()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	}
	return s.syntaxError()
}

func (s *scanner) object(depth int) ([]member, error) {
	s.pos++ // the brace
	s.space()
	if s.take('}') {
		return nil, nil
	}
	members := make([]member, 0, 8)
	for {
		m, err := s.member(depth)
		if err != nil {
			return nil, err
		}
		for i := range members {
			if members[i].name == m.name {
				return nil, fmt.Errorf("duplicate member %.40q", m.name)
			}
		}
		if len(members) == maxMembers {
			return nil, fmt.Errorf("object has more than %d members", maxMembers)
		}
		members = append(members, m)
		s.space()
		if s.take('}') {
			return members, nil
		}
		if !s.take(',') {
			return nil, s.syntaxError()
		}
		s.space()
	}
}

func (s *scanner) member(depth int) (member, error) {
	raw, err := s.string()
	if err != nil {
		return member{}, err
	}
	name, _ := text(raw) // it is a sound string by now
	s.space()
	if !s.take(':') {
		return member{}, s.syntaxError()
	}
	s.space()
	start := s.pos
	if err := s.value(depth + 1); err != nil {
		return member{}, err
	}
	return member{name: name, value: s.data[start:s.pos]}, nil
}

func (s *scanner) array(depth int) error {
	s.pos++ // the bracket
	s.space()
	if s.take(']') {
		return nil
	}
	for {
		s.space()
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.syntaxError()
		}
	}
}

// string consumes a string and returns it as sent, with its quotes.
func (s *scanner) string() ([]byte, error) {
	start := s.pos
	if !s.take('"') {
		return nil, s.syntaxError()
	}
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start:s.pos], nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, s.syntaxError()
		default:
			s.pos++
		}
	}
	return nil, s.syntaxError()
}

func (s *scanner) escape() error {
	s.pos++ // the backslash
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		s.pos++
		for range 4 {
			switch c := s.peek(); {
			case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
				s.pos++
			default:
				return s.syntaxError()
			}
		}
		return nil
	}
	return s.syntaxError()
}

func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return s.syntaxError()
	}
	if s.take('.') && !s.digits() {
		return s.syntaxError()
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return s.syntaxError()
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if !s.take(word[i]) {
			return s.syntaxError()
		}
	}
	return nil
}

// text decodes a JSON value that must be a string.
func text(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	for _, c := range raw {
		if c == '\\' {
			var s string
			err := json.Unmarshal(raw, &s)
			return s, err == nil
		}
	}
	return string(raw[1 : len(raw)-1]), true
}
