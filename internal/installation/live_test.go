package installation

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/files"
	"assay/internal/logbook"
)

// liveText is a live file whose text is used as it is, unless it is "faulty".
type liveText struct {
	*testing.T
	liveFile[string]
	used string
	book logbook.Book
}

func newLiveText(t *testing.T) *liveText {
	t.Helper()
	l := &liveText{T: t}
	l.liveFile = liveFile[string]{
		what: "text", path: filepath.Join(t.TempDir(), "text"), limit: 100, log: slog.New(slog.NewTextHandler(&l.book, nil)),
		open: func(path string) (fs.File, error) { return files.Open(path) },
		parse: func(_ context.Context, text []byte) (string, error) {
			if string(text) == "faulty" {
				return "", errors.New("it is faulty")
			}
			return string(text), nil
		},
		use: func(text string) { l.used = text },
	}
	l.replace("first")
	if _, err := l.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// replace puts a file in place of the one there is, with the time that every file has here.
func (l *liveText) replace(text string) {
	l.Helper()
	next, when := l.path+".next", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Chtimes(next, when, when), os.Rename(next, l.path)); err != nil {
		l.Fatal(err)
	}
}

// looks refreshes once for every result that is wanted.
func (l *liveText) looks(what string, want ...reload) {
	l.Helper()
	for n, want := range want {
		if got := l.refresh(l.Context()); got != want {
			l.Errorf("%s, look %d: %v, want %v", what, n, got, want)
		}
	}
}

func TestALiveFileThatComesBackUnchangedIsFaultyNoMore(t *testing.T) {
	l := newLiveText(t)
	for range 2 {
		if err := os.Rename(l.path, l.path+".away"); err != nil {
			t.Fatal(err)
		}
		l.looks("gone", reloadBad, reloadNone)
		if err := os.Rename(l.path+".away", l.path); err != nil {
			t.Fatal(err)
		}
		l.looks("back", reloadNone, reloadGood, reloadNone)
	}
	if n := strings.Count(l.book.String(), "the last good text stays in use"); n != 2 {
		t.Errorf("told %d times that it is gone", n)
	}
}

func TestALiveFileThatCouldNotBeOpenedIsTriedAgain(t *testing.T) {
	l := newLiveText(t)
	l.replace("second")
	open := l.open
	l.open = func(string) (fs.File, error) { return nil, fs.ErrPermission }
	l.looks("closed", reloadNone, reloadBad, reloadNone)
	l.open = open
	l.looks("open", reloadGood, reloadNone)
}

func TestALiveFileOfTheSameSizeAndTimeIsRead(t *testing.T) {
	l := newLiveText(t)
	l.replace("other")
	if l.looks("replaced", reloadNone, reloadGood, reloadNone); l.used != "other" {
		t.Errorf("%q is used", l.used)
	}
}

// overwritten is a file that is written over once it was read.
type overwritten struct {
	*os.File
	next string
}

func (o overwritten) Read(p []byte) (int, error) {
	n, err := o.File.Read(p)
	if err == io.EOF {
		if err := os.WriteFile(o.Name(), []byte(o.next), 0o600); err != nil {
			return n, err
		}
	}
	return n, err
}

func TestALiveFileThatIsWrittenWhileItIsReadWaitsForTheNextLook(t *testing.T) {
	l := newLiveText(t)
	l.replace("half")
	open := l.open
	l.open = func(path string) (fs.File, error) {
		f, err := os.Open(path)
		return overwritten{f, "half a text"}, err
	}
	l.looks("while it is written", reloadNone, reloadNone)
	l.open = open
	if l.looks("written", reloadNone, reloadGood); l.used != "half a text" || l.book.String() != "" {
		t.Errorf("%q is used; the log says %s", l.used, l.book.String())
	}
}

// What is read is what was found the same twice, and not what came in between, faulty or not.
func TestALiveFileThatIsReplacedBeforeItIsReadWaitsForTheNextLook(t *testing.T) {
	for _, between := range []string{"second", "faulty"} {
		l := newLiveText(t)
		l.replace("seen")
		open := l.open
		l.open = func(path string) (fs.File, error) {
			l.replace(between)
			return open(path)
		}
		l.looks("while it is replaced", reloadNone, reloadNone)
		if l.used != "" || l.book.String() != "" {
			t.Errorf("%q is used; the log says %s", l.used, l.book.String())
		}
		l.open = open
		l.looks("replaced", map[string]reload{"second": reloadGood, "faulty": reloadBad}[between])
	}
}

func TestALiveFileWhoseChecksTheStopInterruptsIsNotFaulty(t *testing.T) {
	l := newLiveText(t)
	ctx, stop := context.WithCancel(t.Context())
	l.parse = func(ctx context.Context, _ []byte) (string, error) {
		stop()
		return "", ctx.Err()
	}
	l.replace("second")
	for range 2 {
		if got := l.refresh(ctx); got != reloadNone {
			t.Errorf("got %v", got)
		}
	}
	if ctx.Err() == nil || l.book.String() != "" {
		t.Errorf("the checks were not interrupted, or the log says %s", l.book.String())
	}
}
