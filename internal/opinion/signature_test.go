package opinion

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"assay/internal/counterpart"

	"pgregory.net/rapid"
)

// TestSignatureIsThatOfStandardWebhooks takes the vector of the reference libraries.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	h := http.Header{}
	Sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", []byte(`{"test": 2432232314}`), secretsOf(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), time.Unix(1614265330, 0))
	if got, want := h.Get("webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
	if h.Get("webhook-id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("headers %v", h)
	}
}

func TestVerifyTakesAnyOfTheSecrets(t *testing.T) {
	body := []byte("{}")
	for name, c := range map[string]struct{ signer, receiver []Secret }{
		"the same":         {secretsOf(t, oldSecret), secretsOf(t, oldSecret)},
		"sender rotates":   {secretsOf(t, oldSecret, newSecret), secretsOf(t, newSecret)},
		"sender still":     {secretsOf(t, oldSecret, newSecret), secretsOf(t, oldSecret)},
		"receiver rotates": {secretsOf(t, oldSecret), secretsOf(t, newSecret, oldSecret)},
	} {
		h := http.Header{}
		Sign(h, "a", body, c.signer, start)
		if err := Verify(h, body, c.receiver, start); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := http.Header{}
	Sign(h, "a", body, secretsOf(t, oldSecret), start)
	h.Set("webhook-signature", "v1a,AAAA v1,!!! "+h.Get("webhook-signature"))
	if err := Verify(h, body, secretsOf(t, oldSecret), start); err != nil {
		t.Errorf("beside signatures of other schemes: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	secrets := secretsOf(t, oldSecret)
	resign := func(h http.Header, timestamp string, id string) { // as the secret's holder would
		h.Set("webhook-id", id)
		h.Set("webhook-timestamp", timestamp)
		signed := http.Header{}
		Sign(signed, id, []byte("{}"), secrets, start)
		h.Set("webhook-signature", "v1,"+encoded(secrets[0].sum(id, timestamp, []byte("{}"))))
	}
	for name, c := range map[string]struct {
		change func(h http.Header)
		body   string
		after  time.Duration
		want   string
	}{
		"another body":      {body: "{ }", want: "no signature of a known secret"},
		"another id":        {change: func(h http.Header) { h.Set("webhook-id", "b") }, want: "no signature of a known secret"},
		"another timestamp": {change: func(h http.Header) { h.Set("webhook-timestamp", fmt.Sprint(start.Unix()+1)) }, want: "no signature of a known secret"},
		"another secret":    {change: func(h http.Header) { Sign(h, "a", []byte("{}"), secretsOf(t, otherSecret), start) }, want: "no signature of a known secret"},
		"half a signature":  {change: func(h http.Header) { h.Set("webhook-signature", h.Get("webhook-signature")[:20]) }, want: "no signature of a known secret"},
		"another scheme":    {change: func(h http.Header) { h.Set("webhook-signature", "v2"+h.Get("webhook-signature")[2:]) }, want: "no signature of a known secret"},
		"no id":             {change: func(h http.Header) { h.Del("webhook-id") }, want: "webhook-id is not there exactly once"},
		"an empty id":       {change: func(h http.Header) { resign(h, fmt.Sprint(start.Unix()), "") }, want: "webhook-id is not there exactly once"},
		"no timestamp":      {change: func(h http.Header) { h.Del("webhook-timestamp") }, want: "webhook-timestamp is not there exactly once"},
		"no signature":      {change: func(h http.Header) { h.Del("webhook-signature") }, want: "webhook-signature is not there exactly once"},
		"two ids":           {change: func(h http.Header) { h.Add("webhook-id", "b") }, want: "webhook-id is not there exactly once"},
		"two timestamps":    {change: func(h http.Header) { h.Add("webhook-timestamp", "1") }, want: "webhook-timestamp is not there exactly once"},
		"too old":           {after: ReplayWindow + time.Second, want: "more than 5m0s from now"},
		"from the future":   {after: -ReplayWindow - time.Second, want: "more than 5m0s from now"},
		"a signed point":    {change: func(h http.Header) { resign(h, fmt.Sprint(start.Unix()), "a.b") }, want: "full stop"},
		"a signed plus":     {change: func(h http.Header) { resign(h, "+"+fmt.Sprint(start.Unix()), "a") }, want: "no number of seconds"},
		"signed zeros":      {change: func(h http.Header) { resign(h, "000"+fmt.Sprint(start.Unix()), "a") }, want: "no number of seconds"},
		"signed nonsense":   {change: func(h http.Header) { resign(h, "now", "a") }, want: "no number of seconds"},
		"many signatures": {change: func(h http.Header) {
			h.Set("webhook-signature", strings.Repeat("v1,AAAA ", maxSignatures)+h.Get("webhook-signature"))
		}, want: "more than 16 signatures"},
	} {
		h := http.Header{}
		Sign(h, "a", []byte("{}"), secrets, start)
		if err := Verify(h, []byte("{}"), secrets, start); err != nil {
			t.Fatal(err)
		}
		if c.change != nil {
			c.change(h)
		}
		body := "{}"
		if c.body != "" {
			body = c.body
		}
		if err := Verify(h, []byte(body), secrets, start.Add(c.after)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	h := http.Header{}
	Sign(h, "a", nil, secrets, start)
	for _, edge := range []time.Duration{ReplayWindow, -ReplayWindow} {
		if err := Verify(h, nil, secrets, start.Add(edge)); err != nil {
			t.Errorf("at the edge of the window: %v", err)
		}
	}
}

// TestNothingButWhatWasSignedVerifies changes a byte anywhere.
func TestNothingButWhatWasSignedVerifies(t *testing.T) {
	secrets := secretsOf(t, oldSecret, newSecret)
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		id := rapid.StringMatching(`[a-z_0-9]{1,40}`).Draw(t, "id")
		h := http.Header{}
		Sign(h, id, body, secrets, start)
		if err := Verify(h, body, secrets[1:], start); err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(body)-1).Draw(t, "at")
		body[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "change"))
		if Verify(h, body, secrets, start) == nil {
			t.Fatal("a changed body verifies")
		}
	})
}

func TestSecretsAreReadStrictlyAndNeverShown(t *testing.T) {
	key := strings.TrimPrefix(oldSecret, secretPrefix)
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {"\n\n", "0 secrets are not 1 to 8"},
		"no prefix":   {key, "line 1 is no secret: it does not begin with whsec_"},
		"not base64":  {"\nwhsec_?" + key, "line 2 is no secret: what follows whsec_ is not base64"},
		"too short":   {"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", "22 bytes is not one of 24 to 64"},
		"too long":    {"whsec_" + strings.Repeat("AAAA", 22), "66 bytes"},
		"too many":    {strings.Repeat(oldSecret+"\n", 9), "9 secrets are not 1 to 8"},
		"and another": {oldSecret + "\nhunter2", "line 2 is no secret"},
	} {
		if _, err := ParseSecrets([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v shows a secret", name, err)
		}
	}
	secrets := secretsOf(t, oldSecret, "", "  "+newSecret+"\r")
	if len(secrets) != 2 {
		t.Fatalf("%d secrets", len(secrets))
	}
	raw := fmt.Sprint(secrets[1].key)
	for _, printed := range []string{fmt.Sprint(secrets), fmt.Sprintf("%+v %#v", secrets[1], secrets[1]), fmt.Sprintf("%#v", Options{Secrets: secrets})} {
		if strings.Contains(printed, raw) || strings.Contains(printed, "0x1, 0x1") || !strings.Contains(printed, "whsec_…") {
			t.Errorf("printed as %s", printed)
		}
	}
}

// TestDocumentedReceiverVerifies runs the receiver of docs/opinion.md on what the client sends.
func TestDocumentedReceiverVerifies(t *testing.T) {
	python := counterpart.Require(t, "python3")
	program := filepath.Join(t.TempDir(), "receiver.py")
	code := documented(t, "    import base64, hashlib, hmac, time\n") + `
import json, sys
outcomes = []
for c in json.load(sys.stdin):
    try:
        outcomes.append("first" if verify(c["headers"], c["body"].encode(), c["secret"], c["now"]) else "again")
    except ValueError as e:
        outcomes.append(str(e))
print(json.dumps(outcomes))
`
	if err := os.WriteFile(program, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	type message struct {
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
		Secret  string            `json:"secret"`
		Now     int64             `json:"now"`
	}
	var messages []message
	var want []string
	add := func(id, body, secret string, after time.Duration, outcome string) {
		h := http.Header{}
		Sign(h, id, []byte(`{"ü":1}`), secretsOf(t, oldSecret, newSecret), start)
		m := message{map[string]string{}, body, secret, start.Add(after).Unix()}
		for name := range h {
			m.Headers[strings.ToLower(name)] = h.Get(name)
		}
		messages, want = append(messages, m), append(want, outcome)
	}
	add("a", `{"ü":1}`, oldSecret, 0, "first")
	add("b", `{"ü":1}`, newSecret, ReplayWindow, "first")
	add("a", `{"ü":1}`, oldSecret, time.Second, "again")
	add("c", `{"ü":2}`, oldSecret, 0, "not signed with this secret")
	add("d", `{"ü":1}`, otherSecret, 0, "not signed with this secret")
	add("e", `{"ü":1}`, oldSecret, ReplayWindow+time.Second, "too old, or a wrong clock")
	add("f", `{"ü":1}`, oldSecret, -ReplayWindow-time.Second, "too old, or a wrong clock")
	add("g.h", `{"ü":1}`, oldSecret, 0, "malformed headers")
	in, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, program)
	command.Stdin = strings.NewReader(string(in))
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	if err := json.Unmarshal(out, &got); err != nil || strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
}

// TestOpenSSLMakesTheSameSignature has another implementation of HMAC-SHA256 sign.
func TestOpenSSLMakesTheSameSignature(t *testing.T) {
	openssl := counterpart.Require(t, "openssl")
	secret := secretsOf(t, newSecret)[0]
	command := exec.CommandContext(t.Context(), openssl, "dgst", "-sha256", "-mac", "HMAC", "-macopt", fmt.Sprintf("hexkey:%x", secret.key), "-binary")
	command.Stdin = strings.NewReader("a.1.{}")
	sum, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	Sign(h, "a", []byte("{}"), []Secret{secret}, time.Unix(1, 0))
	if got := h.Get("webhook-signature"); got != "v1,"+encoded(sum) {
		t.Errorf("signature %s, openssl's is %x", got, sum)
	}
}
