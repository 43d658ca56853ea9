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

// What the shell redirects from a file is as much a file as one that is named.
func TestAFileOfTheShellIsPrivateToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for mode, fine := range map[os.FileMode]bool{0o600: true, 0o644: false} {
		if err := errors.Join(os.WriteFile(path, []byte("text"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("/dev/fd/%d", f.Fd())
		if text, err := readFile(name, 10); err != nil || string(text) != "text" {
			t.Errorf("mode %04o: %q, %v", mode, text, err)
		}
		text, err := readPrivate(name, 10)
		if fine && (err != nil || string(text) != "text") || !fine && (err == nil || !strings.Contains(err.Error(), "chmod 600")) {
			t.Errorf("mode %04o, as a secret: %q, %v", mode, text, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	device, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := readPrivate(fmt.Sprintf("/dev/fd/%d", device.Fd()), 10); !errors.Is(err, files.ErrNotRegular) {
		t.Errorf("a device: %v", err)
	}
}

func TestOnlyANumberIsHandedByTheShell(t *testing.T) {
	for name, want := range map[string]bool{
		"/dev/stdin": true, "/dev/fd/0": true, "/dev/fd/63": true, "/proc/self/fd/3": true,
		"/dev/fd/": false, "/dev/fd/../../etc/token": false, "/dev/fd/3/token": false, "/proc/self/fd/../cwd/token": false,
		"/dev/fd/-1": false, "/dev/fd/x": false, "3": false, "token": false,
	} {
		if got := handed(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
