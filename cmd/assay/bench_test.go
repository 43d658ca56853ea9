package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"assay/enroll"
)

// spend uses at least so much processor time.
func spend(t *testing.T, d time.Duration) {
	t.Helper()
	begin, err := cpuTime(processClock(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	for sum := [32]byte{}; ; sum = sha256.Sum256(sum[:]) {
		now, err := cpuTime(processClock(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		if now-begin >= d {
			return
		}
	}
}

func TestProcessCPUCountsChildren(t *testing.T) {
	self := process{os.Getpid()}
	cpu := func() time.Duration {
		t.Helper()
		d, err := self.cpu()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := cpu()
	spend(t, 50*time.Millisecond)
	after := cpu()
	if spent := after - before; spent < 50*time.Millisecond {
		t.Errorf("%s of our own were counted, at least 50 ms were spent", spent)
	}
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	// A child that spends time and says so, runs on, and then ends.
	child := exec.Command(shell, "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read end")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	running, err := cpuTime(processClock(child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	own, err := cpuTime(processClock(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if with := cpu(); with < own+running {
		t.Errorf("%s were counted, %s and %s of a child that runs were spent", with, own, running)
	}
	if err := errors.Join(in.Close(), child.Wait()); err != nil && child.ProcessState.ExitCode() != 1 {
		t.Fatal(err)
	}
	all, err := readProcesses()
	if err != nil {
		t.Fatal(err)
	}
	if ended := all[os.Getpid()].waitedFor; ended < (running-clockTick).Truncate(clockTick) || running < clockTick {
		t.Errorf("%s of children that ended were counted, the child spent at least %s", ended, running)
	}
	if _, err := (process{child.Process.Pid}).cpu(); err == nil {
		t.Error("a process that ended has a CPU time")
	}
}

func TestProcessesDescend(t *testing.T) {
	all := processStats{1: {parent: 0}, 10: {parent: 1}, 11: {parent: 10}, 12: {parent: 11}, 20: {parent: 1}, 30: {parent: 99}}
	for pid, want := range map[int]bool{10: true, 11: true, 12: true, 20: false, 1: false, 30: false} {
		if all.descends(pid, 10) != want {
			t.Errorf("%d descends from 10: %t, want %t", pid, !want, want)
		}
	}
}

func TestProcessMemoryAndFiles(t *testing.T) {
	self := process{os.Getpid()}
	if err := self.resetPeak(); err != nil {
		t.Fatal(err)
	}
	now, peak, err := self.memory()
	if err != nil || now < 1<<20 || peak < now {
		t.Errorf("memory %d, peak %d, %v", now, peak, err)
	}
	hold := slices.Repeat([]byte{1}, 64<<20)
	now, peak, err = self.memory()
	if err != nil || now < int64(len(hold)) || peak < now {
		t.Errorf("memory %d, peak %d with %d held, %v", now, peak, len(hold), err)
	}
	before, err := self.files()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	if after, err := self.files(); err != nil || after < before+20 {
		t.Errorf("%d files open, then %d with 20 more, %v", before, after, err)
	}
}

func TestArrivalsComeAtTheRate(t *testing.T) {
	times := arrivals(10_000, 50)
	if !slices.IsSorted(times) || times[0] <= 0 {
		t.Error("arrivals do not come one after the other")
	}
	if took := times[len(times)-1].Seconds(); took < 190 || took > 210 {
		t.Errorf("10,000 devices at 50 a second come within %.0f s, want about 200", took)
	}
	together := 0 // within a tenth of the mean: random arrivals are, a tenth of them
	for i := range times[1:] {
		if times[i+1]-times[i] < 2*time.Millisecond {
			together++
		}
	}
	if together < 800 || together > 1100 {
		t.Errorf("%d of 10,000 come close behind another, want about 950: they are to come at random", together)
	}
	if !slices.Equal(times, arrivals(10_000, 50)) {
		t.Error("two runs have different arrivals")
	}
}

func TestDeviceThatWaitedForItsTurnHasThatInItsLatency(t *testing.T) {
	enrol := func(context.Context, int) (*enroll.Result, error) { return &enroll.Result{Took: time.Millisecond}, nil }
	result, err := inTurn(enrol, []time.Duration{-time.Minute})(t.Context(), 0)
	if err != nil || result.Took < time.Minute+time.Millisecond {
		t.Errorf("a device that came a minute ago took %s, %v", result.Took, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := inTurn(enrol, []time.Duration{time.Hour})(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a device that comes in an hour waits although the bench ended: %v", err)
	}
}

func TestRoomIsToldBeforeTheDiskIsFull(t *testing.T) {
	const each = 12_000
	used := int64(10_000 * each)
	if err := room(used, spareRoom+991_000*each, 10_000, 1_000_000); err != nil {
		t.Errorf("a million fit: %v", err)
	}
	err := room(used, spareRoom+490_000*each, 10_000, 1_000_000)
	if err == nil || !strings.Contains(err.Error(), "about 500000 would fit") {
		t.Errorf("half a million fit: %v", err)
	}
}

func TestSoakTellsGrowth(t *testing.T) {
	soak := func(memory func(i int) int64, change func(*soaked)) *soaked {
		s := &soaked{took: time.Hour, rate: 100, window: window{Throughput: 99}, filesBefore: 30, filesAfter: 31}
		for i := range 100 {
			s.samples = append(s.samples, soakSample{float64(i), memory(i), 30})
		}
		if change != nil {
			change(s)
		}
		return s
	}
	flat := func(int) int64 { return 80 << 20 }
	grows := func(i int) int64 { return int64(80+i) << 20 }
	for name, c := range map[string]struct {
		s    *soaked
		want string
	}{
		"flat":                    {soak(flat, nil), soakFlat},
		"found its size at first": {soak(func(i int) int64 { return int64(min(i, 20)) << 22 }, nil), soakFlat},
		"one peak":                {soak(func(i int) int64 { return int64(80+i/99*80) << 20 }, nil), soakFlat},
		"memory grows":            {soak(grows, nil), soakGrew},
		"files grow":              {soak(flat, func(s *soaked) { s.filesAfter = 33 }), soakGrew},
		"devices pile up":         {soak(grows, func(s *soaked) { s.window.Throughput = 90 }), soakOverload},
		"short":                   {soak(grows, func(s *soaked) { s.took = time.Minute }), soakShort},
		"one sample":              {soak(flat, func(s *soaked) { s.samples = s.samples[:1] }), soakFlat},
	} {
		if got := c.s.verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestMissingStepCAIsAHint(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"bench", "load", "--compare", "step-ca"}, &terminal{In: strings.NewReader(""), Out: &out, Err: &errs, Now: time.Now})
	if code != exitUsage || !strings.Contains(errs.String(), "hint: `.ci/install DIR` installs step-ca") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

func TestComparisonsAreMediansOfRounds(t *testing.T) {
	line := func(cpu ...time.Duration) *loadLine {
		l := &loadLine{}
		for _, c := range cpu {
			l.rounds = append(l.rounds, round{window: window{CPU: c}})
		}
		return l
	}
	// In each round against the other's of that round: a slow moment of the machine slows both.
	if got := line(1, 10, 1).cheaper(line(2, 20, 30)); got != 2 {
		t.Errorf("cheaper by %g, want 2", got)
	}
	first := &grown{rounds: []round{{window: window{Throughput: 100}}, {window: window{Throughput: 10}}, {window: window{Throughput: 100}}}}
	large := &grown{rounds: []round{{window: window{Throughput: 90}}, {window: window{Throughput: 9}}, {window: window{Throughput: 50}}}}
	if got := large.against(first, throughputOf); got != 0.9 {
		t.Errorf("throughput is %g of the first's, want 0.9", got)
	}
}
