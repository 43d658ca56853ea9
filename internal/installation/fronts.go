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
}

// metricsFront is the listener of metrics and health.
const metricsFront = "metrics"

// fronts are the listeners of one server. They are opened before anything is served, because each
// part of the server names the URLs of the others.
type fronts struct {
	limits   connectionLimits
	log      *slog.Logger
	measures *measures
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
		one.server = &http.Server{
			Handler: one.handler, TLSConfig: one.tls,
			ReadHeaderTimeout: f.limits.header, ReadTimeout: f.limits.read, WriteTimeout: f.limits.write,
			IdleTimeout: f.limits.idle, MaxHeaderBytes: f.limits.maxHeaderBytes,
			HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: f.limits.streams},
			ErrorLog:  f.measures.errorLog(one.name, f.log),
			ConnState: f.measures.connections(one.name),
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
			stopping.Go(func() { errs[n] = one.server.Shutdown(ctx) })
		}
	}
	stopping.Wait()
	return errors.Join(errs...)
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
