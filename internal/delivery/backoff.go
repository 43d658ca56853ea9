package delivery

import (
	"sync"
	"time"
)

// backoff remembers what failed and until when it is left alone: twice as long each time. In memory:
// after a restart everything is tried once.
type backoff[K comparable] struct {
	mu      sync.Mutex
	waiting map[K]wait
}

type wait struct {
	until time.Time
	pause time.Duration
}

// ready reports whether something may be tried now.
func (b *backoff[K]) ready(k K, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.waiting[k]
	return !now.Before(w.until) || w.until.Sub(now) > w.pause // the clock was ahead when it failed
}

// failed puts something off, and says until when and whether it failed before.
func (b *backoff[K]) failed(k K, now time.Time, first, last time.Duration) (until time.Time, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[K]wait{}
	}
	before, again := b.waiting[k]
	w := wait{pause: min(max(first, 2*before.pause), last)}
	w.until = now.Add(w.pause)
	b.waiting[k] = w
	return w.until, again
}

// succeeded forgets that something failed.
func (b *backoff[K]) succeeded(k K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, k)
}
