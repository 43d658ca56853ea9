package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
	"assay/internal/store/storetest"
	"assay/policy"
)

// cutter stands between a store and its database, and cuts a connection at its commit.
type cutter struct {
	listener net.Listener
	database string
	when     atomic.Int32                         // cutNever, or one of the others for the next commit
	heard    atomic.Pointer[func(message []byte)] // told of all that the store says, before the database
	cuts     atomic.Int32
}

const (
	cutNever  = iota
	cutBefore // the database never hears of the commit
	cutAfter  // the store never hears of it
	cutThen   // the store hears of it, and then of nothing more
)

func newCutter(t *testing.T, database string) *cutter {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: listener, database: database}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go c.carry(client)
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return c
}

// url is the database's through the cutter, without prepared statements, so that each message holds its text.
func (c *cutter) url(direct url.URL) string {
	direct.Host = c.listener.Addr().String()
	direct.RawQuery += "&default_query_exec_mode=exec"
	return direct.String()
}

func (c *cutter) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", c.database)
	if err != nil {
		return
	}
	defer server.Close()
	var ending atomic.Int32
	answered := make(chan struct{})
	go func() {
		defer client.Close()
		defer close(answered)
		answers := make([]byte, 64<<10)
		for {
			n, err := server.Read(answers)
			if err != nil || ending.Load() == cutAfter {
				return
			}
			said := answers[:n]
			if ending.Load() == cutThen { // the end of the connection in place of ReadyForQuery
				said = append(said[:n-len("Z....I")], "E\x00\x00\x00\x25SFATAL\x00VFATAL\x00C57P01\x00Mshut down\x00\x00"...)
			}
			if _, err := client.Write(said); err != nil || ending.Load() == cutThen {
				return
			}
		}
	}()
	asked := make([]byte, 64<<10)
	for {
		n, err := client.Read(asked)
		if err != nil {
			return
		}
		if heard := c.heard.Load(); heard != nil {
			(*heard)(asked[:n])
		}
		when := c.when.Load()
		if when != cutNever && isCommit(asked[:n]) && c.when.CompareAndSwap(when, cutNever) {
			c.cuts.Add(1)
			if when == cutBefore {
				return
			}
			ending.Store(when)
			_, _ = server.Write(asked[:n])
			<-answered
			return
		}
		if _, err := server.Write(asked[:n]); err != nil {
			return
		}
	}
}

// isCommit reports whether a message executes COMMIT: by its text, because these stores keep no statements
// prepared.
func isCommit(message []byte) bool { return bytes.Contains(message, []byte("COMMIT\x00")) }

// TestConnectionLostAtCommit: the change is made once, whether or not the commit reached the database.
func TestConnectionLostAtCommit(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, direct.Host)
	s := openAt(t, cut.url(*direct)+"&pool_max_conns=1") // the outcome is asked for on a new connection
	for name, when := range map[string]int32{"before": cutBefore, "after": cutAfter, "then": cutThen} {
		minted := func() (n int) {
			for _, err := range s.Codes(t.Context(), issuance.CodeFilter{}) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n
		}
		before, cuts := minted(), cut.cuts.Load()
		cut.when.Store(when)
		codes, err := s.MintCodes(t.Context(), issuance.Call{Now: time.Now()}, []issuance.Mint{{Directory: "default", Value: "a code of a connection cut " + name, Lifetime: time.Hour}})
		if err != nil || len(codes) != 1 {
			t.Errorf("%s: %v, %v", name, codes, err)
		}
		if cut.cuts.Load() != cuts+1 {
			t.Errorf("%s: nothing was cut", name)
		}
		if n := minted() - before; n != 1 {
			t.Errorf("%s: %d codes were minted", name, n)
		}
	}
	if retries := s.Retries(); retries != 1 {
		t.Errorf("%v retries, want one: for the commit that never arrived", retries)
	}
}

// relay passes connections on to a database until it is deaf: then nothing that the store sends is acknowledged any
// more, as if a firewall had forgotten the connections.
type relay struct {
	net.Listener
	mu    sync.Mutex
	conns []*net.TCPConn
}

func newRelay(t *testing.T, database string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", database)
			if err != nil {
				client.Close()
				return
			}
			r.mu.Lock()
			r.conns = append(r.conns, client.(*net.TCPConn), server.(*net.TCPConn))
			r.mu.Unlock()
			go func() { _, _ = io.Copy(server, client); server.Close() }()
			go func() { _, _ = io.Copy(client, server); client.Close() }()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		for _, c := range r.conns {
			c.Close()
		}
	})
	return r
}

// forget lets every connection that there is drop what arrives, before TCP sees it.
func (r *relay) forget(t *testing.T) {
	t.Helper()
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		err = raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
		})
		if err := errors.Join(err, failed); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDeadConnectionsAreLeftSoon: connections die without a word. A change soon leaves the one that it met, and
