package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"assay/acme"
	"assay/internal/limits"
)

const (
	slowClients = 300
	drip        = 500 * time.Millisecond // between two bytes of a slow client
	// slowLife is how long a slow client may hold a connection: the server's time for a request's body, and some.
	slowLife = 20 * time.Second
	// pressedRatio is how many times longer the slowest hundredth of enrolments may take under pressure from
	// others, who share the machine's processors with server and devices.
	pressedRatio = 4.0
)

// slowKinds are the ways in which a client is slow.
var slowKinds = []struct {
	name string
	talk func(*tls.Config, net.Conn) error // until the server hangs up
}{
	{"says nothing", func(_ *tls.Config, conn net.Conn) error {
		_, err := io.Copy(io.Discard, conn)
		return err
	}},
	{"sends a header byte by byte", func(config *tls.Config, conn net.Conn) error {
		return trickle(tls.Client(conn, config), "GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
	}},
	{"sends a body byte by byte", func(config *tls.Config, conn net.Conn) error {
		return trickle(tls.Client(conn, config), "POST /acme/default/new-order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jose+json\r\nContent-Length: 4000\r\n\r\n")
	}},
}

// trickle sends a beginning at once and then a byte now and then, until the server hangs up.
func trickle(conn net.Conn, beginning string) error {
	if _, err := io.WriteString(conn, beginning); err != nil {
		return err
	}
	for {
		time.Sleep(drip)
		if _, err := conn.Write([]byte("a")); err != nil {
			return err
		}
	}
}

var slowClientsScenario = scenario{
	name: "slow-clients",
	did:  fmt.Sprintf("%d connections at a time that say nothing, or send a request byte by byte, while devices enrol", slowClients),
	expected: fmt.Sprintf("every device gets its certificate, the p99 at most %g times that without; no slow client holds a connection for more than %s",
		pressedRatio, slowLife),
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, pressedRatio, t.beSlow)
	},
}

// beSlow keeps slow clients on the server until the context ends. What it returns waits for the last, and says how
// long they held their connections.
func (t *trial) beSlow(ctx context.Context) (stop func() string) {
	config := &tls.Config{RootCAs: t.roots, ServerName: "127.0.0.1"}
	var clients sync.WaitGroup
	var held, longest atomic.Int64
	for n := range slowClients {
		kind := slowKinds[n%len(slowKinds)]
		clients.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.DialTimeout("tcp", t.servers[0].direct, 5*time.Second)
				if err != nil {
					time.Sleep(drip)
					continue
				}
				began := time.Now()
				_ = conn.SetDeadline(began.Add(2 * slowLife))
				_ = kind.talk(config, conn) // ends by an error
				life := time.Since(began)
				_ = conn.Close()
				held.Add(1)
				for was := longest.Load(); int64(life) > was && !longest.CompareAndSwap(was, int64(life)); was = longest.Load() {
				}
			}
		})
	}
	return func() string {
		clients.Wait()
		most := time.Duration(longest.Load())
		if most > slowLife {
			t.fault("a slow client held a connection for %s", most.Round(time.Second))
		}
		return fmt.Sprintf("%d slow connections, the longest was held for %s", held.Load(), most.Round(time.Second))
	}
}

const (
	flooders    = 128         // requests at a time: half of them for nonces, half for orders
	floodFrom   = "127.0.0.2" // an address of its own, as a stranger has
	fillingTime = 5 * time.Minute
)

var floodScenario = scenario{
	name: "flood",
	did: fmt.Sprintf("one client floods newNonce and newOrder, %d requests at a time: orders with a wrong code and, by another account, with a "+
		"live one; devices enrol once it has used up what passes at once", flooders),
	expected: fmt.Sprintf("every device gets its certificate, the p99 at most %g times that without; the client gets no more than the limits let pass",
		pressedRatio),
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		f := &flood{t: t, rates: limits.Defaults()}
		for i, code := range []*string{&f.wrong.code, &f.live.code} {
			made, err := t.fresh(ctx, t.term.Now())
			if err != nil {
				return "", err
			}
			*code = made.value
			if i == 0 {
				*code = made.value + "x"
			}
		}
		for _, o := range []*orderer{&f.wrong, &f.live} {
			if err := o.open(ctx, t); err != nil {
				return "", err
			}
			defer o.http.CloseIdleConnections()
		}
		return t.sideBySide(ctx, pressedRatio, f.press)
	},
}

// flood is a client that floods, as two accounts.
type flood struct {
	t                *trial
	rates            map[limits.Name]limits.Rate
	wrong, live      orderer
	nonces           atomic.Int64
	limited, strange atomic.Int64 // refused by a limit; and what nobody expects
}

// orderer is an account that orders by one code.
type orderer struct {
	*duplicator
	code     string
	payload  []byte
	answered atomic.Int64 // with an order, or a refusal that is no limit's
}

