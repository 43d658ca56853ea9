package panics

import (
	"errors"
	"strings"
	"testing"
)

func overTheEdge() error {
	var none []int
	return errors.New(string(rune(none[len(none)])))
}

func TestCaughtSaysWhereItPanicked(t *testing.T) {
	err := Caught(overTheEdge)
	if err == nil || !strings.HasPrefix(err.Error(), "panic: runtime error: index out of range") || !strings.Contains(err.Error(), "panics.overTheEdge") {
		t.Errorf("got %v", err)
	}
}

func TestCaughtReturnsTheError(t *testing.T) {
	wrong := errors.New("wrong")
	if err := Caught(func() error { return wrong }); err != wrong {
		t.Errorf("got %v", err)
	}
	if err := Caught(func() error { return nil }); err != nil {
		t.Errorf("got %v", err)
	}
}
