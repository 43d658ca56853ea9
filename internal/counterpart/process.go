package counterpart

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"assay/internal/logbook"
)

// FreeAddress is an address on loopback that nobody listens on just now.
func FreeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Start runs a program in a folder of its own, with the environment's variables and these, until the
// test ends, and waits until it listens on the address. Where the test fails, what the program said
// is shown.
func Start(t testing.TB, program, address string, environment []string, args ...string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.Dir = t.TempDir()
	command.Env = append(append(os.Environ(), "HOME="+command.Dir), environment...)
	said := &logbook.Book{}
	command.Stdout, command.Stderr = said, said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var failure error
	go func() { failure = command.Wait(); close(ended) }()
	t.Cleanup(func() {
		if err := command.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = command.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", program, said)
		}
	})
	deadline := time.After(30 * time.Second)
	for {
		connection, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			connection.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %v\n%s", program, failure, said)
		case <-deadline:
			t.Fatalf("%s does not listen on %s: %v", program, address, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