// open makes the account, from the address of the flood.
func (o *orderer) open(ctx context.Context, t *trial) (err error) {
	if o.duplicator, err = t.newDuplicator(); err != nil {
		return err
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(floodFrom)}}
	transport := o.http.Transport.(*http.Transport)
	transport.MaxIdleConnsPerHost = flooders
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, t.servers[0].direct)
	}
	if o.payload, err = json.Marshal(map[string]any{"identifiers": []acme.Identifier{{Type: acme.PermanentIdentifier, Value: o.code}}}); err != nil {
		return err
	}
	body, err := o.signed(ctx, o.endpoint("new-account"), []byte(`{"termsOfServiceAgreed":true}`))
	if err != nil {
		return err
	}
	account, problem, err := o.post(ctx, o.endpoint("new-account"), body)
	if err != nil {
		return err
	}
	if account == nil {
		return fmt.Errorf("the flooding client got no account: %s", problem)
	}
	o.kid = account.location
	return nil
}

// press floods until the context ends. It returns once the burst of nonces is used up.
func (f *flood) press(ctx context.Context) (stop func() string) {
	began := f.t.term.Now()
	var asking sync.WaitGroup
	for n := range flooders {
		asking.Go(func() {
			for ctx.Err() == nil {
				switch n % 4 {
				case 0, 1:
					_, _ = f.nonce(ctx, f.wrong.duplicator)
				case 2:
					f.order(ctx, &f.wrong)
				case 3:
					f.order(ctx, &f.live)
				}
			}
		})
	}
	burst := int64(f.rates[limits.Reads].Burst)
	for f.nonces.Load() < burst && ctx.Err() == nil {
		if f.t.term.Now().Sub(began) > fillingTime {
			f.t.fault("the client got only %d nonces in %s: was it a flood?", f.nonces.Load(), fillingTime)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	filled := f.t.term.Now().Sub(began)
	return func() string {
		asking.Wait()
		took := f.t.term.Now().Sub(began)
		for _, got := range []struct {
			what  string
			n     int64
			limit limits.Name
		}{{"nonces", f.nonces.Load(), limits.Reads}, {"answers to wrong codes", f.wrong.answered.Load(), limits.WrongCodes}, {"orders by one code", f.live.answered.Load(), limits.Codes}} {
			if most := passes(f.rates[got.limit], took); got.n > most {
				f.t.fault("the client got %d %s in %s: the limit %s lets %d pass", got.n, got.what, took.Round(time.Second), got.limit, most)
			}
		}
		if f.limited.Load() == 0 || f.strange.Load() > 0 {
			f.t.fault("%d requests of the client were refused by a limit, %d ended otherwise", f.limited.Load(), f.strange.Load())
		}
		return fmt.Sprintf("in %s, of which the burst took %s, the client got %d nonces, %d orders and %d answers to wrong codes, and was refused by a limit %d times",
			took.Round(time.Second), filled.Round(time.Second), f.nonces.Load(), f.live.answered.Load(), f.wrong.answered.Load(), f.limited.Load())
	}
}

// passes is how many a limit lets pass in so long a time, at most.
func passes(r limits.Rate, in time.Duration) int64 {
	return int64(r.Burst) + int64(float64(r.Events)*in.Seconds()/r.Per.Seconds()) + 1
}

// nonce asks for a nonce and counts what came of it.
func (f *flood) nonce(ctx context.Context, c *duplicator) (nonce string, ok bool) {
	nonce, problem, err := c.nonce(ctx)
	switch {
	case err != nil:
		f.failed(ctx)
	case problem == acme.RateLimited:
		f.limited.Add(1)
	case problem != "":
		f.strange.Add(1)
	default:
		f.nonces.Add(1)
		return nonce, true
	}
	return "", false
}

// failed counts a request without an answer, unless it is the end.
func (f *flood) failed(ctx context.Context) {
	if ctx.Err() == nil {
		f.strange.Add(1)
	}
}

func (f *flood) order(ctx context.Context, o *orderer) {
	nonce, ok := f.nonce(ctx, o.duplicator)
	if !ok {
		return
	}
	url := o.endpoint("new-order")
	body, err := acme.Sign(o.account, o.kid, nonce, url, o.payload)
	if err != nil {
		panic(err) // a key and texts of our own
	}
	_, problem, err := o.post(ctx, url, body)
	switch {
	case err != nil:
		f.failed(ctx)
	case problem == acme.RateLimited:
		f.limited.Add(1)
	default:
		o.answered.Add(1)
	}
}

var pauseScenario = scenario{
	name:     "pause",
	pair:     true,
	did:      "the server's process stands still for 0.1 to 2 seconds (SIGSTOP), once a second or so, while devices enrol",
	expected: "every device gets its certificate: no pause is as long as the 15 seconds that a device waits",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, 0, func(ctx context.Context) func() string {
			var pausing sync.WaitGroup
			pauses, pid := 0, t.servers[0].pid()
			pausing.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(rand.N(2 * time.Second))
					if syscall.Kill(pid, syscall.SIGSTOP) != nil {
						return
					}
					time.Sleep(100*time.Millisecond + rand.N(1900*time.Millisecond))
					_ = syscall.Kill(pid, syscall.SIGCONT) // it is there: nobody else ends it
					pauses++
				}
			})
			return func() string {
				pausing.Wait()
				return counted(pauses, "pause")
			}
		})
	},
}
