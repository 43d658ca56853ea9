package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"assay/internal/files"
)

// silent is an input that delivers nothing, and says when somebody began to read it.
type silent struct{ read chan struct{} }

func (s *silent) Read([]byte) (int, error) {
	close(s.read)
	select {}
}

// TestInterruptEndsWaitingForInput: a command that waits for standard input ends with its context, as what
// failed rather than as an answer.
func TestInterruptEndsWaitingForInput(t *testing.T) {
	dir := newFolder(t)
	for _, args := range [][]string{
		{"credential", "check", "-"},
		{"credential", "declare", "--dir", dir, "--template", "wifi", "--from", "-"},
		{"code", "mint", "--dir", dir, "--from", "-"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		in := &silent{make(chan struct{})}
		var out, errs bytes.Buffer
		ended := make(chan int)
		go func() {
			ended <- run(ctx, args, &terminal{In: newInterruptible(ctx, in), Out: &out, Err: &errs, Now: time.Now})
		}()
		<-in.read
		cancel()
		if code := <-ended; code != exitFailed || !strings.Contains(errs.String(), "interrupted") {
			t.Errorf("%s: exit code %d: %s", args, code, errs.String())
		}
	}
}

func TestInterruptEndsAQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in := &silent{make(chan struct{})}
	ended := make(chan error)
	go func() {
		ended <- newQuestions(newInterruptible(ctx, in), io.Discard).ask("Why.", "Name", "none", func(string) error { return nil })
	}()
	<-in.read
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("the question ended with %v", err)
	}
}

func TestInterruptibleInputDeliversAllOfIt(t *testing.T) {
	text := strings.Repeat("0123456789", 50_000)
	got, err := io.ReadAll(newInterruptible(t.Context(), iotest.DataErrReader(strings.NewReader(text))))
	if err != nil || string(got) != text {
		t.Errorf("%d of %d bytes, %v", len(got), len(text), err)
	}
}

// TestSignalEndsTheProgramThatWaitsForInput: what main makes of a signal, in a process of its own.
func TestSignalEndsTheProgramThatWaitsForInput(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, must(os.Executable()), "credential", "check", "-")
	command.Args[0] = "assay"
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds: once it is written, the program reads, and waits for the end.
	if _, err := in.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*exec.ExitError](command.Wait())
	if !ok || exit.ExitCode() != exitFailed {
		t.Errorf("it ended with %v", exit)
	}
}

// A pipe that nobody writes would be waited for; one that the shell handed over is no other than standard input.
func TestOnlyAPipeOfTheShellIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func(string, int64) ([]byte, error){"file": readFile, "secret": readPrivate} {
		if _, err := read(path, 10); !errors.Is(err, files.ErrNotRegular) {
			t.Errorf("%s: %v", name, err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if text, err := read(fmt.Sprintf("/dev/fd/%d", r.Fd()), 10); err != nil || string(text) != "text" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
