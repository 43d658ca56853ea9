package installation

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"assay/internal/files"
)

// A pipe where a file is configured would keep the server from starting, without a word.
func TestAPipeIsRefusedWhereAFileIsNamed(t *testing.T) {
	const accepting = "\n    identifiers:"
	for name, put := range map[string]string{ // a file, and what names it in the configuration
		"assay.yaml": "", "keys/data.key": "", "keys/audit.key": "", "certs/serving-root.pem": "", "keys/serving-root.key": "",
		"policy.yaml": "\n    policy: policy.yaml" + accepting,
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := initialized(t, nil)
			if put != "" {
				edit(t, dir, accepting, put)
			}
			path := filepath.Join(dir, name)
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			i, err := Open(t.Context(), dir, time.Now)
			if err == nil {
				err = i.Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
				if closed := i.Close(); closed != nil {
					t.Error(closed)
				}
			}
			if !errors.Is(err, files.ErrNotRegular) {
				t.Errorf("got %v", err)
			}
		})
	}
}
