package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"assay/internal/issuance"
	"assay/internal/store"
)

type benchGrowthCommand struct {
	benchRounds
	Certificates []int  `default:"0,1000000" placeholder:"N,…" help:"Certificates stored before the load (${default})."`
	Concurrency  int    `short:"c" default:"16" help:"Devices at a time."`
	Postgres     bool   `help:"With each database in a PostgreSQL server of its own, whose CPU time is shown apart."`
	Dir          string `placeholder:"DIR" help:"Where the databases lie until the bench ends. Default: the system's folder for temporary files."`
	CPUProfile   string `name:"cpu-profile" placeholder:"FILE" help:"Write a CPU profile of the server with the last of the databases."`
}

func (benchGrowthCommand) Help() string {
	return `Puts the same load on one server for each number of stored certificates, in turns, and compares each with the
first: throughput, CPU time per certificate, 99th percentile of latency.

A database is filled with copies of a real enrolment: certificate, order, account, code, device, decision,
the facts of its evidence, and its audit rows, which the server then seals. Objects of evidence are removed
first, as retention would: facts are what is kept. The copies are spread over half a year. One takes some
12 KB, so a million take 12 GB for the time of the bench; where the room does not suffice, it says so early.

Example:
  assay bench growth
  assay bench growth --certificates 0,1000000,10000000 --dir /var/tmp
  assay bench growth --certificates 0,10000 --rounds 1 --json

Exit codes: 0 measured; 2 wrong flags; 3 failed, or no room.`
}

// grown is a server with so many certificates stored.
type grown struct {
	certificates int
	server       *contender
	bytes        int64 // of the database and its log
	rounds       []round
}

func (c *benchGrowthCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Concurrency < 1 || len(c.Certificates) == 0 || slices.Min(c.Certificates) < 0 {
		return usage(errors.New("-c is at least 1, --certificates at least 0"))
	}
	return benched(ctx, term, c.Dir, func(s *stage) error {
		sizes := make([]*grown, len(c.Certificates))
		for i, n := range c.Certificates {
			var o serveOptions
			if i == len(c.Certificates)-1 {
				o.cpuProfile = c.CPUProfile
			}
			var err error
			if sizes[i], err = s.grow(fmt.Sprintf("server-%d", i), c.Postgres, n, o); err != nil {
				return err
			}
			if err := sizes[i].server.warmUp(ctx, c.Devices, c.Concurrency); err != nil {
				return err
			}
		}
		for n := range c.Rounds {
			contenders := make([]*contender, len(sizes))
			for i, one := range sizes {
				contenders[i] = one.server
			}
			rounds, err := c.measure(ctx, s.meter, contenders, pressure{devices: c.Devices, concurrency: c.Concurrency})
			if err != nil {
				return err
			}
			for i, one := range sizes {
				one.rounds = append(one.rounds, rounds[i])
			}
			fmt.Fprintf(term.Err, "round %d of %d\n", n+1, c.Rounds)
		}
		if g.JSON {
			return writeJSON(term.Out, growthJSON(sizes))
		}
		return c.print(term.Out, sizes)
	})
}

// growthPeriod is how far back the stored certificates go.
const growthPeriod = 182 * 24 * time.Hour

// grow runs a server with so many certificates stored and their audit sealed.
func (s *stage) grow(name string, onPostgres bool, certificates int, o serveOptions) (*grown, error) {
	r, err := s.newRig(name, onPostgres)
	if err != nil {
		return nil, err
	}
	if certificates > 0 {
		if err := s.fill(r, certificates); err != nil {
			return nil, err
		}
	}
	server, err := s.serve(r, o)
	if err != nil {
		return nil, err
	}
	figures, err := s.awaitSealed(r.inst.Store)
	return &grown{certificates: certificates, server: server, bytes: figures.Database + figures.WAL}, err
}

// fewUnsealed is how many audit rows a server without load may have left to seal.
const fewUnsealed = 100

// awaitSealed waits until the server has sealed the audit rows of what was stored.
func (s *stage) awaitSealed(db *store.Store) (store.Figures, error) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for n := 0; ; n++ {
		figures, err := db.Figures(s.ctx)
		if err != nil || figures.Unsealed < fewUnsealed {
			return figures, err
		}
		if n%20 == 0 {
			fmt.Fprintf(s.term.Err, "%d audit rows to seal\n", figures.Unsealed)
		}
		select {
		case <-s.ctx.Done():
			return store.Figures{}, s.ctx.Err()
		case <-ticker.C:
		}
	}
}

// fill stores one enrolment's certificate many times.
func (s *stage) fill(r *rig, certificates int) error {
	server, err := r.serve(s.ctx, s.term, serveOptions{})
	if err != nil {
		return err
	}
	_, err = server.load(s.ctx, pressure{devices: 1, concurrency: 1})
	if err = errors.Join(err, server.stop()); err != nil {
		return err
	}
	db := r.inst.Store
	factsOnly := issuance.Keep{Object: 0, Facts: issuance.Forever}
	if _, err := db.ApplyRetention(s.ctx, s.term.Now(), issuance.Retention{Issued: factsOnly, Held: factsOnly, Refused: factsOnly}); err != nil {
		return err
	}
	for original, err := range db.Certificates(s.ctx, issuance.CertificateFilter{}) {
		if err != nil {
			return err
		}
		next := roomCheck
		return db.Multiply(s.ctx, original.ID, certificates-1, growthPeriod, func(stored int) error {
			if stored < next {
				return nil
			}
			next += max(roomCheck, certificates/20)
			fmt.Fprintf(s.term.Err, "%d of %d certificates stored\n", stored, certificates)
			figures, err := db.Figures(s.ctx)
			if err != nil {
				return err
			}
			free, err := freeRoom(s.dir)
			if err != nil {
				return err
			}
			return room(figures.Database+figures.WAL, free, stored, certificates)
		})
	}
	return errors.New("the device's certificate is not in the database")
}

