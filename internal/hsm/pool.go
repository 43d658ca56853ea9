//go:build pkcs11

package hsm

import (
	"fmt"
	"time"
)

const (
	// maxSessions is the number of sessions that one key has at most, so of its signatures at once and of
	// the threads that a module can hold up.
	maxSessions = 16
	// answerTime bounds a signature, with its wait for a session, and the opening of a key: below what a
	// device waits for, with time left to undo what rested on it.
	answerTime = 5 * time.Second
)

// session is one PKCS#11 session, logged in, in which the key has been found. One goroutine uses it at a time.
type session interface {
	sign(mechanism uint, input []byte) ([]byte, error)
	close()
}

// pool shares the sessions of one key. Sessions are opened when they are needed, and stay open.
type pool struct {
	open   func() (session, error)
	places chan struct{} // one for each session at work
	idle   chan session
	wait   time.Duration
}

func newPool(open func() (session, error), size int, wait time.Duration) *pool {
	return &pool{open: open, places: make(chan struct{}, size), idle: make(chan session, size), wait: wait}
}

// within calls f, for which a place must be free, and waits no longer than the pool does. A call that the
// module holds up cannot be ended: it keeps its place, so that only so many can be held up, and what it
// returns in the end is dropped.
func within[T any](p *pool, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	late := time.NewTimer(p.wait)
	defer late.Stop()
	select {
	case p.places <- struct{}{}:
	case <-late.C:
		return none, fmt.Errorf("all %d sessions of the key were at work for %s: the PKCS#11 module is overloaded, or does not answer", cap(p.places), p.wait)
	}
	done := make(chan answer, 1)
	go func() {
		value, err := f()
		<-p.places
		done <- answer{value, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-late.C:
		return none, fmt.Errorf("the PKCS#11 module did not answer within %s: see whether the device is there", p.wait)
	}
}

func (p *pool) sign(mechanism uint, input []byte) ([]byte, error) {
	return within(p, func() ([]byte, error) {
		select {
		case s := <-p.idle:
			if signature, err := p.use(s, mechanism, input); err == nil {
				return signature, nil
			}
			// It may have been lost while it stood idle, with its token or its login: a new one tells.
		default:
		}
		s, err := p.open()
		if err != nil {
			return nil, err
		}
		return p.use(s, mechanism, input)
	})
}

// use signs in a session and keeps it for the next, unless it failed.
func (p *pool) use(s session, mechanism uint, input []byte) ([]byte, error) {
	signature, err := s.sign(mechanism, input)
	if err != nil {
		s.close()
		return nil, err
	}
	p.idle <- s // as long as there are places, there is room
	return signature, nil
}

// stop takes every place, so that nothing is signed any more, and closes the sessions. It reports false where
// some are still at work when the time is over.
func (p *pool) stop(late <-chan time.Time) bool {
	for range cap(p.places) {
		select {
		case p.places <- struct{}{}:
		case <-late:
			return false
		}
	}
	for {
		select {
		case s := <-p.idle:
			s.close()
		default:
			return true
		}
	}
}
