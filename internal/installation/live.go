package installation

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"assay/internal/files"
)

// liveCheck is how often live files are looked at for changes.
const liveCheck = time.Second

// fileState is what shows that a file changed.
type fileState struct {
	modified int64 // nanoseconds since 1970
	size     int64
}

func stateOf(info os.FileInfo) fileState { return fileState{info.ModTime().UnixNano(), info.Size()} }

// liveFile is a file that is read again when it changes. What it holds takes over at once and whole, and only if
// it passes every check; else the last good one stays. It is read once it has not changed between two looks: half
// a policy may well be one, without its last conditions and tests.
type liveFile[T any] struct {
	what  string // for the log, such as policy
	path  string
	limit int64 // bytes
	open  func(path string) (*os.File, error)
	parse func(text []byte) (T, error)
	use   func(T)
	log   *slog.Logger

	read   fileState // of the file that was last read, also in vain
	seen   fileState // at the look before
	logged string    // the fault that the log has; "" while all is well
}

// load reads and checks the file as it is now.
func (l *liveFile[T]) load() (v T, err error) {
	f, err := l.open(l.path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return v, err
	}
	l.read = stateOf(info)
	text, err := files.All(f, l.path, l.limit)
	if err != nil {
		return v, err
	}
	if info, err = f.Stat(); err != nil || stateOf(info) != l.read {
		return v, errors.Join(err, errors.New("the file is just being written"))
	}
	return l.parse(text)
}

// reload is what became of looking at a live file.
type reload int

const (
	reloadNone reload = iota // nothing changed
	reloadGood
	reloadBad // the last good one stays in use
)

// refresh reads the file again if it changed. The same fault is told once.
func (l *liveFile[T]) refresh() reload {
	info, err := os.Stat(l.path)
	if err == nil && stateOf(info) == l.read {
		return reloadNone
	}
	if err == nil && stateOf(info) != l.seen { // it may still be written
		l.seen = stateOf(info)
		return reloadNone
	}
	var v T
	if err == nil {
		v, err = l.load()
	}
	if err == nil && l.read != l.seen { // it was replaced since: the next look tells more
		l.seen, l.read = l.read, fileState{}
		return reloadNone
	}
	if err != nil {
		told := l.logged == err.Error()
		l.logged = err.Error()
		if told {
			return reloadNone
		}
		l.log.Error("the last good "+l.what+" stays in use", "error", err)
		return reloadBad
	}
	l.logged = ""
	l.use(v)
	return reloadGood
}

// watchFiles looks at live files until the context ends.
func watchFiles(ctx context.Context, looks []func()) {
	ticker := time.NewTicker(liveCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, look := range looks {
				look()
			}
		}
	}
}
