package installation

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/manual"
	"assay/internal/opinion"
	"assay/internal/tracing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v4"
)

var update = flag.Bool("update", false, "write the generated part of docs/metrics.md")

// metric is what a page, a dashboard and a rule must know of a metric.
type metric struct {
	name, kind, help string
	labels           []string
}

// allMetrics are the metrics of a server with everything configured, by name; those of the Go runtime and of
// the process are left out.
func allMetrics(t *testing.T) map[string]metric {
	t.Helper()
	dir, _ := initialized(t, nil)
	m := opened(t, dir).newMeasures(slog.New(slog.DiscardHandler))
	m.add(opinion.NewMetrics().Collectors()...)
	m.add(abm.NewMetrics().Collectors()...)
	m.add(tracing.NewMetrics().Collectors()...)
	known := map[string]metric{}
	description := regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]*)", unit: "[^"]*", constLabels: \{\}, variableLabels: \{([^}]*)\}\}$`)
	for _, collector := range m.all {
		descriptions := make(chan *prometheus.Desc, 1000)
		collector.Describe(descriptions)
		close(descriptions)
		for d := range descriptions {
			parts := description.FindStringSubmatch(d.String())
			if parts == nil || !strings.HasPrefix(parts[1], "assay_") {
				continue
			}
			one := metric{name: parts[1], kind: kindOf(collector), help: parts[2]}
			if parts[3] != "" {
				one.labels = strings.Split(parts[3], ",")
			}
			if _, twice := known[one.name]; twice {
				t.Errorf("%s is there twice", one.name)
			}
			known[one.name] = one
		}
	}
	if len(known) < 30 {
		t.Fatalf("found %d metrics", len(known))
	}
	return known
}

func kindOf(c prometheus.Collector) string {
	switch c.(type) {
	case *prometheus.HistogramVec, prometheus.Histogram:
		return "histogram"
	case *prometheus.GaugeVec, prometheus.Gauge: // before Counter, which every gauge is, too
		return "gauge"
	case *prometheus.CounterVec, prometheus.Counter:
		return "counter"
	}
	return "gauge" // a function's, or figures
}

func TestMetricsAreNamedAsPrometheusHasIt(t *testing.T) {
	for name, m := range allMetrics(t) {
		if (m.kind == "counter") != strings.HasSuffix(name, "_total") {
			t.Errorf("%s is a %s", name, m.kind)
		}
		if m.help == "" || !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s says %q of itself", name, m.help)
		}
		if regexp.MustCompile(`_(ms|millis|minutes|kb|mb|percent)(_|$)`).MatchString(name) {
			t.Errorf("%s is in no base unit", name)
		}
		for _, label := range m.labels {
			// Whoever measures by one of these measures people.
			if slices.Contains([]string{"device", "serial", "udid", "account", "code", "certificate", "address", "from", "operator", "token", "user"}, label) {
				t.Errorf("%s has the label %s", name, label)
			}
		}
	}
}

func TestManualListsEveryMetric(t *testing.T) {
	const page = "../../docs/metrics.md"
	known := allMetrics(t)
	var table strings.Builder
	table.WriteString("| metric | kind | meaning |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(known)) {
		m, labels := known[name], ""
		if len(m.labels) > 0 {
			labels = "{" + strings.Join(m.labels, ",") + "}"
		}
		fmt.Fprintf(&table, "| `%s%s` | %s | %s |\n", name, labels, m.kind, m.help)
	}
	manual.Part(t, page, "metrics", table.String(), *update, "go test ./internal/installation -run Manual -update")
}

var (
	selector = regexp.MustCompile(`\b((?:assay|go|process)_[a-z0-9_]+)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`^([a-z_]+)(?:=~|!~|!=|=)"[^"]*"$`)
)

// checkExpression refuses an expression that names a metric or a label that is not exposed, or whose brackets
// do not close.
func checkExpression(known map[string]metric, process map[string]bool, expression string) error {
	var errs []error
	found := false
	for _, m := range selector.FindAllStringSubmatch(expression, -1) {
		found = true
		name := m[1]
		one, ok := known[name]
		if !ok {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base, cut := strings.CutSuffix(name, suffix); cut && known[base].kind == "histogram" {
					one, ok = known[base], true
				}
			}
		}
		if !ok && !process[name] {
			errs = append(errs, fmt.Errorf("there is no metric %s", name))
		}
		for part := range strings.SplitSeq(m[2], ",") {
			if part == "" {
				continue
			}
			label := matcher.FindStringSubmatch(part)
			if label == nil {
				errs = append(errs, fmt.Errorf("%s: %s selects nothing", name, part))
			} else if !slices.Contains(append([]string{"instance", "job"}, one.labels...), label[1]) {
				errs = append(errs, fmt.Errorf("%s has no label %s", name, label[1]))
			}
		}
	}
	if !found && !strings.HasPrefix(expression, `up{job="assay"}`) {
		errs = append(errs, errors.New("names no metric"))
	}
	var open []rune
	for _, c := range regexp.MustCompile(`"[^"]*"`).ReplaceAllString(expression, "") {
		closes := strings.IndexRune(")]}", c)
		switch {
		case strings.ContainsRune("([{", c):
			open = append(open, c)
		case closes >= 0 && (len(open) == 0 || open[len(open)-1] != rune("([{"[closes])):
			return errors.Join(append(errs, errors.New("brackets do not match"))...)
		case closes >= 0:
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		errs = append(errs, errors.New("brackets do not close"))
	}
	return errors.Join(errs...)
}

