package enroll

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"

	"assay/attest"
	"assay/credential"
)

// The patience of a device.
const (
	requestLimit = 15 * time.Second // per request
	runLimit     = 60 * time.Second // for the whole run, key generation included
	pause        = 5 * time.Second  // once after the challenge, once after finalize
)

// Client runs ACME as a device does. It holds no state between runs; several runs may share it.
type Client struct {
	Device   *Device        // required
	Keys     KeyMaker       // required; see Keys
	Attester Attester       // nil: attestation fails, and the run tells the server so
	Roots    *x509.CertPool // trusted for the server's TLS chain; nil: the system's
	Observe  func(Event)    // called in order, from the running goroutine; nil: nobody watches

	// Now and Sleep are the clock; nil: the system's. Sleep returns early with the context's
	// error.
	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error

	limits limits // zero: a device's own
}

// limits are the two time limits of a run; tests shorten them.
type limits struct{ request, run time.Duration }

// Result is a successful run.
type Result struct {
	Credential  *credential.Credential
	Device      Device
	Key         Key
	Certificate *x509.Certificate // the first of the chain, which certifies Key
	Chain       []byte            // the PEM chain as sent; a device uses the first certificate only
	OrderURL    string
	Evidence    attest.Kind

	Took  time.Duration // from the first contact to the certificate: without key and request
	Steps []StepTime    // every step that ran, in order
}

// StepTime is how long a step took, pauses included.
type StepTime struct {
	Step Step
	Took time.Duration
}

// Enroll makes a key for the document, runs ACME with a new account, and returns the identity. The
// error is an *Abort wherever a device would end the run. It makes its own connection and closes
// it, as each device has its own.
func (c *Client) Enroll(ctx context.Context, document *credential.Credential) (*Result, error) {
	if err := c.Device.check(); err != nil {
		return nil, err
	}
	if c.Keys == nil || document == nil {
		return nil, errors.New("enroll: a key maker and a credential document are required")
	}
	accountKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	transport := newTransport(c.Roots)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.limits.run, runLimit))
	defer cancel()

	r := &run{
		client:     c,
		credential: document,
		accountKey: accountKey,
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		result: &Result{Credential: document, Device: *c.Device},
	}
	if err := r.all(ctx); err != nil {
		return nil, err
	}
	return r.result, nil
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	if c.Sleep != nil {
		return c.Sleep(ctx, d)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (c *Client) observe(e Event) {
	if c.Observe != nil {
		c.Observe(e)
	}
}

// run is the state of one enrolment.
type run struct {
	client     *Client
	credential *credential.Credential
	http       *http.Client
	result     *Result

	key        Key
	csr        []byte
	accountKey *ecdsa.PrivateKey
	accountURL string
	nonce      string // for the next signed request
	directory  directory
	orderURL   string
	order      order
	challenge  challenge
	evidence   *evidence
}

func (r *run) accountJWK() *jose.JSONWebKey { return &jose.JSONWebKey{Key: r.accountKey.Public()} }

// all runs the steps in a device's order: key and request before any contact.
func (r *run) all(ctx context.Context) error {
	var contact time.Time
	for _, step := range []struct {
		name Step
		do   func(context.Context) *Abort
	}{
		{StepKey, r.makeKey},
		{StepCSR, r.buildRequest},
		{StepDirectory, r.getDirectory},
		{StepNonce, r.getNonce},
		{StepAccount, r.newAccount},
		{StepOrder, r.newOrder},
		{StepAuthorization, r.getAuthorization},
		{StepEvidence, r.prove},
		{StepChallenge, r.answerChallenge},
		{StepFinalize, r.finalize},
		{StepStatus, r.getOrder},
		{StepCertificate, r.getCertificate},
	} {
		start := r.client.now()
		if step.name == StepDirectory {
			contact = start
		}
		if abort := step.do(ctx); abort != nil {
			abort.Step = step.name
			return abort
		}
		end := r.client.now()
		r.result.Steps = append(r.result.Steps, StepTime{step.name, end.Sub(start)})
		r.result.Took = end.Sub(contact)
	}
	r.client.observe(CertificateReceived{Certificate: r.result.Certificate, Took: r.result.Took})
	return nil
}

func (r *run) makeKey(ctx context.Context) *Abort {
	start := r.client.now()
	spec := KeySpec{Type: r.credential.KeyType, Size: r.credential.KeySize, HardwareBound: r.credential.HardwareBound}
	key, err := r.client.Keys.MakeKey(ctx, spec)
	if err != nil {
		return &Abort{Reason: ReasonKey, Detail: "no key", Err: err}
	}
	r.key, r.result.Key = key, key
	r.client.observe(KeyMade{spec, key.Protection(), key.Public(), r.client.now().Sub(start)})
	return nil
}

func (r *run) buildRequest(context.Context) *Abort {
	start := r.client.now()
	der, err := buildCSR(r.credential, r.key)
	if err != nil {
		return &Abort{Reason: ReasonCSR, Detail: "no certificate request", Err: err}
	}
	r.csr = der
	r.client.observe(RequestBuilt{der, r.client.now().Sub(start)})
	return nil
}

// prove makes the evidence for the challenge.
func (r *run) prove(ctx context.Context) *Abort {
	start := r.client.now()
	e, err := r.makeEvidence(ctx, r.challenge.Token)
	if err != nil {
		return &Abort{Reason: ReasonEvidence, Detail: "no challenge response", Err: err}
	}
	r.evidence, r.result.Evidence = e, e.kind
	r.client.observe(EvidenceMade{e.kind, e.object, e.err, r.client.now().Sub(start)})
	return nil
}
