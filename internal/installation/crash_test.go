package installation

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/credential"
	"assay/enroll"
	"assay/internal/ca"
	"assay/internal/issuance"
	"assay/internal/server"
)

// The crash test kills the server with SIGKILL in mid-load, again and again, and then holds what it
// left behind against what devices received. ASSAY_CRASHES=200 asks for more kills than the few of an
// ordinary run; ASSAY_CRASH_SEED repeats the moments of a failed one.
const (
	crashesVariable = "ASSAY_CRASHES"
	seedVariable    = "ASSAY_CRASH_SEED"
	defaultCrashes  = 20
	shortCrashes    = 8 // with -short

	crashWorkers = 8
	untouched    = 24 // codes that no device tries before the end

	// A server lives for a random number of enrolments and a random moment more, however fast the
	// machine is: so each is killed in the middle of its work.
	maxEnrolments = 24
	maxMoment     = 100 * time.Millisecond
	maxUp         = 10 * time.Second
)

func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// crashLoad is the devices' side: what they tried, and what they were given.
type crashLoad struct {
	inst      *Installation
	address   func(context.Context) (string, error) // where devices find a server
	authority *standin.Authority
	roots     *x509.CertPool

	mu        sync.Mutex
	random    *rand.Rand
	again     []minted                   // codes whose device was cut off: the next one tries
	codes     map[string]issuance.CodeID // all that were handed out
	delivered []received
	cut       map[string]int // by code: attempts that ended without a certificate
}

type minted struct {
	value string
	id    issuance.CodeID
}

// received is a certificate that a device holds.
type received struct {
	code issuance.CodeID
	cert *x509.Certificate
}

func (l *crashLoad) mint(ctx context.Context, n int) ([]minted, error) {
	mints := make([]issuance.Mint, n)
	for i := range mints {
		value, err := issuance.NewCodeValue(cryptorand.Reader)
		if err != nil {
			return nil, err
		}
		mints[i] = issuance.Mint{Directory: "default", Value: value, Lifetime: time.Hour}
	}
	codes, err := l.inst.Store.MintCodes(ctx, issuance.Call{Now: time.Now()}, mints)
	if err != nil {
		return nil, err
	}
	made := make([]minted, n)
	for i, code := range codes {
		made[i] = minted{mints[i].Value, code.ID}
	}
	return made, nil
}

// Attest lets the stand-in authority attest a simulated device.
func (l *crashLoad) Attest(_ context.Context, r enroll.AttestRequest) ([]byte, error) {
	return l.authority.Attest(standin.Subject{
		PublicKey: r.Key.Public(), Token: r.Token, Now: time.Now(),
		Device: standin.Device{Serial: r.Device.Serial, UDID: r.Device.UDID, OSVersion: r.Device.OSVersion},
	})
}

// enrol lets a new device try a code once.
func (l *crashLoad) enrol(ctx context.Context, code minted) error {
	base, err := l.address(ctx)
	if err != nil {
		return err
	}
	device, err := enroll.NewDevice(enroll.IPhone, "", cryptorand.Reader)
	if err != nil {
		return err
	}
	document := credential.New(server.DirectoryURL(base, "default"), code.value, credential.Subject{{{"CN", "crash"}}})
	document.KeySize = 256 // the load shall be on the server
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: l, Roots: l.roots}
	result, err := client.Enroll(ctx, document)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.cut[code.value]++
		return err
	}
	l.delivered = append(l.delivered, received{code.id, result.Certificate})
	return nil
}

// next is the code for the next device: now and then one that another device was cut off with, or is
// trying at this moment.
func (l *crashLoad) next(fresh <-chan minted) (code minted, ok bool) {
	l.mu.Lock()
	if n := len(l.again); n > 0 && l.random.IntN(3) > 0 {
		code, l.again = l.again[n-1], l.again[:n-1]
		l.mu.Unlock()
		return code, true
	}
	l.mu.Unlock()
	code, ok = <-fresh
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok && l.random.IntN(4) == 0 {
		l.again = append(l.again, code) // a race for it
	}
	return code, ok
}

// run enrols devices until the context ends.
func (l *crashLoad) run(ctx context.Context, t *testing.T) {
	fresh := make(chan minted)
	var workers sync.WaitGroup
	for range crashWorkers {
		workers.Go(func() {
			for {
				code, ok := l.next(fresh)
				if !ok {
					return
				}
				if err := l.enrol(ctx, code); err != nil && isCut(err) {
					l.mu.Lock()
					l.again = append(l.again, code)
					l.mu.Unlock()
				}
			}
		})
	}
	for ctx.Err() == nil {
		made, err := l.mint(ctx, crashWorkers)
		if err != nil && ctx.Err() == nil {
			t.Errorf("mint beside the server: %v", err)
			break
		}
		for _, code := range made {
			l.codes[code.value] = code.id
			select {
			case fresh <- code:
			case <-ctx.Done():
			}
		}
	}
	close(fresh)
	workers.Wait()
}

