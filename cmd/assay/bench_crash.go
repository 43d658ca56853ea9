package main

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"assay/enroll"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/pgcluster"
)

type benchCrashCommand struct {
	Kills       int    `default:"200" help:"How often to kill."`
	Concurrency int    `short:"c" default:"16" help:"Devices at a time."`
	Postgres    bool   `help:"On a PostgreSQL server of its own, which is killed, too (immediate stop)."`
	Replicas    int    `default:"1" help:"Servers on the one database; more than one needs --postgres."`
	Seed        uint64 `help:"Repeats the moments of a run. Default: at random."`
}

func (benchCrashCommand) Help() string {
	return `Runs a server on a fresh folder, lets devices enrol without a pause, and kills the server (SIGKILL) at random
moments, some of them while it starts. Devices that were cut off try their code again; others race for it. Every
certificate that a device received is written down. Afterwards the server is started once more, and then:

  every code that is not used up still gives a certificate;
  every certificate that a device received verifies and has its row, and no code gave two;
  the whole database is checked, as by assay check; and so it is again and again in between, beside the server.

With --postgres each kill takes one of the servers and PostgreSQL, or several of them at once. PostgreSQL's programs
must be installed.

The seed repeats the moments, not what devices and processors make of them.

Examples:
  assay bench crash
  assay bench crash --kills 5 --seed 7 --json
  assay bench crash --postgres --replicas 2

Exit codes: 0 nothing was lost or doubled; 1 something was; 2 wrong flags; 3 failed.`
}

// What the moments of kills are drawn from.
const (
	startingKills = 8                      // one in so many comes while the server starts
	maxStarting   = 150 * time.Millisecond // after its process began
	maxEnrolments = 48                     // that others wait for first, so that a slow machine is killed at work, too
	maxMoment     = 100 * time.Millisecond // and then
	maxUp         = 20 * time.Second       // whatever became of the enrolments
)

// crashRun is one run.
type crashRun struct {
	*rig
	command *benchCrashCommand
	term    *terminal
	dir     string
	servers []*serverProcess
	opened  []*installation.Installation
	cluster *pgcluster.Cluster // nil without
	mortals []mortal           // what is killed, in the order in which it is started
	random  *rand.Rand
	receipts

	loadMu   sync.Mutex
	pick     *rand.Rand
	again    []benchCode // codes whose device was cut off, or that a device is trying at this moment
	codes    []benchCode // all that were handed out
	cut      int         // devices that heard nothing
	refused  int         // devices that were told no
	failed   int         // devices that were told that the database is gone
	checks   int         // of the whole database, in between
	faults   []string    // what no device should have met
	firstErr error       // of what ended the load
}

// crashed is what a run came to.
type crashed struct {
	Kills       int      `json:"kills"`
	Seed        uint64   `json:"seed"`
	Received    int      `json:"certificatesReceived"`
	Undelivered int      `json:"issuedButNotReceived"` // the server was killed before the device had it
	Cut         int      `json:"devicesCutOff"`
	Refused     int      `json:"devicesRefused"` // they raced for a code
	Failed      int      `json:"devicesFailed"`  // the database was gone, and they were told so
	Abandoned   int      `json:"serialsAbandoned"`
	GoodCodes   int      `json:"codesStillGood"` // each of them gave a certificate in the end
	Checks      int      `json:"checksBeside"`   // of the whole database while devices enrolled
	Seconds     float64  `json:"seconds"`
	Faults      []string `json:"faults"`

	Database *checkedDatabase `json:"database"`
}

func (c *benchCrashCommand) Run(ctx context.Context, term *terminal, g *globals) error {
	if c.Kills < 1 || c.Concurrency < 1 || c.Replicas < 1 {
		return usage(errors.New("--kills, -c and --replicas are at least 1"))
	}
	if c.Replicas > 1 && !c.Postgres {
		return usage(errors.New("one server runs on a folder with SQLite: --replicas needs --postgres"))
	}
	if c.Seed == 0 {
		var seed [4]byte
		_, _ = cryptorand.Read(seed[:])
		c.Seed = uint64(binary.BigEndian.Uint32(seed[:])) + 1
	}
	dir, err := os.MkdirTemp("", "assay-crash-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	run := &crashRun{
		command: c, term: term, dir: dir,
		random: rand.New(rand.NewPCG(c.Seed, 1)), pick: rand.New(rand.NewPCG(c.Seed, 2)),
	}
	defer run.close()
	if err := run.prepare(ctx); err != nil {
		return err
	}
	fmt.Fprintf(term.Err, "%s, repeated by --seed %d\n", counted(c.Kills, "kill"), c.Seed)
	out, err := run.all(ctx)
	if err != nil {
		return fmt.Errorf("%w (--seed %d)", err, c.Seed)
	}
	if g.JSON {
		if err := writeJSON(term.Out, out); err != nil {
			return err
		}
	} else {
		out.print(term)
	}
	if len(out.Faults) > 0 || out.Database.FaultCount > 0 {
		return no()
	}
	return nil
}

