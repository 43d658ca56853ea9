package installation

import (
	"context"
	cryptorand "crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/enroll"
	"assay/internal/admin"
)

// This crash test kills the server while devices fetch, enrol and collect, and an operator's process
// beside it declares, renews and withdraws their credentials. ASSAY_CRASHES=60 asks for more kills.
const (
	credentialCrashes = 6
	credentialDevices = 6
)

// credentialLoad is devices with a credential each.
type credentialLoad struct {
	api       http.Handler // of the operator's process, which is never killed
	authority *standin.Authority
	roots     *x509.CertPool

	mu       sync.Mutex
	random   *rand.Rand
	enrolled int
}

func (l *credentialLoad) Attest(ctx context.Context, r enroll.AttestRequest) ([]byte, error) {
	return (&crashLoad{authority: l.authority}).Attest(ctx, r)
}

func (l *credentialLoad) oneIn(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.IntN(n) == 0
}

// ask sends a request to the API and returns the credential that it answers with.
func (l *credentialLoad) ask(ctx context.Context, method, path, body string) (status int, c admin.Credential) {
	r := httptest.NewRequestWithContext(ctx, method, admin.Prefix+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	l.api.ServeHTTP(w, r)
	_ = json.Unmarshal(w.Body.Bytes(), &c) // of a problem nothing is wanted
	return w.Code, c
}

// live is the life of one device: declared, enrolled, renewed, now and then withdrawn and revived.
func (l *credentialLoad) live(ctx context.Context, t *testing.T, device *enroll.Device) {
	declare := fmt.Sprintf(`{"template": "phone", "serial": %q, "udid": %q}`, device.Serial, device.UDID)
	id := ""
	for ctx.Err() == nil {
		status, c := l.ask(ctx, "POST", "/credentials", declare)
		if status >= http.StatusInternalServerError && ctx.Err() == nil {
			t.Errorf("declare beside the server: %d", status)
			return
		}
		if c.ID != "" {
			id = c.ID
			l.enrol(ctx, t, device, c)
		}
		if l.oneIn(5) {
			l.ask(ctx, "DELETE", "/credentials/"+id, "")
		}
		if c.ID == "" || l.oneIn(2) {
			l.ask(ctx, "POST", "/credentials/"+id+"/renew", "")
		}
	}
}

func (l *credentialLoad) enrol(ctx context.Context, t *testing.T, device *enroll.Device, c admin.Credential) {
	document, err := (&enroll.Resolver{Roots: l.roots}).Fetch(ctx, enroll.Reference{DataURL: dataURL(t, c)})
	if err != nil {
		return // killed, or used already
	}
	client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: l, Roots: l.roots}
	if _, err := client.Enroll(ctx, document); err == nil {
		l.mu.Lock()
		l.enrolled++
		l.mu.Unlock()
	}
}

// await waits until so many more devices have got a certificate, or the server had time enough.
func (l *credentialLoad) await(more int) {
	l.mu.Lock()
	until := l.enrolled + more
	l.mu.Unlock()
	for deadline := time.Now().Add(maxUp); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		l.mu.Lock()
		enough := l.enrolled >= until
		l.mu.Unlock()
		if enough {
			return
		}
	}
}

