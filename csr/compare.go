package csr

import (
	"cmp"
	"slices"
)

// Equal reports whether two names have the same attributes (type and text) in the same RDNs in the
// same order. String types do not count.
func (n Name) Equal(other Name) bool {
	sameAttribute := func(a, b Attribute) bool { return a.Type == b.Type && a.Value == b.Value }
	return slices.EqualFunc(n, other, func(a, b []Attribute) bool {
		return slices.EqualFunc(a, b, sameAttribute)
	})
}

// AltNamesOf returns the request's alternative names of one kind, in order.
func (r *Request) AltNamesOf(kind AltKind) []AltName {
	var names []AltName
	for _, name := range r.AltNames {
		if name.Kind == kind {
			names = append(names, name)
		}
	}
	return names
}

// SameAltNames reports whether two lists hold the same names (kind and value, octet for octet), in
// any order and each as often.
func SameAltNames(a, b []AltName) bool {
	return slices.EqualFunc(sortedAltNames(a), sortedAltNames(b), func(x, y AltName) bool {
		return x.Kind == y.Kind && x.Value == y.Value
	})
}

func sortedAltNames(names []AltName) []AltName {
	return slices.SortedFunc(slices.Values(names), func(x, y AltName) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Value, y.Value))
	})
}

// SameExtKeyUsage reports whether a request has the extended key usages of the minted one, in any
// order. Where the credential names none, the device asks for ClientAuth.
func (r *Request) SameExtKeyUsage(minted *Request) bool {
	expected := minted.ExtKeyUsage
	if len(expected) == 0 {
		expected = []string{ClientAuth}
	}
	return slices.Equal(slices.Sorted(slices.Values(r.ExtKeyUsage)), slices.Sorted(slices.Values(expected)))
}
