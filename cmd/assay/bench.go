package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"assay/credential"
	"assay/enroll"
	"assay/internal/issuance"
	"assay/internal/server"
	"assay/internal/store"
)

type benchCommand struct {
	Cost   benchCostCommand   `cmd:"" default:"withargs" help:"What a certificate costs the server, against the crypto floor (default)."`
	Crash  benchCrashCommand  `cmd:"" help:"Kill the server at random moments under load; prove that nothing is lost or doubled."`
	Faults benchFaultsCommand `cmd:"" help:"Cut connections, replays, slow clients, floods, a full disk, clock jumps."`
}

type benchCostCommand struct {
	Rounds      int    `default:"5" help:"Rounds of one floor window and one load window each."`
	Devices     int    `default:"400" help:"Devices in a load window."`
	Concurrency int    `short:"c" default:"16" help:"Devices at a time."`
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
  assay bench --rounds 9 --devices 1000 --json

Exit codes: 0 measured; 2 wrong flags; 3 failed.`
}

// benchRound is what one round measured.
type benchRound struct {
	Floor      time.Duration
	FloorParts floor
	CPU        time.Duration // of the server, per certificate
	Ratio      float64
	Throughput float64 // certificates per second of wall time, clients on the same machine
	Latency    enroll.Latency
}

// bench is one run.
type bench struct {
	*rig
	command *benchCostCommand
	term    *terminal
	dir     string
	server  *exec.Cmd
	meter   *floorMeter
	baseURL string // of the server
}

func (c *benchCostCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Rounds < 1 || c.Devices < 1 || c.Concurrency < 1 {
		return usage(errors.New("--rounds, --devices and -c are at least 1"))
	}
	dir, err := os.MkdirTemp("", "assay-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{command: c, term: term, dir: dir}
	if err := b.start(ctx); err != nil {
		return err
	}
	rounds, err := b.rounds(ctx)
	if err := errors.Join(err, b.stop()); err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, benchJSON(rounds))
	}
	printBench(term.Out, rounds, c)
	return nil
}

// start makes an installation and runs the server in a process of its own.
func (b *bench) start(ctx context.Context) (err error) {
	now := b.term.Now
	if b.meter, err = newFloorMeter(now()); err != nil {
		return err
	}
	if b.rig, err = newRig(ctx, b.dir, "Bench", now); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"serve", "--dir", b.serverDir, "--log-level", "warn"}
	if b.command.CPUProfile != "" {
		args = append(args, "--cpu-profile", b.command.CPUProfile)
	}
	b.server = exec.CommandContext(ctx, program, args...)
	b.server.Cancel = func() error { return b.server.Process.Signal(syscall.SIGTERM) }
	b.server.Stderr = b.term.Err
	if err := b.server.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the server: %w", err), b.inst.Close())
	}
	starting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if b.baseURL, err = b.inst.AwaitServer(starting); err != nil {
		return errors.Join(err, b.stop())
	}
	return nil
}

func (b *bench) stop() error {
	err := b.server.Process.Signal(syscall.SIGTERM)
	return errors.Join(err, b.server.Wait(), b.inst.Close())
}

// floorWindow is how long the floor is measured before each load window.
const floorWindow = 2 * time.Second

// rounds warms up, then alternates floor and load windows.
func (b *bench) rounds(ctx context.Context) ([]benchRound, error) {
	if _, err := b.load(ctx, max(b.command.Concurrency, b.command.Devices/10)); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	var rounds []benchRound
	for n := range b.command.Rounds {
		before, err := b.meter.measure(ctx, floorWindow/2)
		if err != nil {
			return nil, err
		}
		round, err := b.load(ctx, b.command.Devices)
		if err != nil {
			return nil, err
		}
		after, err := b.meter.measure(ctx, floorWindow/2)
		if err != nil {
			return nil, err
		}
		round.FloorParts = floor{
			(before.VerifyP256 + after.VerifyP256) / 2, (before.VerifyP384 + after.VerifyP384) / 2,
			(before.SignP256 + after.SignP256) / 2, (before.Handshake + after.Handshake) / 2,
		}
		round.Floor = round.FloorParts.total()
		round.Ratio = float64(round.CPU) / float64(round.Floor)
		rounds = append(rounds, *round)
		fmt.Fprintf(b.term.Err, "round %d of %d: %s a certificate, floor %s, ratio %.2f\n",
			n+1, b.command.Rounds, round.CPU.Round(time.Microsecond), round.Floor.Round(time.Microsecond), round.Ratio)
	}
	return rounds, nil
}

// load mints codes, then lets that many devices enrol while the server's CPU clock is read.
func (b *bench) load(ctx context.Context, devices int) (*benchRound, error) {
	mints := make([]issuance.Mint, devices)
	for i := range mints {
		value, err := issuance.NewCodeValue(rand.Reader)
		if err != nil {
			return nil, err
		}
		mints[i] = issuance.Mint{Directory: "default", Value: value, Lifetime: time.Hour}
	}
	for batch := range slices.Chunk(mints, store.MaxMint) {
		if _, err := b.inst.Store.MintCodes(ctx, issuance.Call{Now: b.term.Now(), From: operator()}, batch); err != nil {
			return nil, err
		}
	}
	clock := processClock(b.server.Process.Pid)
	begin, err := cpuTime(clock)
	if err != nil {
		return nil, err
	}
	fleet := &enroll.Fleet{Size: devices, Concurrency: b.command.Concurrency, Enroll: func(ctx context.Context, i int) (*enroll.Result, error) {
		return b.enroll(ctx, mints[i].Value)
	}}
	summary := fleet.Run(ctx, nil)
	end, err := cpuTime(clock)
	if err != nil {
		return nil, err
	}
	if summary.Issued != devices {
		return nil, fmt.Errorf("only %d of %d devices got a certificate: %v", summary.Issued, devices, summary.FirstError)
	}
	return &benchRound{
		CPU: (end - begin) / time.Duration(devices), Latency: summary.Latency,
		Throughput: float64(devices) / summary.Took.Seconds(),
	}, nil
}

func (b *bench) enroll(ctx context.Context, code string) (*enroll.Result, error) {
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		return nil, err
	}
	document := credential.New(server.DirectoryURL(b.baseURL, "default"), code, credential.Subject{{{"CN", "bench"}}})
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Roots: b.roots, Attester: b.attester}
	return client.Enroll(ctx, document)
}

// spread is the least, median and greatest of a figure over the rounds.
type spread[T int64 | float64] struct {
	Min    T `json:"min"`
	Median T `json:"median"`
	Max    T `json:"max"`
}

func spreadOf[T int64 | float64](rounds []benchRound, figure func(benchRound) T) spread[T] {
	values := make([]T, len(rounds))
	for i, r := range rounds {
		values[i] = figure(r)
	}
	slices.Sort(values)
	return spread[T]{values[0], values[len(values)/2], values[len(values)-1]}
}

func benchJSON(rounds []benchRound) any {
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return struct {
		Ratio         spread[float64] `json:"ratio"`
		CPUMicros     spread[float64] `json:"serverCPUMicroseconds"`
		FloorMicros   spread[float64] `json:"floorMicroseconds"`
		Throughput    spread[float64] `json:"certificatesPerSecond"`
		LatencyP50    spread[float64] `json:"latencyP50Microseconds"`
		LatencyP99    spread[float64] `json:"latencyP99Microseconds"`
		Rounds, Cores int
	}{
		spreadOf(rounds, func(r benchRound) float64 { return r.Ratio }),
		spreadOf(rounds, func(r benchRound) float64 { return micros(r.CPU) }),
		spreadOf(rounds, func(r benchRound) float64 { return micros(r.Floor) }),
		spreadOf(rounds, func(r benchRound) float64 { return r.Throughput }),
		spreadOf(rounds, func(r benchRound) float64 { return micros(r.Latency.P50) }),
		spreadOf(rounds, func(r benchRound) float64 { return micros(r.Latency.P99) }),
		len(rounds), runtime.NumCPU(),
	}
}

func printBench(w io.Writer, rounds []benchRound, c *benchCostCommand) {
	duration := func(figure func(benchRound) time.Duration) string {
		s := spreadOf(rounds, func(r benchRound) int64 { return int64(figure(r)) })
		return fmt.Sprintf("%8s   (%s to %s)", time.Duration(s.Median).Round(time.Microsecond),
			time.Duration(s.Min).Round(time.Microsecond), time.Duration(s.Max).Round(time.Microsecond))
	}
	ratio := spreadOf(rounds, func(r benchRound) float64 { return r.Ratio })
	throughput := spreadOf(rounds, func(r benchRound) float64 { return r.Throughput })
	fmt.Fprintf(w, "Server CPU per certificate, %d rounds of %d devices, %d at a time, %d cores: median (least to greatest)\n\n",
		len(rounds), c.Devices, c.Concurrency, runtime.NumCPU())
	list := newFields(w)
	list.add("server CPU", duration(func(r benchRound) time.Duration { return r.CPU }), "per certificate")
	list.add("crypto floor", duration(func(r benchRound) time.Duration { return r.Floor }), "per certificate")
	list.add("ratio", fmt.Sprintf("%8.2f   (%.2f to %.2f)", ratio.Median, ratio.Min, ratio.Max))
	list.add("  ES256 verify x7", duration(func(r benchRound) time.Duration { return r.FloorParts.VerifyP256 }), "each")
	list.add("  P-384 verify x2", duration(func(r benchRound) time.Duration { return r.FloorParts.VerifyP384 }), "each")
	list.add("  P-256 sign", duration(func(r benchRound) time.Duration { return r.FloorParts.SignP256 }))
	list.add("  TLS 1.3, server half", duration(func(r benchRound) time.Duration { return r.FloorParts.Handshake }))
	list.add("certificates/s", fmt.Sprintf("%8.0f   (%.0f to %.0f)", throughput.Median, throughput.Min, throughput.Max), "clients on the same machine")
	list.add("latency p50", duration(func(r benchRound) time.Duration { return r.Latency.P50 }), "first contact to certificate")
	list.add("latency p99", duration(func(r benchRound) time.Duration { return r.Latency.P99 }))
	list.flush()
}
