package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"time"
)

type benchLoadCommand struct {
	benchRounds
	Concurrency []int    `short:"c" default:"1,16,64,256" placeholder:"N,…" help:"Devices at a time (${default})."`
	Compare     []string `enum:"step-ca,postgres" placeholder:"NAME,…" help:"Measure these too, in turns: step-ca, from PATH; postgres, this server on PostgreSQL."`
	CPUProfile  string   `name:"cpu-profile" placeholder:"FILE" help:"Write a CPU profile of the server."`
}

func (benchLoadCommand) Help() string {
	return `Lets ever more devices enrol at a time, and measures the server: CPU time per certificate against the crypto
floor (see assay bench cost), certificates per second, latency and memory. Then devices come at random, so
many a second as make 70 % of the most that the server did before, devices on the same machine included.

Latency is from a device's first contact to its certificate, without making its key. At 70 % it begins when
the device comes. Memory is the most that the server's process held during the load.

With --compare step-ca the same devices enrol with step-ca in turns, each server on its embedded store. Both
fsync what they change before they answer. With --compare postgres they enrol with this server on a PostgreSQL of
its own, too, whose CPU is reported apart.

Example:
  assay bench load
  assay bench load --compare step-ca,postgres --json
  assay bench load -c 16 --rounds 9 --devices 1000

Exit codes: 0 measured; 2 wrong flags, or the other server is not installed; 3 failed.`
}

// partialLoad is the share of the server's best throughput at which latency matters.
const partialLoad = 0.7

// usualConcurrency is how many devices come at a time where nobody says otherwise.
const usualConcurrency = 16

// mostAtOnce is how many devices enrol at a time, at most, where they come at random: more would be
// a server that cannot keep up.
const mostAtOnce = 256

// loadLine is what one contender did under one pressure.
type loadLine struct {
	contender *contender
	pressure  pressure
	rounds    []round
}

func (c *benchLoadCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if len(c.Concurrency) == 0 || slices.Min(c.Concurrency) < 1 {
		return usage(errors.New("each number of devices at a time (-c) is at least 1"))
	}
	others := map[string]func(*stage) (*contender, error){
		"postgres": func(s *stage) (*contender, error) { return s.newServer("on-postgres", true, serveOptions{}) },
	}
	if slices.Contains(c.Compare, "step-ca") {
		program, err := exec.LookPath("step-ca")
		if err != nil {
			return usage(withHint(err, "`.ci/install DIR` installs step-ca into DIR, which has to be in PATH"))
		}
		others["step-ca"] = func(s *stage) (*contender, error) { return s.newStepCA(program) }
	}
	return benched(ctx, term, "", func(s *stage) error {
		assay, err := s.newServer("server", false, serveOptions{cpuProfile: c.CPUProfile})
		if err != nil {
			return err
		}
		contenders := []*contender{assay}
		for _, name := range c.Compare {
			other, err := others[name](s)
			if err != nil {
				return err
			}
			contenders = append(contenders, other)
		}
		lines, err := c.sweep(ctx, term, s, contenders)
		if err != nil {
			return err
		}
		if g.JSON {
			return writeJSON(term.Out, loadJSON(lines))
		}
		return c.print(term.Out, contenders, lines)
	})
}

// sweep returns the lines of all contenders at one pressure side by side, pressure after pressure.
func (c *benchLoadCommand) sweep(ctx context.Context, term *terminal, s *stage, contenders []*contender) ([]*loadLine, error) {
	var lines []*loadLine
	for _, concurrency := range c.Concurrency {
		for _, one := range contenders {
			lines = append(lines, &loadLine{contender: one, pressure: pressure{devices: c.Devices, concurrency: concurrency}})
		}
	}
	for _, one := range contenders {
		if err := one.warmUp(ctx, c.Devices, usualConcurrency); err != nil {
			return nil, err
		}
	}
	for n := range c.Rounds {
		for group := range slices.Chunk(lines, len(contenders)) {
			rounds, err := c.measure(ctx, s.meter, contenders, group[0].pressure)
			if err != nil {
				return nil, err
			}
			for i, line := range group {
				line.rounds = append(line.rounds, rounds[i])
			}
		}
		fmt.Fprintf(term.Err, "round %d of %d\n", n+1, c.Rounds)
	}
	partial := make([]*loadLine, len(contenders))
	for i, one := range contenders {
		partial[i] = &loadLine{contender: one, pressure: pressure{devices: c.Devices, concurrency: mostAtOnce, rate: partialLoad * best(lines, one)}}
		for range c.Rounds {
			rounds, err := c.measure(ctx, s.meter, contenders[i:i+1], partial[i].pressure)
			if err != nil {
				return nil, err
			}
			partial[i].rounds = append(partial[i].rounds, rounds[0])
		}
	}
	return append(lines, partial...), nil
}

