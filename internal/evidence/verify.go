// Package evidence looks at stored evidence again: whether today's checks still establish what they
// established when it came, and as a bundle that somebody else can verify with public tools.
//
// It refuses nothing and changes nothing. It trusts the roots that it is given, and the store for when the
// evidence came; the clock of the checks is that time, because attestations end after 90 days.
package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"assay/attest"
	"assay/internal/issuance"
)

// Result is what looking again came to.
type Result string

// Results.
const (
	Verified    Result = "verified"     // today's checks establish the same facts
	Differs     Result = "differs"      // they establish other facts
	Refused     Result = "refused"      // they refuse what was accepted then
	RefusedThen Result = "refused-then" // they refuse it, as they did then
	NowAccepted Result = "now-accepted" // they accept what was refused then
	Nothing     Result = "nothing"      // the device sent no attestation
	Removed     Result = "removed"      // the object is not kept any more
	OtherKey    Result = "other-key"    // the certificate's key is not the attested one
)

// Good reports whether nothing is wrong: the same as then, or nothing to verify.
func (r Result) Good() bool { return r == Verified || r == RefusedThen || r == Nothing || r == Removed }

// Verdict is what looking again at a piece of evidence came to.
type Verdict struct {
	Result Result `json:"result" enum:"verified,differs,refused,refused-then,now-accepted,nothing,removed,other-key"`
	Check  string `json:"check,omitempty" doc:"The check that refuses it today."`
	Then   string `json:"then,omitempty" doc:"The check that refused it then."`
	Detail string `json:"detail,omitempty"`
	// Differences are the names of facts that are others today.
	Differences []string `json:"differences,omitempty" doc:"Names of the facts that are others today."`
}

// Verify looks at a piece of evidence again, with the roots that are accepted today, as of the time when it
// came. certificate is what was issued on it (DER), nil for none.
func Verify(v *attest.Verifier, roots map[string][]attest.Root, e *issuance.Evidence, certificate []byte) (Verdict, error) {
	if e.Kind != attest.Attested {
		return Verdict{Result: Nothing, Detail: "the device sent no attestation: " + string(e.Kind)}, nil
	}
	if e.Object == nil {
		return Verdict{Result: Removed, Detail: "the attestation object is not kept any more"}, nil
	}
	facts, err := verify(v, roots, e)
	if refusal, ok := errors.AsType[*attest.Refusal](err); ok {
		if e.Failed != "" {
			return Verdict{Result: RefusedThen, Check: refusal.Check, Then: e.Failed, Detail: refusal.Detail}, nil
		}
		return Verdict{Result: Refused, Check: refusal.Check, Detail: refusal.Detail}, nil
	} else if err != nil {
		return Verdict{}, fmt.Errorf("verify %s: %w", e.ID, err)
	}
	if e.Facts == nil { // what was refused for another reason than the attestation itself has facts
		return Verdict{Result: NowAccepted, Then: e.Failed, Detail: "today's checks accept the attestation"}, nil
	}
	if different, err := differences(e.Facts, facts); err != nil || len(different) > 0 {
		return Verdict{Result: Differs, Differences: different, Detail: "today's checks establish other facts"}, err
	}
	if len(certificate) > 0 {
		if same, err := sameKey(certificate, facts); err != nil || !same {
			return Verdict{Result: OtherKey, Detail: "the certificate's key is not the attested one"}, err
		}
	}
	return Verdict{Result: Verified, Then: e.Failed}, nil
}

func verify(v *attest.Verifier, roots map[string][]attest.Root, e *issuance.Evidence) (*attest.Facts, error) {
	r, err := attest.ParseObject(e.Object)
	if err != nil {
		return nil, err
	}
	return v.Verify(r.Format, r.Statement, attest.Params{Token: e.Token, KeyAuthorization: e.KeyAuth, Roots: roots[r.Format], Now: e.ReceivedAt})
}

// differences names the facts of which two sets differ, as they are stored.
func differences(then, now *attest.Facts) ([]string, error) {
	before, err := members(then)
	if err != nil {
		return nil, err
	}
	after, err := members(now)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if !bytes.Equal(before[name], after[name]) {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, had := before[name]; !had {
			names = append(names, name)
		}
	}
	return names, nil
}

func members(f *attest.Facts) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	return m, json.Unmarshal(text, &m)
}

func sameKey(certificate []byte, f *attest.Facts) (bool, error) {
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return false, err
	}
	return bytes.Equal(cert.RawSubjectPublicKeyInfo, f.PublicKey), nil
}
