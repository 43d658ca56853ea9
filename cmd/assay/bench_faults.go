package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/enroll"
	"assay/internal/installation"
)

type benchFaultsCommand struct {
	Only        []string      `placeholder:"NAME" help:"Only these scenarios: cut, replay, delay, slow-clients, flood, full-disk, slow-disk, pause, clock."`
	Concurrency int           `short:"c" default:"8" help:"Devices at a time."`
	Duration    time.Duration `default:"20s" help:"How long devices enrol under each load or pressure."`
}

func (benchFaultsCommand) Help() string {
	return `Puts a server on a fresh folder to the test, scenario by scenario, and says what was done, expected and what
happened. Devices go through a proxy that cuts and delays. After each scenario every certificate that a device
received is compared with its row, and the whole database is checked, as by assay check.

  cut           the connection is cut in each of the nine requests: in the request, before and in the answer
  replay        each signed request is sent three times at once, and again later
  delay         every packet is late, both ways
  slow-clients  clients that send nothing, or a byte now and then, while devices enrol
  flood         one client floods newNonce and newOrder while devices enrol
  full-disk     the disk is full, and has room again (a small tmpfs; else a limit on the size of files)
  slow-disk     the disk does few writes a second (a cgroup; skipped where none may be made)
  pause         the server's process stands still now and then
  clock         the server's clock jumps, forward and back

Examples:
  assay bench faults
  assay bench faults --only cut --only clock --json

Exit codes: 0 every scenario went as expected, or was skipped; 1 one did not; 2 wrong flags; 3 failed.`
}

// scenario is one thing that goes wrong.
type scenario struct {
	name     string
	did      string // what is done
	expected string
	// run returns what happened. What was not expected is told to the trial; an error is that the scenario
	// could not be carried out, a *skipped that it cannot be here.
	run func(context.Context, *trial) (happened string, err error)
}

// skipped says why a scenario cannot be carried out on this machine.
type skipped struct{ why string }

func (s *skipped) Error() string { return s.why }

var scenarios = []scenario{
	cutScenario, replayScenario, delayScenario, slowClientsScenario, floodScenario, fullDiskScenario, slowDiskScenario, pauseScenario, clockScenario,
}

// outcome is what a scenario came to.
type outcome struct {
	Name     string   `json:"name"`
	Did      string   `json:"did"`
	Expected string   `json:"expected"`
	Happened string   `json:"happened"`
	Skipped  bool     `json:"skipped,omitempty"`
	Faults   []string `json:"faults"`
	Seconds  float64  `json:"seconds"`
}

func (c *benchFaultsCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Concurrency < 1 || c.Duration <= 0 {
		return usage(errors.New("-c is at least 1, and --duration is positive"))
	}
	for _, name := range c.Only {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			return usage(fmt.Errorf("there is no scenario %q", name))
		}
	}
	failed := false
	for _, s := range scenarios {
		if len(c.Only) > 0 && !slices.Contains(c.Only, s.name) {
			continue
		}
		out, err := c.try(ctx, term, &s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		failed = failed || len(out.Faults) > 0
		if g.JSON {
			if err := writeJSON(term.Out, out); err != nil {
				return err
			}
		} else {
			out.print(term)
		}
	}
	if failed {
		return no()
	}
	return nil
}

func (o *outcome) print(term *terminal) {
	verdict := "as expected"
	switch {
	case len(o.Faults) > 0:
		verdict = "NOT as expected"
	case o.Skipped:
		verdict = "skipped"
	}
	sayf(term.Out, "%s: %s\n", o.Name, verdict)
	list := newFields(term.Out)
	list.add("did", o.Did)
	list.add("expected", o.Expected)
	list.add("happened", o.Happened, fmt.Sprintf("%.0f s", o.Seconds))
	list.flush()
	for _, f := range o.Faults {
		sayf(term.Out, "  FAULT  %s\n", f)
	}
	fmt.Fprintln(term.Out)
}