// isCut reports whether a device heard nothing rather than a refusal.
func isCut(err error) bool {
	abort, ok := errors.AsType[*enroll.Abort](err)
	return ok && abort.Status == 0
}

func TestKilledServerLosesAndDoublesNothing(t *testing.T) {
	seed := number(t, seedVariable, rand.Uint64())
	otherwise := uint64(defaultCrashes)
	if testing.Short() {
		otherwise = shortCrashes
	}
	crashes := int(number(t, crashesVariable, otherwise))
	defer func() {
		if t.Failed() {
			t.Logf("repeat with %s=%d", seedVariable, seed)
		}
	}()
	rootFile := standInRoot(t)
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	dir, result := initialized(t, func(o *InitOptions) {
		o.AttestationRoots, o.AllowStandIn = map[string][]string{"apple": {rootFile}}, true
	})
	i := opened(t, dir)
	load := &crashLoad{
		inst: i, address: i.AwaitServer, authority: a, roots: trusting(t, i).RootCAs, random: rand.New(rand.NewPCG(seed, 1)),
		codes: map[string]issuance.CodeID{}, cut: map[string]int{},
	}
	left, err := load.mint(t.Context(), untouched)
	if err != nil {
		t.Fatal(err)
	}

	crash(t, load, crashes, rand.New(rand.NewPCG(seed, 2)))

	// A server that starts finds every claim of the killed ones dead.
	running := serve(t, i)
	check := &crashCheck{t: t, load: load, root: readCertificate(t, result.Root)}
	check.rows()
	check.deliveries()
	check.codes(left)
	if err := running.stop(); err != nil {
		t.Fatal(err)
	}
	check.rows()
	t.Logf("%d kills: %d certificates delivered, %d codes met a cut, %d serials abandoned, %d issued but not delivered",
		crashes, len(load.delivered), len(load.cut), check.abandoned, check.undelivered)
}

// await waits until so many more devices have got a certificate, or the server had time enough.
func (l *crashLoad) await(more int) {
	l.mu.Lock()
	until := len(l.delivered) + more
	l.mu.Unlock()
	for deadline := time.Now().Add(maxUp); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		enough := len(l.delivered) >= until
		l.mu.Unlock()
		if enough {
			return
		}
	}
}

// crash serves under load and kills the server so many times.
func crash(t *testing.T, load *crashLoad, crashes int, random *rand.Rand) {
	ctx, stop := context.WithCancel(t.Context())
	var loading sync.WaitGroup
	loading.Go(func() { load.run(ctx, t) })
	defer loading.Wait()
	defer stop()
	for range crashes {
		process := serveProcess(t, load.inst)
		load.await(random.IntN(maxEnrolments))
		time.Sleep(time.Duration(random.Int64N(int64(maxMoment))))
		if err := process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait()
	}
}

// crashCheck holds the database against what devices received.
type crashCheck struct {
	t           *testing.T
	load        *crashLoad
	root        *x509.Certificate
	abandoned   int
	undelivered int
}

