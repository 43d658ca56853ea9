package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"assay/credential"
	"assay/enroll"
	"assay/internal/server"
)

type benchCommand struct {
	Cost   benchCostCommand   `cmd:"" default:"withargs" help:"What a certificate costs the server, against the crypto floor (default)."`
	Load   benchLoadCommand   `cmd:"" help:"Ever more devices at a time: cost, latency and memory; side by side with step-ca."`
	Growth benchGrowthCommand `cmd:"" help:"The same load with ever more certificates stored."`
	Soak   benchSoakCommand   `cmd:"" help:"A long time of steady load: memory and open files stay flat."`
	Crash  benchCrashCommand  `cmd:"" help:"Kill the server at random moments under load; prove that nothing is lost or doubled."`
	Faults benchFaultsCommand `cmd:"" help:"Cut connections, replays, slow clients, floods, a full disk, clock jumps."`
}

// contender is a server under load, in a process of its own.
type contender struct {
	name string
	process
	// prepare makes what so many devices need, outside of what is measured, and returns what enrols
	// number i of them.
	prepare func(ctx context.Context, devices int) (func(ctx context.Context, i int) (*enroll.Result, error), error)
	stop    func() error
	// database is the process of its database; nil where that is in the server's own.
	database *process
}

// databaseCPU is what the database has used.
func (c *contender) databaseCPU() (time.Duration, error) {
	if c.database == nil {
		return 0, nil
	}
	return c.database.cpu()
}

// pressure is how devices come.
type pressure struct {
	devices     int
	concurrency int     // devices at a time
	rate        float64 // devices a second, at random; 0: each as soon as another one ended
}

// window is what one time of load measured.
type window struct {
	CPU        time.Duration // of the server, per certificate
	Database   time.Duration // CPU of the database's own processes, per certificate
	Throughput float64       // certificates per second of wall time, devices on the same machine
	Latency    enroll.Latency
	Peak       int64 // memory of the server, in bytes
}

// load lets devices enrol while the server's use of the machine is read. All of them have to succeed.
func (c *contender) load(ctx context.Context, p pressure) (*window, error) {
	enrol, err := c.prepare(ctx, p.devices)
	if err != nil {
		return nil, fmt.Errorf("%s: prepare for %d devices: %w", c.name, p.devices, err)
	}
	if err := c.resetPeak(); err != nil {
		return nil, err
	}
	begin, err := c.cpu()
	if err != nil {
		return nil, err
	}
	beginDatabase, err := c.databaseCPU()
	if err != nil {
		return nil, err
	}
	if p.rate > 0 {
		enrol = inTurn(enrol, arrivals(p.devices, p.rate))
	}
	fleet := &enroll.Fleet{Size: p.devices, Concurrency: p.concurrency, Enroll: enrol}
	summary := fleet.Run(ctx, nil)
	end, err := c.cpu()
	if err != nil {
		return nil, err
	}
	endDatabase, err := c.databaseCPU()
	if err != nil {
		return nil, err
	}
	if summary.Issued != p.devices {
		return nil, fmt.Errorf("%s: only %d of %d devices got a certificate: %v", c.name, summary.Issued, p.devices, summary.FirstError)
	}
	_, peak, err := c.memory()
	return &window{
		CPU: (end - begin) / time.Duration(p.devices), Database: (endDatabase - beginDatabase) / time.Duration(p.devices), Latency: summary.Latency, Peak: peak,
		Throughput: float64(p.devices) / summary.Took.Seconds(),
	}, err
}

// warmUp lets a tenth of a window's devices enrol, which nobody measures.
func (c *contender) warmUp(ctx context.Context, devices, concurrency int) error {
	if _, err := c.load(ctx, pressure{devices: max(1, devices/10), concurrency: concurrency}); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

// arrivals are the times at which devices come that know nothing of each other, so many a second. They are
// the same in every run.
func arrivals(devices int, rate float64) []time.Duration {
	random := mathrand.New(mathrand.NewPCG(0, 0))
	times := make([]time.Duration, devices)
	at := 0.0
	for i := range times {
		at += random.ExpFloat64() / rate
		times[i] = time.Duration(at * float64(time.Second))
	}
	return times
}

// inTurn lets each device begin at its time. One that comes late, because all places were taken, has that
// in its latency.
func inTurn(enrol func(context.Context, int) (*enroll.Result, error), times []time.Duration) func(context.Context, int) (*enroll.Result, error) {
	start := time.Now()
	return func(ctx context.Context, i int) (*enroll.Result, error) {
		due := start.Add(times[i])
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Until(due)):
		}
		began := time.Now()
		result, err := enrol(ctx, i)
		if err == nil {
			result.Took += began.Sub(due)
		}
		return result, err
	}
}

