package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"assay/enroll"
	"assay/internal/installation"
	"assay/internal/pgcluster"
)

type benchFaultsCommand struct {
	Postgres    bool          `help:"On a PostgreSQL server of its own in each scenario, with what can go wrong with that."`
	Only        []string      `placeholder:"NAME" help:"Only these scenarios."`
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
  full-disk     the database's disk is full, and has room again (a small tmpfs; else a limit on the size of files)
  slow-disk     the database's disk does few writes a second (a cgroup; skipped where none may be made)
  pause         the server's process stands still now and then
  clock         the server's clock jumps, forward and back

With --postgres the database is PostgreSQL, whose programs must be installed. cut, replay, delay, pause and those
below have two servers on it, in turn for each device:

  postgres-restart  PostgreSQL is restarted in order, again and again
  postgres-cut      connections to PostgreSQL are cut, most of them at a commit
  postgres-slow     every packet to PostgreSQL and from it is late
  postgres-lost     packets to PostgreSQL and from it vanish for a while, or for good for connections that there are

Examples:
  assay bench faults
  assay bench faults --only cut --only clock --json
  assay bench faults --postgres --only postgres-cut

Exit codes: 0 every scenario went as expected, or was skipped; 1 one did not; 2 wrong flags; 3 failed.`
}

// scenario is one thing that goes wrong.
type scenario struct {
	name     string
	did      string // what is done
	expected string
	postgres bool // it is about PostgreSQL
	pair     bool // on PostgreSQL there are two servers
	// run returns what happened. What was not expected is told to the trial; an error is that the scenario
	// could not be carried out, a *skipped that it cannot be here.
	run func(context.Context, *trial) (happened string, err error)
}

// skipped says why a scenario cannot be carried out on this machine.
type skipped struct{ why string }

func (s *skipped) Error() string { return s.why }

var scenarios = []scenario{
	cutScenario, replayScenario, delayScenario, slowClientsScenario, floodScenario, fullDiskScenario, slowDiskScenario, pauseScenario, clockScenario,
	postgresRestartScenario, postgresCutScenario, postgresSlowScenario, postgresLostScenario,
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
		at := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if at < 0 {
			return usage(fmt.Errorf("there is no scenario %q", name))
		}
		if scenarios[at].postgres && !c.Postgres {
			return usage(fmt.Errorf("the scenario %s needs --postgres", name))
		}
	}
	failed := false
	for _, s := range scenarios {
		if len(c.Only) > 0 && !slices.Contains(c.Only, s.name) || s.postgres && !c.Postgres {
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
	t := &trial{command: c, scenario: s, term: term, dir: dir, faults: []string{}}
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

// trial is a scenario's servers, the proxies before and behind them, and what devices received.
type trial struct {
	*rig
	command   *benchFaultsCommand
	scenario  *scenario
	term      *terminal
	dir       string
	proxy     *proxy // between devices and servers
	servers   []*tried
	cluster   *pgcluster.Cluster // nil on SQLite
	clusterIn string             // the folder that it is made in; "": the system's
	database  *proxy             // between servers and PostgreSQL
	options   string             // of the servers' connections, such as "&pool_max_conns=4"
	args      []string           // of the servers
	receipts
	faults []string
	undo   []func() error // what else is to be taken down, last first
}

// tried is a server of a trial.
type tried struct {
	serverProcess
	direct  string // its host and port
	metrics string // URL of its metrics listener
}

func (t *trial) fault(format string, args ...any) {
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

// prepare makes installations in the trial's folder, one for each server, whose URL is the proxy's.
func (t *trial) prepare(ctx context.Context, now func() time.Time) error {
	location, err := t.prepareDatabase(ctx)
	if err != nil {
		return err
	}
	t.servers = []*tried{{}}
	if t.scenario.pair && t.command.Postgres {
		t.servers = append(t.servers, &tried{})
	}
	var addresses []string
	for _, s := range t.servers {
		if s.direct, err = unusedAddress(); err != nil {
			return err
		}
		addresses = append(addresses, s.direct)
	}
	if t.proxy, err = newProxy(addresses...); err != nil {
		return err
	}
	t.rig, err = newRig(ctx, t.dir, "Faults", now, func(o *installation.InitOptions) {
		o.Listen, o.URL, o.AdminListen, o.Database = addresses[0], t.proxy.url(), installation.NoAdmin, location
	})
	if err != nil {
		return err
	}
	t.attester.now = t.term.Now
	for n, s := range t.servers {
		s.inst, s.log = t.inst, io.Discard // what a server says that is tormented is no news
		s.args = append([]string{"--log-level", "error"}, t.args...)
		if n > 0 {
			if s.inst, err = t.replica(ctx, n+1, now); err != nil {
				return err
			}
			t.undo = append(t.undo, s.inst.Close)
		}
	}
	for _, s := range t.servers {
		if err := t.configure(s); err != nil {
			return err
		}
	}
	return nil
}

// prepareDatabase starts PostgreSQL, if it is wanted, and returns where the bench itself finds it.
func (t *trial) prepareDatabase(ctx context.Context) (location string, err error) {
	if !t.command.Postgres {
		return "", nil
	}
	if t.cluster, err = pgcluster.New(ctx, pgcluster.Options{In: t.clusterIn}); err != nil {
		return "", err
	}
	if t.database, err = newProxy(t.cluster.Address()); err != nil {
		return "", err
	}
	return t.cluster.CreateDatabase(ctx, "assay", "")
}

// configure gives a server addresses of its own, and its way to the database through the proxy.
func (t *trial) configure(s *tried) error {
	metrics, err := unusedAddress()
	if err != nil {
		return err
	}
	s.metrics = "http://" + metrics
	file := filepath.Join(s.inst.Dir, installation.ConfigFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text = append(bytes.ReplaceAll(text, []byte(t.servers[0].direct), []byte(s.direct)), "metricsListen: "+metrics+"\n"...)
	if t.cluster != nil {
		through := strings.Replace(t.inst.Config.Database, t.cluster.Address(), t.database.address(), 1) + t.options
		if text, _, err = installation.SetDatabase(text, through); err != nil {
			return err
		}
	}
	return os.WriteFile(file, text, 0o600)
}

// serve prepares, and starts each server in a process of its own.
func (t *trial) serve(ctx context.Context) error {
	if err := t.prepare(ctx, t.term.Now); err != nil {
		return err
	}
	for _, s := range t.servers {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	for _, s := range t.servers {
		if err := s.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// conclude stops the servers and holds what devices received against the database.
func (t *trial) conclude(ctx context.Context) error {
	for _, s := range t.servers {
		if err := s.stop(); err != nil {
			t.fault("a server did not stop in order: %v", err)
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
	for _, s := range t.servers {
		_ = s.kill()
	}
	for _, p := range []*proxy{t.proxy, t.database} {
		if p != nil {
			p.close()
		}
	}
	if t.rig != nil {
		_ = t.inst.Close()
	}
	if t.cluster != nil {
		_ = t.cluster.Close()
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

// sideBySide lets devices enrol without pressure and under it, and says how they fared. It is a fault if their
// slowest hundredth took longer by more than so many times; 0 is no bound. press returns once the pressure is there.
func (t *trial) sideBySide(ctx context.Context, times float64, press func(context.Context) (stop func() string)) (string, error) {
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
	ratio := float64(under.Latency.P99) / float64(before.Latency.P99)
	if times > 0 && ratio > times {
		t.fault("the p99 under pressure is %.1f times that without, more than %g times", ratio, times)
	}
	parts := []string{"before: " + fleetText(before), "under pressure: " + fleetText(under), fmt.Sprintf("p99 ratio %.1f", ratio), said}
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "; "), nil
}
