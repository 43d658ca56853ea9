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
}

func (benchSoakCommand) Help() string {
	return `Measures the most that the server does, then lets devices come at random for a long time, at a share of that,
and watches the server's memory and open files.

Both are flat if from the second quarter to the last the median of memory grew by no more than a tenth, and
the least number of open files by no more than two. A soak of less than five minutes is not judged.

Example:
  assay bench soak
  assay bench soak --for 10m --json

Exit codes: 0 flat, or too short to say; 1 memory or open files grew; 2 wrong flags; 3 failed.`
}

// soakSample is what was seen at one moment.
type soakSample struct {
	After  float64 `json:"afterSeconds"`
	Memory int64   `json:"memoryBytes"`
	Files  int     `json:"openFiles"`
}

// soaked is what a soak measured.
type soaked struct {
	rate    float64
	window  window
	samples []soakSample
}

func (c *benchSoakCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.For < time.Second || c.Load <= 0 || c.Load > 1 || c.Devices < 1 {
		return usage(errors.New("--for is at least 1s, --load above 0 and at most 1, --devices at least 1"))
	}
	var result *soaked
	err := benched(ctx, term, "", func(s *stage) error {
		server, err := s.newServer("server", serveOptions{})
		if err == nil {
			result, err = c.soak(ctx, term, server)
		}
		return err
	})
	if err != nil {
		return err
	}
	before, after := result.quarters()
	grew := c.For >= soakJudged && before.grewTo(after)
	if g.JSON {
		err = writeJSON(term.Out, soakJSON(result, grew))
	} else {
		c.print(term.Out, result, before, after, grew)
	}
	if err == nil && grew {
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
	result := &soaked{rate: c.Load * median(most)}
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
	return result, nil
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

// quarter is a quarter of a soak: the median of memory, and the least number of open files, because those
// of connections come and go.
type quarter struct {
	memory int64
	files  int
}

// quarters are the second, when the server has found its size, and the last.
func (s *soaked) quarters() (second, last quarter) {
	n := len(s.samples)
	return quarterOf(s.samples[n/4 : max(n/2, n/4+1)]), quarterOf(s.samples[n*3/4:])
}

func quarterOf(samples []soakSample) quarter {
	memory, files := make([]int64, len(samples)), make([]int, len(samples))
	for i, s := range samples {
		memory[i], files[i] = s.Memory, s.Files
	}
	slices.Sort(memory)
	return quarter{memory[len(memory)/2], slices.Min(files)}
}

// grewTo reports whether the server grew from one quarter to a later one.
func (q quarter) grewTo(later quarter) bool {
	return later.memory > q.memory+q.memory/10 || later.files > q.files+2
}

func soakJSON(s *soaked, grew bool) any {
	return struct {
		Rate    float64      `json:"devicesPerSecond"`
		CPU     float64      `json:"serverCPUMicroseconds"`
		P50     float64      `json:"latencyP50Microseconds"`
		P95     float64      `json:"latencyP95Microseconds"`
		P99     float64      `json:"latencyP99Microseconds"`
		Peak    int64        `json:"memoryPeakBytes"`
		Grew    bool         `json:"grew"`
		Samples []soakSample `json:"samples"`
	}{s.rate, microseconds(s.window.CPU), microseconds(s.window.Latency.P50), microseconds(s.window.Latency.P95), microseconds(s.window.Latency.P99),
		s.window.Peak, grew, s.samples}
}

func (c *benchSoakCommand) print(w io.Writer, s *soaked, second, last quarter, grew bool) {
	fmt.Fprintf(w, "%s of devices at %.0f a second, %.0f %% of the most that the server did\n\n", c.For, s.rate, c.Load*100)
	list := newFields(w)
	list.add("server CPU", milliseconds(s.window.CPU), "per certificate")
	list.add("latency p50", milliseconds(s.window.Latency.P50), "from when the device comes")
	list.add("latency p95", milliseconds(s.window.Latency.P95))
	list.add("latency p99", milliseconds(s.window.Latency.P99))
	list.add("memory", fmt.Sprintf("%s, then %s", mebibytes(second.memory), mebibytes(last.memory)), "medians of the second and last quarter")
	list.add("memory peak", mebibytes(s.window.Peak))
	list.add("open files", fmt.Sprintf("%d, then %d", second.files, last.files), "least in these quarters")
	verdict := "flat"
	if grew {
		verdict = "the server GREW"
	} else if c.For < soakJudged {
		verdict = "too short to say"
	}
	list.add("verdict", verdict)
	list.flush()
}
