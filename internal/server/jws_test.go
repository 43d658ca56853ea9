package server_test

import (
	"bufio"
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"assay/internal/issuance"
)

func TestSignedURLMustBeTheRequestedOne(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	for name, url := range map[string]string{
		"other host":     strings.Replace(o.url, "example.com", "example.org", 1),
		"port":           strings.Replace(o.url, "example.com", "example.com:443", 1),
		"listener":       strings.Replace(o.url, "example.com", h.listener.Listener.Addr().String(), 1),
		"http":           strings.Replace(o.url, "https:", "http:", 1),
		"case":           strings.Replace(o.url, "example.com", "EXAMPLE.com", 1),
		"other resource": o.authorization,
		"query":          o.url + "?x=1",
		"slash":          o.url + "/",
		"fragment":       o.url + "#x",
		"relative":       strings.TrimPrefix(o.url, baseURL),
	} {
		h.subtest(name, func(*testing.T) {
			c.get(o.url, withURL(url)).refused(http.StatusForbidden, "unauthorized", "jws-url")
		})
	}
	c.get(o.url+"?x=1", withURL(o.url)).refused(http.StatusForbidden, "unauthorized", "jws-url")
	c.get(o.url, withHeader("url", 7)).refused(http.StatusBadRequest, "malformed", "jws-url")
	c.get(o.url, withURL("")).refused(http.StatusBadRequest, "malformed", "jws-url")
}

func TestURLsNeverComeFromTheHostHeader(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	evil := withHost("evil.example.org")
	for _, r := range []*reply{
		h.do(t, http.MethodGet, c.url("directory"), nil, &message{host: "evil.example.org"}),
		c.post(c.url("new-order"), newOrder("permanent-identifier", value), evil),
		c.get(c.kid, evil), c.get(c.kid+"/orders", evil), c.get("https://example.com/acme/default/order/x", evil),
	} {
		if bytes.Contains(r.body, []byte("evil")) || strings.Contains(strings.Join(r.header.Values("Link"), " ")+r.header.Get("Location"), "evil") {
			t.Errorf("%s: the reply repeats the Host header: %s", r.what, r.body)
		}
	}
	c.get(c.kid, evil, withURL(strings.Replace(c.kid, "example.com", "evil.example.org", 1))).refused(http.StatusForbidden, "unauthorized", "jws-url")
}

func TestRequestMustBeSignedByTheRightKindOfKey(t *testing.T) {
	h := newHarness(t)
	value, _ := h.mint(issuance.Mint{})
	c := h.client(dirDefault)
	o := c.order(value)
	for _, url := range []string{c.kid, c.kid + "/orders", c.url("key-change"), c.url("new-order"), o.url, o.authorization, o.challenge,
		o.finalize, c.url("certificate", "cert_00000000000000000000000000")} {
		c.post(url, []byte(`{}`), withJWK).refused(http.StatusBadRequest, "malformed", "jws-key")
	}
	c.post(c.url("new-account"), []byte(`{}`)).refused(http.StatusBadRequest, "malformed", "jws-key")
	c.get(c.kid, withHeader("jwk", jwkOf(t, c.key)), withKid(c.kid)).refused(http.StatusBadRequest, "malformed", "jws-header")
	h.pending(o)
}

func TestFaultySignatureIsRefused(t *testing.T) {
	h := newHarness(t)
	c, other := h.client(dirDefault), h.client(dirDefault)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	zero, ones := make([]byte, 64), bytes.Repeat([]byte{0xff}, 64)
	for name, test := range map[string]struct {
		kind, check string
		options     []option
	}{
		"none":                  {"badSignatureAlgorithm", "jws-algorithm", []option{withAlg("none")}},
		"none, unsigned":        {"malformed", "jws-syntax", []option{withAlg("none"), withSignature(func([]byte) []byte { return nil })}},
		"None":                  {"badSignatureAlgorithm", "jws-algorithm", []option{withAlg("None")}},
		"HS256 with public key": {"badSignatureAlgorithm", "jws-algorithm", []option{withAlg("HS256"), withSignature(hmacSignature(jwkOf(t, c.key)))}},
		"ES256K":                {"badSignatureAlgorithm", "jws-algorithm", []option{withAlg("ES256K")}},
		"RS512":                 {"badSignatureAlgorithm", "jws-algorithm", []option{withAlg("RS512")}},
		"no algorithm":          {"malformed", "jws-algorithm", []option{withHeader("alg", nil)}},
		"of another key type":   {"malformed", "jws-algorithm", []option{withAlg("RS256")}},
		"of another curve":      {"malformed", "jws-algorithm", []option{withAlg("ES384")}},
		"another account's key": {"malformed", "jws-signature", []option{withKey(other.key)}},
		"a stranger's key":      {"malformed", "jws-signature", []option{withKey(newKey(t))}},
		"RSA key under ES256":   {"malformed", "jws-signature", []option{withAlg("ES256"), withKey(rsaKey)}},
		"zero":                  {"malformed", "jws-signature", []option{withSignature(func([]byte) []byte { return zero })}},
		"out of range":          {"malformed", "jws-signature", []option{withSignature(func([]byte) []byte { return ones })}},
		"61 bytes":              {"malformed", "jws-signature", []option{withSignature(func([]byte) []byte { return ones[:61] })}},
		"65 bytes":              {"malformed", "jws-signature", []option{withSignature(func([]byte) []byte { return append(ones[:64:64], 1) })}},
		"DER": {"malformed", "jws-signature", []option{withSignature(func(input []byte) []byte {
			sum := sha256.Sum256(input)
			der, err := ecdsa.SignASN1(rand.Reader, c.key.(*ecdsa.PrivateKey), sum[:])
			if err != nil {
				t.Error(err)
			}
			return der
		})}},
		"crit": {"malformed", "jws-header", []option{withHeader("crit", []string{"url"})}},
		"b64":  {"malformed", "jws-header", []option{withHeader("b64", false)}},
	} {
		h.subtest(name, func(t *testing.T) {
			h.unchanged("a faulty signature", func() {
				p := c.get(c.kid, test.options...).refused(http.StatusBadRequest, test.kind, test.check)
				if test.kind == "badSignatureAlgorithm" && len(p.Algorithms) == 0 {
					t.Error("the problem does not say which algorithms are supported")
				}
			})
		})
	}
}

