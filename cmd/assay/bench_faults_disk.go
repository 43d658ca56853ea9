package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"assay/enroll"
	"assay/internal/installation"
	"assay/internal/issuance"
)

const (
	smallDisk   = 96 << 20        // bytes: an empty PostgreSQL takes 40 MB, and logs 32
	recoverTime = time.Minute     // from room on the disk to certificates: a claim that could not be ended is undone before
	recoverTry  = 3 * time.Second // between two tries of a code, which has thirty
	diskCodes   = 2000            // for devices that may find room in files that are there
	diskRefused = 20              // then it is enough
)

// disk is one that can be full.
type disk interface {
	fill() error
	free() error
}

// smallFilesystem is a small file system in memory.
type smallFilesystem struct{ dir string }

func (d smallFilesystem) ballast() string { return filepath.Join(d.dir, "ballast") }

func (d smallFilesystem) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, rand.Reader); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the disk: %w", err)
	}
	return nil
}

func (d smallFilesystem) free() error { return os.Remove(d.ballast()) }

// fileLimit is a limit on the size of the files that the server writes, where no file system may be mounted.
type fileLimit struct{ t *trial }

func (d fileLimit) fill() error {
	var largest int64
	for _, name := range []string{"", "-wal"} {
		info, err := os.Stat(filepath.Join(d.t.serverDir, installation.DatabaseFile+name))
		if err != nil {
			return err
		}
		largest = max(largest, info.Size())
	}
	return d.limit(uint64(largest))
}

func (d fileLimit) free() error { return d.limit(unix.RLIM_INFINITY) }

// limit sets what the server obeys, and leaves what it may be raised to.
func (d fileLimit) limit(size uint64) error {
	var old unix.Rlimit
	if err := unix.Prlimit(d.t.servers[0].pid(), unix.RLIMIT_FSIZE, nil, &old); err != nil {
		return err
	}
	return unix.Prlimit(d.t.servers[0].pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: min(size, old.Max), Max: old.Max}, nil)
}

