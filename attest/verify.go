package attest

import "errors"

// format is what this package knows of one attestation statement format.
type format struct {
	// verify establishes the facts of a statement or refuses it with a *Refusal.
	verify func(v *Verifier, statement []byte, p Params) (*Facts, error)
	// failed reports whether a statement is the format's way to say that attestation failed.
	failed func(statement []byte) bool
	// explain names an extension that the format's certificates carry; nil if the format has none.
	explain func(oid string, value []byte) (explanation, bool)
}

// formats is every format that can be verified, by its fmt.
var formats map[string]format

func init() {
	// Set here because the formats' functions lead back to this table.
	formats = map[string]format{
		FormatApple: {verify: verifyApple, failed: failedApple, explain: explainApple},
	}
}

// Verifier verifies attestation statements. It remembers intermediates whose signature was
// verified, so that one statement costs one signature verification. Safe for concurrent use.
type Verifier struct {
	intermediates intermediates
}

// NewVerifier makes a verifier that remembers nothing yet.
func NewVerifier() *Verifier { return &Verifier{} }

// Verify establishes what a statement proves. The error is a *Refusal for every fault of the
// evidence, naming the first check that failed; any other error is a fault of the caller.
//
// WARNING: Verify does not know which key is to be certified, nor whether the same evidence was
// accepted before. The caller compares Facts.PublicKey with the CSR's key, and makes each token
// once only.
func (v *Verifier) Verify(name string, statement []byte, p Params) (*Facts, error) {
	// An empty token would make the freshness code a constant that anybody can ask for.
	if p.Token == "" {
		return nil, errors.New("verify attestation: no token to verify against")
	}
	f, known := formats[name]
	if !known {
		return nil, refuse(CheckFormatKnown, "attestation format is not supported", nil)
	}
	if len(p.Roots) == 0 {
		return nil, refuse(CheckFormatRoots, "no roots are configured for attestation format "+name, nil)
	}
	return f.verify(v, statement, p)
}