func TestPayloadMustBeTheSignedOne(t *testing.T) {
	h := newHarness(t)
	value, id := h.mint(issuance.Mint{AllowUnattested: true})
	c := h.client(dirDefault)
	o := c.order(value)
	c.get(o.challenge, withBody(func(body []byte) []byte { // a read becomes an answer
		var parts map[string]string
		if err := json.Unmarshal(body, &parts); err != nil {
			t.Fatal(err)
		}
		parts["payload"] = b64.EncodeToString([]byte(`{}`))
		changed, err := json.Marshal(parts)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	})).refused(http.StatusBadRequest, "malformed", "jws-signature")
	h.pending(o)
	h.code(id, issuance.CodeUnused, 0)
}

func TestRequestBodyMustBeOneFlattenedJWS(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	replace := func(from, to string) func([]byte) []byte {
		return func(body []byte) []byte { return bytes.Replace(body, []byte(from), []byte(to), 1) }
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":              func([]byte) []byte { return nil },
		"no JSON":            func([]byte) []byte { return []byte("order please") },
		"array":              func(b []byte) []byte { return append(append([]byte("["), b...), ']') },
		"trailing data":      func(b []byte) []byte { return append(b, "{}"...) },
		"cut short":          func(b []byte) []byte { return b[:len(b)-1] },
		"unprotected header": replace(`{`, `{"header":{},`),
		"many signatures":    replace(`{`, `{"signatures":[],`),
		"payload twice":      replace(`{`, `{"payload":"",`),
		"no signature":       replace(`"signature"`, `"signatur"`),
		"padded":             replace(`"payload":"`, `"payload":"=`),
		"not UTF-8":          replace(`{`, "{\"x\":\"\xff\","),
		"depth bomb":         replace(`{`, `{"x":`+strings.Repeat("[", 10000)+strings.Repeat("]", 10000)+`,`),
		"compact": func(b []byte) []byte {
			var parts struct{ Protected, Payload, Signature string }
			if err := json.Unmarshal(b, &parts); err != nil {
				t.Fatal(err)
			}
			return []byte(parts.Protected + "." + parts.Payload + "." + parts.Signature)
		},
	} {
		h.subtest(name, func(*testing.T) {
			h.unchanged("a body that is no JWS", func() {
				c.get(c.kid, withBody(change)).refused(http.StatusBadRequest, "malformed", "jws-syntax")
			})
		})
	}
	c.get(c.kid, withBody(func([]byte) []byte {
		header := b64.EncodeToString([]byte(`{"alg":"ES256","alg":"ES256","nonce":"a","url":"b","kid":"c"}`))
		return []byte(`{"protected":"` + header + `","payload":"","signature":"AAAA"}`)
	})).refused(http.StatusBadRequest, "malformed", "jws-header")
}

func TestContentTypeMustBeJOSE(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	for _, kind := range []string{"", "application/json", "application/jose", "text/plain"} {
		c.get(c.kid, withType(kind)).refused(http.StatusUnsupportedMediaType, "malformed", "content-type")
	}
}

func TestBodyOver128KiBIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	pad := func(size int) option {
		return withBody(func(body []byte) []byte { return append(body, bytes.Repeat([]byte(" "), size-len(body))...) })
	}
	c.get(c.kid, pad(128<<10)).want(http.StatusOK)
	h.unchanged("an oversize body", func() {
		c.get(c.kid, pad(128<<10+1)).refused(http.StatusRequestEntityTooLarge, "malformed", "body-size")
		c.get(c.kid, pad(4<<20)).refused(http.StatusRequestEntityTooLarge, "malformed", "body-size")
	})
}

