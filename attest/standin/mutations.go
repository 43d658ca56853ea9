package standin

import (
	"crypto"
	"fmt"
	"io"
	"slices"
)

// Mutation is one way in which evidence can be wrong. It makes exactly one check fail; all else,
// the attested key above all, stays as in honest evidence.
type Mutation struct {
	Name    string // stable kebab-case name
	Check   string // the check of package attest that it must fail
	Meaning string // what is wrong with the evidence

	// NewKey makes the kind of device key that the mutation is about; nil if any key does. The CSR
	// must then be for such a key as well.
	NewKey func(random io.Reader) (crypto.Signer, error)

	plan   func(a *Authority, s Subject, p *plan) error                  // changes the leaf before it is signed
	chain  func(a *Authority, s Subject, x5c [][]byte) ([][]byte, error) // changes what was signed
	encode func(x5c [][]byte) []byte                                     // encodes the object in place of encodeObject
}

// Mutations is every mutation, in the order of attest.Checks.
func Mutations() []Mutation {
	return slices.Concat(encodingMutations, certificateMutations, chainMutations, leafMutations, propertyMutations)
}

// LookupMutation finds a mutation by its name.
func LookupMutation(name string) (Mutation, error) {
	for _, m := range Mutations() {
		if m.Name == name {
			return m, nil
		}
	}
	return Mutation{}, fmt.Errorf("no mutation is named %q", name)
}