var fullDiskScenario = scenario{
	name: "full-disk",
	did:  "the disk is filled while the server runs, devices try to enrol, and there is room again",
	expected: "while it is full devices get a problem with a 5xx status and no certificate, /readyz says 503 because of the database, " +
		"/livez 200; with room again the same codes give certificates",
	run: func(ctx context.Context, t *trial) (string, error) {
		d, what, err := t.smallDisk()
		if err != nil {
			return "", err
		}
		t.args = []string{"--upkeep", crashUpkeep.String()}
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		if _, err := t.fleet(ctx, "with room", time.Millisecond); err != nil { // so that it has what it needs for nonces
			return "", err
		}
		before := t.receipts.count()
		codes, err := t.mint(ctx, t.term.Now(), diskCodes)
		if err != nil {
			return "", err
		}
		if err := d.fill(); err != nil {
			return "", err
		}
		refused, undelivered, err := t.refusedForWantOfRoom(ctx, codes)
		if err != nil {
			return "", err
		}
		if status, body := t.ask(ctx, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"check":"database"`) {
			t.fault("/readyz says %d: %s", status, body)
		}
		if status, body := t.ask(ctx, "/livez"); status != http.StatusOK {
			t.fault("/livez says %d: %s", status, body)
		}
		if err := d.free(); err != nil {
			return "", err
		}
		if t.cluster != nil && t.cluster.Ended() { // without room for its log it may
			what += ", without which PostgreSQL ended and was started again"
			if err := t.cluster.Start(ctx); err != nil {
				return "", err
			}
		}
		again := t.recovers(ctx, refused)
		happened := fmt.Sprintf("%s: %d devices were refused, after %d that found room in files that were there; with room again %d of them enrolled by the same codes",
			what, len(refused), t.receipts.count()-again-before, again)
		if undelivered > 0 {
			happened += fmt.Sprintf("; %s issued, but refused to the device", counted(undelivered, "certificate"))
		}
		return happened, nil
	},
}

// refusedForWantOfRoom lets devices enrol until enough of them were refused, whose codes it returns, but for those
// whose certificate was issued already.
func (t *trial) refusedForWantOfRoom(ctx context.Context, codes []benchCode) (refused []benchCode, undelivered int, err error) {
	for _, code := range codes {
		_, err := t.device(ctx, code, nil)
		if err == nil {
			continue
		}
		abort, ok := errors.AsType[*enroll.Abort](err)
		if !ok || abort.Status < 500 || abort.Problem == nil {
			t.fault("a device met something else than a problem with a 5xx status: %v", err)
		}
		if ok && issuedBefore(abort.Step) {
			row, err := t.inst.Store.Code(ctx, code.id)
			if err != nil {
				return nil, 0, err
			}
			if row.Status != issuance.CodeConsumed {
				t.fault("a device was refused at %s, but its code is %s", abort.Step, row.Status)
			}
			undelivered++
			continue
		}
		if refused = append(refused, code); len(refused) == diskRefused {
			return refused, undelivered, nil
		}
	}
	t.fault("%d devices were refused, not %d: was the disk full?", len(refused), diskRefused)
	return refused, undelivered, nil
}

// issuedBefore reports whether the certificate is issued when a device comes to a step.
func issuedBefore(step enroll.Step) bool {
	return step == enroll.StepStatus || step == enroll.StepCertificate
}

// smallDisk mounts a small disk for the database; where that is not allowed it limits files, of SQLite.
func (t *trial) smallDisk() (d disk, what string, err error) {
	dir := filepath.Join(t.dir, "disk")
	if t.command.Postgres {
		// PostgreSQL's user must be able to enter, which he is not to the trial's folder.
		if dir, err = os.MkdirTemp("", "assay-disk-"); err != nil {
			return nil, "", err
		}
		t.undo = append(t.undo, func() error { return os.Remove(dir) })
	} else if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", smallDisk))
	switch {
	case err != nil && t.command.Postgres:
		return nil, "", &skipped{fmt.Sprintf("no tmpfs can be mounted here: %v", err)}
	case err != nil:
		return fileLimit{t}, "files limited", nil
	case t.command.Postgres:
		t.clusterIn = dir
	default:
		t.dir = dir
	}
	t.undo = append(t.undo, func() error { return unix.Unmount(dir, 0) })
	return smallFilesystem{dir}, "a full tmpfs", nil
}

// recovers lets every refused device enrol by the same code, for as long as a server may take.
func (t *trial) recovers(ctx context.Context, refused []benchCode) (again int) {
	began := t.term.Now()
	for _, code := range refused {
		_, err := t.device(ctx, code, nil)
		for err != nil && t.term.Now().Sub(began) < recoverTime && ctx.Err() == nil {
			time.Sleep(recoverTry)
			_, err = t.device(ctx, code, nil)
		}
		if err != nil {
			t.fault("with room again, a device got no certificate by the same code: %v", err)
			continue
		}
		again++
	}
	if status, body := t.ask(ctx, "/readyz"); status != http.StatusOK {
		t.fault("with room again, /readyz says %d: %s", status, body)
	}
	return again
}

// ask asks the metrics listener.
func (t *trial) ask(ctx context.Context, path string) (status int, body string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, t.servers[0].metrics+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxInput))
	if err != nil {
		return 0, err.Error()
	}
	if !json.Valid(content) {
		return response.StatusCode, strings.TrimSpace(string(content))
	}
	return response.StatusCode, string(content)
}

const slowWrites = 40 // a second

var slowDiskScenario = scenario{
	name:     "slow-disk",
	did:      fmt.Sprintf("the database's writes are limited to %d a second by a cgroup, while devices enrol", slowWrites),
	expected: "every device gets its certificate",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		limit, err := t.slowGroup()
		if err != nil {
			return "", &skipped{fmt.Sprintf("no cgroup that limits writes can be made here (version 1, blkio): %v", err)}
		}
		return t.sideBySide(ctx, 0, func(context.Context) func() string {
			if err := limit(); err != nil {
				t.fault("limit writes: %v", err)
			}
			return func() string { return "" }
		})
	},
}

// slowGroup makes a cgroup for whatever writes the database. What it returns limits its writes.
func (t *trial) slowGroup() (limit func() error, err error) {
	var at unix.Stat_t
	if err := unix.Stat(t.dir, &at); err != nil {
		return nil, err
	}
	device := fmt.Sprintf("%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev))
	if _, err := os.Stat("/sys/dev/block/" + device + "/partition"); err == nil { // the limit is the whole disk's
		whole, err := os.ReadFile("/sys/dev/block/" + device + "/../dev")
		if err != nil {
			return nil, err
		}
		device = strings.TrimSpace(string(whole))
	}
	const root = "/sys/fs/cgroup/blkio"
	group := fmt.Sprintf("%s/assay-bench-%d", root, os.Getpid())
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, err
	}
	write := func(file, text string) error { return os.WriteFile(filepath.Join(group, file), []byte(text), 0o600) }
	limited := func(writes int) error {
		return write("blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", device, writes))
	}
	t.undo = append(t.undo, func() error { return os.Remove(group) }) // the server has ended by then
	if err := limited(1_000_000); err != nil {
		return nil, err
	}
	all, err := readProcesses()
	if err != nil {
		return nil, err
	}
	writer := t.servers[0].pid()
	if t.cluster != nil {
		writer = t.cluster.Process()
	}
	for pid := range all { // PostgreSQL has one for each connection
		if !all.descends(pid, writer) {
			continue
		}
		if err := write("cgroup.procs", fmt.Sprint(pid)); err != nil && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
	}
	return func() error { return limited(slowWrites) }, nil
}
