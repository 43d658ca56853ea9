//go:build otel

package installation

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/enroll"
	"assay/internal/admin"
	"assay/internal/counterpart"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is an OTLP collector on loopback that keeps what it gets.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	raw   []byte // all bodies
	spans []*tracepb.Span
	about map[string]string // the resource
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{about: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var sent tracepb.TracesData
		if err := errors.Join(err, proto.Unmarshal(body, &sent)); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(c.raw, body...)
		for _, of := range sent.ResourceSpans {
			for _, a := range of.Resource.Attributes {
				c.about[a.Key] = a.Value.GetStringValue()
			}
			for _, scope := range of.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	return c
}

// tree is a span with what is under it, in the order of their beginning, as indented lines of names.
func (c *collector) tree(of *tracepb.Span, indent string) string {
	var b strings.Builder
	fmt.Fprintln(&b, indent+of.Name)
	for _, s := range c.under(of) {
		b.WriteString(c.tree(s, indent+"  "))
	}
	return b.String()
}

func (c *collector) under(of *tracepb.Span) (spans []*tracepb.Span) {
	for _, s := range c.spans {
		if bytes.Equal(s.ParentSpanId, of.SpanId) {
			spans = append(spans, s)
		}
	}
	slices.SortStableFunc(spans, func(a, b *tracepb.Span) int { return int(int64(a.StartTimeUnixNano) - int64(b.StartTimeUnixNano)) })
	return spans
}

// named are the spans with a name.
func (c *collector) named(name string) (spans []*tracepb.Span) {
	for _, s := range c.spans {
		if s.Name == name {
			spans = append(spans, s)
		}
	}
	return spans
}

// value is an attribute as text.
func value(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			if n := a.Value.GetIntValue(); n != 0 {
				return fmt.Sprint(n)
			}
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// tracedInstallation is one that sends traces, with a template, and a policy that asks a service outside.
func tracedInstallation(t *testing.T, database string, settings ...string) *Installation {
	t.Helper()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request struct{ ID string }
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Traceparent") != "" {
			t.Error("the service outside is told of the trace")
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":%q,"verdict":"clean","score":5}`, request.ID)
	}))
	t.Cleanup(service.Close)
	root := standInRoot(t)
	dir, _ := initialized(t, func(o *InitOptions) {
		o.AllowStandIn, o.AttestationRoots, o.Database = true, map[string][]string{"apple": {root}}, database
	})
	configureOpinion(t, dir, service.URL+"/assay", "")
	writePolicy(t, dir, "require: [{name: clean, that: 'opinion.verdict == \"clean\"', message: it is not clean}]\noutcomes: [{outcome: issue}]")
	writeTemplate(t, dir, "phone", phoneTemplate)
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n",
		"\nlisten:", "\ntracing: true\nmetricsListen: 127.0.0.1:0\n"+strings.Join(settings, "\n")+"\nlisten:")
	return opened(t, dir)
}

// withHeader adds a header to every request.
type withHeader struct {
	http.RoundTripper
	name, value string
}

func (w withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(w.name, w.value)
	return w.RoundTripper.RoundTrip(r)
}

// enrolled enrols a device and returns what nobody else may know of it. Every device is asked twice for its
// document's code: the second order is refused.
func enrolled(t *testing.T, i *Installation) (secrets map[string]string) {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	credential := declared(t, i, fmt.Sprintf(`{"template": "phone", "serial": %q, "udid": %q}`, device.Serial, device.UDID))
	url := dataURL(t, credential)
	roots := trusting(t, i).RootCAs
	document, err := (&enroll.Resolver{Roots: roots}).Fetch(t.Context(), enroll.Reference{DataURL: url})
	if err != nil {
		t.Fatal(err)
	}
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: standInAttester{a}, Roots: roots}
	if _, err := client.Enroll(t.Context(), document); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Enroll(t.Context(), document); err == nil {
		t.Fatal("a code is good twice")
	}
	return map[string]string{"serial number": device.Serial, "UDID": device.UDID, "code": document.ClientIdentifier, "document's URL": path.Base(url)}
}