// nobody uses the others again.
func TestDeadConnectionsAreLeftSoon(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, direct.Host)
	direct.Host = r.Addr().String()
	s := openAt(t, direct.String())
	release, err := s.HoldConnection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mint := func(value string) {
		t.Helper()
		codes, err := s.MintCodes(t.Context(), issuance.Call{Now: time.Now()}, []issuance.Mint{{Directory: "default", Value: value, Lifetime: time.Hour}})
		if err != nil || len(codes) != 1 {
			t.Fatalf("%v, %v", codes, err)
		}
	}
	mint("a code of a connection that lives")
	r.forget(t)
	mint("a code of a connection that is dead")
	if s.Retries() != 1 {
		t.Errorf("%v retries, want one", s.Retries())
	}
	release()
	for deadline := time.Now().Add(20 * time.Second); s.Connections() != 1; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are kept, want the one that is new", s.Connections())
		}
	}
}

// TestDatabaseIsReachedOverASocket of its machine, which knows none of what is asked of TCP.
func TestDatabaseIsReachedOverASocket(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), direct.String())
	if err != nil {
		t.Fatal(err)
	}
	var folder string
	if err := errors.Join(conn.QueryRow(t.Context(), `SHOW unix_socket_directories`).Scan(&folder), conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	direct.RawQuery = url.Values{"host": {folder}, "port": {direct.Port()}}.Encode()
	direct.Host = ""
	storetest.NewBench(t, openAt(t, direct.String())).Mint()
}

