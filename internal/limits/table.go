package limits

import (
	"container/list"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// commonShare is how many buckets' worth those share that have none of their own.
const commonShare = 10

// sweep is how many buckets are looked at, to drop those that are full, when one is added. More than one, so
// that a table shrinks once a flood is over.
const sweep = 2

// table holds the buckets of one limit, at most size. A bucket that is full again says no more than none, and
// leaves when others come. Its gate's lock is over it.
type table struct {
	kind     Kind
	rate     Rate
	size     int
	overflow prometheus.Counter // requests that found no room

	buckets map[string]*list.Element
	byUse   *list.List // of *bucket, the one used last in front
	common  *rate.Limiter
	logged  time.Time
	leftOut int // refusals not logged since
}

type bucket struct {
	key    string
	tokens *rate.Limiter
}

func newTable(k Kind, r Rate, size int, overflow prometheus.Counter) *table {
	return &table{
		kind: k, rate: r, size: size, overflow: overflow, buckets: map[string]*list.Element{}, byUse: list.New(),
		common: rate.NewLimiter(rate.Limit(commonShare*r.perSecond()), commonShare*r.Burst),
	}
}

// reservation is a token that was taken, perhaps ahead of time.
type reservation struct {
	table *table
	key   string
	token *rate.Reservation
	wait  time.Duration // until the token is there
}

// reserve takes a token, though it be there only later.
func (t *table) reserve(key string, now time.Time) reservation {
	token := t.of(key, now).ReserveN(now, 1)
	return reservation{t, key, token, token.DelayFrom(now)}
}

// of is the bucket of a key.
func (t *table) of(key string, now time.Time) *rate.Limiter {
	if e, ok := t.buckets[key]; ok {
		t.byUse.MoveToFront(e)
		return e.Value.(*bucket).tokens
	}
	t.dropFull(now)
	if len(t.buckets) >= t.size {
		t.overflow.Inc()
		if !t.kind.Ours {
			return t.common
		}
		t.drop(t.byUse.Back())
	}
	b := &bucket{key, rate.NewLimiter(rate.Limit(t.rate.perSecond()), t.rate.Burst)}
	t.buckets[key] = t.byUse.PushFront(b)
	return b.tokens
}

// dropFull drops buckets that are full again, of the few used longest ago. Strangers' that are not full queue up
// again, or one that never gets full would keep the others from being looked at.
func (t *table) dropFull(now time.Time) {
	for range min(sweep, t.byUse.Len()) {
		oldest := t.byUse.Back()
		if oldest.Value.(*bucket).tokens.TokensAt(now) >= float64(t.rate.Burst) {
			t.drop(oldest)
		} else if !t.kind.Ours {
			t.byUse.MoveToFront(oldest)
		}
	}
}

func (t *table) drop(e *list.Element) {
	delete(t.buckets, t.byUse.Remove(e).(*bucket).key)
}

// worthLogging reports whether to log a refusal, once a second, and how many were left out before it.
func (t *table) worthLogging(now time.Time) (leftOut int, ok bool) {
	if now.Sub(t.logged).Abs() < time.Second {
		t.leftOut++
		return 0, false
	}
	leftOut, t.leftOut, t.logged = t.leftOut, 0, now
	return leftOut, true
}