// TestEnrolmentShowsWhereItsTimeGoes, on both databases, and nothing that is a device's or a secret.
func TestEnrolmentShowsWhereItsTimeGoes(t *testing.T) {
	for _, database := range []string{"sqlite", "postgresql"} {
		t.Run(database, func(t *testing.T) {
			location := ""
			if database == "postgresql" {
				location = counterpart.Database(t, counterpart.Postgres(t), "")
			}
			c := newCollector(t)
			i := tracedInstallation(t, location)
			s := serve(t, i)
			secrets := enrolled(t, i)
			secrets["token"] = "assay_a-token-of-nobody"
			asked, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.AdminURL+admin.Prefix+"/devices", nil)
			if err != nil {
				t.Fatal(err)
			}
			asked.Header.Set("Authorization", "Bearer "+secrets["token"])
			response, err := client(t, trusting(t, i)).Do(asked)
			if err != nil || response.StatusCode != http.StatusUnauthorized {
				t.Fatalf("%v, %v", response, err)
			}
			response.Body.Close()
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			checkTree(t, c, database)
			checkAttributes(t, c, database)
			checkLog(t, c, s.log.String())
			for what, secret := range secrets {
				for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))} {
					if len(secret) < 8 || bytes.Contains(bytes.ToLower(c.raw), bytes.ToLower([]byte(form))) {
						t.Errorf("the collector was told the %s %s", what, form)
					}
				}
			}
		})
	}
}

