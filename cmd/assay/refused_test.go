package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"assay/internal/admin/client"
)

// TestWhatTheAPIRefusesBecomesAnExitCode: scripts tell a no from wrong input and from a failure.
func TestWhatTheAPIRefusesBecomesAnExitCode(t *testing.T) {
	for _, c := range []struct {
		status, exit, ofInput int
		hint                  string
	}{
		{http.StatusBadRequest, exitUsage, exitUsage, ""},
		{http.StatusUnauthorized, exitFailed, exitFailed, "assay token list"},
		{http.StatusForbidden, exitFailed, exitFailed, "assay token mint"},
		{http.StatusNotFound, exitNo, exitUsage, ""},
		{http.StatusConflict, exitNo, exitNo, ""},
		{http.StatusPreconditionFailed, exitNo, exitNo, ""},
		{http.StatusUnprocessableEntity, exitNo, exitUsage, ""},
		{http.StatusTooManyRequests, exitFailed, exitFailed, ""},
		{http.StatusInternalServerError, exitFailed, exitFailed, ""},
		{http.StatusServiceUnavailable, exitFailed, exitFailed, ""},
	} {
		problem := fmt.Errorf("at line 3: %w", &client.Problem{Status: c.status, Detail: "because"})
		for of, want := range map[string]int{"refused": c.exit, "refusedInput": c.ofInput} {
			var out bytes.Buffer
			err := map[string]func(error) error{"refused": refused, "refusedInput": refusedInput}[of](problem)
			if code := report(&terminal{Err: &out}, err); code != want {
				t.Errorf("%s of HTTP %d: exit code %d, want %d", of, c.status, code, want)
			}
			if !strings.Contains(out.String(), "at line 3: because") || !strings.Contains(out.String(), c.hint) {
				t.Errorf("%s of HTTP %d says %q", of, c.status, out.String())
			}
		}
	}
	if err := refused(nil); err != nil {
		t.Errorf("nothing refused became %v", err)
	}
	if plain := errors.New("connection refused"); refused(plain) != plain || isProblem(plain, http.StatusNotFound) {
		t.Error("what is no answer became one")
	}
}
