package installation

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/attest/standin"
	"assay/enroll"
	"assay/internal/logbook"
	"assay/internal/opinion"
	"assay/policy"
)

const opinionSecret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// configureOpinion names a service in an installation's configuration, with its secret in a file.
func configureOpinion(t *testing.T, dir, url, more string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "keys", "opinion.secrets"), []byte(opinionSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, "\nlisten:", "\nopinion: {url: '"+url+"', secretFile: keys/opinion.secrets"+more+"}\nlisten:")
}

func TestOpinionClientIsAsConfigured(t *testing.T) {
	dir, _ := initialized(t, nil)
	if c, err := opened(t, dir).OpinionClient(t.Context(), nil); c != nil || err != nil {
		t.Errorf("not configured: %v, %v", c, err)
	}
	configureOpinion(t, dir, "https://edr.example.com", "")
	c, err := opened(t, dir).OpinionClient(t.Context(), nil)
	if err != nil || !c.Required || c.SignedResponses || c.Timeout != opinion.DefaultTimeout || c.Roots != nil || c.Certificate != nil {
		t.Errorf("by default: %+v, %v", c, err)
	}
	operatorPair(t, filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"), "client")
	edit(t, dir, "secretFile:", "timeout: 1s, onFailure: neutral, signedResponses: true, ca: certs/serving-root.pem, "+
		"clientCertificate: {certificate: client.pem, key: client.key}, secretFile:")
	c, err = opened(t, dir).OpinionClient(t.Context(), nil)
	if err != nil || c.Required || !c.SignedResponses || c.Timeout != time.Second || c.Roots == nil || c.Certificate == nil {
		t.Errorf("as configured: %+v, %v", c, err)
	}
}

// A secret that is exchanged is used without a restart; one that is just being written, or wrong, is not.
func TestOpinionSecretsAreReadAgain(t *testing.T) {
	const second = "whsec_BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	dir, _ := initialized(t, nil)
	configureOpinion(t, dir, "https://edr.example.com", "")
	log := &logbook.Book{}
	_, file, err := opened(t, dir).opinionClient(t.Context(), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var used []opinion.Secret
	use := file.use
	file.use = func(s []opinion.Secret) { used = s; use(s) }
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file.path, []byte(text), mode), os.Chmod(file.path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(opinionSecret+"\n"+second+"\n", 0o600)
	if file.refresh(t.Context()) != reloadNone || used != nil {
		t.Error("read while it may be being written")
	}
	if file.refresh(t.Context()) != reloadGood || len(used) != 2 {
		t.Errorf("%d secrets are used", len(used))
	}
	for text, mode := range map[string]os.FileMode{"hunter2, no secret at all": 0o600, second: 0o640} {
		used = nil
		write(text, mode)
		file.refresh(t.Context())
		if file.refresh(t.Context()) != reloadBad || used != nil {
			t.Errorf("%s, mode %o: %d secrets are used", text, mode, len(used))
		}
	}
	if text := log.String(); !strings.Contains(text, "the last good set of opinion secrets stays in use") || strings.Contains(text, "hunter2") {
		t.Errorf("the log says %s", text)
	}
}

func TestOpinionClientReportsEveryFaultOfItsFiles(t *testing.T) {
	dir, _ := initialized(t, nil)
	configureOpinion(t, dir, "https://edr.example.com", ", ca: none.pem, clientCertificate: {certificate: none.pem, key: none.key}")
	secrets := filepath.Join(dir, "keys", "opinion.secrets")
	if err := os.Chmod(secrets, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := opened(t, dir).OpinionClient(t.Context(), nil)
	if _, ok := errors.AsType[*ConfigError](err); !ok {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"opinion.secretFile: ", "chmod 600", "opinion.ca: ", "opinion.clientCertificate: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if err := errors.Join(os.WriteFile(secrets, []byte("hunter2"), 0o600), os.Chmod(secrets, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := opened(t, dir).OpinionClient(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "line 1 is no secret") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// standInAttester attests simulated devices.
type standInAttester struct{ *standin.Authority }

func (a standInAttester) Attest(_ context.Context, r enroll.AttestRequest) ([]byte, error) {
	return a.Authority.Attest(standin.Subject{PublicKey: r.Key.Public(), Token: r.Token, KeyAuthorization: r.KeyAuthorization, Now: time.Now(),
		Device: standin.Device{Serial: r.Device.Serial, UDID: r.Device.UDID, ProductType: r.Device.ProductType, OSVersion: r.Device.OSVersion}})
}

// TestServerAsksTheServiceThatItsPolicyReads, with a whole enrolment: what the service says decides.
func TestServerAsksTheServiceThatItsPolicyReads(t *testing.T) {
	var mu sync.Mutex
	verdict, asked := "clean", 0
	secrets, err := opinion.ParseSecrets([]byte(opinionSecret))
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		body, err := io.ReadAll(r.Body)
		if err := errors.Join(err, opinion.Verify(r.Header, body, secrets, time.Now())); err != nil {
			t.Error(err)
		}
		var request struct{ ID string }
		if err := json.Unmarshal(body, &request); err != nil {
			t.Error(err)
		}
		answer := fmt.Appendf(nil, `{"id":%q,"verdict":%q,"score":5}`, request.ID, verdict)
		w.Header().Set("Content-Type", "application/json")
		opinion.Sign(w.Header(), request.ID, answer, secrets, time.Now())
		_, _ = w.Write(answer)
	}))
	defer service.Close()
	root := standInRoot(t)
	dir, _ := initialized(t, func(o *InitOptions) {
		o.AllowStandIn, o.AttestationRoots = true, map[string][]string{"apple": {root}}
	})
	configureOpinion(t, dir, service.URL+"/assay", ", signedResponses: true")
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n", "\nlisten:", "\nmetricsListen: 127.0.0.1:0\nlisten:")
	writePolicy(t, dir, "require: [{name: clean, that: 'opinion.verdict == \"clean\"', message: it is not clean}]\noutcomes: [{outcome: issue}]")
	writeTemplate(t, dir, "phone", phoneTemplate)
	i := opened(t, dir)
	s := serve(t, i)
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		verdict string
		want    policy.Outcome
	}{{"clean", policy.Issue}, {"quarantined", policy.Refuse}} {
		mu.Lock()
		verdict, asked = c.verdict, 0
		mu.Unlock()
		device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		credential := declared(t, i, fmt.Sprintf(`{"template": "phone", "serial": %q, "udid": %q}`, device.Serial, device.UDID))
		roots := trusting(t, i).RootCAs
		document, err := (&enroll.Resolver{Roots: roots}).Fetch(t.Context(), enroll.Reference{DataURL: dataURL(t, credential)})
		if err != nil {
			t.Fatal(err)
		}
		client := &enroll.Client{Device: device, Keys: enroll.Keys(device), Attester: standInAttester{a}, Roots: roots}
		if _, err := client.Enroll(t.Context(), document); (err == nil) != (c.want == policy.Issue) {
			t.Errorf("%s: %v", c.verdict, err)
		}
		mu.Lock()
		if asked != 1 {
			t.Errorf("%s: asked %d times", c.verdict, asked)
		}
		mu.Unlock()
	}
	response, err := http.Get(s.MetricsURL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(body), `assay_opinions_total{result="answered"} 2`) {
		t.Errorf("metrics: %v\n%s", err, body)
	}
}
