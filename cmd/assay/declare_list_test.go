package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/admin"
	"assay/internal/admin/client"
	"assay/internal/installation"
)

// newFolder is an installation with the template wifi, whose documents have a URL though no server runs.
func newFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "id")
	_, err := installation.Init(t.Context(), dir, installation.InitOptions{URL: "https://id.example.com", Listen: "127.0.0.1:0", Now: time.Now, From: "operator:test"})
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errs := assay(t, nil, "credential", "new", "wifi", "--dir", dir); code != exitDone {
		t.Fatal(errs)
	}
	return dir
}

// assay runs the program in this process.
func assay(t *testing.T, in io.Reader, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, &terminal{In: in, Out: &stdout, Err: &stderr, Now: time.Now})
	return code, stdout.String(), stderr.String()
}

// manyRows yields a list without ever holding it: the header, then so many devices.
type manyRows struct {
	n, count int
	pending  bytes.Buffer
}

func (m *manyRows) Read(p []byte) (int, error) {
	for m.pending.Len() == 0 {
		if m.n == 0 {
			m.pending.WriteString("serial,owner\n")
		}
		if m.n == m.count {
			return 0, io.EOF
		}
		m.n++
		fmt.Fprintf(&m.pending, "FAKE%08d,%s@example.com\n", m.n, strings.Repeat("x", 40))
	}
	return m.pending.Read(p)
}

// heapWatch counts the lines written to it and measures the heap each time so many more were written.
type heapWatch struct {
	every, lines int
	heaps        []uint64
}

func (w *heapWatch) Write(p []byte) (int, error) {
	before := w.lines / w.every
	w.lines += bytes.Count(p, []byte("\n"))
	if w.lines/w.every > before {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		w.heaps = append(w.heaps, m.HeapAlloc)
	}
	return len(p), nil
}

func TestDeclareHoldsNoListInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("declares 8,000 devices")
	}
	const devices = 8_000
	dir := newFolder(t)
	watch := &heapWatch{every: devices / 10}
	var errs bytes.Buffer
	code := run(t.Context(), []string{"credential", "declare", "--dir", dir, "--template", "wifi", "--from", "-"},
		&terminal{In: &manyRows{count: devices}, Out: watch, Err: &errs, Now: time.Now})
	if code != exitDone || watch.lines != devices {
		t.Fatalf("exit code %d with %d lines: %s", code, watch.lines, errs.String())
	}
	// The first tenth warms caches up. A list of 8,000 with its declarations would be 10 MB.
	first, last := watch.heaps[0], slices.Max(watch.heaps)
	if grown := int64(last) - int64(first); grown > 4<<20 {
		t.Errorf("the heap grew by %d KiB from %d to %d devices: %v", grown>>10, watch.every, devices, watch.heaps)
	}
}

// listServer is an API that declares anything but what refuse says; it counts the requests.
type listServer struct {
	refuse   func([]admin.Declare) *client.Problem
	requests [][]string
}

func (s *listServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var batch admin.DeclareBatch
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var serials []string
	results := make([]admin.DeclareResult, len(batch.Devices))
	for i, device := range batch.Devices {
		serials = append(serials, device.Serial)
		results[i] = admin.DeclareResult{Credential: &admin.Credential{ID: "cred_" + device.Serial}, Fresh: true}
	}
	s.requests = append(s.requests, serials)
	if p := s.refuse(batch.Devices); p != nil {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(map[string]any{"title": "no", "detail": p.Detail, "check": p.Check, "errors": p.Errors})
		return
	}
	_ = json.NewEncoder(w).Encode(admin.DeclaredBatch{Results: results})
}

// declareAt runs a list against a server that speaks the API.
func declareAt(t *testing.T, s *listServer, csv string, flags ...string) (code int, out, errs string) {
	t.Helper()
	server := httptest.NewTLSServer(s)
	defer server.Close()
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(token, []byte("assay_x\n"), 0o600), os.WriteFile(ca, certificatePEM(server.Certificate().Raw), 0o600)); err != nil {
		t.Fatal(err)
	}
	return assay(t, strings.NewReader(csv), append([]string{"credential", "declare", "--server", server.URL, "--token-file", token, "--ca-file", ca,
		"--template", "wifi", "--from", "-"}, flags...)...)
}

