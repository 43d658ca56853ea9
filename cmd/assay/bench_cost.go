package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

type benchCostCommand struct {
	benchRounds
	Concurrency int    `short:"c" default:"16" help:"Devices at a time."`
	Postgres    bool   `help:"With the database in a PostgreSQL server of its own, whose CPU time is shown apart."`
	CPUProfile  string `name:"cpu-profile" placeholder:"FILE" help:"Write a CPU profile of the server."`
}

func (benchCostCommand) Help() string {
	return `Measures what a certificate costs the server in CPU time, against the floor of the cryptography that
cannot be left out: seven ES256 verifications, two with P-384 keys, one P-256 signature and the server's
half of one TLS 1.3 handshake.

The server runs in a process of its own on a fresh folder. Every device makes a fresh TLS connection, a fresh
account and a P-384 key, and is attested by a stand-in authority. Floor and load windows alternate, so that a
machine that changes its speed changes both. Both are CPU time, not wall time, and both are taken with every
processor busy: the clients keep the others busy under load, and the floor is run on all of them at once.

Example:
  assay bench
  assay bench --postgres
  assay bench --rounds 9 --devices 1000 --json

Exit codes: 0 measured; 2 wrong flags; 3 failed.`
}

func (c *benchCostCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Concurrency < 1 {
		return usage(errors.New("-c is at least 1"))
	}
	var rounds []round
	err := benched(ctx, term, "", func(s *stage) error {
		assay, err := s.newServer("server", c.Postgres, serveOptions{cpuProfile: c.CPUProfile})
		if err != nil {
			return err
		}
		rounds, err = c.alternate(ctx, term, s, assay)
		return err
	})
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, benchJSON(rounds))
	}
	printBench(term.Out, rounds, c)
	return nil
}

// alternate warms up, then alternates floor and load windows.
func (c *benchCostCommand) alternate(ctx context.Context, term *terminal, s *stage, assay *contender) ([]round, error) {
	if err := assay.warmUp(ctx, c.Devices, c.Concurrency); err != nil {
		return nil, err
	}
	var rounds []round
	for n := range c.Rounds {
		measured, err := c.measure(ctx, s.meter, []*contender{assay}, pressure{devices: c.Devices, concurrency: c.Concurrency})
		if err != nil {
			return nil, err
		}
		r := measured[0]
		rounds = append(rounds, r)
		fmt.Fprintf(term.Err, "round %d of %d: %s a certificate, floor %s, ratio %.2f\n",
			n+1, c.Rounds, r.CPU.Round(time.Microsecond), r.floor.total().Round(time.Microsecond), r.ratio())
	}
	return rounds, nil
}

func benchJSON(rounds []round) any {
	return struct {
		Ratio         spread[float64] `json:"ratio"`
		CPUMicros     spread[float64] `json:"serverCPUMicroseconds"`
		Database      spread[float64] `json:"databaseCPUMicroseconds,omitzero"`
		FloorMicros   spread[float64] `json:"floorMicroseconds"`
		Throughput    spread[float64] `json:"certificatesPerSecond"`
		LatencyP50    spread[float64] `json:"latencyP50Microseconds"`
		LatencyP99    spread[float64] `json:"latencyP99Microseconds"`
		Rounds, Cores int
	}{
		spreadOf(rounds, round.ratio),
		spreadOf(rounds, func(r round) float64 { return microseconds(r.CPU) }),
		spreadOf(rounds, func(r round) float64 { return microseconds(r.Database) }),
		spreadOf(rounds, func(r round) float64 { return microseconds(r.floor.total()) }),
		spreadOf(rounds, func(r round) float64 { return r.Throughput }),
		spreadOf(rounds, func(r round) float64 { return microseconds(r.Latency.P50) }),
		spreadOf(rounds, func(r round) float64 { return microseconds(r.Latency.P99) }),
		len(rounds), runtime.NumCPU(),
	}
}

func printBench(w io.Writer, rounds []round, c *benchCostCommand) {
	duration := func(figure func(round) time.Duration) string {
		s := spreadOf(rounds, func(r round) int64 { return int64(figure(r)) })
		return fmt.Sprintf("%8s   (%s to %s)", time.Duration(s.Median).Round(time.Microsecond),
			time.Duration(s.Min).Round(time.Microsecond), time.Duration(s.Max).Round(time.Microsecond))
	}
	ratio := spreadOf(rounds, round.ratio)
	throughput := spreadOf(rounds, func(r round) float64 { return r.Throughput })
	fmt.Fprintf(w, "Server CPU per certificate, %d rounds of %d devices, %d at a time, %d cores: median (least to greatest)\n\n",
		len(rounds), c.Devices, c.Concurrency, runtime.NumCPU())
	list := newFields(w)
	list.add("server CPU", duration(func(r round) time.Duration { return r.CPU }), "per certificate")
	if c.Postgres {
		list.add("PostgreSQL's CPU", duration(func(r round) time.Duration { return r.Database }), "per certificate")
	}
	list.add("crypto floor", duration(func(r round) time.Duration { return r.floor.total() }), "per certificate")
	list.add("ratio", fmt.Sprintf("%8.2f   (%.2f to %.2f)", ratio.Median, ratio.Min, ratio.Max))
	list.add("  ES256 verify x7", duration(func(r round) time.Duration { return r.floor.VerifyP256 }), "each")
	list.add("  P-384 verify x2", duration(func(r round) time.Duration { return r.floor.VerifyP384 }), "each")
	list.add("  P-256 sign", duration(func(r round) time.Duration { return r.floor.SignP256 }))
	list.add("  TLS 1.3, server half", duration(func(r round) time.Duration { return r.floor.Handshake }))
	list.add("certificates/s", fmt.Sprintf("%8.0f   (%.0f to %.0f)", throughput.Median, throughput.Min, throughput.Max), "clients on the same machine")
	list.add("latency p50", duration(func(r round) time.Duration { return r.Latency.P50 }), "first contact to certificate")
	list.add("latency p99", duration(func(r round) time.Duration { return r.Latency.P99 }))
	list.flush()
}