// all kills, and then holds what is left against what devices received.
func (r *crashRun) all(ctx context.Context) (*crashed, error) {
	began := r.term.Now()
	if err := r.underLoad(ctx, r.crash); err != nil {
		return nil, err
	}
	if err := r.startAll(ctx); err != nil {
		return nil, err
	}
	out := &crashed{Kills: r.command.Kills, Seed: r.command.Seed, Cut: r.cut, Refused: r.refused, Checks: r.checks, Failed: r.failed}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	good, faults, err := r.useUp(ctx)
	if err != nil {
		return nil, err
	}
	out.GoodCodes, out.Faults = good, append(append([]string{}, r.faults...), faults...)
	for _, s := range r.servers {
		if err := s.stop(); err != nil {
			return nil, err
		}
	}
	out.Undelivered, faults, err = r.compare(ctx, &r.receipts)
	if err != nil {
		return nil, err
	}
	out.Received, out.Faults = r.count(), append(out.Faults, faults...)
	for _, err := range r.inst.Store.Certificates(ctx, issuance.CertificateFilter{Status: issuance.CertificateAbandoned}) {
		if err != nil {
			return nil, err
		}
		out.Abandoned++
	}
	if out.Received == 0 {
		out.Faults = append(out.Faults, "no device received a certificate: the run shows nothing")
	}
	if err := checkable(ctx, r.serverDir); err != nil {
		return nil, err
	}
	out.Database, err = checkDatabase(ctx, r.inst, r.term, nil)
	out.Seconds = r.term.Now().Sub(began).Seconds()
	return out, err
}

// settleTime is how long servers that run may take until they gave up what the killed ones were issuing.
const settleTime = time.Minute

// settle waits until every reserved serial is accounted for.
func (r *crashRun) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		open := 0
		for _, err := range r.inst.Store.Certificates(ctx, issuance.CertificateFilter{Status: issuance.CertificateReserved}) {
			if err != nil {
				return err
			}
			open++
		}
		if open == 0 {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%s not accounted for %s after the last kill", counted(open, "reserved serial"), settleTime)
		}
	}
}

