package issuance

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// The opaque ids of rows: a prefix that names the table, then 26 characters that sort by creation
// time (48 bits of milliseconds, 80 random bits).
type (
	AccountID     string // acct_…
	OrderID       string // order_…
	CodeID        string // code_…
	CertificateID string // cert_…
	IssuerID      string // issuer_…
	EvidenceID    string // evid_…
	DecisionID    string // dec_…
	DocumentID    string // doc_…
	AuditID       string // audit_…
	DeviceID      string // dev_…
	CredentialID  string // cred_…
	TokenID       string // token_…
	HoldID        string // hold_…
	ConflictID    string // conflict_…
)

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// An ID is one of the id types above: each knows its prefix.
type ID interface {
	~string
	prefix() string
}

// NewID makes an id, such as NewID[OrderID](now, random). It fails only if random does.
func NewID[T ID](now time.Time, random io.Reader) (T, error) {
	var id T
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(now.UnixMilli())<<16)
	if _, err := io.ReadFull(random, raw[6:]); err != nil {
		return "", fmt.Errorf("make id: %w", err)
	}
	return T(id.prefix() + idEncoding.EncodeToString(raw[:])), nil
}

// FirstID is the id before all that are made from a time on: for ranges of ids.
func FirstID[T ID](from time.Time) string {
	var id T
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(from.UnixMilli())<<16)
	return id.prefix() + idEncoding.EncodeToString(raw[:])
}

func (AccountID) prefix() string     { return "acct_" }
func (OrderID) prefix() string       { return "order_" }
func (CodeID) prefix() string        { return "code_" }
func (CertificateID) prefix() string { return "cert_" }
func (IssuerID) prefix() string      { return "issuer_" }
func (EvidenceID) prefix() string    { return "evid_" }
func (DecisionID) prefix() string    { return "dec_" }
func (DocumentID) prefix() string    { return "doc_" }
func (AuditID) prefix() string       { return "audit_" }
func (DeviceID) prefix() string      { return "dev_" }
func (CredentialID) prefix() string  { return "cred_" }
func (TokenID) prefix() string       { return "token_" }
func (HoldID) prefix() string        { return "hold_" }
func (ConflictID) prefix() string    { return "conflict_" }
