package opinion

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newCircuit() *circuit { return &circuit{threshold: 3, coolDown: 30 * time.Second} }

// through passes once with this outcome.
func through(t *testing.T, c *circuit, h health, now time.Time) change {
	t.Helper()
	pass, ok := c.enter(now)
	if !ok {
		t.Fatal("it is open")
	}
	return c.leave(pass, h, now)
}

func TestCircuitOpensAfterFailuresInARow(t *testing.T) {
	c := newCircuit()
	for _, h := range []health{down, down, working, down, unknown, down} { // what says nothing changes nothing
		if through(t, c, h, start) != unchanged {
			t.Fatal("it turned")
		}
	}
	if through(t, c, down, start) != opened {
		t.Fatal("it did not open")
	}
	if _, ok := c.enter(start.Add(c.coolDown - 1)); ok {
		t.Error("it passes before its time")
	}
}

func TestOpenCircuitLetsOneProbePass(t *testing.T) {
	c := newCircuit()
	for range 3 {
		through(t, c, down, start)
	}
	later := start.Add(c.coolDown)
	probe, ok := c.enter(later)
	if !ok {
		t.Fatal("no probe after the cool-down")
	}
	if _, ok := c.enter(later); ok {
		t.Fatal("two probes")
	}
	if c.leave(probe, down, later) != unchanged {
		t.Fatal("a failed probe turned it")
	}
	if _, ok := c.enter(later.Add(c.coolDown - 1)); ok {
		t.Fatal("a failed probe is followed too early")
	}
	later = later.Add(c.coolDown)
	if through(t, c, unknown, later) != unchanged {
		t.Fatal("a probe that says nothing turned it")
	}
	if through(t, c, working, later) != closed { // at once: nothing was learnt
		t.Fatal("it did not close")
	}
	for range 2 {
		if through(t, c, down, later) != unchanged {
			t.Fatal("failures before it opened still count")
		}
	}
	if through(t, c, down, later) != opened {
		t.Fatal("it does not open again")
	}
}

// TestLateOutcomesSayNothingAboutTheCircuitNow: of requests that began before it turned.
func TestLateOutcomesSayNothingAboutTheCircuitNow(t *testing.T) {
	c := newCircuit()
	var late []int
	for range 3 {
		pass, _ := c.enter(start)
		late = append(late, pass)
	}
	for range 3 {
		through(t, c, down, start)
	}
	if c.leave(late[0], working, start) != unchanged {
		t.Fatal("a late success closed it")
	}
	later := start.Add(c.coolDown)
	probe, _ := c.enter(later)
	if c.leave(late[1], working, later) != unchanged || c.leave(late[1], down, later) != unchanged {
		t.Fatal("a late outcome ended the probe")
	}
	if _, ok := c.enter(later); ok {
		t.Fatal("a late outcome made room for a second probe")
	}
	if c.leave(probe, working, later) != closed {
		t.Fatal("it did not close")
	}
	for range 3 {
		if c.leave(late[2], down, later) != unchanged {
			t.Fatal("late failures opened it")
		}
	}
}

func TestCircuitSurvivesAClockThatWasAhead(t *testing.T) {
	c := newCircuit()
	for range 3 {
		through(t, c, down, start.Add(24*time.Hour))
	}
	if through(t, c, working, start) != closed {
		t.Error("it stays open until the wrong time comes")
	}
}

// TestCircuitHoldsItsRules lets many requests come and go in any order.
func TestCircuitHoldsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := newCircuit(), start
		type flight struct{ pass, era int }
		var flying []flight
		probes, era, isOpen, row := 0, 0, false, 0
		opensAt := time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(flying) == 0 || rapid.Bool().Draw(t, "enter") {
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
				pass, ok := c.enter(now)
				if want := !isOpen || probes == 0 && !now.Before(opensAt); ok != want {
					t.Fatalf("passes: %v, want %v", ok, want)
				}
				if ok {
					flying = append(flying, flight{pass, era})
					if isOpen {
						probes++
					}
				}
				continue
			}
			n := rapid.IntRange(0, len(flying)-1).Draw(t, "leaves")
			f := flying[n]
			flying = append(flying[:n:n], flying[n+1:]...)
			h := rapid.SampledFrom([]health{unknown, working, down}).Draw(t, "health")
			got, want := c.leave(f.pass, h, now), unchanged
			switch {
			case f.era != era:
			case isOpen:
				probes--
				if h == working {
					want, isOpen, row = closed, false, 0
					era++
				} else if h == down {
					opensAt = now.Add(c.coolDown)
				}
			case h == working:
				row = 0
			case h == down:
				if row++; row == c.threshold {
					want, isOpen, opensAt = opened, true, now.Add(c.coolDown)
					era++
				}
			}
			if got != want {
				t.Fatalf("change %d, want %d", got, want)
			}
		}
	})
}

func TestCircuitIsSafeForManyAtOnce(t *testing.T) {
	c := newCircuit()
	var mu sync.Mutex
	turns := map[change]int{}
	var running sync.WaitGroup
	for n := range 16 {
		running.Go(func() {
			for i := range 200 {
				now := start.Add(time.Duration(i) * time.Second)
				pass, ok := c.enter(now)
				if !ok {
					continue
				}
				h := down
				if (n+i)%3 == 0 {
					h = working
				}
				change := c.leave(pass, h, now)
				mu.Lock()
				turns[change]++
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if d := turns[opened] - turns[closed]; d != 0 && d != 1 {
		t.Errorf("opened %d times, closed %d times", turns[opened], turns[closed])
	}
}
