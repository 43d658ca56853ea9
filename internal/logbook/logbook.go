// Package logbook keeps what several goroutines log, or a program says, for tests that read it meanwhile.
package logbook

import (
	"strings"
	"sync"
)

// Book is a log. The zero Book is empty.
type Book struct {
	mu  sync.Mutex
	all strings.Builder
}

func (b *Book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

// String is what was logged until now.
func (b *Book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}
