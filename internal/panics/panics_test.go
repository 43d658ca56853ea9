package panics

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
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

// answered is what a client got of a handler: the recorder and, if the connection was cut, the panic that cut it.
func answered(handle http.HandlerFunc) (w *httptest.ResponseRecorder, cut any, failure error) {
	w = httptest.NewRecorder()
	defer func() { cut = recover() }()
	Handler(handle, func(w http.ResponseWriter, _ *http.Request, err error) {
		failure = err
		http.Error(w, "failed", http.StatusInternalServerError)
	}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w, nil, failure
}

func TestHandlerAnswersAPanic(t *testing.T) {
	w, cut, failure := answered(func(http.ResponseWriter, *http.Request) { _ = overTheEdge() })
	if w.Code != http.StatusInternalServerError || w.Body.String() != "failed\n" || cut != nil {
		t.Errorf("got %d %q, cut by %v", w.Code, w.Body, cut)
	}
	if failure == nil || !strings.Contains(failure.Error(), "panics.overTheEdge") {
		t.Errorf("told of %v", failure)
	}
}

func TestHandlerCutsAnAnswerThatHadBegun(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"the status": func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) },
		"the body":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "half") },
	} {
		whole := httptest.NewRecorder()
		begin(whole)
		w, cut, failure := answered(func(w http.ResponseWriter, _ *http.Request) {
			begin(w)
			_ = overTheEdge()
		})
		if w.Code != whole.Code || w.Body.String() != whole.Body.String() || cut != http.ErrAbortHandler || failure == nil {
			t.Errorf("%s: got %d %q, cut by %v, told of %v", name, w.Code, w.Body, cut, failure)
		}
	}
}

func TestHandlerLetsThroughWhatCutsTheConnection(t *testing.T) {
	w, cut, failure := answered(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if cut != http.ErrAbortHandler || failure != nil || w.Body.Len() != 0 {
		t.Errorf("cut by %v, told of %v, got %q", cut, failure, w.Body)
	}
}

func TestHandlerLeavesAnAnswerAsItIs(t *testing.T) {
	w, cut, failure := answered(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "whole")
	})
	if w.Code != http.StatusAccepted || w.Body.String() != "whole" || failure != nil || cut != nil {
		t.Errorf("got %d %q, told of %v, cut by %v", w.Code, w.Body, failure, cut)
	}
}
