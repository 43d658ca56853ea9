package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestWatchingDeviceGoesOnAfterAFailureAndTellsItOnce: as a device does whose MDM is away.
func TestWatchingDeviceGoesOnAfterAFailureAndTellsItOnce(t *testing.T) {
	dir := t.TempDir()
	if code, _, errs := assay(t, nil, "simulate", "mdm-ca", "--out", filepath.Join(dir, "ca")); code != exitDone {
		t.Fatal(errs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const enough = 4
	var tries atomic.Int32
	mdm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if tries.Add(1) == enough {
			cancel()
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer mdm.Close()
	var out, errs bytes.Buffer
	code := run(ctx, []string{
		"simulate", "mdm", "--mdm", mdm.URL + "/mdm", "--mdm-ca", filepath.Join(dir, "ca"), "--out", filepath.Join(dir, "phone"), "--watch", "--interval", "100ms",
	}, &terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now})
	if n := tries.Load(); n < enough {
		t.Errorf("it tried %d times", n)
	}
	if code != exitDone || strings.Count(errs.String(), "MDM: Authenticate") != 1 {
		t.Errorf("exit code %d, said %q", code, errs.String())
	}
}
