package counterpart

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"assay/attest/standin"
	"assay/internal/ca"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	"golang.org/x/crypto/acme"
)

func serialOf(c *x509.Certificate) string { return ca.FormatSerial(c.SerialNumber) }

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// enrolWithXCrypto runs golang.org/x/crypto/acme up to the finalize request; the device's key is
// attested, and the request is made with another key if there is one.
func enrolWithXCrypto(t *testing.T, s *site, code string, attested, requested crypto.Signer) ([]*x509.Certificate, error) {
	t.Helper()
	ctx := t.Context()
	client := &acme.Client{Key: newKey(t, elliptic.P256()), DirectoryURL: s.Directories["default"], HTTPClient: s.http}
	if _, err := client.Register(ctx, &acme.Account{}, acme.AcceptTOS); err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	order, err := client.AuthorizeOrder(ctx, []acme.AuthzID{{Type: "permanent-identifier", Value: code}})
	if err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	authorization, err := client.GetAuthorization(ctx, order.AuthzURLs[0])
	if err != nil {
		return nil, fmt.Errorf("authorization: %w", err)
	}
	challenge := authorization.Challenges[0]
	if challenge.Type != "device-attest-01" {
		return nil, fmt.Errorf("offered %q", challenge.Type)
	}
	if challenge.Payload, err = response(s.authority, attested.Public(), challenge.Token); err != nil {
		return nil, err
	}
	if _, err := client.Accept(ctx, challenge); err != nil {
		return nil, fmt.Errorf("challenge: %w", err)
	}
	if _, err := client.WaitAuthorization(ctx, authorization.URI); err != nil {
		return nil, fmt.Errorf("wait for authorization: %w", err)
	}
	if order, err = client.WaitOrder(ctx, order.URI); err != nil {
		return nil, fmt.Errorf("wait for order: %w", err)
	}
	ders, _, err := client.CreateOrderCert(ctx, order.FinalizeURL, request(t, requested), true)
	if err != nil {
		return nil, fmt.Errorf("finalize: %w", err)
	}
	var chain []*x509.Certificate
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	return chain, nil
}

func TestXCryptoClientEnrolsWithACode(t *testing.T) {
	s := newSite(t, nil)
	key := newKey(t, elliptic.P384())
	chain, err := enrolWithXCrypto(t, s, s.mint(t, testSerial), key, key)
	if err != nil {
		t.Fatal(err)
	}
	s.wantIssued(t, chain, key)
}

func TestXCryptoClientIsToldWhyItIsRefused(t *testing.T) {
	s := newSite(t, nil)
	attested, other := newKey(t, elliptic.P384()), newKey(t, elliptic.P384())
	code := s.mint(t, testSerial)
	for _, c := range []struct {
		name, code string
		key        crypto.Signer
		problem    string
	}{
		{"key that was not attested", code, other, "urn:ietf:params:acme:error:badCSR"},
		{"code of another device", s.mint(t, "FAKE00000002"), attested, "urn:ietf:params:acme:error:badAttestationStatement"},
		{"unknown code", strings.Repeat("x", 32), attested, "urn:ietf:params:acme:error:rejectedIdentifier"},
	} {
		_, err := enrolWithXCrypto(t, s, c.code, attested, c.key)
		problem, ok := errors.AsType[*acme.Error](err)
		if !ok || problem.ProblemType != c.problem || problem.Detail == "" {
			t.Errorf("%s: %v, want %s", c.name, err, c.problem)
		}
	}
	// A faulty request is no use of the code.
	if _, err := enrolWithXCrypto(t, s, code, attested, attested); err != nil {
		t.Error(err)
	}
}

