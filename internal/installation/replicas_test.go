package installation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"assay/internal/counterpart"
	"assay/internal/issuance"
	"assay/internal/logbook"
	"assay/internal/pgcluster"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// balancer hands each request to the next replica, and to another one where none listens: what a device does
// in nine requests, several servers see in parts.
type balancer struct {
	server   *httptest.Server
	replicas []replica
	next     atomic.Uint64
}

// replica is a server's folder, and where it listens.
type replica struct{ dir, address string }

// RoundTrip tries one replica after the other, until one has taken the request.
func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	var err error
	if r.Body != nil {
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && r.Context().Err() == nil; time.Sleep(time.Millisecond) {
		sent := false
		out := r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{WroteHeaders: func() { sent = true }}))
		out.URL.Scheme, out.URL.Host = "https", b.replicas[int(b.next.Add(1))%len(b.replicas)].address
		out.Body = io.NopCloser(bytes.NewReader(body))
		var response *http.Response
		if response, err = backend.RoundTrip(out); err == nil || sent {
			return response, err
		}
	}
	return nil, fmt.Errorf("no replica takes requests: %w", err)
}

// backend connects anew for each request: one that is sent on a connection that is being closed is lost.
var backend = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}

// fleet is replicas on one PostgreSQL database, behind a balancer.
type fleet struct {
	*balancer
	cluster *pgcluster.Cluster
	inst    *Installation // beside the replicas
	result  *InitResult
	load    *crashLoad
}

// newFleet makes the folders of so many replicas; nothing serves yet.
func newFleet(t *testing.T, replicas int, seed uint64, settings ...string) *fleet {
	t.Helper()
	f := &fleet{cluster: counterpart.Postgres(t, settings...), balancer: &balancer{}}
	proxy := &httputil.ReverseProxy{Transport: f.balancer, Rewrite: func(*httputil.ProxyRequest) {}, ErrorLog: log.New(&logbook.Book{}, "", 0)}
	f.server = httptest.NewTLSServer(proxy)
	t.Cleanup(f.server.Close)
	rootFile := standInRoot(t)
	var dir string
	dir, f.result = initialized(t, func(o *InitOptions) {
		o.AttestationRoots, o.AllowStandIn = map[string][]string{"apple": {rootFile}}, true
		o.Database, o.URL, o.AdminListen = counterpart.Database(t, f.cluster, ""), f.server.URL, NoAdmin
		o.Listen = counterpart.FreeAddress(t)
		f.replicas = []replica{{address: o.Listen}}
	})
	f.replicas[0].dir = dir
	for n := range replicas - 1 {
		other := replica{fmt.Sprintf("%s-%d", dir, n+2), counterpart.FreeAddress(t)}
		if err := CopyFolder(other.dir, dir); err != nil {
			t.Fatal(err)
		}
		edit(t, other.dir, f.replicas[0].address, other.address)
		f.replicas = append(f.replicas, other)
	}
	f.inst = opened(t, dir)
	roots := x509.NewCertPool()
	roots.AddCert(f.server.Certificate())
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	f.load = &crashLoad{
		inst: f.inst, authority: a, roots: roots, random: rand.New(rand.NewPCG(seed, 1)),
		address: func(context.Context) (string, error) { return f.server.URL, nil },
		codes:   map[string]issuance.CodeID{}, cut: map[string]int{},
	}
	return f
}

// start starts a replica in a process of its own and waits until it takes connections.
func (r *replica) start(t *testing.T) *os.Process {
	t.Helper()
	cmd, log := startProcess(t, r.dir)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", r.address)
		if err == nil {
			c.Close()
			return cmd.Process
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v; its log:\n%s", err, log.String())
		}
	}
}