// try carries a scenario out on a server of its own.
func (c *benchFaultsCommand) try(ctx context.Context, term *terminal, s *scenario) (*outcome, error) {
	dir, err := os.MkdirTemp("", "assay-faults-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	t := &trial{command: c, term: term, dir: dir, faults: []string{}}
	defer t.close()
	began := term.Now()
	out := &outcome{Name: s.name, Did: s.did, Expected: s.expected}
	out.Happened, err = s.run(ctx, t)
	if skip, ok := errors.AsType[*skipped](err); ok {
		out.Skipped, out.Happened = true, skip.why
	} else if err != nil {
		return nil, err
	} else if err := t.conclude(ctx); err != nil {
		return nil, err
	}
	out.Faults, out.Seconds = t.faults, term.Now().Sub(began).Seconds()
	return out, nil
}

// trial is a scenario's server, the proxy before it, and what devices received.
type trial struct {
	*rig
	command *benchFaultsCommand
	term    *terminal
	dir     string
	proxy   *proxy
	direct  string // host and port of the server itself
	metrics string // URL of its metrics listener
	server  *serverProcess
	receipts
	faults []string
	undo   []func() error // what else is to be taken down, last first
}

func (t *trial) fault(format string, args ...any) {
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

// prepare makes an installation in the trial's folder whose URL is the proxy's.
func (t *trial) prepare(ctx context.Context, now func() time.Time) (err error) {
	if t.direct, err = unusedAddress(); err != nil {
		return err
	}
	metrics, err := unusedAddress()
	if err != nil {
		return err
	}
	if t.proxy, err = newProxy(t.direct); err != nil {
		return err
	}
	t.rig, err = newRig(ctx, t.dir, "Faults", now, func(o *installation.InitOptions) {
		o.Listen, o.URL, o.AdminListen = t.direct, t.proxy.url(), installation.NoAdmin
	})
	if err != nil {
		return err
	}
	t.attester.now, t.metrics = t.term.Now, "http://"+metrics
	config := filepath.Join(t.serverDir, installation.ConfigFile)
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	return os.WriteFile(config, append(text, "metricsListen: "+metrics+"\n"...), 0o600)
}

// serve prepares, and starts a server in a process of its own.
func (t *trial) serve(ctx context.Context) error {
	if err := t.prepare(ctx, t.term.Now); err != nil {
		return err
	}
	t.server = &serverProcess{inst: t.inst, log: quiet{}}
	if err := t.server.start(ctx); err != nil {
		return err
	}
	return t.server.await(ctx)
}

// quiet takes the log of a server that is being tormented: what it says is no news.
type quiet struct{}

func (quiet) Write(p []byte) (int, error) { return len(p), nil }

// conclude stops the server and holds what devices received against the database.
func (t *trial) conclude(ctx context.Context) error {
	if t.server != nil {
		if err := t.server.stop(); err != nil {
			t.fault("the server did not stop in order: %v", err)
		}
	}
	_, faults, err := t.compare(ctx, &t.receipts)
	if err != nil {
		return err
	}
	t.faults = append(t.faults, faults...)
	if err := checkable(ctx, t.serverDir); err != nil {
		return err
	}
	checked, err := checkDatabase(ctx, t.inst, t.term, nil)
	if err != nil {
		return err
	}
	for _, f := range checked.Faults {
		t.fault("%s: %s %s", f.Rule, f.Of, f.What)
	}
	return nil
}

func (t *trial) close() {
	if t.server != nil {
		_ = t.server.kill()
	}
	if t.rig != nil {
		_ = t.inst.Close()
	}
	if t.proxy != nil {
		_ = t.proxy.listener.Close()
	}
	for _, undo := range slices.Backward(t.undo) {
		if err := undo(); err != nil {
			fmt.Fprintln(t.term.Err, "take down:", err)
		}
	}
}

// unusedAddress is an address of loopback that nobody listens on.
func unusedAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// device lets a device enrol through the proxy, and writes down what it receives.
func (t *trial) device(ctx context.Context, code benchCode, observe func(enroll.Event)) (*enroll.Result, error) {
	result, err := t.try(ctx, t.proxy.url(), code, observe)
	if err == nil {
		t.receipts.add(code, result.Certificate)
	}
	return result, err
}

// fresh mints a code at a time.
func (t *trial) fresh(ctx context.Context, now time.Time) (benchCode, error) {
	made, err := t.mint(ctx, now, 1)
	if err != nil {
		return benchCode{}, err
	}
	return made[0], nil
}

// fleet lets devices enrol until the time is over, and faults each that gets no certificate.
func (t *trial) fleet(ctx context.Context, what string, long time.Duration) (*enroll.Summary, error) {
	const atOnce = 1000 // codes
	var codes []benchCode
	total := &enroll.Summary{Refused: map[string]int{}}
	var latencies []time.Duration
	for end := t.term.Now().Add(long); t.term.Now().Before(end); {
		if len(codes) < 4*t.command.Concurrency {
			more, err := t.mint(ctx, t.term.Now(), atOnce)
			if err != nil {
				return nil, err
			}
			codes = append(codes, more...)
		}
		batch := codes[:4*t.command.Concurrency]
		codes = codes[len(batch):]
		took := make([]time.Duration, len(batch))
		f := &enroll.Fleet{Size: len(batch), Concurrency: t.command.Concurrency, Enroll: func(ctx context.Context, i int) (*enroll.Result, error) {
			result, err := t.device(ctx, batch[i], nil)
			if err == nil {
				took[i] = result.Took
			}
			return result, err
		}}
		s := f.Run(ctx, t.term.Now)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		total.Issued += s.Issued
		total.Took += s.Took
		for cause, n := range s.Refused {
			t.fault("%s: %d of %d devices got no certificate: %s: %v", what, n, len(batch), cause, s.FirstError[cause])
		}
		for _, d := range took {
			if d > 0 {
				latencies = append(latencies, d)
			}
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		total.Latency.P50, total.Latency.P99, total.Latency.Max = latencies[len(latencies)/2], latencies[(len(latencies)*99+99)/100-1], latencies[len(latencies)-1]
	}
	return total, nil
}

// fleetText says how a fleet fared.
func fleetText(s *enroll.Summary) string {
	return fmt.Sprintf("%s, p50 %s, p99 %s", counted(s.Issued, "certificate"), s.Latency.P50.Round(time.Millisecond), s.Latency.P99.Round(time.Millisecond))
}

// sideBySide lets devices enrol without pressure and under it, and says how they fared.
func (t *trial) sideBySide(ctx context.Context, press func(context.Context) (stop func() string)) (string, error) {
	before, err := t.fleet(ctx, "before", t.command.Duration/2)
	if err != nil {
		return "", err
	}
	pressing, cancel := context.WithCancel(ctx)
	stop := press(pressing)
	under, err := t.fleet(ctx, "under pressure", t.command.Duration)
	cancel()
	said := stop()
	if err != nil {
		return "", err
	}
	parts := []string{"before: " + fleetText(before), "under pressure: " + fleetText(under),
		fmt.Sprintf("p99 ratio %.1f", float64(under.Latency.P99)/float64(before.Latency.P99)), said}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "; "), nil
}
