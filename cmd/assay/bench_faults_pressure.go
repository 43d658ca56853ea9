package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"assay/acme"
)

const (
	slowClients = 300
	drip        = 500 * time.Millisecond // between two bytes of a slow client
	// slowLife is how long a slow client may hold a connection: the server's time for a request's body, and some.
	slowLife = 20 * time.Second
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
	name:     "slow-clients",
	did:      fmt.Sprintf("%d connections at a time that say nothing, or send a request byte by byte, while devices enrol", slowClients),
	expected: fmt.Sprintf("every device gets its certificate; no slow client holds a connection for more than %s", slowLife),
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, t.beSlow)
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
				conn, err := net.DialTimeout("tcp", t.direct, 5*time.Second)
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

const flooders = 16 // half of them ask for nonces, half for orders

var floodScenario = scenario{
	name:     "flood",
	did:      fmt.Sprintf("one client asks for nonces and orders without a pause, %d requests at a time, while devices enrol", flooders),
	expected: "every device gets its certificate",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		c, err := t.newDuplicator()
		if err != nil {
			return "", err
		}
		defer c.http.CloseIdleConnections()
		body, err := c.signed(ctx, c.endpoint("new-account"), []byte(`{"termsOfServiceAgreed":true}`))
		if err != nil {
			return "", err
		}
		account, problem, err := c.post(ctx, c.endpoint("new-account"), body)
		if err != nil {
			return "", err
		}
		if account == nil {
			return "", fmt.Errorf("the flooding client got no account: %s", problem)
		}
		c.kid = account.location
		code, err := t.fresh(ctx, t.term.Now())
		if err != nil {
			return "", err
		}
		return t.sideBySide(ctx, func(ctx context.Context) func() string { return c.flood(ctx, code) })
	},
}

// flood asks for nonces and orders until the context ends.
func (c *duplicator) flood(ctx context.Context, code benchCode) (stop func() string) {
	payload, err := json.Marshal(map[string]any{"identifiers": []acme.Identifier{{Type: acme.PermanentIdentifier, Value: code.value}}})
	if err != nil {
		panic(err) // two texts
	}
	var asking sync.WaitGroup
	var nonces, orders, refused atomic.Int64
	for n := range flooders {
		asking.Go(func() {
			for ctx.Err() == nil {
				if n%2 == 0 {
					if _, err := c.nonce(ctx); err == nil {
						nonces.Add(1)
					}
					continue
				}
				body, err := c.signed(ctx, c.endpoint("new-order"), payload)
				if err != nil {
					continue
				}
				if got, problem, err := c.post(ctx, c.endpoint("new-order"), body); got != nil {
					orders.Add(1)
				} else if err == nil && problem != "" {
					refused.Add(1)
				}
			}
		})
	}
	return func() string {
		asking.Wait()
		return fmt.Sprintf("the client got %d nonces and %d orders, and was refused %d orders", nonces.Load(), orders.Load(), refused.Load())
	}
}

var pauseScenario = scenario{
	name:     "pause",
	did:      "the server's process stands still for 0.1 to 2 seconds (SIGSTOP), once a second or so, while devices enrol",
	expected: "every device gets its certificate: no pause is as long as the 15 seconds that a device waits",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		return t.sideBySide(ctx, func(ctx context.Context) func() string {
			var pausing sync.WaitGroup
			pauses, pid := 0, t.server.pid()
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
