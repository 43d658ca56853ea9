package issuance

import (
	"errors"
	"time"
)

// Token is a bearer token of the admin API. Its value is not here: only its SHA-256 is stored.
type Token struct {
	ID         TokenID
	Name       string // for people, e.g. "ci"
	Scopes     []string
	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero unless revoked
	LastUsedAt time.Time // to the minute; zero: never
}

// LiveAt reports whether the token opens anything at a time.
func (t *Token) LiveAt(now time.Time) bool { return t.RevokedAt.IsZero() && now.Before(t.ExpiresAt) }

// TokenUse is one use of a token, as the audit keeps it.
type TokenUse struct {
	Token   TokenID
	Request string // method and route, such as "GET /api/v1/codes/{code}"
	Status  int    // HTTP status of the answer
	Check   string // the failed check where the token was refused; "" otherwise
	Thing   string // what it was used on: the id in the path; "" for none
	LeftOut int    // uses like this one before it that were not recorded, because the token is over
}

// Once makes a change happen once however often it is asked for: an Idempotency-Key. It belongs to
// one token, which is part of Key.
type Once struct {
	Key     [32]byte // SHA-256 of who asks and the key
	Request [32]byte // SHA-256 of the request
	Keep    []byte   // given back to whoever asks again; sealed, because it may hold codes
}

// OnceLifetime is how long a key is remembered.
const OnceLifetime = 24 * time.Hour

// RepeatedError: the change was made before, under the same key by the same request. Nothing was
// changed now.
type RepeatedError struct{ Kept []byte }

func (e *RepeatedError) Error() string { return "the change was made before under this key" }

// ErrOnceReused: the key was used before by another request.
var ErrOnceReused = errors.New("the idempotency key was used before by another request")
