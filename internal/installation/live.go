package installation

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"assay/internal/files"
)

// liveCheck is how often live files are looked at for changes.
const liveCheck = time.Second

// liveFile is a file that is read again when it changes. What it holds takes over at once and whole, and only if
// it passes every check; else the last good one stays. It is read once it has not changed between two looks: half
// a policy may well be one, without its last conditions and tests.
type liveFile[T any] struct {
	what  string // for the log, such as policy
	path  string
	limit int64 // bytes
	open  func(path string) (fs.File, error)
	parse func(ctx context.Context, text []byte) (T, error)
	use   func(T)
	log   *slog.Logger

	read   fs.FileInfo // of the file that was last read whole, also if its text is faulty; nil: it must be read again
	seen   fs.FileInfo // at the look before
	logged string      // the fault that the log has; "" while all is well
}

// load reads and checks the file as it is now.
func (l *liveFile[T]) load(ctx context.Context) (v T, err error) {
	l.read = nil
	f, err := l.open(l.path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	text, info, err := files.Steady(f, l.path, l.limit)
	if err != nil {
		return v, err
	}
	l.read = info
	return l.parse(ctx, text)
}

// reload is what became of looking at a live file.
type reload int

const (
	reloadNone reload = iota // nothing changed
	reloadGood
	reloadBad // the last good one stays in use
)

// refresh reads the file again if it changed. The same fault is told once.
func (l *liveFile[T]) refresh(ctx context.Context) reload {
	info, err := os.Stat(l.path)
	if err != nil {
		l.read, l.seen = nil, nil // once it is back it is read, though it be as it was
		return l.stays(err)
	}
	if files.Same(info, l.read) {
		return reloadNone
	}
	if !files.Same(info, l.seen) { // it may still be written
		l.seen = info
		return reloadNone
	}
	v, err := l.load(ctx)
	if ctx.Err() != nil { // the server stops: what was interrupted is no fault of the file's
		return reloadNone
	}
	if errors.Is(err, files.ErrChanging) || l.read != nil && !files.Same(l.read, l.seen) { // written or replaced since: the next look tells more
		l.seen, l.read = l.read, nil
		return reloadNone
	}
	if err != nil {
		return l.stays(err)
	}
	l.logged = ""
	l.use(v)
	return reloadGood
}

// stays tells that the last good one stays in use.
func (l *liveFile[T]) stays(err error) reload {
	if l.logged == err.Error() {
		return reloadNone
	}
	l.logged = err.Error()
	l.log.Error("the last good "+l.what+" stays in use", "error", err)
	return reloadBad
}

// watchFiles looks at live files until the context ends.
func watchFiles(ctx context.Context, looks []func(context.Context)) {
	ticker := time.NewTicker(liveCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, look := range looks {
				look(ctx)
			}
		}
	}
}