func TestRequestThatDoesNotArriveWholeIsRefused(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	conn, err := tls.Dial("tcp", h.listener.Listener.Addr().String(), &tls.Config{RootCAs: h.http.Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /acme/default/new-order HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/jose+json\r\nContent-Length: 1000\r\n\r\n{\"protected\":"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := &reply{t: t, what: "half a request", status: response.StatusCode, header: response.Header, body: body}
	r.refused(http.StatusBadRequest, "malformed", "body-read")
	c.get(c.kid).want(http.StatusOK)
}

func TestAccountKeysOfEveryKindWork(t *testing.T) {
	h := newHarness(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client{
		{h: h, t: t, dir: dirDefault, key: newCurveKey(t, elliptic.P384())}, {h: h, t: t, dir: dirDefault, key: newCurveKey(t, elliptic.P521())},
		{h: h, t: t, dir: dirDefault, key: rsaKey}, {h: h, t: t, dir: dirDefault, key: edKey},
	} {
		c.register()
		c.get(c.kid).want(http.StatusOK)
		value, _ := h.mint(issuance.Mint{})
		c.enrol(value, h.device())
	}
	weak := &client{h: h, t: t, dir: dirDefault}
	if weak.key, err = rsa.GenerateKey(rand.Reader, 1024); err != nil {
		t.Fatal(err)
	}
	weak.post(weak.url("new-account"), []byte(`{}`), withJWK).refused(http.StatusBadRequest, "badPublicKey", "jws-key")
	weak.key = newCurveKey(t, elliptic.P256())
	private := map[string]string{}
	if err := json.Unmarshal(jwkOf(t, weak.key), &private); err != nil {
		t.Fatal(err)
	}
	private["d"] = private["x"]
	weak.post(weak.url("new-account"), []byte(`{}`), withJWK, withHeader("jwk", private)).refused(http.StatusBadRequest, "badPublicKey", "jws-key")
	weak.post(weak.url("new-account"), []byte(`{}`), withJWK, withHeader("jwk", map[string]string{"kty": "oct", "k": "AAAA"})).refused(http.StatusBadRequest, "badPublicKey", "jws-key")
	delete(private, "d")
	private["x"] = private["y"] // off the curve
	weak.post(weak.url("new-account"), []byte(`{}`), withJWK, withHeader("jwk", private)).refused(http.StatusBadRequest, "badPublicKey", "jws-key")
}

// Older systems drop leading zero bytes of r and s: such a signature is repaired, and no other.
func TestSignaturesWithDroppedZerosAreRepaired(t *testing.T) {
	h := newHarness(t)
	c := h.client(dirDefault)
	for _, test := range []struct {
		name string
		// secret is an ECDSA nonce whose r begins with this many zero bytes. Signing with a known one gives
		// the key away: tests only.
		secret        uint64
		zerosR, zeroS int
	}{
		{"63, r short", secretOneZero, 1, 0}, {"63, s short", 2, 0, 1}, {"62, both short", secretOneZero, 1, 1}, {"62, r short by two", secretTwoZeros, 2, 0},
	} {
		h.subtest(test.name, func(t *testing.T) {
			m := c.message(c.kid, nil)
			for pad := 0; ; pad++ {
				m.header["pad"] = pad
				short := 0
				m.sign = func(input []byte) []byte {
					r, s := signWith(t, c.key.(*ecdsa.PrivateKey), test.secret, input)
					if (32-len(r.Bytes())) != test.zerosR || 32-len(s.Bytes()) != test.zeroS {
						return nil
					}
					signature := append(r.Bytes(), s.Bytes()...)
					short = 64 - len(signature)
					return signature
				}
				signJWS(t, m)
				if short == test.zerosR+test.zeroS {
					break
				}
			}
			c.send(m).want(http.StatusOK)
			sign := m.sign
			m.sign = func(input []byte) []byte { // one bit less right
				signature := sign(input)
				signature[len(signature)-1] ^= 1
				return signature
			}
			m.header["nonce"] = c.nonce()
			for pad := 0; ; pad++ {
				m.header["pad"] = pad
				header, err := json.Marshal(m.header)
				if err != nil {
					t.Fatal(err)
				}
				if sign([]byte(b64.EncodeToString(header)+".")) != nil {
					break
				}
			}
			c.send(m).refused(http.StatusBadRequest, "malformed", "jws-signature")
		})
	}
}

const (
	secretOneZero  = 379
	secretTwoZeros = 40393
)

// signWith is ECDSA over P-256 and SHA-256 with a given per-signature secret.
func signWith(t *testing.T, key *ecdsa.PrivateKey, secret uint64, input []byte) (r, s *big.Int) {
	t.Helper()
	scalar := make([]byte, 32)
	binary.BigEndian.PutUint64(scalar[24:], secret)
	point, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	r = new(big.Int).SetBytes(point.PublicKey().Bytes()[1:33])
	d, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(input)
	s = new(big.Int).Mul(r, new(big.Int).SetBytes(d))
	s.Add(s, new(big.Int).SetBytes(sum[:]))
	s.Mul(s, new(big.Int).ModInverse(new(big.Int).SetUint64(secret), n))
	return r, s.Mod(s, n)
}
