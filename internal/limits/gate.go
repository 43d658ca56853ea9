package limits

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"assay/internal/tracing"
)

// MaxWait is how long a request over its limit waits for its turn, at most.
const MaxWait = 2 * time.Second

// Bounds on what is kept.
const (
	maxKeys    = 32_768 // buckets of one limit: some 7 MB
	maxWaiting = 1024   // requests
)

// Options say how a gate is made. Fields without a default are required.
type Options struct {
	Rates   map[Name]Rate // a limit that is missing is off
	Metrics *Metrics      // default: kept but not registered anywhere
	Log     *slog.Logger  // default: none
	Now     func() time.Time
	// Sleep waits, or returns the context's error. Default: as long as it says.
	Sleep func(context.Context, time.Duration) error
	// Keys and Waiting bound the buckets of one limit and the requests that wait. Defaults: 32768 and 1024.
	Keys, Waiting int
}

// Gate lets requests pass, or not. It is safe for concurrent use.
type Gate struct {
	o       Options
	waiting atomic.Int64
	vouched vouched

	// mu is over all tables: a request is charged for everything in one moment. The clock is read with it held, too:
	// a bucket whose time goes back, because who read the clock first came second, would give the same tokens again.
	mu     sync.Mutex
	tables map[Name]*table
}

// New makes a gate.
func New(o Options) *Gate {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Keys == 0 {
		o.Keys = maxKeys
	}
	if o.Waiting == 0 {
		o.Waiting = maxWaiting
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	g := &Gate{o: o, tables: map[Name]*table{}}
	g.vouched.size = o.Keys
	for _, k := range Catalogue() {
		if r := o.Rates[k.Name]; r != (Rate{}) {
			g.tables[k.Name] = newTable(k, r, o.Keys, o.Metrics.Overflow.WithLabelValues(string(k.Name)))
		}
	}
	o.Metrics.watch(g)
	return g
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keys is how many buckets each limit has.
func (g *Gate) keys() map[Name]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	keys := map[Name]int{}
	for name, t := range g.tables {
		keys[name] = len(t.buckets)
	}
	return keys
}

// Charge is one count against a limit.
type Charge struct {
	Limit Name
	Key   string // whose bucket; the log shows it, so it must be no secret
}

// Pass counts a request against limits, all or none, and waits until it is its turn: at most MaxWait, and no
// longer than the client does, whose context ctx is. Its error is a *Refused, which comes after MaxWait, too, or a
// client could ask again at once.
func (g *Gate) Pass(ctx context.Context, charges ...Charge) error {
	var room [4]reservation // no request meets more
	taken, slowest, ok := g.take(charges, room[:0])
	switch {
	case !ok:
		return g.refuse(ctx, slowest)
	case slowest.wait == 0:
		return nil
	}
	defer g.waiting.Add(-1)
	kind := slowest.table.kind
	g.o.Metrics.count(kind.Name, resultDelayed)
	if err := g.sleep(ctx, slowest.wait); err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		giveBack(taken, g.o.Now())
		g.o.Metrics.count(kind.Name, resultLeft)
		return &Refused{Limit: kind.Name, Check: kind.Check, RetryAfter: time.Second, Left: true}
	}
	return nil
}

// take takes a token for each charge, and a place in the waiting room if the slowest of them has to be waited for.
// Where one is too slow, or there is no place, nothing is taken, and slowest is why.
func (g *Gate) take(charges []Charge, taken []reservation) (_ []reservation, slowest reservation, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.o.Now()
	for _, c := range charges {
		if t, limited := g.tables[c.Limit]; limited {
			r := t.reserve(c.Key, now)
			taken = append(taken, r)
			if r.wait > slowest.wait {
				slowest = r
			}
		}
	}
	if slowest.wait > MaxWait || slowest.wait > 0 && !g.enter(g.o.Waiting) {
		giveBack(taken, now)
		return nil, slowest, false
	}
	return taken, slowest, true
}

// enter takes a place in the waiting room, unless as many as that wait in it.
func (g *Gate) enter(places int) bool {
	if g.waiting.Add(1) <= int64(places) {
		return true
	}
	g.waiting.Add(-1)
	return false
}

// giveBack returns the tokens whose turn has not come: in the moment in which they were taken all of them, and to a
// request that left while it waited those that it waited for. The caller holds the lock.
func giveBack(taken []reservation, now time.Time) {
	for _, r := range slices.Backward(taken) {
		r.token.CancelAt(now)
	}
}

// refuse counts, logs and holds up a refusal.
func (g *Gate) refuse(ctx context.Context, r reservation) error {
	kind := r.table.kind
	refused := &Refused{Limit: kind.Name, Check: kind.Check, RetryAfter: max(time.Second, time.Duration(math.Ceil(r.wait.Seconds()))*time.Second)}
	g.o.Metrics.count(kind.Name, resultRefused)
	if leftOut, ok := g.worthLogging(r.table); ok {
		g.o.Log.LogAttrs(ctx, slog.LevelWarn, "refused", slog.String("problem", "rateLimited"), slog.String("check", kind.Check),
			slog.String("detail", refused.Error()), slog.String("who", r.key), slog.String("limit", r.table.rate.String()), slog.Int("left_out", leftOut),
			slog.String("hint", "limits."+string(kind.Name)+" in assay.yaml, and docs/rate-limits.md, if this was no stranger"))
	}
	g.linger(ctx)
	return refused
}

// worthLogging reports whether to log a refusal of a limit, once a second, and how many were left out before it.
func (g *Gate) worthLogging(t *table) (leftOut int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return t.worthLogging(g.o.Now())
}

// linger holds up a refused request, so that a flood comes no faster than its connections allow. No more than half
// of the waiting room is for those: the rest is for requests whose turn comes.
func (g *Gate) linger(ctx context.Context) {
	if g.enter(g.o.Waiting / 2) {
		defer g.waiting.Add(-1)
		_ = g.sleep(ctx, MaxWait) // it is refused, whether or not the client stays
	}
}

// sleep waits, and shows it in the request's trace.
func (g *Gate) sleep(ctx context.Context, d time.Duration) error {
	ctx, span := tracing.Start(ctx, "wait for rate limit")
	defer span.End(nil)
	return g.o.Sleep(ctx, d)
}

// Guard is a handler that limits another's requests by address, and refuses in plain text. address tells who
// asks: the connection's address, or Proxies.Client behind proxies.
func (g *Gate) Guard(limit Name, address func(*http.Request) string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := g.Pass(r.Context(), Charge{limit, AddressKey(address(r))}); err != nil {
			if refused, ok := errors.AsType[*Refused](err); ok {
				SetRetryAfter(w.Header(), refused.RetryAfter)
			}
			http.Error(w, err.Error(), http.StatusTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// SetRetryAfter says when to try again (RFC 9110, section 10.2.3).
func SetRetryAfter(h http.Header, after time.Duration) {
	h.Set("Retry-After", strconv.Itoa(int(after/time.Second)))
}

// Vouch says that an account ordered a live code, or proved a device: it answers to AccountRequests from now
// on, not to limits by address. Accounts vouched for longest ago are forgotten where they become too many.
func (g *Gate) Vouch(account string) { g.vouched.add(account) }

// Vouched reports whether somebody vouched for an account.
func (g *Gate) Vouched(account string) bool { return g.vouched.has(account) }
