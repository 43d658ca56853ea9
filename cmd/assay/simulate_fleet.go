package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"assay/enroll"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// fleet lets many devices enrol, with a progress bar where standard error is a terminal.
func (c *simulateDevice) fleet(ctx context.Context, term *terminal, g *globals, p *prepared) error {
	var watched io.Writer // a log file wants no bar
	if _, watching := screen(term.Err); watching && !g.JSON {
		watched = term.Err
	}
	bars := mpb.NewWithContext(ctx, mpb.WithOutput(watched))
	bar := bars.AddBar(int64(c.N), mpb.PrependDecorators(decor.Name("devices "), decor.CountersNoUnit("%d / %d")),
		mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f/s "), decor.AverageETA(decor.ET_STYLE_GO)))
	fleet := &enroll.Fleet{
		Size: c.N, Concurrency: c.Concurrency,
		Enroll: func(ctx context.Context, i int) (*enroll.Result, error) {
			result, _, err := c.enroll(ctx, term, p, i, nil)
			return result, err
		},
		Progress: func(done, _ int) { bar.SetCurrent(int64(done)) },
	}
	summary := fleet.Run(ctx, nil)
	bar.Abort(false)
	bars.Wait()
	if g.JSON {
		if err := writeJSON(term.Out, summaryJSON(summary)); err != nil {
			return err
		}
	} else {
		printSummary(term, summary)
	}
	if summary.Issued != c.N {
		return no()
	}
	return nil
}

func printSummary(term *terminal, s *enroll.Summary) {
	list := newFields(term.Out)
	list.add("issued", fmt.Sprint(s.Issued))
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		list.add("refused", fmt.Sprintf("%d  %s", s.Refused[reason], reason))
		list.add("  first", fmt.Sprint(s.FirstError[reason]))
	}
	if s.NotRun > 0 {
		list.add("not finished", fmt.Sprint(s.NotRun))
	}
	round := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	if s.Issued > 0 {
		list.add("latency", fmt.Sprintf("p50 %s  p95 %s  p99 %s  max %s, first contact to certificate",
			round(s.Latency.P50), round(s.Latency.P95), round(s.Latency.P99), round(s.Latency.Max)))
	}
	list.add("took", s.Took.Round(time.Millisecond).String())
	list.flush()
}

func summaryJSON(s *enroll.Summary) any {
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return struct {
		Issued    int                `json:"issued"`
		Refused   map[string]int     `json:"refused"`
		NotRun    int                `json:"notRun"`
		LatencyMS map[string]float64 `json:"latencyMilliseconds"`
		Seconds   float64            `json:"seconds"`
	}{s.Issued, s.Refused, s.NotRun, map[string]float64{
		"p50": millis(s.Latency.P50), "p95": millis(s.Latency.P95), "p99": millis(s.Latency.P99), "max": millis(s.Latency.Max),
	}, s.Took.Seconds()}
}

// fleetCode is a code with the device that it is for.
type fleetCode struct{ code, serial, udid string }

// readCodes reads one code a line, or the CSV with the header code,serial,udid.
func readCodes(term *terminal, name string) ([]fleetCode, error) {
	data, err := readInput(term, name, maxInput)
	if err != nil {
		return nil, err
	}
	var codes []fleetCode
	for n, line := range strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		if line == "" || n == 0 && strings.HasPrefix(line, "code,") {
			continue
		}
		if strings.HasPrefix(line, "{") { // from --json
			var minted struct{ Code, Serial, UDID string }
			if err := json.Unmarshal([]byte(line), &minted); err != nil {
				return nil, fmt.Errorf("%s, line %d: %w", name, n+1, err)
			}
			codes = append(codes, fleetCode{minted.Code, minted.Serial, minted.UDID})
			continue
		}
		cells := append(strings.Split(line, ","), "", "")
		codes = append(codes, fleetCode{cells[0], cells[1], cells[2]})
	}
	return codes, nil
}
