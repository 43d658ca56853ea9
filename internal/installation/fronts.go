package installation

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"assay/internal/tracing"

	"golang.org/x/net/netutil"
)

// front is one listener of the server and what it serves.
type front struct {
	name     string // acme, admin, mdm or metricsFront
	listener net.Listener
	url      string
	handler  http.Handler
	tls      *tls.Config // nil: plain HTTP
	server   *http.Server
	busy     busyConnections
}

// busyConnections are those that a request is in, or that are new, so that one is to be expected.
type busyConnections struct {
	mu       sync.Mutex
	all      map[net.Conn]struct{}
	stopping atomic.Bool // each is to be closed after its request
}

func (b *busyConnections) note(c net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if state != http.StateNew && state != http.StateActive {
		delete(b.all, c)
		return
	}
	if b.all == nil {
		b.all = make(map[net.Conn]struct{})
	}
	b.all[c] = struct{}{}
}

// await waits until none is busy.
func (b *busyConnections) await(ctx context.Context) {
	for ctx.Err() == nil {
		b.mu.Lock()
		left := len(b.all)
		b.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(busyInterval)
	}
}

// busyInterval is how often a server that stops looks whether it is done.
const busyInterval = 5 * time.Millisecond

func (b *busyConnections) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// metricsFront is the listener of metrics and health.
const metricsFront = "metrics"

// fronts are the listeners of one server. They are opened before anything is served, because each
// part of the server names the URLs of the others.
type fronts struct {
	limits   connectionLimits
	log      *slog.Logger
	measures *measures
	tracer   *tracing.Tracer // nil: requests are not traced
	all      []*front
	done     chan error // one per front that is being served
}

// open listens on the address. The URL is the configured one, else the one of the address in use.
func (f *fronts) open(name, address, configuredURL string) (*front, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", name, err)
	}
	one := &front{name: name, listener: netutil.LimitListener(listener, f.limits.connections)}
	f.all = append(f.all, one)
	if one.url, err = baseURL(configuredURL, listener.Addr().String()); err != nil {
		return nil, &ConfigError{fmt.Errorf("serve %s: %w", name, err)}
	}
	return one, nil
}

// serve starts every front. What it returns yields the first failure.
func (f *fronts) serve() <-chan error {
	f.done = make(chan error, len(f.all))
	for _, one := range f.all {
		count := f.measures.connections(one.name)
		one.server = &http.Server{
			Handler: one.busy.handler(one.handler), TLSConfig: one.tls,
			ReadHeaderTimeout: f.limits.header, ReadTimeout: f.limits.read, WriteTimeout: f.limits.write,
			IdleTimeout: f.limits.idle, MaxHeaderBytes: f.limits.maxHeaderBytes,
			HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: f.limits.streams},
			BaseContext: func(net.Listener) context.Context { return f.tracer.Context(context.Background()) },
			ErrorLog:    f.measures.errorLog(one.name, f.log),
			ConnState: func(c net.Conn, state http.ConnState) {
				count(c, state)
				one.busy.note(c, state)
			},
		}
		go func() {
			if one.tls != nil {
				f.done <- one.server.ServeTLS(one.listener, "", "")
			} else {
				f.done <- one.server.Serve(one.listener)
			}
		}()
	}
	return f.done
}

// shutdown stops every front and waits for the requests in flight. The metrics come last: until nothing is in
// flight any more, they say how the server stops.
func (f *fronts) shutdown(ctx context.Context) error {
	return errors.Join(
		f.stop(ctx, func(one *front) bool { return one.name != metricsFront }),
		f.stop(ctx, func(one *front) bool { return one.name == metricsFront }),
	)
}

// stop stops some fronts.
func (f *fronts) stop(ctx context.Context, which func(*front) bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.limits.shutdown)
	defer cancel()
	errs := make([]error, len(f.all))
	var stopping sync.WaitGroup
	for n, one := range f.all {
		if which(one) {
			stopping.Go(func() { errs[n] = one.stop(ctx) })
		}
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// stop takes no more connections, and answers the requests on those that there are. The server's own Shutdown
// comes last: it drops a request that it has just read.
func (f *front) stop(ctx context.Context) error {
	f.busy.stopping.Store(true)
	err := f.listener.Close()
	f.busy.await(ctx)
	if shut := f.server.Shutdown(ctx); !errors.Is(shut, net.ErrClosed) { // the listener is
		err = errors.Join(err, shut)
	}
	return err
}

// close closes listeners that are not served; those that are, are closed already.
func (f *fronts) close() error {
	var errs []error
	for _, one := range f.all {
		if err := one.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