// roomCheck is after how many certificates it can be told how much room all of them take.
const roomCheck = 10_000

// spareRoom is what the bench leaves free of a file system, in bytes.
const spareRoom = 2 << 30

// freeRoom is how much room the file system of a folder has, in bytes.
func freeRoom(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("see how much room %s has: %w", dir, err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}

// room says whether all certificates will fit, by what those that are stored take.
func room(used, free int64, stored, certificates int) error {
	each := float64(used) / float64(stored)
	if left := int64(each * float64(certificates-stored)); left > free-spareRoom {
		fit := stored + max(0, int(float64(free-spareRoom)/each))
		return fmt.Errorf("no room for %d certificates of %.1f KB each: about %d would fit; --dir puts them elsewhere", certificates, each/1000, fit)
	}
	return nil
}

// against compares a figure with another size's in the same rounds: the median of the quotients.
func (g *grown) against(first *grown, figure func(round) float64) float64 {
	quotients := make([]float64, len(g.rounds))
	for i := range g.rounds {
		quotients[i] = figure(g.rounds[i]) / figure(first.rounds[i])
	}
	return median(quotients)
}

func throughputOf(r round) float64 { return r.Throughput }
func cpuOf(r round) float64        { return microseconds(r.CPU) }
func databaseOf(r round) float64   { return microseconds(r.Database) }
func p99Of(r round) float64        { return microseconds(r.Latency.P99) }

type growthLineJSON struct {
	Certificates int             `json:"certificates"`
	Bytes        int64           `json:"databaseBytes"`
	Throughput   spread[float64] `json:"certificatesPerSecond"`
	CPU          spread[float64] `json:"serverCPUMicroseconds"`
	DatabaseCPU  spread[float64] `json:"databaseCPUMicroseconds,omitzero"`
	P99          spread[float64] `json:"latencyP99Microseconds"`
	Peak         spread[int64]   `json:"memoryPeakBytes"`
	Against      againstJSON     `json:"againstFirst"`
}

type againstJSON struct {
	Throughput float64 `json:"throughput"`
	CPU        float64 `json:"cpu"`
	Database   float64 `json:"databaseCPU,omitzero"`
	P99        float64 `json:"latencyP99"`
}

func growthJSON(sizes []*grown) any {
	out := make([]growthLineJSON, len(sizes))
	for i, one := range sizes {
		out[i] = growthLineJSON{
			one.certificates, one.bytes,
			spreadOf(one.rounds, throughputOf), spreadOf(one.rounds, cpuOf), spreadOf(one.rounds, databaseOf), spreadOf(one.rounds, p99Of),
			spreadOf(one.rounds, func(r round) int64 { return r.Peak }),
			againstJSON{Throughput: one.against(sizes[0], throughputOf), CPU: one.against(sizes[0], cpuOf), P99: one.against(sizes[0], p99Of)},
		}
		if one.server.database != nil {
			out[i].Against.Database = one.against(sizes[0], databaseOf)
		}
	}
	return struct {
		Sizes []growthLineJSON `json:"sizes"`
	}{out}
}

func (c *benchGrowthCommand) print(w io.Writer, sizes []*grown) error {
	fmt.Fprintf(w, "Medians of %d rounds of %d devices, %d at a time; in brackets against the first\n\n", c.Rounds, c.Devices, c.Concurrency)
	columns := []string{"STORED", "DATABASE", "CERTS/S", "CPU", "P99", "MEMORY"}
	if c.Postgres {
		columns = append(columns, "POSTGRESQL'S CPU")
	}
	t := newTable(w, "sizes", columns...)
	for _, one := range sizes {
		figure := func(text string, of func(round) float64) string {
			return fmt.Sprintf("%s (%.2f)", text, one.against(sizes[0], of))
		}
		row := []string{fmt.Sprint(one.certificates), mebibytes(one.bytes), figure(fmt.Sprintf("%.0f", spreadOf(one.rounds, throughputOf).Median), throughputOf),
			figure(milliseconds(medianTime(one.rounds, func(r round) time.Duration { return r.CPU })), cpuOf),
			figure(milliseconds(medianTime(one.rounds, func(r round) time.Duration { return r.Latency.P99 })), p99Of),
			mebibytes(spreadOf(one.rounds, func(r round) int64 { return r.Peak }).Median)}
		if c.Postgres {
			row = append(row, figure(milliseconds(medianTime(one.rounds, func(r round) time.Duration { return r.Database })), databaseOf))
		}
		t.row(row...)
	}
	return t.flush()
}
