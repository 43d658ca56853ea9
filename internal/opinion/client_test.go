package opinion

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCanceledRequestSaysNothingAboutTheService(t *testing.T) {
	arrived := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) { arrived <- struct{}{}; hang(w, r) }, nil)
	for range 2 * failuresUntilOpen {
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-arrived; cancel() }()
		if got := r.Ask(ctx, Sample(start)); got.Failure != Canceled {
			t.Fatalf("%+v", got)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if report := r.exchange(gone, Sample(start), false); report.health() != unknown {
		t.Errorf("health %d", report.health())
	}
	if r.log.String() != "" {
		t.Errorf("logged %s", r.log)
	}
}

func TestCircuitSparesADeadService(t *testing.T) {
	var asked atomic.Int32
	var dead atomic.Bool
	dead.Store(true)
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if dead.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		says(t, good)(w, r)
	}, func(o *Options) { o.Required = true })
	ask := func(want string, of int32) {
		t.Helper()
		if got := r.Ask(t.Context(), Sample(start)); got.Failure != want || !got.Required || asked.Load() != of {
			t.Fatalf("%+v, asked %d times; want %s after %d", got, asked.Load(), want, of)
		}
	}
	for n := range int32(failuresUntilOpen) {
		if circuitOpen(t, r) {
			t.Fatal("open too early")
		}
		ask(Status, n+1)
	}
	ask(CircuitOpen, 5)
	if !circuitOpen(t, r) || strings.Count(r.log.String(), "not asked for a while") != 1 || count(t, r, CircuitOpen) != 1 {
		t.Errorf("logged %s", r.log)
	}
	r.clock.pass(coolDown)
	ask(Status, 6)
	ask(CircuitOpen, 6)
	dead.Store(false)
	r.clock.pass(coolDown)
	ask("", 7)
	ask("", 8)
	if circuitOpen(t, r) || strings.Count(r.log.String(), "answers again") != 1 {
		t.Errorf("logged %s", r.log)
	}
}

// roundTripper is a service that is not on the network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestBudgetIsForTheWholeExchange(t *testing.T) {
	r := rigAt(t, "https://edr.example.com", func(o *Options) { o.Timeout = 2 * time.Second })
	var left time.Duration
	r.http.Transport = roundTripper(func(request *http.Request) (*http.Response, error) {
		until, ok := request.Context().Deadline()
		if !ok {
			t.Error("no deadline")
		}
		left = time.Until(until)
		return nil, io.EOF
	})
	if r.Ask(t.Context(), Sample(start)); left <= 0 || left > r.Timeout {
		t.Errorf("%s are left of %s", left, r.Timeout)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // whoever asks has less time
	defer cancel()
	if r.Ask(ctx, Sample(start)); left <= 0 || left > time.Second {
		t.Errorf("%s are left of a second", left)
	}
}

// TestNoDeviceOpensTheCircuit: answers that a request may have provoked do not silence the service.
func TestNoDeviceOpensTheCircuit(t *testing.T) {
	r := newRig(t, says(t, func(string) string { return "?" }), nil)
	for range 2 * failuresUntilOpen {
		if got := r.Ask(t.Context(), Sample(start)); got.Failure != Malformed {
			t.Fatalf("%+v", got)
		}
	}
}

func TestSlowServiceHoldsABoundedNumber(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		says(t, good)(w, r)
	}, func(o *Options) { o.Timeout = MaxTimeout })
	var waiting sync.WaitGroup
	for range maxConcurrent {
		waiting.Go(func() {
			if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
				t.Errorf("%+v", got)
			}
		})
	}
	for range maxConcurrent {
		<-arrived
	}
	if got := r.Ask(t.Context(), Sample(start)); got.Failure != Busy {
		t.Errorf("one more: %+v", got)
	}
	close(release)
	waiting.Wait()
	go func() { <-arrived }()
	if got := r.Ask(t.Context(), Sample(start)); !got.Answered {
		t.Errorf("afterwards: %+v", got)
	}
	if count(t, r, Busy) != 1 || count(t, r, "answered") != maxConcurrent+1 {
		t.Error("not counted")
	}
}

// TestUnsendableRequestIsNeverNeutral: what a device wrote must not be what silences the service.
func TestUnsendableRequestIsNeverNeutral(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") }, nil)
	in := Sample(start)
	in.Code.Labels = map[string]string{"a": strings.Repeat("a", maxRequest)}
	if got := r.Ask(t.Context(), in); got.Failure != Unsendable || !got.Required {
		t.Errorf("%+v", got)
	}
}

func TestTestIsMarkedAndCountsForNothing(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !bytes.Contains(body, []byte(`"test":true`)) {
			t.Errorf("not marked: %s", body)
		}
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "down for maintenance")
	}, nil)
	for range 2 * failuresUntilOpen {
		report := r.Test(t.Context(), Sample(start))
		if report.Opinion.Failure != Status || report.Status != http.StatusBadGateway || string(report.Received) != "down for maintenance" || report.Err == nil {
			t.Fatalf("%+v", report)
		}
	}
	if count(t, r, Status) != 0 || r.log.String() != "" {
		t.Error("tests are counted")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for url, want := range map[string]bool{
		"https://edr.example.com": true, "https://edr.example.com:8443/a/b": true, "http://127.0.0.1:1/x": true, "http://[::1]:1": true, "http://localhost": true,
		"http://edr.example.com": false, "http://127.0.0.1.example.com": false, "ftp://127.0.0.1": false, "https://u:p@edr.example.com": false,
		"https://edr.example.com?key=1": false, "https://edr.example.com#x": false, "edr.example.com": false, "": false, "https://": false,
	} {
		if err := CheckURL(url); (err == nil) != want {
			t.Errorf("%q: %v", url, err)
		} else if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("%v shows a password", err)
		}
	}
	_, err := New(Options{URL: "http://edr.example.com", Timeout: 6 * time.Second})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"must be https", "0 secrets are not 1 to 8", "timeout 6s is not within 5s"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for _, d := range []time.Duration{-1, 0} {
		if CheckTimeout(d) == nil {
			t.Errorf("a timeout of %s is accepted", d)
		}
	}
	c, err := New(Options{URL: "https://edr.example.com", Secrets: secretsOf(t, oldSecret)})
	if err != nil || c.Timeout != DefaultTimeout || c.Log == nil || c.Metrics == nil || c.Now == nil || c.Random == nil {
		t.Errorf("defaults: %+v, %v", c, err)
	}
}

// measured is what the metrics say: a counter's or gauge's value, a histogram's count, by name and label.
func measured(t *testing.T, r *rig) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(r.Metrics.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// count is how often a result was counted.
func count(t *testing.T, r *rig, result string) int {
	t.Helper()
	return int(measured(t, r)["assay_opinions_total "+result])
}

// timed is how many exchanges were timed.
func timed(t *testing.T, r *rig) int {
	t.Helper()
	return int(measured(t, r)["assay_opinion_seconds"])
}

// circuitOpen is what the metrics say of the circuit.
func circuitOpen(t *testing.T, r *rig) bool {
	t.Helper()
	return measured(t, r)["assay_opinion_circuit_open"] == 1
}
