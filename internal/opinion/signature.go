package opinion

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers of Standard Webhooks 1.0.0.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// ReplayWindow is how far the timestamp of a signed message may be from now, either way. Within it the
// receiver remembers the ids that it has seen.
const ReplayWindow = 5 * time.Minute

const (
	secretPrefix    = "whsec_"
	minSecret       = 24 // bytes, as Standard Webhooks demands
	maxSecret       = 64
	maxSecrets      = 8
	signaturePrefix = "v1," // HMAC-SHA256
	maxSignatures   = 16    // that a receiver looks at
	maxTimestamp    = 12    // digits
)

// Secret signs messages. Printed, it does not show itself.
type Secret struct{ key []byte }

func (Secret) String() string   { return secretPrefix + "…" }
func (Secret) GoString() string { return secretPrefix + "…" }

// ParseSecrets reads secrets, one a line, each whsec_ and the base64 of 24 to 64 random bytes. Errors
// show nothing of them.
func ParseSecrets(text []byte) ([]Secret, error) {
	var secrets []Secret
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		encoded, ok := strings.CutPrefix(string(line), secretPrefix)
		if !ok {
			return nil, fmt.Errorf("line %d is no secret: it does not begin with %s", number, secretPrefix)
		}
		key, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			return nil, fmt.Errorf("line %d is no secret: what follows %s is not base64", number, secretPrefix)
		}
		if len(key) < minSecret || len(key) > maxSecret {
			return nil, fmt.Errorf("line %d: a secret of %d bytes is not one of %d to %d", number, len(key), minSecret, maxSecret)
		}
		secrets = append(secrets, Secret{key})
	}
	if len(secrets) == 0 || len(secrets) > maxSecrets {
		return nil, fmt.Errorf("%d secrets are not 1 to %d", len(secrets), maxSecrets)
	}
	return secrets, nil
}

// Sign puts the headers of Standard Webhooks on a message: its id, the time, and a signature for every
// secret. The id has no full stop.
func Sign(header http.Header, id string, body []byte, secrets []Secret, now time.Time) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = signaturePrefix + base64.StdEncoding.EncodeToString(s.sum(id, timestamp, body))
	}
	header.Set(headerID, id)
	header.Set(headerTimestamp, timestamp)
	header.Set(headerSignature, strings.Join(signatures, " "))
}

// Verify checks that a message was signed with one of the secrets, within the replay window around now. It
// is what a receiver does first, on the body as received. That the id was not seen before within the
// window is for the receiver, who alone can know.
func Verify(header http.Header, body []byte, secrets []Secret, now time.Time) error {
	var id, timestamp, signatures string
	for _, h := range []struct {
		name string
		into *string
	}{{headerID, &id}, {headerTimestamp, &timestamp}, {headerSignature, &signatures}} {
		// Of two, another program might read the other one.
		values := header.Values(h.name)
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("the header %s is not there exactly once", strings.ToLower(h.name))
		}
		*h.into = values[0]
	}
	// Else the boundary between id, timestamp and body could be moved under the same signature.
	if strings.Contains(id, ".") {
		return errors.New("webhook-id has a full stop")
	}
	sent, err := parseTimestamp(timestamp)
	if err != nil {
		return err
	}
	if age := now.Sub(sent); age > ReplayWindow || age < -ReplayWindow {
		return fmt.Errorf("webhook-timestamp is more than %s from now: an old message, or a wrong clock", ReplayWindow)
	}
	given := strings.Fields(signatures)
	if len(given) > maxSignatures {
		return fmt.Errorf("webhook-signature has more than %d signatures", maxSignatures)
	}
	for _, one := range given {
		encoded, ok := strings.CutPrefix(one, signaturePrefix)
		if !ok {
			continue // of another scheme
		}
		signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			continue
		}
		for _, s := range secrets {
			if hmac.Equal(signature, s.sum(id, timestamp, body)) {
				return nil
			}
		}
	}
	return errors.New("webhook-signature has no signature of a known secret over this id, timestamp and body")
}

// parseTimestamp reads seconds since 1970: digits alone, as they are signed.
func parseTimestamp(text string) (time.Time, error) {
	seconds, err := strconv.ParseUint(text, 10, 63)
	if err != nil || len(text) > maxTimestamp {
		return time.Time{}, errors.New("webhook-timestamp is no number of seconds since 1970")
	}
	return time.Unix(int64(seconds), 0), nil
}

// sum is the HMAC over id, timestamp and body.
func (s Secret) sum(id, timestamp string, body []byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(id + "." + timestamp + "."))
	h.Write(body)
	return h.Sum(nil)
}