// checkTree holds the trace of the finalize that issued to what it costs.
func checkTree(t *testing.T, c *collector, database string) {
	t.Helper()
	want := map[string]string{
		"POST /acme/{dir}/order/{id}/finalize": `POST /acme/{dir}/order/{id}/finalize
  read accounts
  read orders
  decide
    use policy
    read devices
    read certificates
    POST opinion
  begin issue
  sign certificate
  complete issue
`,
		"POST /acme/{dir}/challenge/{id}": `POST /acme/{dir}/challenge/{id}
  read accounts
  read orders
  verify attestation
  answer challenge
`,
		"GET /credential/{secret}": `GET /credential/{secret}
  read documents
  note fetch of document
`,
		"GET /acme/{dir}/directory": "GET /acme/{dir}/directory\n",
		"GET /api/v1/devices":       "GET /api/v1/devices\n",
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		spans := c.named(name)
		if len(spans) == 0 {
			t.Errorf("no trace of %s", name)
			continue
		}
		if database == "sqlite" { // which remembers accounts
			want[name] = strings.ReplaceAll(want[name], "  read accounts\n", "")
		}
		if diff := cmp.Diff(want[name], c.tree(spans[0], "")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if len(c.named("upkeep")) == 0 || len(c.named("deliveries")) == 0 {
		t.Error("no trace of periodic work")
	}
}

func checkAttributes(t *testing.T, c *collector, database string) {
	t.Helper()
	if c.about["service.name"] != "assay" || c.about["service.version"] == "" {
		t.Errorf("the resource is %v", c.about)
	}
	finalize := c.named("POST /acme/{dir}/order/{id}/finalize")[0]
	for key, want := range map[string]string{
		"http.request.method": "POST", "http.route": "/acme/{dir}/order/{id}/finalize", "http.response.status_code": "200",
		"assay.directory": "default", "assay.order": "order_", "assay.certificate": "cert_",
	} {
		if got := value(finalize, key); !strings.HasPrefix(got, want) {
			t.Errorf("%s is %q, not %s", key, got, want)
		}
	}
	if d := c.named("decide")[0]; value(d, "assay.outcome") != "issue" || value(d, "assay.evidence") != "attested" {
		t.Errorf("the decision is %v", d)
	}
	if d := c.named("complete issue")[0]; value(d, "db.system.name") != database || len(d.Events) == 0 || d.Events[0].Name != "begun" {
		t.Errorf("the change is %v", d)
	}
	if d := c.named("POST opinion")[0]; value(d, "server.address") != "127.0.0.1" || value(d, "http.response.status_code") != "200" {
		t.Errorf("the opinion is %v", d)
	}
	orders := c.named("POST /acme/{dir}/new-order") // the second names a code that is consumed
	if last := orders[len(orders)-1]; value(last, "assay.check") != "code-usable" || value(last, "assay.problem") != "rejectedIdentifier" || last.Status.GetCode() != 0 {
		t.Errorf("the refused order is %v", last)
	}
	if refused := c.named("GET /api/v1/devices")[0]; value(refused, "assay.check") == "" || value(refused, "http.response.status_code") != "401" {
		t.Errorf("the refused request to the admin API is %v", refused)
	}
}

// checkLog holds the line about the certificate to its trace.
func checkLog(t *testing.T, c *collector, log string) {
	t.Helper()
	id := " trace_id=" + hex.EncodeToString(c.named("POST /acme/{dir}/order/{id}/finalize")[0].TraceId)
	for line := range strings.Lines(log) {
		if strings.Contains(line, "msg=issued") && strings.Contains(line, id) {
			return
		}
	}
	t.Errorf("no line about a certificate with%s in:\n%s", id, log)
}

const sampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// directoryBehind asks for the directory as a client that names a trace above, and returns the collector.
func directoryBehind(t *testing.T, settings ...string) *collector {
	t.Helper()
	c := newCollector(t)
	i := tracedInstallation(t, "", settings...)
	s := serve(t, i)
	one := client(t, trusting(t, i))
	one.Transport = withHeader{one.Transport, "Traceparent", sampledParent}
	response, err := one.Get(s.Directories["default"])
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientNamesNoTrace(t *testing.T) {
	c := directoryBehind(t)
	id, _ := hex.DecodeString(sampledParent[3:35])
	if got := c.named("GET /acme/{dir}/directory"); len(got) != 1 || len(got[0].ParentSpanId) != 0 || len(got[0].Links) != 0 || bytes.Contains(c.raw, id) {
		t.Errorf("got %v", got)
	}
}

func TestTrustedProxyIsLinkedOnly(t *testing.T) {
	c := directoryBehind(t, "trustedProxies: [127.0.0.1]", "forwardedHeader: X-Forwarded-For")
	got := c.named("GET /acme/{dir}/directory")
	if len(got) != 1 || len(got[0].ParentSpanId) != 0 || len(got[0].Links) != 1 {
		t.Fatalf("got %v", got)
	}
	if linked := hex.EncodeToString(got[0].Links[0].TraceId); linked != sampledParent[3:35] || linked == hex.EncodeToString(got[0].TraceId) {
		t.Errorf("linked to %s", linked)
	}
}

func TestNobodyOutsideHasARequestRecorded(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off") // records what a parent records
	for _, settings := range [][]string{nil, {"trustedProxies: [127.0.0.1]", "forwardedHeader: X-Forwarded-For"}} {
		if c := directoryBehind(t, settings...); len(c.spans) != 0 {
			t.Errorf("%v: got %v", settings, c.spans)
		}
	}
}

// TestDeadCollectorHindersNoEnrolment: neither one that refuses connections nor one that takes them and is silent.
func TestDeadCollectorHindersNoEnrolment(t *testing.T) {
	silent, end := context.WithCancel(context.Background())
	defer end()
	taken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent.Done() }))
	defer taken.Close()
	defer end()
	for name, c := range map[string]struct{ url, lost string }{
		"refuses": {"http://" + counterpart.FreeAddress(t), `assay_trace_spans_total{result="failed"}`},
		"silent":  {taken.URL, `assay_trace_spans_total{result="dropped"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.url)
			t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")
			t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "60000")
			i := tracedInstallation(t, "")
			s := serve(t, i)
			enrolled(t, i)
			await(t, "spans are lost", func() bool {
				text := scraped(t, s)
				return strings.Contains(text, c.lost) && !strings.Contains(text, c.lost+" 0\n")
			})
			if !strings.Contains(s.log.String(), "spans of traces were lost") {
				t.Errorf("the log says nothing:\n%s", s.log)
			}
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestServeReportsUnusableVariables(t *testing.T) {
	i := tracedInstallation(t, "")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
	err := i.Serve(t.Context(), ServeOptions{Log: nil})
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "tracing: OTEL_EXPORTER_OTLP_ENDPOINT is not of the form") {
		t.Errorf("got %v", err)
	}
}

// TestPeriodicWorkIsTraced, and what it asks of others: the inventory's source and the MDM.
func TestPeriodicWorkIsTraced(t *testing.T) {
	c := newCollector(t)
	dir, _ := organization(t, "C02XABM00001")
	mdm := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer mdm.Close()
	if err := os.WriteFile(filepath.Join(dir, "keys", "kmfddm.key"), []byte("a-key-of-kmfddm"), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, "\nlisten:", "\ntracing: true\nurl: https://id.example.com\npush: {kmfddm: {url: '"+mdm.URL+"', keyFile: keys/kmfddm.key}}\nlisten:")
	writeTemplate(t, dir, "phone", phoneTemplate)
	i := opened(t, dir)
	declared(t, i, `{"template": "phone", "serial": "C02XEXAMPLE1", "udid": "00008110-000A11112222401E"}`)
	s := serve(t, i)
	await(t, "inventory and declarations are where they belong", func() bool {
		return strings.Contains(s.log.String(), "inventory synced") && strings.Contains(s.log.String(), "pushed declarations")
	})
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for work, request := range map[string]string{"inventory": "GET apple", "deliveries": "PUT kmfddm"} {
		roots := c.named(work)
		if len(roots) != 1 || !strings.Contains(c.tree(roots[0], ""), "  "+request+"\n") {
			t.Errorf("no %s under %s, of %d", request, work, len(roots))
		}
	}
	for _, secret := range []string{"C02XABM00001", "C02XEXAMPLE1", "000A11112222401E", "a-key-of-kmfddm"} {
		if bytes.Contains(c.raw, []byte(secret)) {
			t.Errorf("the collector was told %s", secret)
		}
	}
}

func TestRefusedFloodAndMDMListenerAreTraced(t *testing.T) {
	c := newCollector(t)
	i := tracedInstallation(t, "", "limits: {reads: 1/d burst 1}", "mdm: {listen: '127.0.0.1:0', ca: [certs/root.pem]}")
	i.sleep = func(context.Context, time.Duration) error { return nil }
	s := serve(t, i)
	one := client(t, trusting(t, i))
	for _, url := range []string{s.MDMURL + "/credential/a-secret-of-nobody", s.Directories["default"]} {
		response, err := one.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"GET /credential/{secret}":  "GET /credential/{secret}\n  read documents\n",
		"GET /acme/{dir}/directory": "GET /acme/{dir}/directory\n  wait for rate limit\n",
	} {
		spans := c.named(name)
		if len(spans) != 1 || c.tree(spans[0], "") != want {
			t.Errorf("%d of %s", len(spans), name)
		}
	}
	if got := c.named("GET /acme/{dir}/directory")[0]; value(got, "http.response.status_code") != "429" || value(got, "assay.check") != "limit-reads" {
		t.Errorf("got %v", got)
	}
	if strings.Count(s.log.String(), "check=limit-reads") != strings.Count(s.log.String(), "trace_id=") {
		t.Errorf("a refusal is logged without its trace:\n%s", s.log)
	}
}
