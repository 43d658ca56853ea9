package credential

import "slices"

// Subject is the X.500 name that the device asks for: RDNs in order, each one or more attributes.
// Devices carry only the first attribute of each RDN into their request.
type Subject [][]Attribute

// Attribute is a pair of attribute type and value. The type is a dotted OID or a short name.
type Attribute [2]string

// shortNames are the attribute types that a device knows by name, and no others.
var shortNames = map[string]string{
	"C":  "2.5.4.6",
	"CN": "2.5.4.3",
	"L":  "2.5.4.7",
	"O":  "2.5.4.10",
	"OU": "2.5.4.11",
	"ST": "2.5.4.8",
}

// Type returns the attribute type as written.
func (a Attribute) Type() string { return a[0] }

// Value returns the attribute's text.
func (a Attribute) Value() string { return a[1] }

// OID returns the attribute type as a dotted OID; a type that is no short name is returned as it is.
func (a Attribute) OID() string {
	if oid, ok := shortNames[a[0]]; ok {
		return oid
	}
	return a[0]
}

// ShortName is how a device names an attribute type, by its dotted OID; the OID for one that it knows no
// name of.
func ShortName(oid string) string {
	for name, known := range shortNames {
		if known == oid {
			return name
		}
	}
	return oid
}

// Equal reports whether two subjects are written alike.
func (s Subject) Equal(other Subject) bool {
	return slices.EqualFunc(s, other, slices.Equal[[]Attribute])
}