// best is the most certificates a second that a contender reached.
func best(lines []*loadLine, c *contender) (most float64) {
	for _, line := range lines {
		if line.contender == c {
			most = max(most, line.throughput())
		}
	}
	return most
}

func (l *loadLine) throughput() float64 {
	return spreadOf(l.rounds, func(r round) float64 { return r.Throughput }).Median
}

// cheaper is how many times less CPU a line's server used than another's in the same rounds.
func (l *loadLine) cheaper(other *loadLine) float64 {
	quotients := make([]float64, len(l.rounds))
	for i := range l.rounds {
		quotients[i] = float64(other.rounds[i].CPU) / float64(l.rounds[i].CPU)
	}
	return median(quotients)
}

type loadLineJSON struct {
	Server      string          `json:"server"`
	Concurrency int             `json:"concurrency"`
	Rate        float64         `json:"devicesPerSecond,omitempty"`
	CPUMicros   spread[float64] `json:"serverCPUMicroseconds"`
	Database    spread[float64] `json:"databaseCPUMicroseconds"` // 0 where it is in the server's own process
	FloorMicros spread[float64] `json:"floorMicroseconds"`
	Ratio       spread[float64] `json:"ratio"`
	Throughput  spread[float64] `json:"certificatesPerSecond"`
	P50         spread[float64] `json:"latencyP50Microseconds"`
	P95         spread[float64] `json:"latencyP95Microseconds"`
	P99         spread[float64] `json:"latencyP99Microseconds"`
	Peak        spread[int64]   `json:"memoryPeakBytes"`
}

func loadJSON(lines []*loadLine) any {
	out := make([]loadLineJSON, len(lines))
	for i, l := range lines {
		out[i] = loadLineJSON{
			l.contender.name, l.pressure.concurrency, l.pressure.rate,
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.CPU) }),
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.Database) }),
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.floor.total()) }),
			spreadOf(l.rounds, round.ratio),
			spreadOf(l.rounds, func(r round) float64 { return r.Throughput }),
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.Latency.P50) }),
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.Latency.P95) }),
			spreadOf(l.rounds, func(r round) float64 { return microseconds(r.Latency.P99) }),
			spreadOf(l.rounds, func(r round) int64 { return r.Peak }),
		}
	}
	return struct {
		Lines []loadLineJSON `json:"lines"`
		Cores int            `json:"cores"`
	}{out, runtime.NumCPU()}
}

func (c *benchLoadCommand) print(w io.Writer, contenders []*contender, lines []*loadLine) error {
	fmt.Fprintf(w, "Medians of %d rounds of %d devices, %d cores, devices on the same machine\n\n", c.Rounds, c.Devices, runtime.NumCPU())
	t := newTable(w, "lines", "SERVER", "DEVICES", "CPU", "DATABASE", "FLOOR", "RATIO", "CERTS/S", "P50", "P95", "P99", "MEMORY")
	for _, l := range lines {
		t.row(l.contender.name, l.pressure.String(), milliseconds(medianTime(l.rounds, func(r round) time.Duration { return r.CPU })),
			databaseText(medianTime(l.rounds, func(r round) time.Duration { return r.Database })),
			milliseconds(medianTime(l.rounds, func(r round) time.Duration { return r.floor.total() })),
			fmt.Sprintf("%.2f", spreadOf(l.rounds, round.ratio).Median), fmt.Sprintf("%.0f", l.throughput()),
			milliseconds(medianTime(l.rounds, func(r round) time.Duration { return r.Latency.P50 })),
			milliseconds(medianTime(l.rounds, func(r round) time.Duration { return r.Latency.P95 })),
			milliseconds(medianTime(l.rounds, func(r round) time.Duration { return r.Latency.P99 })),
			mebibytes(spreadOf(l.rounds, func(r round) int64 { return r.Peak }).Median))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for group := range slices.Chunk(lines, len(contenders)) {
		for _, other := range group[1:] {
			if other.pressure == group[0].pressure {
				fmt.Fprintf(w, "%s: %s uses %.2f times the CPU of %s\n", other.pressure, other.contender.name, group[0].cheaper(other), group[0].contender.name)
			}
		}
	}
	return nil
}

// databaseText is what a database used beside its server; "" where it is in the server's own process.
func databaseText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return milliseconds(d)
}

// String is the pressure as tables show it.
func (p pressure) String() string {
	if p.rate > 0 {
		return fmt.Sprintf("%.0f a second", p.rate)
	}
	return fmt.Sprintf("%d at a time", p.concurrency)
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
