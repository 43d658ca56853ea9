package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"
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
