package acme

import (
	"encoding/base64"

	"github.com/go-jose/go-jose/v4"
)

// parseProtected checks the protected header member by member. The embedded key itself is read by
// go-jose afterwards; here only that there is one.
func parseProtected(encoded string, inner bool) (Header, jose.SignatureAlgorithm, *Problem) {
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return Header{}, "", NewProblem(Malformed, checkSyntax, "protected header is not base64url")
	}
	members, err := scanObject(raw)
	if err != nil {
		return Header{}, "", NewProblem(Malformed, checkHeader, "protected header: "+err.Error())
	}
	h := headerMembers(members)
	for _, check := range []func(headerMembers, bool) *Problem{
		checkExtensions, checkAlg, checkKeyMember, checkNonceMember, checkURLMember,
	} {
		if p := check(h, inner); p != nil {
			return Header{}, "", p
		}
	}
	header := Header{Algorithm: h.text("alg"), KeyID: h.text("kid"), Nonce: h.text("nonce"), URL: h.text("url")}
	return header, jose.SignatureAlgorithm(header.Algorithm), nil
}

// headerMembers are the members of a protected header.
type headerMembers []member

// find returns a member's value as sent, or nil if there is none.
func (h headerMembers) find(name string) []byte {
	for i := range h {
		if h[i].name == name {
			return h[i].value
		}
	}
	return nil
}

// text returns a member's text, or "" if it is absent or no string.
func (h headerMembers) text(name string) string {
	s, _ := text(h.find(name))
	return s
}

// checkExtensions refuses "crit" and "b64": RFC 8555, section 6.2, forbids unencoded payloads, and
// we understand no critical extension.
func checkExtensions(h headerMembers, _ bool) *Problem {
	if h.find("crit") != nil || h.find("b64") != nil {
		return NewProblem(Malformed, checkHeader, "protected header must not have crit or b64")
	}
	return nil
}

func checkAlg(h headerMembers, _ bool) *Problem {
	alg, ok := text(h.find("alg"))
	if !ok {
		return NewProblem(Malformed, checkAlgorithm, "protected header has no alg")
	}
	if !allowed(alg) {
		p := NewProblem(BadSignatureAlgorithm, checkAlgorithm, "signature algorithm is not supported")
		p.Algorithms = offered()
		return p
	}
	return nil
}

// checkKeyMember: exactly one of jwk and kid (section 6.2), and in an inner JWS the jwk (7.3.5).
func checkKeyMember(h headerMembers, inner bool) *Problem {
	jwk, kid := h.find("jwk"), h.find("kid")
	if (jwk == nil) == (kid == nil) {
		return NewProblem(Malformed, checkHeader, "protected header must have exactly one of jwk and kid")
	}
	if inner && jwk == nil {
		return NewProblem(Malformed, checkHeader, "inner JWS must have a jwk")
	}
	if kid != nil && h.text("kid") == "" {
		return NewProblem(Malformed, checkHeader, "kid must be a string")
	}
	if jwk != nil && jwk[0] != '{' {
		return NewProblem(BadPublicKey, checkKeyName, "jwk must be an object")
	}
	return nil
}

func checkNonceMember(h headerMembers, inner bool) *Problem {
	raw := h.find("nonce")
	if inner {
		if raw != nil {
			return NewProblem(Malformed, checkNonce, "inner JWS must not have a nonce")
		}
		return nil
	}
	if raw == nil {
		return NewProblem(BadNonce, checkNonce, "protected header has no nonce")
	}
	nonce, ok := text(raw)
	if !ok || !isBase64URL(nonce) || len(nonce) > maxNonce {
		return NewProblem(Malformed, checkNonce, "nonce must be base64url of at most 128 characters")
	}
	if nonce == "" {
		return NewProblem(BadNonce, checkNonce, "nonce is empty")
	}
	return nil
}

func checkURLMember(h headerMembers, _ bool) *Problem {
	if h.text("url") == "" {
		return NewProblem(Malformed, checkURL, "protected header has no url")
	}
	return nil
}