func (r *crashRun) startAll(ctx context.Context) error {
	for _, m := range r.mortals {
		if err := m.start(ctx); err != nil {
			return err
		}
		if err := m.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// crash kills so many times, each time one or several of what can be killed.
func (r *crashRun) crash(ctx context.Context) error {
	last := r.term.Now()
	for n := range r.command.Kills {
		if r.random.IntN(startingKills) == 0 { // in the middle of a start
			for _, m := range r.mortals {
				if err := m.start(ctx); err != nil {
					return err
				}
			}
			r.sleep(ctx, maxStarting)
		} else {
			if err := r.startAll(ctx); err != nil {
				return err
			}
			r.awaitReceipts(ctx, r.random.IntN(maxEnrolments))
			r.sleep(ctx, maxMoment)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		first := r.random.IntN(len(r.mortals))
		for i, m := range r.mortals {
			if i == first || r.random.IntN(2) == 0 {
				if err := m.kill(); err != nil {
					return err
				}
			}
		}
		if now := r.term.Now(); now.Sub(last) >= progressInterval {
			last = now
			fmt.Fprintf(r.term.Err, "kill %d of %d: %s received\n", n+1, r.command.Kills, counted(r.count(), "certificate"))
		}
	}
	return nil
}

// sleep waits for a random time up to the most.
func (r *crashRun) sleep(ctx context.Context, most time.Duration) {
	select {
	case <-time.After(time.Duration(r.random.Int64N(int64(most)))):
	case <-ctx.Done():
	}
}

// awaitReceipts waits for so many more certificates, for a bounded time.
func (r *crashRun) awaitReceipts(ctx context.Context, more int) {
	ctx, cancel := context.WithTimeout(ctx, maxUp)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for until := r.count() + more; r.count() < until; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// underLoad does something while devices enrol.
func (r *crashRun) underLoad(ctx context.Context, do func(context.Context) error) error {
	loading, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range r.command.Concurrency {
		workers.Go(func() {
			for loading.Err() == nil {
				if err := r.oneDevice(loading); err != nil && loading.Err() == nil {
					r.loadMu.Lock()
					r.firstErr = errors.Join(r.firstErr, err)
					r.loadMu.Unlock()
					return
				}
			}
		})
	}
	var checkErr error
	workers.Go(func() { checkErr = r.checkBeside(loading) })
	err := do(ctx)
	stop()
	workers.Wait()
	return errors.Join(err, r.firstErr, checkErr)
}

// checkPause is between two checks of the database.
const checkPause = 3 * time.Second

// checkBeside checks the whole database again and again until the context ends.
func (r *crashRun) checkBeside(ctx context.Context) error {
	for ctx.Err() == nil {
		checked, err := checkDatabase(ctx, r.inst, r.term, nil)
		if ctx.Err() != nil {
			return nil
		}
		if err := r.without(ctx, err); err != nil {
			return err
		}
		if err != nil {
			continue
		}
		r.loadMu.Lock()
		r.checks++
		for _, f := range checked.Faults {
			r.faults = append(r.faults, fmt.Sprintf("beside the server: %s: %s %s", f.Rule, f.Of, f.What))
		}
		r.loadMu.Unlock()
		select {
		case <-time.After(checkPause):
		case <-ctx.Done():
		}
	}
	return nil
}

// oneDevice lets a device enrol. The error is that the load cannot go on.
func (r *crashRun) oneDevice(ctx context.Context) error {
	r.loadMu.Lock()
	server := r.servers[r.pick.IntN(len(r.servers))]
	r.loadMu.Unlock()
	base, err := server.inst.AwaitServer(ctx)
	if err != nil {
		return err
	}
	code, err := r.nextCode(ctx)
	if err != nil {
		return r.without(ctx, err)
	}
	result, err := r.try(ctx, base, code, nil)
	if err == nil {
		r.receipts.add(code, result.Certificate)
		return nil
	}
	abort, ok := errors.AsType[*enroll.Abort](err)
	if !ok {
		return err
	}
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	switch {
	case abort.Status == 0:
		r.cut++
		r.again = append(r.again, code)
	case abort.Status >= http.StatusInternalServerError && r.command.Postgres:
		r.failed++
		r.again = append(r.again, code)
	case abort.Status >= http.StatusInternalServerError:
		r.faults = append(r.faults, fmt.Sprintf("a device with code %s: %v", code.id, abort))
	default:
		r.refused++
	}
	return nil
}

// without is an error of the database, unless it is one that is killed now and then: then it waits a moment.
func (r *crashRun) without(ctx context.Context, err error) error {
	if err == nil || !r.command.Postgres {
		return err
	}
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
	return nil
}

// nextCode is the code for the next device: now and then one that another device was cut off with, or is trying at
// this moment.
func (r *crashRun) nextCode(ctx context.Context) (benchCode, error) {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	if n := len(r.again); n > 0 && r.pick.IntN(3) > 0 {
		code := r.again[n-1]
		r.again = r.again[:n-1]
		return code, nil
	}
	made, err := r.mint(ctx, r.term.Now(), 1)
	if err != nil {
		return benchCode{}, err
	}
	r.codes = append(r.codes, made[0])
	if r.pick.IntN(4) == 0 {
		r.again = append(r.again, made[0]) // a race for it
	}
	return made[0], nil
}

// useUp lets a device enrol with every code that is still good.
func (r *crashRun) useUp(ctx context.Context) (good int, faults []string, err error) {
	base, err := r.inst.AwaitServer(ctx)
	if err != nil {
		return 0, nil, err
	}
	for _, code := range r.codes {
		row, err := r.inst.Store.Code(ctx, code.id)
		if err != nil {
			return good, faults, err
		}
		if row.StatusAt(r.term.Now()) != issuance.CodeUnused {
			if row.Status != issuance.CodeConsumed {
				faults = append(faults, fmt.Sprintf("code %s is %s", code.id, row.StatusAt(r.term.Now())))
			}
			continue
		}
		good++
		result, err := r.try(ctx, base, code, nil)
		if err != nil {
			faults = append(faults, fmt.Sprintf("code %s is unused, but no device can enrol with it: %v", code.id, err))
			continue
		}
		r.receipts.add(code, result.Certificate)
	}
	return good, faults, nil
}

func (c *crashed) print(term *terminal) {
	list := newFields(term.Out)
	list.add("kills", fmt.Sprint(c.Kills), fmt.Sprintf("--seed %d", c.Seed))
	list.add("certificates received", fmt.Sprint(c.Received), "each verified, and compared with its row")
	list.add("issued, not received", fmt.Sprint(c.Undelivered), "the server was killed before the device had it")
	list.add("devices cut off", fmt.Sprint(c.Cut))
	list.add("devices refused", fmt.Sprint(c.Refused), "they raced for a code")
	if c.Failed > 0 {
		list.add("devices failed", fmt.Sprint(c.Failed), "the database was gone, and they were told so")
	}
	list.add("serials abandoned", fmt.Sprint(c.Abandoned))
	list.add("codes still good", fmt.Sprint(c.GoodCodes), "each gave a certificate in the end")
	list.add("checks in between", fmt.Sprint(c.Checks), "of the whole database, beside the server")
	list.add("took", (time.Duration(c.Seconds * float64(time.Second))).Round(time.Second).String())
	list.flush()
	for _, f := range c.Faults {
		sayf(term.Out, "  FAULT  %s\n", f)
	}
	c.Database.print(term)
}
