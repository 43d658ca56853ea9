// Package panics makes of a panic an error that says where it happened, so that one bug costs one request and is
// found in the log.
package panics

import (
	"fmt"
	"net/http"
	"runtime/debug"
)

// Caught runs something and returns its error. A panic in it becomes an error with what it said and the stack of
// the place that panicked.
func Caught(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errorOf(p)
		}
	}()
	return run()
}

func errorOf(p any) error { return fmt.Errorf("panic: %v\n%s", p, debug.Stack()) }

// Handler is a handler whose panics failed logs and answers. Where the answer had begun, what failed writes is
// dropped and the connection is cut: the client must not take what it got for the whole. http.ErrAbortHandler, by
// which a handler cuts the connection itself, is let through.
func Handler(next http.Handler, failed func(http.ResponseWriter, *http.Request, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := &writer{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			out.over = out.begun
			failed(out, r, errorOf(p))
			if out.over {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(out, r)
	}
}

// writer knows whether an answer has begun. When it is over, nothing more is written.
type writer struct {
	http.ResponseWriter
	begun, over bool
}

func (w *writer) WriteHeader(status int) {
	if w.over {
		return
	}
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.over {
		return len(p), nil
	}
	w.begun = true
	return w.ResponseWriter.Write(p)
}