// TestDeclareFindsTheRowThatSpoilsARequest: where the API refuses a whole request for one device in it,
// that one fails and all others are declared.
func TestDeclareFindsTheRowThatSpoilsARequest(t *testing.T) {
	bad := func(devices []admin.Declare) *client.Problem {
		for i, device := range devices {
			if device.Serial == "BAD" {
				return &client.Problem{Status: http.StatusUnprocessableEntity, Check: "invalid-request", Detail: "malformed",
					Errors: []client.ProblemDetail{{Message: "no serial number", Location: fmt.Sprintf("body.devices[%d].serial", i)}}}
			}
		}
		return nil
	}
	code, out, errs := declareAt(t, &listServer{refuse: bad}, "serial\nA\nB\nBAD\nC\nD\n")
	if code != exitNo || strings.Count(out, "\n") != 4 || strings.Contains(out, `"BAD"`) {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if !strings.Contains(errs, "5 devices: 4 declared, 0 stood already, 1 failed") || !strings.Contains(errs, "line 4: malformed; body.devices[0].serial: no serial number") {
		t.Errorf("summary: %s", errs)
	}
}

// TestDeclareStopsWhereTheTokenEnds: what was declared is printed and reported; the rest is not tried.
// TestFailedRowsAreToldInTheOrderOfTheList: rows that are unusable are known before those that the server
// refuses.
func TestFailedRowsAreToldInTheOrderOfTheList(t *testing.T) {
	var list, want strings.Builder
	list.WriteString("serial,udid,owner\n")
	for line := 2; line < 2+3*listBatch; line++ { // of three kinds: a device, none, one that lacks its serial number
		fmt.Fprintf(&list, []string{"S%d,,o\n", ",,o%d\n", ",U%d,o\n"}[line%3], line)
		if line%3 != 0 {
			fmt.Fprintln(&want, line)
		}
	}
	report := filepath.Join(t.TempDir(), "failed.csv")
	code, _, errs := assay(t, strings.NewReader(list.String()), "credential", "declare", "--dir", newFolder(t), "--template", "wifi", "--from", "-", "--report", report)
	if code != exitNo {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for row := range strings.Lines(string(text)) {
		if line, _, _ := strings.Cut(row, ","); line != "assay_line" {
			fmt.Fprintln(&got, line)
		}
	}
	if got.String() != want.String() {
		t.Errorf("the report has the lines %s", strings.Join(strings.Fields(got.String()), " "))
	}
}

func TestDeclareStopsWhereTheTokenEnds(t *testing.T) {
	calls := 0
	server := &listServer{refuse: func([]admin.Declare) *client.Problem {
		if calls++; calls > 1 {
			return &client.Problem{Status: http.StatusUnauthorized, Check: "token-expired", Detail: "the token has expired"}
		}
		return nil
	}}
	var csv strings.Builder
	csv.WriteString("serial\n")
	for n := range 3 * listBatch {
		fmt.Fprintf(&csv, "S%d\n", n)
	}
	report := filepath.Join(t.TempDir(), "failed.csv")
	code, out, errs := declareAt(t, server, csv.String(), "--report", report)
	if code != exitFailed || strings.Count(out, "\n") != listBatch || len(server.requests) != 2 {
		t.Errorf("exit code %d, %d lines, %d requests: %s", code, strings.Count(out, "\n"), len(server.requests), errs)
	}
	if !strings.Contains(errs, fmt.Sprintf("stopped before line %d of -: the token has expired", listBatch+2)) || !strings.Contains(errs, "assay token list") {
		t.Errorf("errors: %s", errs)
	}
	if data, err := os.ReadFile(report); err != nil || string(data) != "assay_line,assay_check,assay_error,serial\n" {
		t.Errorf("report %q, %v", data, err)
	}
}

// TestDeclareBoundsRequestsByTheirBytes: labels may be long, and a request has a limit.
func TestDeclareBoundsRequestsByTheirBytes(t *testing.T) {
	server := &listServer{refuse: func(devices []admin.Declare) *client.Problem {
		data, err := json.Marshal(devices)
		if err != nil || len(data) > listBytes+1<<10 {
			t.Errorf("a request of %d bytes, %v", len(data), err)
		}
		return nil
	}}
	var csv strings.Builder
	csv.WriteString("serial,note\n")
	for n := range 400 {
		fmt.Fprintf(&csv, "S%d,%s\n", n, strings.Repeat("<", 3<<10)) // each < is six bytes in JSON
	}
	if code, _, errs := declareAt(t, server, csv.String()); code != exitDone || len(server.requests) < 10 {
		t.Errorf("exit code %d, %d requests: %s", code, len(server.requests), errs)
	}
}

func TestProgressIsALineNowAndThenWhereNobodyWatches(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var errs bytes.Buffer
	p := newListProgress(&terminal{Out: io.Discard, Err: &errs, Now: func() time.Time { return now }}, "devices.csv", &countedReader{n: 250}, 1000)
	p.show(500, 0)
	now = now.Add(progressInterval)
	p.show(1000, 3)
	p.show(1500, 0)
	p.end()
	if got := errs.String(); got != "devices.csv: 1000 devices so far (25%), 3 failed\n" {
		t.Errorf("wrote %q", got)
	}
}

// TestAtomicFileAppearsWholeOrNotAtAll: one that is given up leaves the old file, and no temporary one.
func TestAtomicFileAppearsWholeOrNotAtAll(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report.csv")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := createAtomic(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half of the n"); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(name); string(data) != "old" {
		t.Errorf("while it is written the file holds %q", data)
	}
	f.discard()
	entries, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := writeAtomic(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if data, _ := os.ReadFile(name); string(data) != "new" {
		t.Errorf("the file holds %q", data)
	}
}

// TestDeclarationsNameNoFileElsewhere: the Identifier comes from the server, and is a file's name.
func TestDeclarationsNameNoFileElsewhere(t *testing.T) {
	dir := t.TempDir()
	for _, identifier := range []string{"../../etc/passwd", "assay.cred_1.asset/../../x", "", ".", "assay.cred_1.asset\x00", "assay.cred_1.ASSET"} {
		declaration, err := json.Marshal(map[string]string{"Identifier": identifier})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writeDeclarations(dir, admin.Declarations{declaration}); err == nil {
			t.Errorf("Identifier %q named a file", identifier)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("written: %v", entries)
	}
}
