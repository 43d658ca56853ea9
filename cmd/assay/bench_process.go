package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs, read from outside (Linux).
type process struct{ pid int }

// clockTick is the unit of times in /proc, the same on every Linux.
const clockTick = time.Second / 100

// cpu is what the process and all its descendants have used, in user and system mode: those that run, and
// those that ended and were waited for. A server may have a process for each connection.
func (p process) cpu() (time.Duration, error) {
	all, err := readProcesses()
	if err != nil {
		return 0, err
	}
	if _, ok := all[p.pid]; !ok {
		return 0, fmt.Errorf("read CPU time: process %d does not run", p.pid)
	}
	var total time.Duration
	for pid, stat := range all {
		if !all.descends(pid, p.pid) {
			continue
		}
		spent, err := cpuTime(processClock(pid))
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESRCH) { // it just ended
			continue
		} else if err != nil {
			return 0, err
		}
		total += spent + stat.waitedFor
	}
	return total, nil
}

// processStat is what /proc says of a process.
type processStat struct {
	parent    int
	waitedFor time.Duration // CPU time of children that ended
}

type processStats map[int]processStat

func readProcesses() (processStats, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := processStats{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) { // it just ended
			continue
		} else if err != nil {
			return nil, fmt.Errorf("read processes: %w", err)
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		// PID (NAME) STATE PARENT …: the name may hold anything.
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(fields) < 15 {
			return nil, fmt.Errorf("read processes: %s has another form than known", file)
		}
		parent, _ := strconv.Atoi(string(fields[1]))
		user, _ := strconv.Atoi(string(fields[13]))
		system, _ := strconv.Atoi(string(fields[14]))
		all[pid] = processStat{parent, time.Duration(user+system) * clockTick}
	}
	return all, nil
}

// descends reports whether a process is the ancestor or one of its descendants.
func (s processStats) descends(pid, ancestor int) bool {
	for pid != ancestor {
		stat, ok := s[pid]
		if !ok || stat.parent == 0 {
			return false
		}
		pid = stat.parent
	}
	return true
}

// memory is what the process itself holds in memory now, and at most since resetPeak, in bytes.
func (p process) memory() (now, peak int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		kibibytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			now = kibibytes << 10
		case "VmHWM":
			peak = kibibytes << 10
		}
	}
	return now, peak, nil
}

// resetPeak begins the peak of memory anew.
func (p process) resetPeak() error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak of memory: %w", err)
	}
	return nil
}

// files is how many file descriptors the process itself has open.
func (p process) files() (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		return 0, fmt.Errorf("count open files: %w", err)
	}
	return len(entries), nil
}