// impossible are conditions that no row may meet once a server has started after a crash.
var impossible = map[string]string{
	"a claim is still open":                   `SELECT count(*) FROM orders WHERE status = 'processing'`,
	"a code is still being issued":            `SELECT count(*) FROM codes WHERE status = 'issuing'`,
	"a reserved serial is unaccounted for":    `SELECT count(*) FROM certificates WHERE status = 'reserved'`,
	"a code has two certificates":             `SELECT count(*) FROM (SELECT code FROM certificates WHERE status <> 'abandoned' GROUP BY code HAVING count(*) > 1) AS two`,
	"a consumed code lacks its certificate":   `SELECT count(*) FROM codes LEFT JOIN certificates AS c ON c.id = codes.certificate WHERE codes.status = 'consumed' AND (c.id IS NULL OR c.status NOT IN ('valid', 'revoked') OR c.code <> codes.id)`,
	"a certificate's code is not consumed":    `SELECT count(*) FROM certificates AS c JOIN codes ON codes.id = c.code WHERE c.status = 'valid' AND codes.status <> 'consumed'`,
	"a valid order lacks its certificate":     `SELECT count(*) FROM orders AS o LEFT JOIN certificates AS c ON c.id = o.certificate WHERE o.status = 'valid' AND (c.id IS NULL OR c.status NOT IN ('valid', 'revoked') OR c.order_id <> o.id)`,
	"a certificate's order is not valid":      `SELECT count(*) FROM certificates AS c JOIN orders AS o ON o.id = c.order_id WHERE c.status = 'valid' AND o.status <> 'valid'`,
	"an abandoned serial's order lives":       `SELECT count(*) FROM certificates AS c JOIN orders AS o ON o.id = c.order_id WHERE c.status = 'abandoned' AND o.status <> 'invalid'`,
	"a ready or valid order was not proved":   `SELECT count(*) FROM orders WHERE status IN ('ready', 'valid') AND (authz <> 'valid' OR challenge <> 'valid' OR evidence IS NULL)`,
	"a pending order has an answer":           `SELECT count(*) FROM orders WHERE status = 'pending' AND (authz <> 'pending' OR challenge <> 'pending')`,
	"a certificate lacks its decision":        `SELECT count(*) FROM certificates AS c LEFT JOIN decisions AS d ON d.id = c.decision WHERE d.id IS NULL`,
	"a certificate lacks the audit of issue":  `SELECT count(*) FROM certificates AS c WHERE c.status = 'valid' AND NOT EXISTS (SELECT 1 FROM audit WHERE certificate = c.id AND action = 'issue.completed')`,
	"an abandoned serial lacks its audit row": `SELECT count(*) FROM certificates AS c WHERE c.status = 'abandoned' AND NOT EXISTS (SELECT 1 FROM audit WHERE certificate = c.id AND action = 'issue.abandoned')`,
	"a foreign key dangles":                   `SELECT count(*) FROM pragma_foreign_key_check`,
	"the file is damaged":                     `SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'`,
}

// rows asks for what must not be.
func (c *crashCheck) rows() {
	none(c.t, c.load.inst, impossible)
	c.abandoned = 0
	for _, err := range c.load.inst.Store.Certificates(c.t.Context(), issuance.CertificateFilter{Status: issuance.CertificateAbandoned}) {
		if err != nil {
			c.t.Fatal(err)
		}
		c.abandoned++
	}
}

// deliveries: what a device holds verifies, has its row, and is the only certificate of its code.
func (c *crashCheck) deliveries() {
	issuing := readCertificate(c.t, filepath.Join(c.load.inst.Dir, certsFolder, "issuing.pem"))
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.root)
	intermediates.AddCert(issuing)
	byCode := map[issuance.CodeID]string{}
	for _, d := range c.load.delivered {
		serial := ca.FormatSerial(d.cert.SerialNumber)
		if other, twice := byCode[d.code]; twice {
			c.t.Errorf("code %s gave two devices a certificate: %s and %s", d.code, other, serial)
		}
		byCode[d.code] = serial
		if _, err := d.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			c.t.Errorf("certificate %s: %v", serial, err)
		}
		row, err := c.load.inst.Store.CertificateBySerial(c.t.Context(), serial)
		if err != nil {
			c.t.Errorf("a device holds certificate %s: %v", serial, err)
		} else if row.Status != issuance.CertificateValid || row.Code != d.code || !bytes.Equal(row.DER, d.cert.Raw) {
			c.t.Errorf("a device holds certificate %s, but its row is %s, of code %s", serial, row.Status, row.Code)
		}
	}
	if len(c.load.delivered) == 0 {
		c.t.Error("no device got a certificate: the test shows nothing")
	}
	for row, err := range c.load.inst.Store.Certificates(c.t.Context(), issuance.CertificateFilter{Status: issuance.CertificateValid}) {
		if err != nil {
			c.t.Fatal(err)
		}
		if byCode[row.Code] == "" {
			c.undelivered++
		}
	}
}

// codes: one that is not consumed is good, be it untouched or one that a device was cut off with.
func (c *crashCheck) codes(left []minted) {
	for value, id := range c.load.codes {
		left = append(left, minted{value, id})
	}
	tried := 0
	for n, code := range left {
		row, err := c.load.inst.Store.Code(c.t.Context(), code.id)
		if err != nil {
			c.t.Fatal(err)
		}
		switch {
		case row.Status == issuance.CodeConsumed && n >= untouched:
			if row.Certificate == "" {
				c.t.Errorf("code %s is consumed without a certificate", code.id)
			}
		case row.Status != issuance.CodeUnused:
			c.t.Errorf("code %s is %s", code.id, row.Status)
		case n < untouched || c.load.cut[code.value] > 0:
			tried++
			if err := c.load.enrol(c.t.Context(), code); err != nil {
				c.t.Errorf("code %s is unused, but a device cannot enrol with it: %v", code.id, err)
			}
		}
	}
	if tried < untouched {
		c.t.Errorf("tried %d codes", tried)
	}
}
