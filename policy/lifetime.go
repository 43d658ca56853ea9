package policy

import (
	"bytes"
	"encoding/json"
	"time"

	"assay/internal/lifetime"
)

// Lifetime is a duration as an outcome has it. In JSON it is as people write it, such as "90d"; a number, of
// decisions that were stored before, is of nanoseconds.
type Lifetime time.Duration

func (l Lifetime) String() string { return lifetime.Text(time.Duration(l)) }

// MarshalText writes the lifetime as in "90d".
func (l Lifetime) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a lifetime as it is written.
func (l *Lifetime) UnmarshalText(text []byte) error {
	d, err := lifetime.Parse(string(text))
	*l = Lifetime(d)
	return err
}

// UnmarshalJSON reads a lifetime as it is written, or a number of nanoseconds.
func (l *Lifetime) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte{'"'}) {
		return json.Unmarshal(data, (*int64)(l))
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	return l.UnmarshalText([]byte(text))
}
