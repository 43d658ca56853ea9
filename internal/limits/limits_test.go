package limits

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/manual"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a clock that only tests move; sleeping moves it, too.
type clock struct{ nanoseconds atomic.Int64 }

func (c *clock) Now() time.Time          { return epoch.Add(time.Duration(c.nanoseconds.Load())) }
func (c *clock) Advance(d time.Duration) { c.nanoseconds.Add(int64(d)) }
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.Advance(d)
	return ctx.Err()
}

// stay sleeps in no time, and the clock stands still.
func stay(context.Context, time.Duration) error { return nil }

// gate is a gate whose clock stands still, also while requests wait, with one limit.
func gate(t *testing.T, r Rate, change ...func(*Options)) (*Gate, *clock) {
	t.Helper()
	c := &clock{}
	o := Options{Rates: map[Name]Rate{WrongCodes: r}, Now: c.Now, Sleep: stay}
	for _, f := range change {
		f(&o)
	}
	return New(o), c
}

func one(key string) Charge { return Charge{WrongCodes, key} }

// refused demands a refusal.
func refused(t *testing.T, err error) *Refused {
	t.Helper()
	r, ok := errors.AsType[*Refused](err)
	if !ok {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}

func TestBurstPassesThenTheRate(t *testing.T) {
	g, c := gate(t, Rate{1, time.Minute, 3})
	for range 3 {
		if err := g.Pass(t.Context(), one("a")); err != nil {
			t.Fatal(err)
		}
	}
	if r := refused(t, g.Pass(t.Context(), one("a"))); r.RetryAfter != time.Minute || r.Limit != WrongCodes || r.Check != "limit-wrong-codes" || r.Left {
		t.Errorf("refused with %+v", r)
	}
	if err := g.Pass(t.Context(), one("b")); err != nil {
		t.Errorf("another's bucket: %v", err)
	}
	c.Advance(time.Minute)
	if err := g.Pass(t.Context(), one("a")); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	refused(t, g.Pass(t.Context(), one("a")))
}

func TestRequestWaitsForItsTurnBeforeItIsRefused(t *testing.T) {
	c := &clock{}
	g := New(Options{Rates: map[Name]Rate{WrongCodes: {1, time.Second, 1}}, Now: c.Now, Sleep: c.Sleep})
	before := c.Now()
	for range 2 {
		if err := g.Pass(t.Context(), one("a")); err != nil {
			t.Fatal(err)
		}
	}
	if waited := c.Now().Sub(before); waited != time.Second {
		t.Errorf("the second waited %s", waited)
	}
	if n := testutil.ToFloat64(g.o.Metrics.Over.WithLabelValues(string(WrongCodes), resultDelayed)); n != 1 {
		t.Errorf("%v delayed", n)
	}

	// Three at once: two find a token within MaxWait.
	still, _ := gate(t, Rate{1, time.Second, 1})
	for range 3 {
		if err := still.Pass(t.Context(), one("a")); err != nil {
			t.Fatal(err)
		}
	}
	if r := refused(t, still.Pass(t.Context(), one("a"))); r.RetryAfter != 3*time.Second {
		t.Errorf("try again in %s", r.RetryAfter)
	}
	if n := testutil.ToFloat64(still.o.Metrics.Over.WithLabelValues(string(WrongCodes), resultRefused)); n != 1 {
		t.Errorf("%v refused", n)
	}
}

func TestLeavingEndsTheWaitAndGivesTheTokenBack(t *testing.T) {
	entered := make(chan struct{})
	g, c := gate(t, Rate{1, time.Second, 1}, func(o *Options) {
		o.Sleep = func(ctx context.Context, _ time.Duration) error {
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}
	})
	if err := g.Pass(t.Context(), one("a")); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Pass(ctx, one("a")) }()
	<-entered
	leave()
	if r := refused(t, <-done); !r.Left {
		t.Errorf("got %+v", r)
	}
	c.Advance(time.Second) // what the client that left had taken is there
	if err := g.Pass(t.Context(), one("a")); err != nil {
		t.Error(err)
	}
	if n := g.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// A refusal comes after the longest wait, but only as long as half of the waiting room is free.
func TestRefusalsAreHeldUp(t *testing.T) {
	var inside sync.WaitGroup
	inside.Add(2)
	release := make(chan struct{})
	g, _ := gate(t, Rate{1, time.Hour, 1}, func(o *Options) {
		o.Waiting = 5
		o.Sleep = func(_ context.Context, d time.Duration) error {
			if d != MaxWait {
				t.Errorf("waits %s", d)
			}
			inside.Done()
			<-release
			return nil
		}
	})
	if err := g.Pass(t.Context(), one("a")); err != nil {
		t.Fatal(err)
	}
	var waiters sync.WaitGroup
	for range 2 {
		waiters.Go(func() { refused(t, g.Pass(t.Context(), one("a"))) })
	}
	inside.Wait()
	refused(t, g.Pass(t.Context(), one("a"))) // at once: a third would make the WaitGroup panic
	close(release)
	waiters.Wait()
	if n := g.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// The real sleep, because all other tests have one of their own.
func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := sleep(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
}

func TestWaitingRoomIsBounded(t *testing.T) {
	const room = 3
	var inside sync.WaitGroup
	inside.Add(room)
	release := make(chan struct{})
	g, _ := gate(t, Rate{1000, time.Second, 1}, func(o *Options) {
		o.Waiting = room
		o.Sleep = func(context.Context, time.Duration) error { inside.Done(); <-release; return nil }
	})
	if err := g.Pass(t.Context(), one("a")); err != nil {
		t.Fatal(err)
	}
	var waiters sync.WaitGroup
	for range room {
		waiters.Go(func() {
			if err := g.Pass(t.Context(), one("a")); err != nil {
				t.Error(err)
			}
		})
	}
	inside.Wait()
	for range 3000 { // which take no tokens
		if r := refused(t, g.Pass(t.Context(), one("a"))); r.RetryAfter != time.Second || r.Left {
			t.Fatalf("got %+v", r)
		}
	}
	close(release)
	waiters.Wait()
	if n := g.waiting.Load(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// What one limit refuses must not count against another.
func TestChargesCountAllOrNone(t *testing.T) {
	for _, first := range []Name{Orders, WrongCodes} {
		c := &clock{}
		now := func() time.Time { // never the same twice
			c.Advance(time.Microsecond)
			return c.Now()
		}
		g := New(Options{Now: now, Sleep: c.Sleep, Rates: map[Name]Rate{WrongCodes: {1, time.Hour, 1}, Orders: {1, time.Hour, 2}}})
		both := []Charge{{first, "a"}, {map[Name]Name{Orders: WrongCodes, WrongCodes: Orders}[first], "a"}}
		if err := g.Pass(t.Context(), both...); err != nil {
			t.Fatal(err)
		}
		if r := refused(t, g.Pass(t.Context(), both...)); r.Limit != WrongCodes {
			t.Errorf("refused by %s", r.Limit)
		}
		if err := g.Pass(t.Context(), Charge{Orders, "a"}); err != nil {
			t.Errorf("%s first: the refused request took a token of the other limit: %v", first, err)
		}
	}
}

func TestLimitThatIsOffCountsNothing(t *testing.T) {
	g, _ := gate(t, Rate{1, time.Hour, 1})
	for range 1000 {
		if err := g.Pass(t.Context(), Charge{Reads, "a"}); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever comes when, never more than burst and rate times the time passes, and never less is let through than
// was asked for if there was room.
func TestNeverMoreThanBurstAndRatePass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{rapid.IntRange(1, 50).Draw(t, "events"), time.Duration(rapid.IntRange(1, 3600).Draw(t, "per")) * time.Second, rapid.IntRange(1, 20).Draw(t, "burst")}
		c := &clock{}
		var due []time.Duration // when those that passed went on, since the epoch
		g := New(Options{Now: c.Now, Rates: map[Name]Rate{WrongCodes: r}, Keys: 2,
			Sleep: func(_ context.Context, d time.Duration) error {
				if d > MaxWait {
					t.Fatalf("waits %s", d)
				}
				due[len(due)-1] += d
				return nil
			}})
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			c.Advance(time.Duration(rapid.IntRange(0, 5000).Draw(t, "pause")) * time.Millisecond)
			due = append(due, c.Now().Sub(epoch))
			if g.Pass(context.Background(), one("a")) != nil {
				due = due[:len(due)-1]
			}
			_ = g.Pass(context.Background(), Charge{Orders, "b"}) // off
		}
		for n, at := range due {
			for m := range n + 1 {
				most := float64(r.Burst) + r.perSecond()*(at-due[m]).Seconds() + 1e-3
				if passed := n - m + 1; float64(passed) > most {
					t.Fatalf("%d passed within %s under %s", passed, at-due[m], r)
				}
			}
		}
		if len(due) == 0 {
			t.Fatal("nothing passed")
		}
	})
}

func TestConcurrentRequestsPassNoMoreThanTheBurst(t *testing.T) {
	g, _ := gate(t, Rate{1, time.Hour, 100}, func(o *Options) { o.Keys = 4 })
	var passed, total atomic.Int64
	var clients sync.WaitGroup
	for n := range 16 {
		clients.Go(func() {
			for m := range 50 {
				total.Add(1)
				if g.Pass(t.Context(), one("a")) == nil {
					passed.Add(1)
				}
				_ = g.Pass(t.Context(), one(fmt.Sprint("other", n, m))) // keeps the table full
				g.Vouch(fmt.Sprint(n, m))
				g.Vouched("0")
			}
		})
	}
	clients.Wait()
	if passed.Load() != 100 || total.Load() != 800 {
		t.Errorf("%d of %d passed", passed.Load(), total.Load())
	}
}

func addressNumber(n int) string {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(n))
	return netip.AddrFrom4(a).String()
}

// Three hundred thousand addresses get no more buckets than there are. Those without one share a common one: nobody passes uncounted.
func TestTableStaysBoundedWhateverAddressesAsk(t *testing.T) {
	const many = 300_000
	g, c := gate(t, Rate{1, time.Hour, 5})
	if err := g.Pass(t.Context(), one("victim")); err != nil {
		t.Fatal(err)
	}
	passed := 0
	for n := range many {
		if g.Pass(t.Context(), one(addressNumber(n))) == nil {
			passed++
		}
	}
	table := g.tables[WrongCodes]
	if keys, overflow := g.keys()[WrongCodes], int(testutil.ToFloat64(table.overflow)); keys != maxKeys || len(table.buckets) != table.byUse.Len() || overflow != many-maxKeys+1 {
		t.Errorf("%d buckets, %d in order of use, %d requests without", keys, table.byUse.Len(), overflow)
	}
	if most := maxKeys - 1 + commonShare*5; passed != most {
		t.Errorf("%d passed, want %d: those with a bucket, and the common one's", passed, most)
	}
	for range 4 { // what was there before the flood is not forgotten, and not spent by it
		if err := g.Pass(t.Context(), one("victim")); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, g.Pass(t.Context(), one("victim")))

	c.Advance(6 * time.Hour) // all are full again
	for n := range 2 * maxKeys {
		if err := g.Pass(t.Context(), one("new"+addressNumber(n))); err != nil {
			t.Fatal(err)
		}
		c.Advance(time.Minute) // each is full again after 60 others
	}
	if keys := g.keys()[WrongCodes]; keys > 200 {
		t.Errorf("after the flood %d buckets are left", keys)
	}
}

// Buckets that are long empty do not keep those that are full in the table.
func TestEmptyBucketsDoNotBlockTheTable(t *testing.T) {
	g, c := gate(t, Rate{1, time.Hour, 5}, func(o *Options) { o.Keys = 10 })
	for range 5 {
		for key := range sweep {
			if err := g.Pass(t.Context(), one(fmt.Sprint("empty", key))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 3 {
		for n := range 10 - sweep {
			if err := g.Pass(t.Context(), one(fmt.Sprint(round, n))); err != nil {
				t.Fatal(err)
			}
		}
		c.Advance(time.Hour)
	}
	if n := testutil.ToFloat64(g.tables[WrongCodes].overflow); n != 0 {
		t.Errorf("%v requests found no room", n)
	}
}

// The codes and devices of a fleet are never refused because there are many.
func TestOursMakeRoomForEachOther(t *testing.T) {
	c := &clock{}
	g := New(Options{Now: c.Now, Sleep: c.Sleep, Keys: 3, Rates: map[Name]Rate{Devices: {1, time.Hour, 1}}})
	for n := range 100 {
		if err := g.Pass(t.Context(), Charge{Devices, fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if keys, overflow := g.keys()[Devices], testutil.ToFloat64(g.tables[Devices].overflow); keys != 3 || overflow != 97 {
		t.Errorf("%d buckets, %v made room", keys, overflow)
	}
	refused(t, g.Pass(t.Context(), Charge{Devices, "99"}))
}

func TestVouchedAccountsAreBounded(t *testing.T) {
	g, _ := gate(t, Rate{1, time.Second, 1}, func(o *Options) { o.Keys = 10 })
	if g.Vouched("a") {
		t.Error("nobody vouched for it")
	}
	g.Vouch("a")
	for n := range 1000 {
		if !g.Vouched("a") {
			t.Fatalf("the account in use is forgotten after %d others", n)
		}
		g.Vouch(fmt.Sprint(n))
		if kept := len(g.vouched.young) + len(g.vouched.former); kept > 20 {
			t.Fatalf("%d accounts are kept", kept)
		}
	}
	if g.Vouched("0") || !g.Vouched("999") {
		t.Error("the wrong ones are forgotten")
	}
}

func TestFloodLogsOneLineASecond(t *testing.T) {
	var log strings.Builder
	g, c := gate(t, Rate{1, time.Hour, 1}, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 1000 {
		_ = g.Pass(t.Context(), one("192.0.2.1"))
	}
	c.Advance(time.Second)
	_ = g.Pass(t.Context(), one("192.0.2.1"))
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), log.String())
	}
	for _, want := range []string{"check=limit-wrong-codes", "who=192.0.2.1", "left_out=998", `limit="1/h burst 1"`, "hint="} {
		if !strings.Contains(lines[1], want) {
			t.Errorf("%s is missing in %s", want, lines[1])
		}
	}
}

func TestGuardRefusesInPlainText(t *testing.T) {
	g, _ := gate(t, Rate{1, time.Minute, 1})
	h := g.Guard(WrongCodes, func(r *http.Request) string { return r.Header.Get("From") }, http.NotFoundHandler())
	ask := func(from string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("From", from)
		out := httptest.NewRecorder()
		h.ServeHTTP(out, r)
		return out
	}
	if out := ask("192.0.2.1:1"); out.Code != http.StatusNotFound {
		t.Errorf("the first got %d", out.Code)
	}
	if out := ask("192.0.2.1:2"); out.Code != http.StatusTooManyRequests || out.Header().Get("Retry-After") != "60" {
		t.Errorf("from another port of the same address: %d, Retry-After %q", out.Code, out.Header().Get("Retry-After"))
	}
	if out := ask("192.0.2.2:1"); out.Code != http.StatusNotFound {
		t.Errorf("another address got %d", out.Code)
	}
}

func TestRatesAreReadAsTheyAreWritten(t *testing.T) {
	names := map[Name]bool{}
	for _, k := range Catalogue() {
		if r, err := ParseRate(k.Default.String()); err != nil || r != k.Default {
			t.Errorf("%s: %q is read as %v, %v", k.Name, k.Default, r, err)
		}
		if names[k.Name] || !strings.HasPrefix(k.Check, "limit-") || k.Counts == "" || k.By == "" {
			t.Errorf("%+v", k)
		}
		names[k.Name] = true
	}
	if r, err := ParseRate("off"); err != nil || r != (Rate{}) || r.String() != "off" {
		t.Errorf("off is %v, %v", r, err)
	}
	for _, text := range []string{"", "0", "on", "10", "10/m", "10/m burst", "10/m burst 0", "0/m burst 10", "-1/m burst 10", "1.5/m burst 10",
		"10/w burst 5", "10/ burst 5", "/m burst 5", "10/m bursts 5", "10/m burst 5 6", "10000000000/s burst 1", "1/s burst 99999999999999999999"} {
		if r, err := ParseRate(text); err == nil {
			t.Errorf("%q is read as %v", text, r)
		}
	}
}

// BenchmarkPass is what one decision costs: the bucket of an address in a full table.
func BenchmarkPass(b *testing.B) {
	g := New(Options{Now: time.Now, Rates: map[Name]Rate{Reads: {1_000_000_000, time.Second, 1_000_000_000}}})
	remotes := make([]string, maxKeys)
	for n := range remotes {
		remotes[n] = addressNumber(n) + ":443"
		_ = g.Pass(b.Context(), Charge{Reads, AddressKey(remotes[n])})
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := g.Pass(b.Context(), Charge{Reads, AddressKey(remotes[n*7919%maxKeys])}); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkRefuse is what a flood costs beyond its limit.
func BenchmarkRefuse(b *testing.B) {
	g := New(Options{Now: time.Now, Sleep: stay, Rates: map[Name]Rate{WrongCodes: {1, 24 * time.Hour, 1}}})
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Pass(b.Context(), Charge{WrongCodes, AddressKey("192.0.2.1:443")})
	}
}

var update = flag.Bool("update", false, "write the generated part of docs/rate-limits.md")

func TestManualListsEveryLimit(t *testing.T) {
	var table strings.Builder
	table.WriteString("| limit | counts | by | default | check |\n|---|---|---|---|---|\n")
	for _, k := range Catalogue() {
		fmt.Fprintf(&table, "| `%s` | %s | %s | `%s` | `%s` |\n", k.Name, k.Counts, k.By, k.Default, k.Check)
	}
	manual.Part(t, "../../docs/rate-limits.md", "limits", table.String(), *update, "go test ./internal/limits -run Manual -update")
}

// TestTimeNeverGoesBackInABucket: of two requests at once, who reads the clock first must come first, or the time
// between them would give its tokens twice.
func TestTimeNeverGoesBackInABucket(t *testing.T) {
	var g *Gate
	reads := 0
	g = New(Options{Rates: map[Name]Rate{WrongCodes: {Events: 1, Per: time.Second, Burst: 1}}, Sleep: stay, Now: func() time.Time {
		if reads++; g.mu.TryLock() {
			g.mu.Unlock()
			t.Error("the clock is read before it is the request's turn")
		}
		return epoch
	}})
	if err := g.Pass(t.Context(), one("a")); err != nil || reads == 0 {
		t.Errorf("%v after %d looks at the clock", err, reads)
	}
	refused(t, g.Pass(t.Context(), one("a"), one("a"), one("a"), one("a")))
}
