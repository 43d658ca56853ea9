package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

type benchSoakCommand struct {
	For     time.Duration `default:"30m" help:"How long devices come (${default})."`
	Load    float64       `default:"0.7" help:"Share of the most that the server does, measured first (${default})."`
	Devices int           `default:"400" help:"Devices in each of the three windows that measure the most."`

	Postgres bool `help:"With the database in a PostgreSQL server of its own, whose memory is not watched."`
}

func (benchSoakCommand) Help() string {
	return `Measures the most that the server does, then lets devices come at random for a long time, at a share of that,
and watches the server's memory and open files.

Both are flat if from the second quarter to the last the median of memory grew by no more than a tenth, and
the files open at rest, before devices come and after they went, by no more than two. A soak of less than five
minutes is not judged, and none in which devices piled up, because the machine did less than before.

Example:
  assay bench soak
  assay bench soak --for 10m --json

Exit codes: 0 flat, or not to be judged; 1 memory or open files grew; 2 wrong flags; 3 failed.`
}

// soakSample is what was seen at one moment.
type soakSample struct {
	After  float64 `json:"afterSeconds"`
	Memory int64   `json:"memoryBytes"`
	Files  int     `json:"openFiles"`
}

// soaked is what a soak measured.
type soaked struct {
	took        time.Duration // that was asked for
	rate        float64
	window      window
	samples     []soakSample
	filesBefore int // open at rest
	filesAfter  int
}

func (c *benchSoakCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.For < time.Second || c.Load <= 0 || c.Load > 1 || c.Devices < 1 {
		return usage(errors.New("--for is at least 1s, --load above 0 and at most 1, --devices at least 1"))
	}
	var result *soaked
	err := benched(ctx, term, "", func(s *stage) error {
		server, err := s.newServer("server", c.Postgres, serveOptions{})
		if err == nil {
			result, err = c.soak(ctx, term, server)
		}
		return err
	})
	if err != nil {
		return err
	}
	verdict := result.verdict()
	if g.JSON {
		err = writeJSON(term.Out, soakJSON(result, verdict))
	} else {
		c.print(term.Out, result, verdict)
	}
	if err == nil && verdict == soakGrew {
		err = no()
	}
	return err
}

// soakJudged is how long a soak is at least that says something about growth.
const soakJudged = 5 * time.Minute

// soak measures the most that the server does, and then puts a share of that on it.
func (c *benchSoakCommand) soak(ctx context.Context, term *terminal, server *contender) (*soaked, error) {
	if err := server.warmUp(ctx, c.Devices, usualConcurrency); err != nil {
		return nil, err
	}
	most := make([]float64, 3)
	for i := range most {
		w, err := server.load(ctx, pressure{devices: c.Devices, concurrency: usualConcurrency})
		if err != nil {
			return nil, err
		}
		most[i] = w.Throughput
	}
	result := &soaked{took: c.For, rate: c.Load * median(most)}
	var err error
	if result.filesBefore, err = server.filesAtRest(ctx); err != nil {
		return nil, err
	}
	devices := max(1, int(result.rate*c.For.Seconds()))
	fmt.Fprintf(term.Err, "%d devices, %.0f a second, for %s\n", devices, result.rate, c.For)
	sampling, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	var watchErr error
	watching.Go(func() { result.samples, watchErr = server.watch(sampling, max(time.Second, c.For/200)) })
	w, err := server.load(ctx, pressure{devices: devices, concurrency: mostAtOnce, rate: result.rate})
	stop()
	watching.Wait()
	if err := errors.Join(err, watchErr); err != nil {
		return nil, err
	}
	result.window = *w
	result.filesAfter, err = server.filesAtRest(ctx)
	return result, err
}

// watch samples until the context ends.
func (c *contender) watch(ctx context.Context, every time.Duration) (samples []soakSample, err error) {
	start := time.Now()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		memory, _, err := c.memory()
		if err != nil {
			return nil, err
		}
		files, err := c.files()
		if err != nil {
			return nil, err
		}
		samples = append(samples, soakSample{time.Since(start).Seconds(), memory, files})
		select {
		case <-ctx.Done():
			return samples, nil
		case <-ticker.C:
		}
	}
}

// filesAtRest counts open files when all devices have gone.
func (c *contender) filesAtRest(ctx context.Context) (int, error) {
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(time.Second):
		return c.files()
	}
}

// medianMemory is the median of some samples' memory.
func medianMemory(samples []soakSample) int64 {
	memory := make([]int64, len(samples))
	for i, s := range samples {
		memory[i] = s.Memory
	}
	slices.Sort(memory)
	return memory[len(memory)/2]
}

// memory is the median in the second quarter, when the server has found its size, and in the last.
func (s *soaked) memory() (second, last int64) {
	n := len(s.samples)
	return medianMemory(s.samples[n/4 : max(n/2, n/4+1)]), medianMemory(s.samples[n*3/4:])
}

// Verdicts of a soak.
const (
	soakFlat     = "flat"
	soakGrew     = "grew"
	soakShort    = "too short to say"
	soakOverload = "overloaded: devices piled up, and what they hold is no growth"
)

func (s *soaked) verdict() string {
	second, last := s.memory()
	switch {
	case s.took < soakJudged:
		return soakShort
	case s.window.Throughput < 0.95*s.rate:
		return soakOverload
	case last > second+second/10 || s.filesAfter > s.filesBefore+2:
		return soakGrew
	default:
		return soakFlat
	}
}

func soakJSON(s *soaked, verdict string) any {
	return struct {
		Rate        float64      `json:"devicesPerSecond"`
		Throughput  float64      `json:"certificatesPerSecond"`
		CPU         float64      `json:"serverCPUMicroseconds"`
		P50         float64      `json:"latencyP50Microseconds"`
		P95         float64      `json:"latencyP95Microseconds"`
		P99         float64      `json:"latencyP99Microseconds"`
		Peak        int64        `json:"memoryPeakBytes"`
		FilesBefore int          `json:"openFilesBefore"`
		FilesAfter  int          `json:"openFilesAfter"`
		Verdict     string       `json:"verdict"`
		Samples     []soakSample `json:"samples"`
	}{s.rate, s.window.Throughput, microseconds(s.window.CPU),
		microseconds(s.window.Latency.P50), microseconds(s.window.Latency.P95), microseconds(s.window.Latency.P99),
		s.window.Peak, s.filesBefore, s.filesAfter, verdict, s.samples}
}

func (c *benchSoakCommand) print(w io.Writer, s *soaked, verdict string) {
	second, last := s.memory()
	fmt.Fprintf(w, "%s of devices at %.0f a second, %.0f %% of the most that the server did\n\n", c.For, s.rate, c.Load*100)
	list := newFields(w)
	list.add("server CPU", milliseconds(s.window.CPU), "per certificate")
	list.add("certificates/s", fmt.Sprintf("%.0f", s.window.Throughput))
	list.add("latency p50", milliseconds(s.window.Latency.P50), "from when the device comes")
	list.add("latency p95", milliseconds(s.window.Latency.P95))
	list.add("latency p99", milliseconds(s.window.Latency.P99))
	list.add("memory", fmt.Sprintf("%s, then %s", mebibytes(second), mebibytes(last)), "medians of the second and last quarter")
	list.add("memory peak", mebibytes(s.window.Peak))
	list.add("open files", fmt.Sprintf("%d, then %d", s.filesBefore, s.filesAfter), "at rest, before and after")
	list.add("verdict", verdict)
	list.flush()
}
