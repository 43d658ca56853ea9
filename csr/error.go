package csr

// The problems that a request can be refused with (RFC 8555, section 6.7), without URN prefix.
const (
	// BadCSR: the request is malformed, or asks for what it may not have.
	BadCSR = "badCSR"
	// BadPublicKey: the request is well formed, but its key is of a kind or size that is not certified.
	BadPublicKey = "badPublicKey"
)

// The checks that Parse makes, in the order in which it makes them.
const (
	CheckSize      = "csr-size"      // not larger than MaxSize
	CheckSyntax    = "csr-syntax"    // DER of a PKCS#10 request of version 1, and nothing after it
	CheckKey       = "csr-key"       // RSA 1024 to 4096, P-256, P-384 or P-521
	CheckAlgorithm = "csr-algorithm" // signed with SHA-256, SHA-384 or SHA-512 and the key's own kind
	CheckSignature = "csr-signature" // signed by the key it asks to certify
	CheckSubject   = "csr-subject"   // names are strings within limits
	CheckExtension = "csr-extension" // one extensionRequest, each extension once and well formed
	CheckAltName   = "csr-alt-name"  // alternative names are well formed
)

// Error is a refused request. Detail names fields and OIDs but no values: it is safe to show to the
// client and to keep.
type Error struct {
	Problem string // BadCSR or BadPublicKey
	Check   string // stable kebab-case name of the failed check
	Detail  string
}

func (e *Error) Error() string { return "certificate request check " + e.Check + ": " + e.Detail }
