package abmtest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// What Apple's page demands of an assertion ("Create a client assertion"). It is written down here once
// more, so that a slip in the client is seen.
const (
	wantAudience  = "https://account.apple.com/auth/oauth2/v2/token"
	wantType      = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	longestLife   = 180 * 24 * time.Hour
	toleratedSkew = 10 * time.Second
)

// token answers a request for an access token.
func (s *Service) token(r *http.Request) Answer {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return oauthError("invalid_request")
	}
	switch {
	case r.FormValue("grant_type") != "client_credentials":
		return oauthError("unsupported_grant_type")
	case r.FormValue("client_assertion_type") != wantType:
		return oauthError("invalid_request")
	case r.FormValue("client_id") != s.ClientID:
		return oauthError("invalid_client")
	}
	if err := s.verify(r.FormValue("client_assertion")); err != nil {
		return oauthError("invalid_client")
	}
	if r.FormValue("scope") != s.Scope {
		return oauthError("invalid_scope")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value := rand.Text()
	s.tokens[value] = s.Now().Add(s.TokenLife)
	return Answer{Status: http.StatusOK, Header: jsonHeader(), Body: encoded(map[string]any{
		"access_token": value, "token_type": "Bearer", "expires_in": int64(s.TokenLife / time.Second), "scope": s.Scope,
	})}
}

// verify verifies an assertion: a JSON Web Token, signed ES256 by the account's key.
func (s *Service) verify(assertion string) error {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return errors.New("not three parts")
	}
	var header struct{ Alg, Kid string }
	if err := decoded(parts[0], &header); err != nil {
		return err
	}
	if header.Alg != "ES256" || header.Kid != s.KeyID {
		return fmt.Errorf("header %+v", header)
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return errors.New("the signature is not of 64 bytes")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(&s.Key.PublicKey, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return errors.New("the signature is not the account's")
	}
	return s.verifyClaims(parts[1])
}

func (s *Service) verifyClaims(part string) error {
	var claims struct {
		Iss, Sub, Aud, Jti string
		Iat, Exp           int64
	}
	if err := decoded(part, &claims); err != nil {
		return err
	}
	now := s.Now()
	issued, expires := time.Unix(claims.Iat, 0), time.Unix(claims.Exp, 0)
	switch {
	case claims.Sub != s.ClientID || claims.Iss != s.ClientID:
		return errors.New("another client")
	case claims.Aud != wantAudience:
		return errors.New("another audience")
	case !expires.After(now) || issued.After(now.Add(toleratedSkew)):
		return errors.New("not good at this time")
	case expires.Sub(issued) >= longestLife:
		return errors.New("it lives too long")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if claims.Jti == "" || s.used[claims.Jti] {
		return errors.New("its id is missing, or was used before")
	}
	s.used[claims.Jti] = true
	return nil
}

func decoded(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func oauthError(code string) Answer {
	return Answer{Status: http.StatusBadRequest, Header: jsonHeader(), Body: encoded(map[string]string{"error": code})}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json;charset=UTF-8"}} }
