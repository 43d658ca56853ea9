//go:build pkcs11

package hsm

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSession answers when it is let.
type fakeSession struct {
	answer <-chan error
	closed *atomic.Int32
}

func (s fakeSession) sign(uint, []byte) ([]byte, error) { return []byte("signed"), <-s.answer }
func (s fakeSession) close()                            { s.closed.Add(1) }

// TestHungModuleHoldsNobodyUp: a call that never returns costs its caller a bounded time and one session, and
// when there is none left, nothing more is handed to the module.
func TestHungModuleHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan error)
		var opened, closed atomic.Int32
		p := newPool(func() (session, error) { opened.Add(1); return fakeSession{answer, &closed}, nil }, 2, answerTime)
		for _, want := range []string{"did not answer within 5s", "did not answer within 5s", "all 2 sessions"} {
			began := time.Now()
			if _, err := p.sign(0, nil); err == nil || !strings.Contains(err.Error(), want) || time.Since(began) != answerTime {
				t.Fatalf("%v after %s", err, time.Since(began))
			}
		}
		if n := opened.Load(); n != 2 {
			t.Fatalf("%d sessions were opened, not 2", n)
		}
		if p.stop(time.After(closeTime)) {
			t.Error("stopped, with two calls in the module")
		}
		close(answer) // the module comes to itself
		if !p.stop(time.After(closeTime)) || closed.Load() != 2 {
			t.Errorf("not stopped, or %d sessions closed", closed.Load())
		}
	})
}

// TestPoolUsesASessionAgain, one after the other, and gives up one that failed.
func TestPoolUsesASessionAgain(t *testing.T) {
	answer := make(chan error, 8)
	var opened, closed atomic.Int32
	p := newPool(func() (session, error) { opened.Add(1); return fakeSession{answer, &closed}, nil }, 2, time.Minute)
	want := func(err error, wantOpened, wantClosed int32) {
		t.Helper()
		if _, got := p.sign(0, nil); !errors.Is(got, err) || opened.Load() != wantOpened || closed.Load() != wantClosed {
			t.Fatalf("%v, %d opened, %d closed; want %v, %d, %d", got, opened.Load(), closed.Load(), err, wantOpened, wantClosed)
		}
	}
	lost := errors.New("lost")
	answer <- nil
	want(nil, 1, 0)
	answer <- nil
	want(nil, 1, 0) // the same
	answer <- lost
	answer <- nil
	want(nil, 2, 1) // lost while it stood idle: another signs
	answer <- lost
	answer <- lost
	want(lost, 3, 3) // a new one fails, too: that is the answer
}
