package opinion

import (
	"sync"
	"time"
)

// circuit is a circuit breaker: closed, requests pass; after threshold failures one after another it is open
// and none passes; after coolDown one passes as a probe, whose outcome closes it or keeps it open.
type circuit struct {
	threshold int
	coolDown  time.Duration

	mu       sync.Mutex
	failures int // one after another, while closed
	open     bool
	until    time.Time // while open: no probe before
	probing  bool      // while open: the probe is out
	// era counts the turns of the circuit. What passed in another era says nothing about this one: of
	// sixty requests that wait for a dead service, the late ones must not end a probe.
	era int
}

// health is what an exchange says about the service.
type health int

const (
	unknown health = iota
	working
	down
)

// change is what became of the circuit.
type change int

const (
	unchanged change = iota
	opened
	closed
)

// enter asks to pass; who passed must leave with the pass.
func (c *circuit) enter(now time.Time) (pass int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return c.era, true
	}
	early := now.Before(c.until) && c.until.Sub(now) <= c.coolDown // else the clock was ahead when it opened
	if early || c.probing {
		return 0, false
	}
	c.probing = true
	return c.era, true
}

// leave says what came of it.
func (c *circuit) leave(pass int, h health, now time.Time) change {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case pass != c.era:
		return unchanged
	case c.open:
		return c.probed(h, now)
	case h == working:
		c.failures = 0
	case h == down:
		c.failures++
		if c.failures >= c.threshold {
			c.open, c.until = true, now.Add(c.coolDown)
			c.era++
			return opened
		}
	}
	return unchanged
}

// probed takes the outcome of a probe. One that says nothing leaves room for the next at once.
func (c *circuit) probed(h health, now time.Time) change {
	c.probing = false
	switch h {
	case working:
		c.open, c.failures = false, 0
		c.era++
		return closed
	case down:
		c.until = now.Add(c.coolDown)
	}
	return unchanged
}
