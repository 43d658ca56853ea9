package server_test

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
)

// logBook keeps what the server logs.
type logBook struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logBook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// lines are the log's records with this message.
func (l *logBook) lines(t *testing.T, message string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range bytes.Lines([]byte(l.text())) {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if record["msg"] == message {
			out = append(out, record)
		}
	}
	return out
}
