package ddm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/micromdm/plist"
	"github.com/smallstep/pkcs7"
)

const (
	requestLimit = 30 * time.Second
	maxReply     = 1 << 20 // bytes

	typeCheckIn = "application/x-apple-aspen-mdm-checkin"
	typeCommand = "application/x-apple-aspen-mdm; charset=UTF-8"
)

// MDM is a device's way to its MDM server.
type MDM struct {
	URL string // ServerURL of the enrollment profile; check-ins go there, too. https; http to this machine only
	// Identity is the device's MDM identity, with its certificate parsed (Leaf). It is shown in the
	// TLS handshake where the server asks, and signs every request (header Mdm-Signature, as with
	// SignMessage in the enrollment profile).
	Identity tls.Certificate
	// CertHeader names a header to pass the certificate in (RFC 9440) in place of the signature, as
	// a proxy does that ends TLS before the MDM; "" for none.
	CertHeader string
	Roots      *x509.CertPool // trusted for the server's TLS chain; nil: the system's
}

// MDMError is a request that the MDM did not answer as it must.
type MDMError struct {
	Message string // what was sent
	Status  int    // HTTP status; 0 if there was no answer
	Err     error
}

func (e *MDMError) Error() string {
	if e.Status != 0 && e.Err == nil {
		return fmt.Sprintf("MDM: %s: status %d", e.Message, e.Status)
	}
	return fmt.Sprintf("MDM: %s: %v", e.Message, e.Err)
}

func (e *MDMError) Unwrap() error { return e.Err }

// check refuses what no request can be made with.
func (m *MDM) check() error {
	address, err := url.Parse(m.URL)
	if err != nil || address.Host == "" {
		return fmt.Errorf("MDM: %.200q is no URL of an MDM server", m.URL)
	}
	if address.User != nil {
		return errors.New("MDM: a password in the URL of an MDM server goes nowhere: devices show their MDM identity")
	}
	if address.Scheme != "https" && (address.Scheme != "http" || !isLoopback(address.Hostname())) {
		return fmt.Errorf("MDM: %.200s: devices demand https; http is taken for this machine only", m.URL)
	}
	if m.Identity.Leaf == nil || m.Identity.PrivateKey == nil {
		return errors.New("MDM: an MDM identity with certificate and key is needed")
	}
	return nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

// send sends one message and returns the answer's body.
func (m *MDM) send(ctx context.Context, name, contentType string, message any) ([]byte, error) {
	fail := func(status int, err error) ([]byte, error) {
		return nil, &MDMError{Message: name, Status: status, Err: err}
	}
	body, err := plist.MarshalIndent(message, "\t")
	if err != nil {
		return fail(0, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, m.URL, bytes.NewReader(body))
	if err != nil {
		return fail(0, err)
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("User-Agent", "MDM/1.0")
	if err := m.prove(request.Header, body); err != nil {
		return fail(0, err)
	}
	client := m.client()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return fail(0, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fail(response.StatusCode, nil)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	if err != nil {
		return fail(response.StatusCode, err)
	}
	if len(answer) > maxReply {
		return fail(response.StatusCode, fmt.Errorf("the answer has more than %d bytes", maxReply))
	}
	return answer, nil
}

func (m *MDM) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{
				RootCAs: m.Roots, MinVersion: tls.VersionTLS12,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.Identity, nil },
			},
			ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// prove adds the header by which an MDM that sees no TLS handshake knows the device.
func (m *MDM) prove(header http.Header, body []byte) error {
	if m.CertHeader != "" {
		header.Set(m.CertHeader, ":"+base64.StdEncoding.EncodeToString(m.Identity.Leaf.Raw)+":")
		return nil
	}
	signature, err := sign(body, m.Identity.Leaf, m.Identity.PrivateKey)
	if err != nil {
		return err
	}
	header.Set("Mdm-Signature", base64.StdEncoding.EncodeToString(signature))
	return nil
}

// sign makes the detached CMS signature (RFC 5652) of a message's body.
func sign(body []byte, certificate *x509.Certificate, key crypto.PrivateKey) ([]byte, error) {
	signed, err := pkcs7.NewSignedData(body)
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(certificate, key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	signed.Detach()
	return signed.Finish()
}
