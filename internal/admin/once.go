package admin

import (
	"context"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"assay/internal/issuance"
)

// Idempotency is the header of a change that can be made to happen once however often it is asked for.
type Idempotency struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[ -~]+$" patternDescription:"printable ASCII" doc:"With it the change happens once: the same request under the same key is answered like the first one for 24 hours. Another request under it is refused."`
}

// once is a change that is asked for under a key, and the randomness for it.
//
// Asked for under a key, all randomness of the change comes out of a seed that the store keeps (sealed)
// with the key: asked again, the same values come out of it again, so that codes and URLs, of which
// only hashes are stored, can be answered twice.
type once struct {
	call   issuance.Call
	random io.Reader
}

// once prepares a change. target is the request's path with its parameters, body what it asks for.
func (a *API) once(ctx context.Context, key Idempotency, target string, body any) (once, error) {
	o := once{call: a.call(ctx), random: a.config.Random}
	if key.IdempotencyKey == "" {
		return o, nil
	}
	canonical, err := json.Marshal(body)
	if err != nil {
		return o, fmt.Errorf("make idempotency key: %w", err)
	}
	seed := make([]byte, sha256.Size)
	if _, err := io.ReadFull(a.config.Random, seed); err != nil {
		return o, fmt.Errorf("make idempotency key: %w", err)
	}
	o.call.Once = &issuance.Once{
		Key:     sha256.Sum256([]byte(useOf(ctx).who() + "\x00" + key.IdempotencyKey)),
		Request: sha256.Sum256([]byte(target + "\x00" + string(canonical))),
		Keep:    seed,
	}
	o.random = seeded(seed)
	return o, nil
}

// seeded is the stream of random bytes that a seed stands for.
func seeded(seed []byte) io.Reader {
	stream := sha3.NewSHAKE256()
	_, _ = stream.Write([]byte("assay idempotent change 1\x00")) // never fails
	_, _ = stream.Write(seed)
	return stream
}

// twice runs a change, and again with the randomness of the first time if it was made before: then
// replay is true, and the change must read what it made instead of making it.
func twice[T any](o once, change func(random io.Reader, replay bool) (T, error)) (T, error) {
	made, err := change(o.random, false)
	if before, ok := errors.AsType[*issuance.RepeatedError](err); ok {
		return change(seeded(before.Kept), true)
	}
	return made, err
}

// madeBefore is the answer to a repeated change whose outcome is there no more.
func madeBefore() *Problem {
	return refuse(http.StatusConflict, "made-before", "the change was made before under this Idempotency-Key, and what it made is gone")
}
