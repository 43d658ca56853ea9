// Package panics makes of a panic an error that says where it happened, so that one bug costs one request and is
// found in the log.
package panics

import (
	"fmt"
	"runtime/debug"
)

// Caught runs something and returns its error. A panic in it becomes an error with what it said and the stack of
// the place that panicked.
func Caught(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run()
}
