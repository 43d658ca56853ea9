package policy

import (
	"time"

	"assay/internal/lifetime"
)

// Lifetime is a duration as an outcome has it, in JSON as people write it, such as "90d".
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
