package abm

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// audience is the assertion's audience ("Create a client assertion").
const audience = "https://account.apple.com/auth/oauth2/v2/token"

const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	// assertionLife is how long an assertion is good. Apple allows 180 days; each is used once, at once.
	assertionLife = 10 * time.Minute
	// clockSkew is how far an assertion is back-dated, for a clock that is ahead of Apple's.
	clockSkew = time.Minute
	// renewalMargin is how long before its end a token is renewed, so that it does not end under way.
	renewalMargin = 5 * time.Minute
	// maxTokenLife is the longest life of a token that is believed. Apple's live for one hour.
	maxTokenLife = 24 * time.Hour
	maxToken     = 16 << 10 // bytes
)

// tokens keeps the present access token.
type tokens struct {
	mu      sync.Mutex
	value   string
	renewAt time.Time
}

// drop forgets a token that was refused, unless another one replaced it meanwhile.
func (t *tokens) drop(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value == value {
		t.value = ""
	}
}

// bearer returns the present token, or asks for one where there is none that will do.
func (c *Client) bearer(ctx context.Context) (string, error) {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	if c.tokens.value != "" && c.config.Now().Before(c.tokens.renewAt) {
		return c.tokens.value, nil
	}
	value, life, err := c.requestToken(ctx)
	if err != nil {
		return "", err
	}
	c.tokens.value = value
	c.tokens.renewAt = c.config.Now().Add(life - min(renewalMargin, life/10))
	return value, nil
}

// requestToken exchanges a fresh assertion for a token ("Request an access token"). The parameters go
// into the body: Apple's example has them in the URL, where proxies write them down, but Apple's content
// type is that of a form, and RFC 6749, section 4.4.2, wants them there.
func (c *Client) requestToken(ctx context.Context) (value string, life time.Duration, err error) {
	assertion, err := c.assertion()
	if err != nil {
		return "", 0, fmt.Errorf("sign client assertion: %w", err)
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.config.ClientID},
		"client_assertion_type": {assertionType}, "client_assertion": {assertion}, "scope": {c.scope()},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, fmt.Errorf("request access token: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	body, fault := c.send(request, tokenCall, assertion)
	if fault != nil {
		return "", 0, fault
	}
	value, life, err = parseToken(body)
	if err != nil {
		return "", 0, unexpected(tokenCall, err)
	}
	return value, life, nil
}

// scope is what the token shall open.
func (c *Client) scope() string { return string(c.config.API) + ".api" }

func parseToken(body []byte) (value string, life time.Duration, err error) {
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", 0, notJSON(err)
	}
	switch {
	case answer.AccessToken == "" || len(answer.AccessToken) > maxToken || strings.ContainsFunc(answer.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", 0, fmt.Errorf("there is no access token of at most %d bytes in it", maxToken)
	case !strings.EqualFold(answer.TokenType, "Bearer"):
		return "", 0, fmt.Errorf("its token is a %.40q, not a bearer token", answer.TokenType)
	case answer.ExpiresIn < 1 || answer.ExpiresIn > int64(maxTokenLife/time.Second):
		return "", 0, fmt.Errorf("its token lives for %d seconds, which is not in 1..%d", answer.ExpiresIn, int64(maxTokenLife/time.Second))
	}
	return answer.AccessToken, time.Duration(answer.ExpiresIn) * time.Second, nil
}

// assertion is a fresh client assertion (RFC 7523, section 2.2), signed ES256: a JSON Web Token whose
// claims are those of Apple's page. Its table lists no iss, its example has the client ID there, and RFC
// 7523 demands it.
func (c *Client) assertion() (string, error) {
	id := make([]byte, 16)
	if _, err := io.ReadFull(c.config.Random, id); err != nil {
		return "", err
	}
	now := c.config.Now()
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}{"ES256", c.config.KeyID, "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		IssuedAt int64  `json:"iat"`
		Expires  int64  `json:"exp"`
		ID       string `json:"jti"`
	}{c.config.ClientID, c.config.ClientID, audience, now.Add(-clockSkew).Unix(), now.Add(assertionLife).Unix(), hex.EncodeToString(id)})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(c.config.Random, c.config.Key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64) // R and S, 32 bytes each (RFC 7518, section 3.4)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
