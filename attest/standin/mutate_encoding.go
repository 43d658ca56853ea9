package standin

import (
	"bytes"
	"slices"

	"assay/attest"
)

// Pieces of CBOR (RFC 8949) that the encoder does not make.
const (
	mapOf   = 0xa0 // plus the number of pairs, below 24
	arrayOf = 0x80 // plus the number of elements, below 24
	null    = 0xf6
)

// joined concatenates encoded items behind a head.
func joined(head byte, items ...[]byte) []byte {
	return append([]byte{head}, bytes.Join(items, nil)...)
}

func statementOf(x5c [][]byte) []byte { return encode(appleStatement{x5c}) }

// with makes an object with a given fmt and statement, both encoded, and further items behind.
func with(format, statement []byte, more ...[]byte) []byte {
	items := append([][]byte{encode("fmt"), format, encode("attStmt"), statement}, more...)
	return joined(mapOf+byte(len(items)/2), items...)
}

func apple() []byte { return encode(attest.FormatApple) }

// x5cOf makes an apple object whose x5c is any encoded item.
func x5cOf(item []byte) []byte { return with(apple(), joined(mapOf+1, encode("x5c"), item)) }

// encodingMutations are faults of the CBOR around the certificates.
var encodingMutations = []Mutation{
	{Name: "object-oversize", Check: attest.CheckObjectSize, Meaning: "authData makes the object larger than 64 KiB",
		encode: func(x5c [][]byte) []byte {
			return with(apple(), statementOf(x5c), encode("authData"), encode(make([]byte, attest.MaxObject)))
		}},
	{Name: "object-trailing-byte", Check: attest.CheckObjectWellFormed, Meaning: "a byte follows the object",
		encode: func(x5c [][]byte) []byte { return append(encodeObject(attest.FormatApple, x5c), null) }},
	{Name: "object-cut-short", Check: attest.CheckObjectWellFormed, Meaning: "the last byte of the object is missing",
		encode: func(x5c [][]byte) []byte {
			object := encodeObject(attest.FormatApple, x5c)
			return object[:len(object)-1]
		}},
	{Name: "object-duplicate-fmt", Check: attest.CheckObjectWellFormed, Meaning: "the key fmt occurs twice",
		encode: func(x5c [][]byte) []byte {
			return with(apple(), statementOf(x5c), encode("fmt"), apple())
		}},
	{Name: "object-duplicate-statement", Check: attest.CheckObjectWellFormed, Meaning: "the key attStmt occurs twice",
		encode: func(x5c [][]byte) []byte {
			return with(apple(), statementOf(x5c), encode("attStmt"), statementOf(x5c))
		}},
	{Name: "object-deep-nesting", Check: attest.CheckObjectWellFormed, Meaning: "an unused member is nested 200 levels deep",
		encode: func(x5c [][]byte) []byte {
			deep := append(bytes.Repeat([]byte{arrayOf + 1}, 200), null)
			return with(apple(), statementOf(x5c), encode("authData"), deep)
		}},
	{Name: "object-many-members", Check: attest.CheckObjectWellFormed, Meaning: "the object has 17 members",
		encode: func(x5c [][]byte) []byte {
			var more [][]byte
			for i := range 15 {
				more = append(more, encode("member"+string(rune('a'+i))), []byte{null})
			}
			return with(apple(), statementOf(x5c), more...)
		}},
	{Name: "object-indefinite-length", Check: attest.CheckObjectWellFormed, Meaning: "the object is a map of indefinite length",
		encode: func(x5c [][]byte) []byte {
			return append(joined(0xbf, encode("fmt"), apple(), encode("attStmt"), statementOf(x5c)), 0xff)
		}},
	{Name: "object-tagged", Check: attest.CheckObjectWellFormed, Meaning: "the object carries a CBOR tag",
		encode: func(x5c [][]byte) []byte {
			return joined(0xd9, []byte{0xd9, 0xf7}, encodeObject(attest.FormatApple, x5c))
		}},
	{Name: "object-is-array", Check: attest.CheckObjectWellFormed, Meaning: "the object is an array",
		encode: func(x5c [][]byte) []byte { return joined(arrayOf+2, apple(), statementOf(x5c)) }},
	{Name: "object-is-null", Check: attest.CheckObjectWellFormed, Meaning: "the object is null",
		encode: func([][]byte) []byte { return []byte{null} }},
	{Name: "object-is-empty", Check: attest.CheckObjectWellFormed, Meaning: "the object has no bytes at all",
		encode: func([][]byte) []byte { return nil }},
	{Name: "fmt-absent", Check: attest.CheckObjectWellFormed, Meaning: "there is no fmt",
		encode: func(x5c [][]byte) []byte { return joined(mapOf+1, encode("attStmt"), statementOf(x5c)) }},
	{Name: "fmt-bytes", Check: attest.CheckObjectWellFormed, Meaning: "fmt is a byte string",
		encode: func(x5c [][]byte) []byte { return with(encode([]byte(attest.FormatApple)), statementOf(x5c)) }},
	{Name: "fmt-long", Check: attest.CheckObjectWellFormed, Meaning: "fmt has 33 characters",
		encode: func(x5c [][]byte) []byte {
			return encodeObject(attest.FormatApple+"-and-more-than-32-characters", x5c)
		}},
	{Name: "fmt-key-upper-case", Check: attest.CheckObjectWellFormed, Meaning: "the key is FMT",
		encode: func(x5c [][]byte) []byte {
			return joined(mapOf+2, encode("FMT"), apple(), encode("attStmt"), statementOf(x5c))
		}},
	{Name: "statement-absent", Check: attest.CheckObjectWellFormed, Meaning: "there is no attStmt",
		encode: func([][]byte) []byte { return joined(mapOf+1, encode("fmt"), apple()) }},
	{Name: "statement-is-array", Check: attest.CheckObjectWellFormed, Meaning: "attStmt is the array that x5c should be",
		encode: func(x5c [][]byte) []byte { return with(apple(), encode(x5c)) }},
	{Name: "fmt-unknown", Check: attest.CheckFormatKnown, Meaning: "fmt is one that is not supported",
		encode: func(x5c [][]byte) []byte { return encodeObject("android-safetynet", x5c) }},
	{Name: "fmt-none", Check: attest.CheckFormatKnown, Meaning: "fmt is none, which proves nothing",
		encode: func([][]byte) []byte { return with(encode("none"), []byte{mapOf}) }},
	{Name: "fmt-upper-case", Check: attest.CheckFormatKnown, Meaning: "fmt is APPLE",
		encode: func(x5c [][]byte) []byte { return encodeObject("APPLE", x5c) }},
	{Name: "x5c-absent", Check: attest.CheckStatementWellFormed, Meaning: "the statement has no x5c",
		encode: func([][]byte) []byte { return with(apple(), []byte{mapOf}) }},
	{Name: "x5c-null", Check: attest.CheckStatementWellFormed, Meaning: "x5c is null",
		encode: func([][]byte) []byte { return x5cOf([]byte{null}) }},
	{Name: "x5c-bytes", Check: attest.CheckStatementWellFormed, Meaning: "x5c is the leaf alone, not an array",
		encode: func(x5c [][]byte) []byte { return x5cOf(encode(x5c[0])) }},
	{Name: "x5c-map", Check: attest.CheckStatementWellFormed, Meaning: "x5c is a map of the certificates",
		encode: func(x5c [][]byte) []byte {
			return x5cOf(joined(mapOf+2, encode(0), encode(x5c[0]), encode(1), encode(x5c[1])))
		}},
	{Name: "x5c-text", Check: attest.CheckStatementWellFormed, Meaning: "x5c holds text where certificates should be",
		encode: func([][]byte) []byte { return x5cOf(encode([]string{"leaf", "issuer"})) }},
	{Name: "x5c-numbers", Check: attest.CheckStatementWellFormed, Meaning: "x5c holds a certificate as an array of numbers",
		encode: func(x5c [][]byte) []byte {
			return x5cOf(joined(arrayOf+2, joined(arrayOf+2, encode(x5c[0][0]), encode(x5c[0][1])), encode(x5c[1])))
		}},
	{Name: "x5c-duplicate", Check: attest.CheckStatementWellFormed, Meaning: "the key x5c occurs twice",
		encode: func(x5c [][]byte) []byte {
			return with(apple(), joined(mapOf+2, encode("x5c"), encode(x5c), encode("x5c"), encode(x5c)))
		}},
	{Name: "x5c-five", Check: attest.CheckChainLength, Meaning: "x5c holds five certificates",
		encode: func(x5c [][]byte) []byte {
			return encodeObject(attest.FormatApple, slices.Concat(x5c, [][]byte{x5c[1], x5c[1], x5c[1]}))
		}},
}