// impossibleCredentials are conditions that no row may meet, whenever the server is killed.
var impossibleCredentials = map[string]string{
	"two codes of one credential live":         `SELECT count(*) FROM (SELECT 1 FROM documents AS d JOIN codes AS c ON c.id = d.code WHERE d.credential IS NOT NULL AND c.status IN ('unused', 'issuing') GROUP BY d.credential HAVING count(*) > 1)`,
	"a live code is not its credential's":      `SELECT count(*) FROM documents AS d JOIN codes AS c ON c.id = d.code JOIN device_credentials AS k ON k.id = d.credential WHERE c.status IN ('unused', 'issuing') AND k.code <> c.id`,
	"a withdrawn credential's code lives":      `SELECT count(*) FROM device_credentials AS k JOIN codes AS c ON c.id = k.code WHERE k.withdrawn_at <> 0 AND c.status IN ('unused', 'issuing')`,
	"a document is another's":                  `SELECT count(*) FROM device_credentials AS k LEFT JOIN documents AS d ON d.id = k.document WHERE d.id IS NULL OR d.code <> k.code OR d.credential <> k.id`,
	"a document has another revision":          `SELECT count(*) FROM device_credentials AS k JOIN documents AS d ON d.id = k.document WHERE d.revision <> k.revision - (k.withdrawn_at <> 0)`,
	"a device has a template twice":            `SELECT count(*) FROM (SELECT 1 FROM device_credentials GROUP BY device, template HAVING count(*) > 1)`,
	"a rendering lacks its audit row":          `SELECT count(*) FROM documents AS d WHERE d.credential IS NOT NULL AND (SELECT count(*) FROM audit AS a WHERE a.action = 'credential.rendered' AND a.code = d.code) <> 1`,
	"a fetch lacks its audit row":              `SELECT count(*) FROM documents AS d WHERE d.fetched_at <> 0 AND (SELECT count(*) FROM audit AS a WHERE a.action = 'document.fetched' AND a.outcome = 'done' AND a.code = d.code) <> 1`,
	"a withdrawal lacks its audit row":         `SELECT count(*) FROM device_credentials AS k WHERE k.withdrawn_at <> 0 AND NOT EXISTS (SELECT 1 FROM audit AS a WHERE a.action = 'credential.withdrawn' AND a.code = k.code)`,
	"a superseding lacks its audit row":        `SELECT count(*) FROM certificates AS c WHERE c.superseded_by IS NOT NULL AND NOT EXISTS (SELECT 1 FROM audit AS a WHERE a.order_id = c.order_id AND a.action = 'certificate.superseded')`,
	"two certificates are in force":            `SELECT count(*) FROM (SELECT 1 FROM documents AS d JOIN certificates AS c ON c.code = d.code WHERE d.credential IS NOT NULL AND c.status = 'valid' AND c.superseded_by IS NULL AND c.collected_at <> 0 GROUP BY d.credential HAVING count(*) > 1)`,
	"superseded and not revoked":               `SELECT count(*) FROM certificates WHERE superseded_by IS NOT NULL AND status <> 'revoked'`,
	"a credential's certificate is not newest": `SELECT count(*) FROM device_credentials AS k WHERE k.certificate IS NOT (SELECT c.id FROM documents AS d JOIN certificates AS c ON c.code = d.code WHERE d.credential = k.id AND c.collected_at <> 0 AND c.superseded_by IS NULL ORDER BY d.revision DESC LIMIT 1)`,
	"nothing is due where a device waits":      `SELECT count(*) FROM device_credentials WHERE withdrawn_at = 0 AND due_at = 0 AND attempts < 7`,
	"document and code end apart":              `SELECT count(*) FROM documents AS d JOIN codes AS c ON c.id = d.code WHERE d.expires_at <> c.expires_at`,
}

func TestKilledServerLeavesEveryCredentialWhole(t *testing.T) {
	seed := number(t, seedVariable, rand.Uint64())
	crashes := int(number(t, crashesVariable, credentialCrashes))
	defer func() {
		if t.Failed() {
			t.Logf("repeat with %s=%d", seedVariable, seed)
		}
	}()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	rootFile := standInRoot(t)
	address := freeAddress(t) // the documents that are out name it: every server has the same
	dir, _ := initialized(t, func(o *InitOptions) {
		o.AttestationRoots, o.AllowStandIn = map[string][]string{"apple": {rootFile}}, true
		o.Listen, o.AdminListen = address, NoAdmin
	})
	writeTemplate(t, dir, "phone", strings.Replace(phoneTemplate, "384", "256", 1)+"revokeSuperseded: true\n")
	i := opened(t, dir)
	api, err := i.API("operator:test")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 2))
	load := &credentialLoad{api: api, authority: a, roots: trusting(t, i).RootCAs, random: rand.New(rand.NewPCG(seed, 1))}
	ctx, stop := context.WithCancel(t.Context())
	var devices sync.WaitGroup
	for range credentialDevices {
		device, err := enroll.NewDevice(enroll.IPhone, "", cryptorand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		devices.Go(func() { load.live(ctx, t, device) })
	}
	for range crashes {
		process := serveProcess(t, i)
		load.await(1 + random.IntN(maxEnrolments))
		time.Sleep(time.Duration(random.Int64N(int64(maxMoment))))
		if err := process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait()
	}
	stop()
	devices.Wait()
	if err := serve(t, i).stop(); err != nil { // finds every claim of the killed ones dead
		t.Fatal(err)
	}
	none(t, i, impossible)
	none(t, i, impossibleCredentials)
	if load.enrolled == 0 {
		t.Error("no device enrolled: nothing was tested")
	}
	t.Logf("%d kills: %d certificates delivered", crashes, load.enrolled)
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// none asks the database for what must not be. What names pragmas is asked of SQLite alone.
func none(t *testing.T, i *Installation, impossible map[string]string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(i.Dir, databaseFile)+"?mode=ro")
	if i.Config.Database != "" {
		db, err = sql.Open("pgx", i.Config.Database)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for what, query := range impossible {
		if i.Config.Database != "" && strings.Contains(query, "pragma_") {
			continue
		}
		var n int
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n > 0 {
			t.Errorf("%s: %d rows", what, n)
		}
	}
}