func TestXCryptoClientManagesItsAccount(t *testing.T) {
	s := newSite(t, nil)
	ctx := t.Context()
	client := &acme.Client{Key: newKey(t, elliptic.P256()), DirectoryURL: s.Directories["default"], HTTPClient: s.http}
	if _, err := client.Register(ctx, &acme.Account{Contact: []string{"mailto:a@example.com"}}, acme.AcceptTOS); err != nil {
		t.Fatal(err)
	}
	account, err := client.GetReg(ctx, "")
	if err != nil || account.Status != acme.StatusValid {
		t.Fatalf("account %+v, %v", account, err)
	}
	if account, err = client.UpdateReg(ctx, &acme.Account{Contact: []string{"mailto:b@example.com"}}); err != nil || len(account.Contact) != 1 || account.Contact[0] != "mailto:b@example.com" {
		t.Fatalf("updated account %+v, %v", account, err)
	}
	if err := client.AccountKeyRollover(ctx, newKey(t, elliptic.P256())); err != nil {
		t.Fatal(err)
	}
	order, err := client.AuthorizeOrder(ctx, []acme.AuthzID{{Type: "permanent-identifier", Value: s.mint(t, "")}})
	if err != nil {
		t.Fatalf("order with the new key: %v", err)
	}
	if err := client.RevokeAuthorization(ctx, order.AuthzURLs[0]); err != nil {
		t.Fatal(err)
	}
	if err := client.DeactivateReg(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthorizeOrder(ctx, []acme.AuthzID{{Type: "permanent-identifier", Value: s.mint(t, "")}}); err == nil {
		t.Error("a deactivated account may order")
	}
}

func TestXCryptoClientRevokesByAccountAndByKey(t *testing.T) {
	s := newSite(t, nil)
	for name, by := range map[string]bool{"certificate key": true, "account of another": false} {
		key := newKey(t, elliptic.P256())
		chain, err := enrolWithXCrypto(t, s, s.mint(t, testSerial), key, key)
		if err != nil {
			t.Fatal(err)
		}
		client := &acme.Client{Key: newKey(t, elliptic.P256()), DirectoryURL: s.Directories["default"], HTTPClient: s.http}
		if _, err := client.Register(t.Context(), &acme.Account{}, acme.AcceptTOS); err != nil {
			t.Fatal(err)
		}
		var signer crypto.Signer
		if by {
			signer = key
		}
		err = client.RevokeCert(t.Context(), signer, chain[0].Raw, acme.CRLReasonKeyCompromise)
		if (err == nil) != by {
			t.Errorf("revoked with %s: %v", name, err)
		}
	}
}

// acmezSolver attests a key for acmez.
type acmezSolver struct {
	authority *standin.Authority
	key       crypto.PublicKey
}

func (acmezSolver) Present(context.Context, acmezacme.Challenge) error { return nil }
func (acmezSolver) CleanUp(context.Context, acmezacme.Challenge) error { return nil }

func (s acmezSolver) Payload(_ context.Context, c acmezacme.Challenge) (any, error) {
	payload, err := response(s.authority, s.key, c.Token)
	return json.RawMessage(payload), err
}

// permanentIdentifier is a subjectAltName with a PermanentIdentifier (RFC 4043), encoded by hand.
func permanentIdentifier(t *testing.T, value string) pkix.Extension {
	t.Helper()
	type identifier struct {
		Value string `asn1:"utf8"`
	}
	type otherName struct {
		Type  asn1.ObjectIdentifier
		Value identifier `asn1:"explicit,tag:0"`
	}
	name, err := asn1.MarshalWithParams(otherName{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}, identifier{value}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal([]asn1.RawValue{{FullBytes: name}})
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}
}

func enrolWithAcmez(t *testing.T, s *site, serial string) ([]*x509.Certificate, crypto.Signer, error) {
	t.Helper()
	key := newKey(t, elliptic.P384())
	client := acmez.Client{
		Client: &acmezacme.Client{Directory: s.Directories["default"], HTTPClient: s.http, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))},
		ChallengeSolvers: map[string]acmez.Solver{
			acmezacme.ChallengeTypeDeviceAttest01: acmezSolver{s.authority, key.Public()},
		},
	}
	account, err := client.NewAccount(t.Context(), acmezacme.Account{TermsOfServiceAgreed: true, PrivateKey: newKey(t, elliptic.P256())})
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.ParseCertificateRequest(request(t, key, permanentIdentifier(t, serial)))
	if err != nil {
		t.Fatal(err)
	}
	parameters, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := client.ObtainCertificate(t.Context(), parameters)
	if err != nil {
		return nil, nil, err
	}
	var chain []*x509.Certificate
	for rest := certificates[0].ChainPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain, key, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
}

// bySerial lets orders name the serial number, as acmez's clients do: they take identifiers from the
// CSR, where a code cannot stand.
func bySerial(config string) string {
	return strings.Replace(config, "    - code\n", "    - code\n    - serial\n", 1)
}

func TestAcmezClientEnrolsWithItsSerialNumber(t *testing.T) {
	s := newSite(t, bySerial)
	s.list(t, testSerial)
	chain, key, err := enrolWithAcmez(t, s, testSerial)
	if err != nil {
		t.Fatal(err)
	}
	s.wantIssued(t, chain, key)
}

func TestAcmezClientIsRefusedAnotherSerialNumber(t *testing.T) {
	s := newSite(t, bySerial)
	_, _, err := enrolWithAcmez(t, s, "FAKE00000002")
	problem, ok := errors.AsType[acmezacme.Problem](err)
	if !ok || problem.Type != "urn:ietf:params:acme:error:badAttestationStatement" {
		t.Errorf("got %v", err)
	}
}
