package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"assay/internal/issuance"
)

// maxInput is the largest file that a command reads whole.
const maxInput = 64 << 20

// readInput reads a file of at most limit bytes; "-" is standard input.
func readInput(term *terminal, name string, limit int64) ([]byte, error) {
	if name == "-" {
		return readAll(term.In, name, limit)
	}
	return readFile(name, limit)
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name, limit)
}

func readAll(in io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return data, nil
}

// lifetime is a duration flag that also takes days, such as 30d.
type lifetime time.Duration

// maxLifetime is the longest life of a code: longer, and nobody knows any more who holds it.
const maxLifetime = 365 * 24 * time.Hour

func (l *lifetime) UnmarshalText(text []byte) error {
	d, err := issuance.ParseLifetime(string(text))
	if err != nil {
		return err
	}
	if d <= 0 || d > maxLifetime {
		return fmt.Errorf("%q is not between 1s and 365d", text)
	}
	*l = lifetime(d)
	return nil
}
