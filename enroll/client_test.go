package enroll

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/acme"
	"assay/attest"
	"assay/credential"
)

// attesterFunc is an Attester.
type attesterFunc func(AttestRequest) ([]byte, error)

func (f attesterFunc) Attest(_ context.Context, r AttestRequest) ([]byte, error) { return f(r) }

// newClient makes a client for the server whose sleeps are counted, not slept.
func newClient(t *testing.T, f *fakeServer, class Class, chip string) (*Client, *[]time.Duration) {
	t.Helper()
	device, err := NewDevice(class, chip, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var slept []time.Duration
	return &Client{
		Device:   device,
		Keys:     Keys(device),
		Attester: attesterFunc(func(AttestRequest) ([]byte, error) { return []byte{0xa0, 0xff}, nil }),
		Roots:    f.roots(),
		Sleep: func(_ context.Context, d time.Duration) error {
			slept = append(slept, d)
			return nil
		},
	}, &slept
}

var fullRun = []string{
	"GET directory", "HEAD new-nonce", "POST new-account", "POST new-order", "POST authorization",
	"POST challenge", "POST finalize", "POST order", "POST certificate",
}

func TestRunFollowsTheOrderOfARealDevice(t *testing.T) {
	f := newFakeServer(t)
	client, slept := newClient(t, f, IPhone, "A15")
	result, err := client.Enroll(t.Context(), f.document())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullRun, f.steps()); diff != "" {
		t.Error(diff)
	}
	if len(*slept) != 0 {
		t.Errorf("slept %v", *slept)
	}
	if !sameKey(result.Certificate.PublicKey, result.Key.Public()) || result.OrderURL != f.url("order") || result.Evidence != attest.Attested {
		t.Errorf("result %+v", result)
	}
	if string(result.Chain) != f.chain {
		t.Error("chain is not as sent")
	}
	var steps []Step
	for _, s := range result.Steps {
		steps = append(steps, s.Step)
	}
	want := []Step{StepKey, StepCSR, StepDirectory, StepNonce, StepAccount, StepOrder, StepAuthorization, StepEvidence, StepChallenge, StepFinalize, StepStatus, StepCertificate}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Error(diff)
	}
}

func TestRunWorksOverHTTP1(t *testing.T) {
	f := newFakeServer(t)
	f.server.TLS.NextProtos = []string{"http/1.1"}
	client, _ := newClient(t, f, IPhone, "A15")
	if _, err := client.Enroll(t.Context(), f.document()); err != nil {
		t.Fatal(err)
	}
	for _, r := range f.requests {
		if r.Protocol != "HTTP/1.1" || r.Method != http.MethodPost && r.Body != "{}" {
			t.Errorf("%s: %s, body %q", r.Step, r.Protocol, r.Body)
		}
	}
}

func TestEveryRequestLooksLikeApples(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	if _, err := client.Enroll(t.Context(), f.document()); err != nil {
		t.Fatal(err)
	}
	payloads := map[string]string{
		"new-account":   `{"termsOfServiceAgreed":true}`,
		"new-order":     `{"identifiers":[{"type":"permanent-identifier","value":"one-time/code"}]}`,
		"authorization": "",
		"challenge":     `{"attObj":"oP8"}`,
		"order":         "",
		"certificate":   "",
	}
	for _, r := range f.requests {
		if r.UserAgent != "com.apple.security.acmeclient/1.0" {
			t.Errorf("%s: User-Agent %q", r.Step, r.UserAgent)
		}
		if r.Method != http.MethodPost {
			if r.Body != "{}" || r.ContentType != "application/json" {
				t.Errorf("%s: body %q of type %q", r.Step, r.Body, r.ContentType)
			}
			continue
		}
		if r.ContentType != "application/jose+json" || r.Header.Algorithm != "ES256" {
			t.Errorf("%s: type %q, algorithm %s", r.Step, r.ContentType, r.Header.Algorithm)
		}
		if want, ok := payloads[r.Step]; ok && r.Payload != want {
			t.Errorf("%s: payload %s, want %s", r.Step, r.Payload, want)
		}
		wantKID := f.url("account")
		if r.Step == "new-account" {
			wantKID = ""
		}
		if r.Header.KeyID != wantKID {
			t.Errorf("%s: kid %q", r.Step, r.Header.KeyID)
		}
	}
	finalize := f.seen("finalize")
	if got := slices.Collect(maps.Keys(finalize.fields)); !cmp.Equal(got, []string{"csr"}) {
		t.Errorf("finalize has members %v", got)
	}
}

func TestEveryRunHasItsOwnAccountKey(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	var thumbprints []string
	for range 2 {
		if _, err := client.Enroll(t.Context(), f.document()); err != nil {
			t.Fatal(err)
		}
		thumbprints = append(thumbprints, must(acme.Thumbprint(f.account)))
	}
	if thumbprints[0] == thumbprints[1] {
		t.Error("account key used twice")
	}
}