// round is one window of load, with the crypto floor of its time.
type round struct {
	window
	floor floor
}

func (r round) ratio() float64 { return float64(r.CPU) / float64(r.floor.total()) }

// benchRounds are the flags of a bench in rounds.
type benchRounds struct {
	Rounds  int `default:"5" help:"Rounds; figures are their medians."`
	Devices int `default:"400" help:"Devices in a load window."`

	// Floor is how long the floor is measured in each round, half of it before the load and half after.
	Floor time.Duration `hidden:"" default:"2s"`
}

func (b *benchRounds) AfterApply() error {
	if b.Rounds < 1 || b.Devices < 1 || b.Floor <= 0 {
		return errors.New("--rounds and --devices are at least 1")
	}
	return nil
}

// measure measures the floor before and after windows of load, one of each contender.
func (b *benchRounds) measure(ctx context.Context, meter *floorMeter, contenders []*contender, p pressure) ([]round, error) {
	before, err := meter.measure(ctx, b.Floor/2)
	if err != nil {
		return nil, err
	}
	rounds := make([]round, len(contenders))
	for i, c := range contenders {
		w, err := c.load(ctx, p)
		if err != nil {
			return nil, err
		}
		rounds[i].window = *w
	}
	after, err := meter.measure(ctx, b.Floor/2)
	for i := range rounds {
		rounds[i].floor = before.mean(after)
	}
	return rounds, err
}

// spread is the least, median and greatest of a figure over the rounds.
type spread[T int64 | float64] struct {
	Min    T `json:"min"`
	Median T `json:"median"`
	Max    T `json:"max"`
}

func spreadOf[T int64 | float64](rounds []round, figure func(round) T) spread[T] {
	values := make([]T, len(rounds))
	for i, r := range rounds {
		values[i] = figure(r)
	}
	slices.Sort(values)
	return spread[T]{values[0], values[len(values)/2], values[len(values)-1]}
}

// medianTime is the median of a duration over the rounds.
func medianTime(rounds []round, figure func(round) time.Duration) time.Duration {
	return time.Duration(spreadOf(rounds, func(r round) int64 { return int64(figure(r)) }).Median)
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// serveOptions is how the server under test is started.
type serveOptions struct {
	cpuProfile string // a file to write, or ""
}

// serve runs an Assay server on the rig's installation, in a process of its own.
func (r *rig) serve(ctx context.Context, term *terminal, o serveOptions) (*contender, error) {
	running := &serverProcess{inst: r.inst, log: term.Err, args: []string{"--log-level", "warn"}}
	if o.cpuProfile != "" {
		running.args = append(running.args, "--cpu-profile", o.cpuProfile)
	}
	if err := running.start(ctx); err != nil {
		return nil, err
	}
	baseURL, err := running.url(ctx)
	if err != nil {
		return nil, errors.Join(err, running.kill())
	}
	prepare := func(ctx context.Context, devices int) (func(context.Context, int) (*enroll.Result, error), error) {
		codes, err := r.mint(ctx, term.Now(), devices)
		return func(ctx context.Context, i int) (*enroll.Result, error) {
			return r.enrol(ctx, server.DirectoryURL(baseURL, "default"), func(*enroll.Device) string { return codes[i].value })
		}, err
	}
	c := &contender{name: "Assay", process: process{running.pid()}, prepare: prepare, stop: running.stop, database: r.database}
	if c.database != nil {
		c.name = "Assay on PostgreSQL"
	}
	return c, nil
}

// enrol lets a fresh iPhone enrol, with the identifier that it is given.
func (d *devices) enrol(ctx context.Context, directoryURL string, identifier func(*enroll.Device) string, change ...func(*credential.Credential, *enroll.Client)) (*enroll.Result, error) {
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		return nil, err
	}
	document := credential.New(directoryURL, identifier(device), credential.Subject{{{"CN", device.Serial}}})
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Roots: d.roots, Attester: d.attester}
	for _, f := range change {
		f(document, client)
	}
	return client.Enroll(ctx, document)
}