// TestOutcomeRestsOnWhatIsThere: a crash gives a transaction's number to another one, so that it was committed
// says nothing.
func TestOutcomeRestsOnWhatIsThere(t *testing.T) {
	p := newPostgres(t)
	s := openAt(t, p.database(t))
	b := storetest.NewBench(t, s)
	b.Mint()
	transaction, err := s.CommittedTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var row audit.Row
	for r, err := range s.Audit(t.Context(), audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		row = r
	}
	const future = "1000000000"
	for _, test := range []struct {
		name, transaction, audit string
		committed                bool
	}{
		{"its row is there", transaction, row.ID, true},
		{"its row is not there", transaction, "audit_none", false},
		{"a number that a crash took, its row is not there", future, "audit_none", false},
	} {
		err := s.Outcome(t.Context(), test.transaction, test.audit)
		if (err == nil) != test.committed || errors.Is(err, store.ErrUnknownOutcome) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestDeviceListedAndLostDuringCompletion: the device has no row when the completion first looks for it.
func TestDeviceListedAndLostDuringCompletion(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	s := openAt(t, direct.String())
	b := storetest.NewBench(t, s)
	cut := newCutter(t, direct.Host)
	slow := openAt(t, cut.url(*direct))
	_, value := b.Mint()
	_, cert := b.Claimed(value)
	completion := storetest.CompletionFor(cert)
	completion.Attested = issuance.Device{Serial: "NEWSERIAL1", Attested: true}
	var once sync.Once
	lose := func(message []byte) {
		if !bytes.Contains(message, []byte("WHERE serial <> '' AND serial = $1")) {
			return
		}
		once.Do(func() {
			in, err := s.ImportDevices(t.Context(), b.Operator(), issuance.Import{Source: "operator:x", Listings: []issuance.Listing{{Serial: "NEWSERIAL1"}}})
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := s.SetDeviceState(t.Context(), b.Operator(), in[0].Device, 0, issuance.StateChange{State: policy.Lost, Revoke: true}); err != nil {
				t.Error(err)
			}
		})
	}
	cut.heard.Store(&lose)
	_, err = slow.CompleteIssue(t.Context(), b.Operator(), completion)
	if !errors.Is(err, issuance.ErrDeviceBarred) {
		t.Errorf("error %v", err)
	}
	if after, err := s.Certificate(t.Context(), cert.ID); err != nil || after.Status != issuance.CertificateReserved {
		t.Errorf("the certificate is %s, %v", after.Status, err)
	}
}

// TestYoungDeviceLostDuringCompletion: the device got its row after the completion contested the rows that there
// were, and is lost before the completion notes that it was seen. Either the completion or the revocation wins.
func TestYoungDeviceLostDuringCompletion(t *testing.T) {
	p := newPostgres(t)
	direct, err := url.Parse(p.database(t))
	if err != nil {
		t.Fatal(err)
	}
	s := openAt(t, direct.String())
	b := storetest.NewBench(t, s)
	cut := newCutter(t, direct.Host)
	slow := openAt(t, cut.url(*direct))
	_, value := b.Mint()
	_, cert := b.Claimed(value)
	completion := storetest.CompletionFor(cert)
	completion.Attested = issuance.Device{Serial: "NEWSERIAL1", Attested: true}

	other, err := pgx.Connect(t.Context(), direct.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	run := func(text string, args ...any) {
		t.Helper()
		if _, err := other.Exec(t.Context(), text, args...); err != nil {
			t.Fatal(err)
		}
	}
	watch, err := pgxpool.New(t.Context(), direct.String())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	stopped := func() bool { // whether somebody waits for a lock
		n := 0
		err := watch.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		if err != nil {
			t.Error(err)
		}
		return n > 0
	}

	lost := make(chan error, 1)
	var once sync.Once
	lose := func(message []byte) {
		if !bytes.Contains(message, []byte("SET seen_at = CASE")) {
			return
		}
		once.Do(func() {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _, err := s.SetDeviceState(t.Context(), b.Operator(), "device_young", 0, issuance.StateChange{State: policy.Lost, Revoke: true})
				lost <- err
			}()
			for ended := false; !ended && !stopped(); {
				select {
				case <-done:
					ended = true
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	cut.heard.Store(&lose)

	run(`BEGIN`)
	run(`SELECT 1 FROM certificates WHERE id = $1 FOR UPDATE`, string(cert.ID))
	completed := make(chan error, 1)
	go func() {
		_, err := slow.CompleteIssue(t.Context(), b.Operator(), completion)
		completed <- err
	}()
	for !stopped() {
		select {
		case err := <-completed:
			t.Fatalf("the completion did not wait for the certificate: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.run(t, direct.String(), `INSERT INTO devices (id, serial, attested, state, seen_at, created_at)
			VALUES ('device_young', 'NEWSERIAL1', 1, 'active', 4000000000000000, 1)`); err != nil {
		t.Fatal(err)
	}
	run(`COMMIT`)
	if err := <-completed; err != nil && !errors.Is(err, issuance.ErrDeviceBarred) {
		t.Errorf("completion: %v", err)
	}
	if err := <-lost; err != nil {
		t.Errorf("lost: %v", err)
	}
	if after, err := s.Certificate(t.Context(), cert.ID); err != nil || after.Status == issuance.CertificateValid {
		t.Errorf("the certificate of a lost device is %s, %v", after.Status, err)
	}
}

// TestRoundTrips holds how often an enrolment waits for PostgreSQL.
func TestRoundTrips(t *testing.T) {
	p := newPostgres(t)
	s := openAt(t, p.database(t))
	b := storetest.NewBench(t, s)
	_, value := b.Mint()
	account := b.NewAccount()
	var order issuance.Order
	var claimed issuance.Certificate
	for _, step := range []struct {
		name string
		most float64
		run  func() error
	}{
		{"spend a nonce", 2, func() error { return s.SpendNonce(t.Context(), b.Call().Nonce) }},
		{"find the code", 1, func() error { _, err := s.CodeByValue(t.Context(), storetest.Directory, value); return err }},
		{"create order", 2, func() (err error) { order, err = b.OrderFor(account, value); return err }},
		{"read order", 2, func() error { _, err := s.ReadOrder(t.Context(), b.Call(), order.ID); return err }},
		{"read enrolment", 1, func() error { _, err := s.Enrolment(t.Context(), order.ID); return err }},
		{"answer challenge", 2, func() (err error) {
			order, err = s.AnswerChallenge(t.Context(), b.Call(), storetest.AnswerFor(order))
			return err
		}},
		{"gather circumstances", 2, func() error {
			_, err := s.Circumstances(t.Context(), b.Now, issuance.Subject{Directory: storetest.Directory, Serial: "TESTSERIAL1", Verified: true, Code: order.Code})
			return err
		}},
		{"begin issue", 2, func() (err error) { claimed, err = s.BeginIssue(t.Context(), b.Call(), b.ClaimFor(order)); return err }},
		{"complete issue, of a new device", 2, func() error {
			c := storetest.CompletionFor(claimed)
			c.Attested = issuance.Device{Serial: "TESTSERIAL1", Attested: true}
			_, err := s.CompleteIssue(t.Context(), b.Operator(), c)
			return err
		}},
		{"collect certificate", 3, func() error {
			_, err := s.CollectCertificate(t.Context(), b.Call(), claimed.ID, func(issuance.Certificate) error { return nil })
			return err
		}},
	} {
		before := s.RoundTrips()
		if err := step.run(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := s.RoundTrips() - before; n > step.most {
			t.Errorf("%s: %v round trips, not %v", step.name, n, step.most)
		}
	}
}

// TestHowChangesAreCommitted holds what each kind of change asks of PostgreSQL.
func TestHowChangesAreCommitted(t *testing.T) {
	p := newPostgres(t)
	s := openAt(t, p.database(t))
	for _, test := range []struct {
		name                  string
		durable, serializable bool
	}{{"durable", true, true}, {"relaxed", false, true}, {"step", true, false}, {"relaxed step", false, false}, {"ending step", true, false}} {
		settings, err := s.Settings(t.Context(), test.name)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"synchronous_commit": "off", "transaction_isolation": "read committed", "enable_seqscan": "off", "idle_in_transaction_session_timeout": "5s"}
		if test.durable {
			want["synchronous_commit"] = "on"
		}
		if test.serializable {
			want["transaction_isolation"] = "serializable"
		}
		if diff := cmp.Diff(want, settings); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}