func TestKeyAndRequestAreMadeBeforeAnyContact(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, Mac, "Intel") // no Secure Enclave
	_, err := client.Enroll(t.Context(), f.document())
	wantAbort(t, err, StepKey, ReasonKey)
	document := f.document()
	document.Subject = credential.Subject{{{"not-an-oid", "x"}}}
	client, _ = newClient(t, f, IPhone, "A15")
	_, err = client.Enroll(t.Context(), document)
	wantAbort(t, err, StepCSR, ReasonCSR)
	if len(f.requests) != 0 {
		t.Errorf("server was contacted: %v", f.steps())
	}
}

func TestUndecidedServerCostsOnePauseEach(t *testing.T) {
	for name, test := range map[string]struct {
		challenge, finalize string
		pauses              int
	}{
		"both decided":      {"valid", "valid", 0},
		"challenge pending": {"pending", "valid", 1},
		"challenge odd":     {"processing", "valid", 1},
		"order processing":  {"valid", "processing", 1},
		"order invalid":     {"valid", "invalid", 1}, // the device looks again all the same
		"both undecided":    {"pending", "ready", 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			f.script = func(step string, a *answer) {
				switch step {
				case "challenge":
					a.Body = `{"status":"` + test.challenge + `"}`
				case "finalize":
					a.Body = `{"status":"` + test.finalize + `"}`
				}
			}
			client, slept := newClient(t, f, IPhone, "A15")
			if _, err := client.Enroll(t.Context(), f.document()); err != nil {
				t.Fatal(err)
			}
			want := slices.Repeat([]time.Duration{5 * time.Second}, test.pauses)
			if !slices.Equal(*slept, want) {
				t.Errorf("slept %v", *slept)
			}
			if diff := cmp.Diff(fullRun, f.steps()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLastChallengeIsAnsweredWithoutDeviceAttest(t *testing.T) {
	f := newFakeServer(t)
	f.script = func(step string, a *answer) {
		if step == "authorization" {
			a.Body = `{"status":"pending","challenges":[{"type":"dns-01","url":"` + f.url("never") + `","token":"a"},{"type":"http-01","url":"` + f.url("challenge") + `","token":"b"}]}`
		}
	}
	client, _ := newClient(t, f, IPhone, "A15")
	var token string
	client.Attester = attesterFunc(func(r AttestRequest) ([]byte, error) { token = r.Token; return []byte{1}, nil })
	if _, err := client.Enroll(t.Context(), f.document()); err != nil {
		t.Fatal(err)
	}
	if token != "b" {
		t.Errorf("attested token %q", token)
	}
}

func TestChallengeResponses(t *testing.T) {
	failed := `{"attObj":"omNmbXRlYXBwbGVnYXR0U3RtdKFjeDVjgA","error":"the \"enclave\" said no"}`
	for name, test := range map[string]struct {
		class   Class
		chip    string
		change  func(*credential.Credential)
		err     error
		kind    attest.Kind
		payload string
	}{
		"attested":            {IPhone, "A15", nil, nil, attest.Attested, `{"attObj":"oP8"}`},
		"attested on a Mac":   {Mac, "M1", nil, nil, attest.Attested, `{"attObj":"oP8"}`},
		"failed":              {IPhone, "A15", nil, errors.New(`the "enclave" said no`), attest.Failed, failed},
		"not wanted":          {IPhone, "A15", func(c *credential.Credential) { c.Attest = false }, nil, attest.None, "{}"},
		"ignored by A10":      {IPad, "A10X", nil, nil, attest.None, "{}"},
		"ignored by T2":       {Mac, "T2", nil, nil, attest.None, "{}"},
		"ignored by S3":       {Watch, "S3", nil, nil, attest.None, "{}"},
		"software key":        {IPhone, "A15", func(c *credential.Credential) { c.HardwareBound = false }, nil, attest.Failed, `{"attObj":"omNmbXRlYXBwbGVnYXR0U3RtdKFjeDVjgA","error":"only a hardware-bound key can be attested"}`},
		"software key, Intel": {Mac, "Intel", func(c *credential.Credential) { c.HardwareBound = false }, nil, attest.None, "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t)
			client, _ := newClient(t, f, test.class, test.chip)
			if test.err != nil {
				client.Attester = attesterFunc(func(AttestRequest) ([]byte, error) { return nil, test.err })
			}
			document := f.document()
			if test.change != nil {
				test.change(document)
			}
			result, err := client.Enroll(t.Context(), document)
			if err != nil {
				t.Fatal(err)
			}
			if got := f.seen("challenge").Payload; got != test.payload || result.Evidence != test.kind {
				t.Errorf("payload %s, evidence %s", got, result.Evidence)
			}
		})
	}
}

func TestWithoutAttesterAttestationFails(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	client.Attester = nil
	result, err := client.Enroll(t.Context(), f.document())
	if err != nil || result.Evidence != attest.Failed {
		t.Errorf("evidence %v, error %v", result, err)
	}
}

func TestAttesterGetsTokenKeyAndKeyAuthorization(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	var got AttestRequest
	client.Attester = attesterFunc(func(r AttestRequest) ([]byte, error) { got = r; return []byte{1}, nil })
	result, err := client.Enroll(t.Context(), f.document())
	if err != nil {
		t.Fatal(err)
	}
	if got.Token != testToken || got.KeyAuthorization != must(acme.KeyAuthorization(testToken, f.account)) ||
		got.Device != *client.Device || !sameKey(got.Key.Public(), result.Key.Public()) {
		t.Errorf("asked for %+v", got)
	}
}

func TestOlderSystemsDropZerosOfSignatures(t *testing.T) {
	for name, test := range map[string]struct {
		os    string
		drops bool
	}{"iOS 17": {"17.7.2", true}, "iOS 18": {"18.0", false}} {
		t.Run(name, func(t *testing.T) {
			f := newFakeServer(t) // which verifies every signature, short ones included
			client, _ := newClient(t, f, IPhone, "A15")
			client.Device.OSVersion = test.os
			short, runs := 0, 0
			for ; runs < 200 && (short < 2 || !test.drops); runs++ {
				if _, err := client.Enroll(t.Context(), f.document()); err != nil {
					t.Fatal(err)
				}
				for _, r := range f.requests {
					if r.Method == http.MethodPost && r.Signature != 64 {
						short++
					}
				}
				f.requests = nil
				if !test.drops && runs == 40 { // 280 signatures: two in five million runs would show none
					break
				}
			}
			if (short > 0) != test.drops {
				t.Errorf("%d short signatures in %d runs", short, runs)
			}
		})
	}
}

func TestDropZerosTakesLeadingZerosOnly(t *testing.T) {
	half := func(b ...byte) []byte { return append(b, bytes.Repeat([]byte{7}, 32-len(b))...) }
	for _, test := range []struct {
		r, s []byte
		want int
	}{
		{half(1, 0), half(2, 0), 64}, {half(0, 1), half(2), 63}, {half(1), half(0, 1), 63},
		{half(0, 1), half(0, 1), 62}, {half(0, 0, 1), half(1), 62},
	} {
		full := append(slices.Clone(test.r), test.s...)
		body := must(json.Marshal(map[string]string{"protected": "a", "payload": "b", "signature": b64(full)}))
		var jws map[string]string
		must(0, json.Unmarshal(must(dropZeros(body)), &jws))
		want := append(bytes.TrimLeft(slices.Clone(test.r), "\x00"), bytes.TrimLeft(test.s, "\x00")...)
		if len(want) != test.want || jws["signature"] != b64(want) || jws["protected"] != "a" || jws["payload"] != "b" {
			t.Errorf("r %x s %x: %v", test.r, test.s, jws)
		}
	}
}

func TestLimitsAreADevices(t *testing.T) {
	if requestLimit != 15*time.Second || runLimit != 60*time.Second || pause != 5*time.Second {
		t.Error("limits differ from a device's")
	}
}

func TestObserverSeesTheRunInOrder(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	var got []string
	client.Observe = func(e Event) {
		switch e := e.(type) {
		case KeyMade:
			if _, ok := e.Public.(*ecdsa.PublicKey); !ok || e.Protection != EnclaveStandIn {
				t.Errorf("%+v", e)
			}
			got = append(got, "key")
		case RequestBuilt:
			got = append(got, "csr")
		case Exchanged:
			got = append(got, string(e.Step))
			if e.Status/100 != 2 || e.Problem != nil {
				t.Errorf("%+v", e)
			}
		case AccountMade:
			got = append(got, "account made")
		case OrderMade:
			got = append(got, "order made")
		case ChallengeFound:
			if e.Token != testToken || e.Type != acme.DeviceAttest01 {
				t.Errorf("%+v", e)
			}
			got = append(got, "challenge found")
		case EvidenceMade:
			got = append(got, "evidence "+string(e.Kind))
		case ChallengeAnswered:
			got = append(got, "challenge "+e.Status)
		case Finalized:
			got = append(got, "finalized "+e.Status)
		case CertificateReceived:
			got = append(got, "received")
		default:
			t.Errorf("unexpected %T", e)
		}
	}
	if _, err := client.Enroll(t.Context(), f.document()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"key", "csr", "directory", "nonce", "account", "account made", "order", "order made", "authorization", "challenge found",
		"evidence attested", "challenge", "challenge valid", "finalize", "finalized valid", "status", "certificate", "received",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLatencyLeavesOutKeyAndRequest(t *testing.T) {
	f := newFakeServer(t)
	client, _ := newClient(t, f, IPhone, "A15")
	ticks := 0
	client.Now = func() time.Time { ticks++; return time.Unix(int64(ticks), 0) }
	result, err := client.Enroll(t.Context(), f.document())
	if err != nil {
		t.Fatal(err)
	}
	var contact time.Duration
	for _, s := range result.Steps[2:] {
		contact += s.Took
	}
	between := time.Duration(len(result.Steps)-3) * time.Second // one tick between two steps
	if result.Took != contact+between {
		t.Errorf("took %v, steps since first contact %v", result.Took, contact+between)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
