package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"assay/acme"
	"assay/enroll"
	"assay/internal/issuance"
	"assay/internal/server"
)

// requests are the nine of an enrolment.
var requests = []enroll.Step{
	enroll.StepDirectory, enroll.StepNonce, enroll.StepAccount, enroll.StepOrder, enroll.StepAuthorization,
	enroll.StepChallenge, enroll.StepFinalize, enroll.StepStatus, enroll.StepCertificate,
}

// cuts are where a connection is cut in a request. TLS sends a request or an answer as a record or two: what is
// short of one tells the other side nothing.
var cuts = []struct {
	where string
	cut   cut
}{
	{"in the request", cut{answer: false, after: 40}},
	{"before the answer", cut{answer: true, after: 0}},
	{"in the answer", cut{answer: true, after: 40}},
}

var cutScenario = scenario{
	name: "cut",
	pair: true,
	did:  "the connection is cut in each of the nine requests: in the request, before the answer, in the answer",
	expected: "the code is used up exactly if the certificate was issued; a new device enrols with the same code, or with a fresh " +
		"one where it is used up",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		done, again, anew := 0, 0, 0
		for n, step := range requests {
			for _, c := range cuts {
				code, err := t.fresh(ctx, t.term.Now())
				if err != nil {
					return "", err
				}
				issued := step == enroll.StepFinalize && c.cut.answer || issuedBefore(step)
				if err := t.cutIn(ctx, code, n, c.cut, c.where, issued); err != nil {
					return "", err
				}
				if issued {
					anew++
					if code, err = t.fresh(ctx, t.term.Now()); err != nil {
						return "", err
					}
				} else {
					again++
				}
				if _, err := t.device(ctx, code, nil); err != nil {
					t.fault("%s, %s: a new device did not get a certificate: %v", step, c.where, err)
				}
				done++
			}
		}
		return fmt.Sprintf("%d cuts: %d times the same code gave a certificate, %d times it was used up and a fresh one did", done, again, anew), nil
	},
}

// cutIn lets a device enrol whose connection is cut in request number n.
func (t *trial) cutIn(ctx context.Context, code benchCode, n int, c cut, where string, issued bool) error {
	if n == 0 {
		t.proxy.arm(c)
	}
	_, err := t.device(ctx, code, func(e enroll.Event) {
		if done, ok := e.(enroll.Exchanged); ok && n > 0 && done.Step == requests[n-1] {
			t.proxy.arm(c)
		}
	})
	if abort, ok := errors.AsType[*enroll.Abort](err); !ok || abort.Step != requests[n] || abort.Reason != enroll.ReasonTransport {
		t.fault("%s, %s: the device ended otherwise: %v", requests[n], where, err)
	}
	row, err := t.inst.Store.Code(ctx, code.id)
	if err != nil {
		return err
	}
	want := issuance.CodeUnused
	if issued {
		want = issuance.CodeConsumed
	}
	if row.Status != want {
		t.fault("%s, %s: the code is %s, not %s", requests[n], where, row.Status, want)
	}
	return nil
}

var delayScenario = scenario{
	name:     "delay",
	pair:     true,
	did:      "every packet is up to 100 ms late, both ways, in any order among connections",
	expected: "every device gets its certificate",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		t.proxy.late(100 * time.Millisecond)
		s, err := t.fleet(ctx, "late packets", t.command.Duration/2)
		t.proxy.late(0)
		if err != nil {
			return "", err
		}
		return fleetText(s), nil
	},
}

var replayScenario = scenario{
	name:     "replay",
	pair:     true,
	did:      "each of the seven signed requests of an enrolment is sent three times at once, and again at the end",
	expected: "one of the three is answered and the others are refused; none is answered again",
	run: func(ctx context.Context, t *trial) (string, error) {
		if err := t.serve(ctx); err != nil {
			return "", err
		}
		code, err := t.fresh(ctx, t.term.Now())
		if err != nil {
			return "", err
		}
		c, err := t.newDuplicator()
		if err != nil {
			return "", err
		}
		defer c.http.CloseIdleConnections()
		if err := c.enrol(ctx, code); err != nil {
			return "", err
		}
		for _, r := range c.sent { // delayed copies
			if got, _, err := c.post(ctx, r.url, r.body); err != nil {
				return "", err
			} else if got != nil {
				t.fault("%s was answered again at the end", r.url)
			} else {
				c.refused++
			}
		}
		return fmt.Sprintf("%d requests answered once, %d copies refused", len(c.sent), c.refused), nil
	},
}

// duplicator is a client that sends each signed request several times.
type duplicator struct {
	t       *trial
	http    *http.Client
	account *ecdsa.PrivateKey
	kid     string
	sent    []struct {
		url  string
		body []byte
	}
	refused int
}

func (t *trial) newDuplicator() (*duplicator, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &duplicator{t: t, account: key, http: &http.Client{
		Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: t.roots}, MaxIdleConnsPerHost: 64},
	}}, nil
}

// answer is a request's answer.
type answer struct {
	location string
	body     []byte
}