// processMetrics are the names that the Go runtime's and the process's collectors expose.
func processMetrics(t *testing.T) map[string]bool {
	t.Helper()
	dir, _ := initialized(t, nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(opened(t, dir).newMeasures(slog.New(slog.DiscardHandler)).all...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "assay_") {
			names[family.GetName()] = true
		}
	}
	return names
}

func TestAlertRulesNameExposedMetrics(t *testing.T) {
	data, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         time.Duration     `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Load(data, &file, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	known, process := allMetrics(t), processMetrics(t)
	seen := map[string]bool{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if err := checkExpression(known, process, rule.Expr); err != nil {
				t.Errorf("%s: %v", rule.Alert, err)
			}
			if rule.Alert == "" || seen[rule.Alert] || rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("rule %q is named twice, or lacks severity, summary or description", rule.Alert)
			}
			seen[rule.Alert] = true
		}
	}
	if len(seen) < 10 {
		t.Errorf("found %d rules", len(seen))
	}
}

func TestDashboardNamesExposedMetrics(t *testing.T) {
	data, err := os.ReadFile("../../deploy/grafana/assay.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	known, process := allMetrics(t), processMetrics(t)
	ids, text := map[int]bool{}, ""
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || (panel.Type != "row") != (len(panel.Targets) > 0) {
			t.Errorf("panel %q has no id of its own, or shows nothing", panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			text += target.Expr + "\n"
			if err := checkExpression(known, process, target.Expr); err != nil {
				t.Errorf("%s: %v", panel.Title, err)
			}
		}
	}
	for name := range known {
		if name != "assay_inventory_sync_last_success_timestamp_seconds" && name != "assay_store_queue_capacity" && !strings.Contains(text, name) {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func TestExpressionsAreChecked(t *testing.T) {
	known := map[string]metric{"assay_a_total": {kind: "counter", labels: []string{"step"}}, "assay_b": {kind: "histogram"}}
	for _, good := range []string{`rate(assay_a_total{step="x",instance=~"y"}[5m])`, `sum(assay_b_bucket)`, `up{job="assay"} == 0`} {
		if err := checkExpression(known, nil, good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{`assay_c`, `assay_a_total_bucket`, `assay_a_total{stop="x"}`, `assay_a_total{step}`, `rate(assay_a_total[5m]`, `sum(assay_a_total])`, `1 > 0`} {
		if checkExpression(known, nil, bad) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// scraped is what the running server's metrics say.
func scraped(t *testing.T, s *serving) string {
	t.Helper()
	response, err := http.Get(s.MetricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", response.Status, err, body)
	}
	return string(body)
}

func TestServerMeasuresConnectionsTrustAndItself(t *testing.T) {
	dir, _ := organization(t, "C02XABM00001")
	edit(t, dir, "\nlisten:", "\nmetricsListen: 127.0.0.1:0\nlisten:")
	i := opened(t, dir)
	s := serve(t, i)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.BaseURL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "this is no TLS\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	await(t, "the first round of upkeep, which signs the CRL, and the first sync", func() bool {
		return strings.Contains(s.log.String(), "inventory synced") && strings.Contains(scraped(t, s), "assay_store_removed_rows_total")
	})
	text := scraped(t, s)
	for _, want := range []string{
		`assay_tls_handshake_errors_total{listener="acme"} 1`, `assay_connections_total{listener="acme"} 1`, `assay_connections_open{listener="metrics"} 1`,
		`assay_issuer_expiry_timestamp_seconds{directory="default",issuer="issuer_`, `assay_build_info{goversion="go`, `assay_inventory_syncs_total{result="ok"} 1`,
		`assay_inventory_imported_devices_total{result="added"} 1`, "assay_store_database_bytes ", "assay_holds_waiting 0", "go_goroutines ", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
}

func TestFiguresAreReadEveryFewSecondsAtMost(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	now := time.Now()
	f := newFigures(i.Store, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	before, ok := f.current()
	if !ok || before.Unsealed == 0 {
		t.Fatalf("figures are %+v", before)
	}
	key, err := auditKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Store.SealAudit(t.Context(), now, key); err != nil {
		t.Fatal(err)
	}
	if again, _ := f.current(); again.Unsealed != before.Unsealed {
		t.Error("read again at once")
	}
	now = now.Add(figuresAge)
	if later, _ := f.current(); later.Unsealed >= before.Unsealed || later.SealedAt.IsZero() {
		t.Errorf("not read again: %+v", later)
	}
}

func TestPolicyReloadsAreCounted(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
	writePolicy(t, dir, "outcomes: [{outcome: issue}]")
	i := opened(t, dir)
	live, err := i.policies(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m := i.newMeasures(slog.New(slog.DiscardHandler))
	m.watches(live)
	look := func(good, bad, faulty float64) {
		t.Helper()
		for range 2 { // a file is read once it looks the same twice
			m.policy("default", live["default"].refresh(t.Context()))
		}
		for name, c := range map[string]struct {
			is   prometheus.Collector
			want float64
		}{"good": {m.reloads.WithLabelValues("default", "good"), good}, "bad": {m.reloads.WithLabelValues("default", "bad"), bad}, "faulty": {m.faulty.WithLabelValues("default"), faulty}} {
			if got := testutil.ToFloat64(c.is); got != c.want {
				t.Errorf("%s is %v, want %v", name, got, c.want)
			}
		}
	}
	look(0, 0, 0)
	writePolicy(t, dir, "outcomes: [{outcome: isue}]")
	look(0, 1, 1)
	look(0, 1, 1) // nothing changed since
	writePolicy(t, dir, "outcomes: [{outcome: refuse}]")
	look(1, 1, 0)
}
