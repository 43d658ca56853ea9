package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWatchingDeviceGoesOnAfterAFailureAndTellsItOnce: as a device does whose MDM is away.
func TestWatchingDeviceGoesOnAfterAFailureAndTellsItOnce(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond) // time for several tries
	defer cancel()
	var out, errs bytes.Buffer
	term := &terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now}
	if code := run(ctx, []string{"simulate", "mdm-ca", "--out", filepath.Join(dir, "ca")}, term); code != exitDone {
		t.Fatal(errs.String())
	}
	code := run(ctx, []string{
		"simulate", "mdm", "--mdm", "http://127.0.0.1:1/mdm", "--mdm-ca", filepath.Join(dir, "ca"), "--out", filepath.Join(dir, "phone"), "--watch", "--interval", "100ms",
	}, term)
	if code != exitDone || strings.Count(errs.String(), "MDM: Authenticate") != 1 {
		t.Errorf("exit code %d, said %q", code, errs.String())
	}
}
