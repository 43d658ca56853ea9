package acme

import (
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// MaxRequestSize is the largest request body, in bytes, that ParseMessage reads; a larger one is
// refused with status 413.
const MaxRequestSize = 128 << 10

// maxNonce is the longest nonce, in characters, that a request may carry.
const maxNonce = 128

// Names of the checks, as Problem.Check carries them.
const (
	checkSize      = "jws-size"      // the request is too large
	checkSyntax    = "jws-syntax"    // not a flattened JWS, or its base64url is broken
	checkHeader    = "jws-header"    // the protected header breaks a rule of RFC 8555, section 6.2
	checkAlgorithm = "jws-algorithm" // algorithm missing, not offered, or not the key's
	checkKeyName   = "jws-key"       // the embedded key may not be used
	checkNonce     = "jws-nonce"     // nonce missing or not base64url
	checkURL       = "jws-url"       // url missing
	checkSignature = "jws-signature" // the signature does not verify
	checkPayload   = "payload"       // the signed payload is not the JSON object it must be
)

// algorithms are the ones that requests may be signed with. MACs and "none" are never among them
// (RFC 8555, section 6.2).
var algorithms = []jose.SignatureAlgorithm{
	jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.PS256, jose.EdDSA,
}

// Header is the protected header of a signed request (RFC 8555, section 6.2). Exactly one of KeyID
// and JWK is set.
type Header struct {
	Algorithm string
	KeyID     string           // the account URL
	JWK       *jose.JSONWebKey // public and checked as ParseJWK checks
	Nonce     string           // base64url alphabet; "" in the inner JWS of keyChange alone
	URL       string
}

// Message is a signed request, parsed but not verified. Its payload cannot be read before Verify
// has succeeded. A Message is not for concurrent use.
type Message struct {
	Header Header

	jws *jose.JSONWebSignature
}

// ParseMessage reads a request body: one flattened JWS (RFC 7515, section 7.2.2) as RFC 8555,
// section 6.2, restricts it. It refuses every other serialization, unprotected headers, several
// signatures, "crit" and "b64", duplicate members, algorithms that are not allowed
// (badSignatureAlgorithm, with those that are) and keys that ParseJWK refuses (badPublicKey).
//
// A missing or empty nonce is badNonce (section 6.5); one outside the base64url alphabet, or longer
// than 128 characters, is malformed (section 6.5.2). All other faults are malformed.
func ParseMessage(body []byte) (*Message, *Problem) {
	return parse(body, false)
}

// ParseInner reads the inner JWS of a keyChange request (RFC 8555, section 7.3.5): it must embed the
// new key and must have no nonce. That its url equals the outer one is for the caller to compare.
func ParseInner(body []byte) (*Message, *Problem) {
	return parse(body, true)
}

func parse(body []byte, inner bool) (*Message, *Problem) {
	if len(body) > MaxRequestSize {
		return nil, tooLarge()
	}
	parts, p := parseFlattened(body)
	if p != nil {
		return nil, p
	}
	header, alg, p := parseProtected(parts.protected, inner)
	if p != nil {
		return nil, p
	}
	// The parts are in the compact serialization's encoding already, so go-jose need not read the
	// JSON around them again.
	jws, err := jose.ParseSignedCompact(parts.compact(), []jose.SignatureAlgorithm{alg})
	if err != nil {
		if header.KeyID == "" { // all else in the header is known to be sound
			return nil, NewProblem(BadPublicKey, checkKeyName, "embedded jwk is not a usable public key")
		}
		return nil, NewProblem(Malformed, checkHeader, "protected header cannot be read")
	}
	if header.KeyID == "" {
		header.JWK = jws.Signatures[0].Protected.JSONWebKey
		if err := checkKey(header.JWK); err != nil {
			return nil, NewProblem(BadPublicKey, checkKeyName, "embedded jwk: "+err.Error())
		}
	}
	return &Message{Header: header, jws: jws}, nil
}

// flattened holds the three base64url members of a flattened JWS.
type flattened struct{ protected, payload, signature string }

func (f *flattened) compact() string { return f.protected + "." + f.payload + "." + f.signature }

func parseFlattened(body []byte) (*flattened, *Problem) {
	members, err := scanObject(body)
	if err != nil {
		return nil, NewProblem(Malformed, checkSyntax, "request body: "+err.Error())
	}
	var f flattened
	seen := 0
	for _, m := range members {
		var to *string
		switch m.name {
		case "protected":
			to = &f.protected
		case "payload":
			to = &f.payload
		case "signature":
			to = &f.signature
		case "header":
			return nil, NewProblem(Malformed, checkSyntax, "request body has an unprotected header")
		case "signatures":
			return nil, NewProblem(Malformed, checkSyntax, "request body is not a flattened JWS with one signature")
		default:
			continue // RFC 7515, section 7.2.1: other members must be ignored
		}
		value, ok := text(m.value)
		if !ok || !isBase64URL(value) {
			return nil, NewProblem(Malformed, checkSyntax, "JWS member "+m.name+" is not base64url without padding")
		}
		*to = value
		seen++
	}
	if seen != 3 || f.protected == "" || f.signature == "" {
		return nil, NewProblem(Malformed, checkSyntax, "request body must have protected, payload and signature")
	}
	return &f, nil
}

// Verify checks the signature with the account's key, or with the embedded one, and only then
// gives out the payload: empty for POST-as-GET (RFC 8555, section 6.3). The algorithm must be the
// key's own. Verify does not check the nonce or the URL.
//
// Apple systems before about iOS 18 and macOS 15 drop leading zero bytes of r and s, so an ES256
// signature of 62 or 63 bytes is tried with the zeros put back in each place they can have had.
func (m *Message) Verify(key *jose.JSONWebKey) ([]byte, *Problem) {
	alg := jose.SignatureAlgorithm(m.Header.Algorithm)
	if !fits(alg, key) {
		return nil, NewProblem(Malformed, checkAlgorithm, "algorithm "+m.Header.Algorithm+" does not fit the key")
	}
	sent := m.jws.Signatures[0].Signature
	defer func() { m.jws.Signatures[0].Signature = sent }()
	for _, signature := range candidates(alg, sent) {
		m.jws.Signatures[0].Signature = signature
		if payload, err := m.jws.Verify(key); err == nil {
			return payload, nil
		}
	}
	return nil, NewProblem(Malformed, checkSignature, "signature does not verify")
}

// candidates are the full-length signatures that a sent one can stand for: itself, unless it is an
// ES256 signature that lacks one or two of its 64 bytes.
func candidates(alg jose.SignatureAlgorithm, sent []byte) [][]byte {
	const half = 32
	missing := 2*half - len(sent)
	if alg != jose.ES256 || missing < 1 || missing > 2 {
		return [][]byte{sent}
	}
	all := make([][]byte, 0, missing+1)
	for lostByR := range missing + 1 {
		full := make([]byte, 2*half)
		split := half - lostByR
		copy(full[lostByR:half], sent[:split])
		copy(full[2*half-len(sent[split:]):], sent[split:])
		all = append(all, full)
	}
	return all
}

// isBase64URL reports whether a text is base64url without padding, line breaks or spaces (RFC
// 8555, section 6.1). Go's decoder would skip line breaks.
func isBase64URL(s string) bool {
	for i := range len(s) {
		if !base64URL[s[i]] {
			return false
		}
	}
	return len(s)%4 != 1
}

// base64URL says of every byte whether it is in the alphabet. An attestation has thousands of them.
var base64URL = func() (in [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		in[c] = true
	}
	return in
}()

// offered are the allowed algorithms for a badSignatureAlgorithm problem.
func offered() []string {
	names := make([]string, len(algorithms))
	for i, alg := range algorithms {
		names[i] = string(alg)
	}
	return names
}

func allowed(alg string) bool { return slices.Contains(algorithms, jose.SignatureAlgorithm(alg)) }