func TestReplicasServeAsOne(t *testing.T) {
	f := newFleet(t, 3, 1)
	for _, r := range f.replicas {
		serve(t, opened(t, r.dir))
	}
	codes, err := f.load.mint(t.Context(), 24)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, code := range codes {
		all.Go(func() {
			if err := f.load.enrol(t.Context(), code); err != nil {
				t.Errorf("enrol: %v", err)
			}
		})
	}
	all.Wait()
	check := &crashCheck{t: t, load: f.load, root: readCertificate(t, f.result.Root)}
	check.rows()
	check.deliveries()

	// One code, and a device at each replica at once: one gets it.
	contested, err := f.load.mint(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range contested {
		var won atomic.Int64
		for range 6 {
			all.Go(func() {
				if err := f.load.enrol(t.Context(), code); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d devices got a certificate for one code", won.Load())
		}
	}
	check.rows()
	await(t, "the audit is sealed by whoever's turn it is", func() bool {
		last, err := f.inst.Store.LastSeal(t.Context())
		return err == nil && last != nil
	})

	// A folder without the key that the others seal with.
	forgetful := f.replicas[0].dir + "-forgetful"
	if err := CopyFolder(forgetful, f.replicas[0].dir); err != nil {
		t.Fatal(err)
	}
	edit(t, forgetful, f.replicas[0].address, counterpart.FreeAddress(t))
	if err := os.Remove(auditKeyPath(forgetful)); err != nil {
		t.Fatal(err)
	}
	err = opened(t, forgetful).Serve(t.Context(), ServeOptions{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "audit.key is missing") {
		t.Errorf("a server without the sealing key: %v", err)
	}
}

// TestRollingRestartFailsNoDevice: every replica is restarted in turn while devices enrol.
func TestRollingRestartFailsNoDevice(t *testing.T) {
	f := newFleet(t, 2, 2)
	processes := make([]*os.Process, len(f.replicas))
	for n := range f.replicas {
		processes[n] = f.replicas[n].start(t)
	}
	codes, err := f.load.mint(t.Context(), 400)
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan minted)
	var devices sync.WaitGroup
	var enrolled atomic.Int64
	for range 4 {
		devices.Go(func() {
			for code := range next {
				if err := f.load.enrol(t.Context(), code); err != nil {
					t.Errorf("a device failed: %v", err)
					continue
				}
				enrolled.Add(1)
			}
		})
	}
	stop := make(chan struct{})
	devices.Go(func() {
		defer close(next)
		for _, code := range codes {
			select {
			case next <- code:
			case <-stop:
				return
			}
		}
	})
	for n := range f.replicas {
		before := enrolled.Load()
		await(t, "devices enrol", func() bool { return enrolled.Load() > before+4 })
		if err := processes[n].Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if state, err := processes[n].Wait(); err != nil || !state.Success() {
			t.Errorf("replica %d ended with %v, %v", n+1, state, err)
		}
		processes[n] = f.replicas[n].start(t)
	}
	before := enrolled.Load()
	await(t, "devices enrol", func() bool { return enrolled.Load() > before+4 })
	close(stop)
	devices.Wait()
	if enrolled.Load() < 12 {
		t.Errorf("only %d devices enrolled", enrolled.Load())
	}
}

// What TestKilledReplicasAndDatabaseLoseNothing kills, of ten times.
const (
	killReplica  = 6
	killDatabase = 3 // else both
)

// TestKilledReplicasAndDatabaseLoseNothing kills replicas and the database at random moments under load, and
// then holds what is left against what devices received.
func TestKilledReplicasAndDatabaseLoseNothing(t *testing.T) {
	seed := number(t, seedVariable, rand.Uint64())
	kills := int(number(t, crashesVariable, 8))
	defer func() {
		if t.Failed() {
			t.Logf("repeat with %s=%d", seedVariable, seed)
		}
	}()
	f := newFleet(t, 2, seed, "fsync=on") // what was committed is to survive
	random := rand.New(rand.NewPCG(seed, 2))
	left, err := f.load.mint(t.Context(), untouched)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	loading.Go(func() { f.load.run(ctx, t) })
	processes := make([]*os.Process, len(f.replicas))
	for n := range f.replicas {
		processes[n] = f.replicas[n].start(t)
	}
	for range kills {
		f.load.await(random.IntN(maxEnrolments))
		time.Sleep(time.Duration(random.Int64N(int64(maxMoment))))
		what := random.IntN(10)
		n := random.IntN(len(processes))
		if what < killReplica || what >= killReplica+killDatabase {
			_ = processes[n].Kill()
			_, _ = processes[n].Wait()
		} else {
			n = -1
		}
		if what >= killReplica {
			if err := f.cluster.Crash(); err != nil {
				t.Fatal(err)
			}
			if err := f.cluster.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n >= 0 {
			processes[n] = f.replicas[n].start(t)
		}
	}
	stop()
	loading.Wait()
	for _, p := range processes {
		_ = p.Kill()
		_, _ = p.Wait()
	}
	undone, err := f.inst.Store.UndoDeadClaims(t.Context(), issuance.Call{Now: time.Now(), From: "test"}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, f.inst)
	check := &crashCheck{t: t, load: f.load, root: readCertificate(t, f.result.Root)}
	check.rows()
	check.deliveries()
	check.codes(left)
	key, err := auditKey(f.inst.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.inst.Store.SealAudit(t.Context(), time.Now(), key); err != nil {
		t.Fatal(err)
	}
	faults, seals, err := f.inst.Store.CheckSeals(t.Context(), key.Public().(ed25519.PublicKey), 0, 1_000_000)
	if err != nil || len(faults) > 0 || len(seals) == 0 {
		t.Errorf("%d seals, faults %v, %v", len(seals), faults, err)
	}
	t.Logf("%d kills: %d certificates delivered, %d codes met a cut, %d claims died, %d serials abandoned, %d issued but not delivered",
		kills, len(f.load.delivered), len(f.load.cut), undone, check.abandoned, check.undelivered)
}