// post sends a body; problem is the kind of a refusal, "" for none.
func (c *duplicator) post(ctx context.Context, url string, body []byte) (*answer, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	request.Header.Set("Content-Type", "application/jose+json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxInput))
	if err != nil {
		return nil, "", err
	}
	if response.StatusCode < 300 {
		return &answer{response.Header.Get("Location"), content}, "", nil
	}
	var problem acme.Problem
	if err := json.Unmarshal(content, &problem); err != nil || problem.Type == "" {
		return nil, fmt.Sprintf("status %d without a problem", response.StatusCode), nil
	}
	return nil, problem.Kind(), nil
}

// nonce fetches a nonce; problem is why there was none. An answer to HEAD has no body that would say so.
func (c *duplicator) nonce(ctx context.Context) (nonce, problem string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, c.endpoint("new-nonce"), nil)
	if err != nil {
		return "", "", err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return response.Header.Get("Replay-Nonce"), "", nil
	case http.StatusTooManyRequests:
		return "", acme.RateLimited, nil
	}
	return "", fmt.Sprintf("status %d", response.StatusCode), nil
}

// endpoint is a URL of the default directory.
func (c *duplicator) endpoint(name string) string {
	directory := server.DirectoryURL(c.t.proxy.url(), "default")
	return directory[:len(directory)-len("directory")] + name
}

// signed signs a request with a fresh nonce.
func (c *duplicator) signed(ctx context.Context, url string, payload []byte) ([]byte, error) {
	nonce, problem, err := c.nonce(ctx)
	if err != nil {
		return nil, err
	}
	if problem != "" {
		return nil, fmt.Errorf("no nonce: %s", problem)
	}
	return acme.Sign(c.account, c.kid, nonce, url, payload)
}

// thrice sends one signed request three times at once, of which one is to be answered.
func (c *duplicator) thrice(ctx context.Context, url string, payload []byte, into any) (*answer, error) {
	body, err := c.signed(ctx, url, payload)
	if err != nil {
		return nil, err
	}
	var answers [3]*answer
	var problems [3]string
	var errs [3]error
	var sending sync.WaitGroup
	for i := range answers {
		sending.Go(func() { answers[i], problems[i], errs[i] = c.post(ctx, url, body) })
	}
	sending.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	var one *answer
	for _, a := range answers {
		switch {
		case a != nil && one != nil:
			c.t.fault("%s: two copies of a request were answered", url)
		case a != nil:
			one = a
		default: // with badNonce or, if it came late, because of what the first one changed
			c.refused++
		}
	}
	if one == nil {
		return nil, fmt.Errorf("%s: none of three copies was answered: %q", url, problems)
	}
	c.sent = append(c.sent, struct {
		url  string
		body []byte
	}{url, body})
	if into != nil {
		err = json.Unmarshal(one.body, into)
	}
	return one, err
}

// enrol is a whole enrolment, every signed request in three copies.
func (c *duplicator) enrol(ctx context.Context, code benchCode) error {
	account, err := c.thrice(ctx, c.endpoint("new-account"), []byte(`{"termsOfServiceAgreed":true}`), nil)
	if err != nil {
		return err
	}
	c.kid = account.location
	payload, err := json.Marshal(map[string]any{"identifiers": []acme.Identifier{{Type: acme.PermanentIdentifier, Value: code.value}}})
	if err != nil {
		return err
	}
	var order struct {
		Authorizations []string
		Finalize       string
		Certificate    string
	}
	made, err := c.thrice(ctx, c.endpoint("new-order"), payload, &order)
	if err != nil {
		return err
	}
	if len(order.Authorizations) != 1 {
		return fmt.Errorf("the order has %d authorizations", len(order.Authorizations))
	}
	var authorization struct {
		Challenges []struct{ URL, Token string }
	}
	if _, err := c.thrice(ctx, order.Authorizations[0], nil, &authorization); err != nil {
		return err
	}
	if len(authorization.Challenges) != 1 {
		return fmt.Errorf("the authorization has %d challenges", len(authorization.Challenges))
	}
	challenge := authorization.Challenges[0]
	evidence, csr, err := c.prove(ctx, challenge.Token)
	if err != nil {
		return err
	}
	if _, err := c.thrice(ctx, challenge.URL, evidence, nil); err != nil {
		return err
	}
	if _, err := c.thrice(ctx, order.Finalize, csr, nil); err != nil {
		return err
	}
	if _, err := c.thrice(ctx, made.location, nil, &order); err != nil {
		return err
	}
	chain, err := c.thrice(ctx, order.Certificate, nil, nil)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(chain.body)
	if block == nil {
		return errors.New("the chain is no PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	c.t.receipts.add(code, certificate)
	return nil
}

// prove makes a device's key, and the payloads of challenge and finalize.
func (c *duplicator) prove(ctx context.Context, token string) (evidence, finalize []byte, err error) {
	device, err := enroll.NewDevice(enroll.IPhone, "", rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	key, err := enroll.Keys(device).MakeKey(ctx, enroll.KeySpec{Type: "ECSECPrimeRandom", Size: 256, HardwareBound: true})
	if err != nil {
		return nil, nil, err
	}
	authorization, err := acme.KeyAuthorization(token, &jose.JSONWebKey{Key: c.account.Public()})
	if err != nil {
		return nil, nil, err
	}
	object, err := c.t.attester.Attest(ctx, enroll.AttestRequest{Token: token, KeyAuthorization: authorization, Key: key, Device: *device})
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "bench"}}, key)
	if err != nil {
		return nil, nil, err
	}
	if evidence, err = json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(object)}); err != nil {
		return nil, nil, err
	}
	finalize, err = json.Marshal(acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(csr)})
	return evidence, finalize, err
}
