package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"assay/internal/files"
	"assay/internal/lifetime"
)

// maxInput is the largest file that a command reads whole.
const maxInput = 64 << 20

// interruptible is standard input for reads that end with the context: a terminal or pipe that delivers
// nothing would hold them for ever.
type interruptible struct {
	ctx  context.Context
	in   io.Reader
	data []byte
}

// newInterruptible makes reads of in end with the context. Where one did, the rest of in is lost.
func newInterruptible(ctx context.Context, in io.Reader) *interruptible {
	return &interruptible{ctx: ctx, in: in}
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.data == nil {
		r.data = make([]byte, 64<<10)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1) // the read that nobody waits for any more ends too, if ever
	buffer := r.data[:min(len(p), len(r.data))]
	go func() {
		n, err := r.in.Read(buffer)
		done <- result{n, err}
	}()
	select {
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	case got := <-done:
		return copy(p, buffer[:got.n]), got.err
	}
}

// typed reports whether people type what is read.
func typed(in io.Reader) bool {
	if r, ok := in.(*interruptible); ok {
		in = r.in
	}
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readInput reads a file of at most limit bytes; "-" is standard input.
func readInput(t *terminal, name string, limit int64) ([]byte, error) {
	if name == "-" {
		return files.All(t.In, name, limit)
	}
	return readFile(name, limit)
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return files.All(f, name, limit)
}

// readPrivate is readFile of a file that others must not be able to read. A pipe or a terminal is no file that they
// could; a file that the shell opened is.
func readPrivate(name string, limit int64) ([]byte, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !passing(f) {
		if err := files.Private(f, name); err != nil {
			return nil, err
		}
	}
	return files.All(f, name, limit)
}

// passing reports whether what is read is kept nowhere: it comes by a pipe, or people type it.
func passing(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0 || typed(f)
}

// openFile opens a regular file, or what the shell handed to this process.
func openFile(name string) (*os.File, error) {
	if handed(name) {
		return os.Open(name)
	}
	return files.Open(name)
}

// handed reports whether a name is of a file that the shell opened for this process, as with <(jq …).
func handed(name string) bool {
	number, found := strings.CutPrefix(name, "/dev/fd/")
	if !found {
		number, found = strings.CutPrefix(name, "/proc/self/fd/")
	}
	_, err := strconv.ParseUint(number, 10, 31) // no path, which could lead anywhere
	return found && err == nil || name == "/dev/stdin"
}

// lifetimeFlag is a duration flag that also takes days, such as 30d.
type lifetimeFlag time.Duration

// maxLifetime is the longest life of a code: longer, and nobody knows any more who holds it.
const maxLifetime = 365 * 24 * time.Hour

func (l *lifetimeFlag) UnmarshalText(text []byte) error {
	d, err := lifetime.Parse(string(text))
	if err != nil {
		return err
	}
	if d <= 0 || d > maxLifetime {
		return fmt.Errorf("%q is not between 1s and 365d", text)
	}
	*l = lifetimeFlag(d)
	return nil
}
