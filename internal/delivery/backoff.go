package delivery

import (
	"sync"
	"time"
)

// maxWaiting bounds what a backoff remembers. Beyond it, something that waits is forgotten, and so
// tried again too early.
const maxWaiting = 1 << 16

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
	return !now.Before(b.waiting[k].until)
}

// failed puts something off and says until when.
func (b *backoff[K]) failed(k K, now time.Time, first, last time.Duration) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = map[K]wait{}
	}
	w := wait{pause: min(max(first, 2*b.waiting[k].pause), last)}
	w.until = now.Add(w.pause)
	if _, known := b.waiting[k]; !known && len(b.waiting) >= maxWaiting {
		for any := range b.waiting {
			delete(b.waiting, any)
			break
		}
	}
	b.waiting[k] = w
	return w.until
}

// succeeded forgets that something failed.
func (b *backoff[K]) succeeded(k K) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, k)
}
