package admin

import (
	"fmt"
	"slices"
	"strings"
)

// A Scope is what a token opens.
type Scope string

// The scopes. There is none for everything.
const (
	CodesRead         Scope = "codes:read"
	CodesWrite        Scope = "codes:write"
	CredentialsRead   Scope = "credentials:read"
	CredentialsWrite  Scope = "credentials:write"
	DeclarationsRead  Scope = "declarations:read"
	DevicesRead       Scope = "devices:read"
	DevicesWrite      Scope = "devices:write"
	DevicesForget     Scope = "devices:forget"
	PersonalRead      Scope = "personal:read"
	CertificatesRead  Scope = "certificates:read"
	CertificatesWrite Scope = "certificates:write"
	EvidenceRead      Scope = "evidence:read"
	DecisionsRead     Scope = "decisions:read"
	DecisionsWrite    Scope = "decisions:write"
	PoliciesRead      Scope = "policies:read"
	TemplatesRead     Scope = "templates:read"
	AuditRead         Scope = "audit:read"
	StatusWrite       Scope = "status:write"
)

// scopeMeanings says what each scope lets a token do, in the order in which people read them.
var scopeMeanings = []struct {
	scope   Scope
	meaning string
}{
	{CodesRead, "see codes, never their values"},
	{CodesWrite, "mint codes and see the values of those, revoke codes"},
	{CredentialsRead, "see the credentials of devices and where they stand"},
	{CredentialsWrite, "declare, renew, push and withdraw credentials, publish documents; the answers hold the documents' secret URLs"},
	{DeclarationsRead, "fetch declarations and profiles, which hold the documents' secret URLs or the codes themselves"},
	{DevicesRead, "see devices, what contradicts the inventory, and how it is synced"},
	{DevicesWrite, "import devices, sync the inventory, say where devices stand, change their labels and MDM certificates"},
	{DevicesForget, "erase what is stored about a device, and revoke its certificates with it"},
	{PersonalRead, "see everything that is stored about a device, from every table"},
	{CertificatesRead, "see certificates, with the evidence and decision behind them"},
	{CertificatesWrite, "revoke certificates"},
	{EvidenceRead, "see evidence as it was received, verify it again and export it, with serial numbers and UDIDs"},
	{DecisionsRead, "see decisions and holds, with all that they rested on: facts, serial numbers, UDIDs"},
	{DecisionsWrite, "approve and decline held devices"},
	{PoliciesRead, "see the policies that decide and decided"},
	{TemplatesRead, "see credential templates"},
	{AuditRead, "read the audit trail, with serial numbers, UDIDs and addresses"},
	{StatusWrite, "hand in what devices report"},
}

// Scopes lists all scopes.
func Scopes() []Scope {
	scopes := make([]Scope, len(scopeMeanings))
	for i, s := range scopeMeanings {
		scopes[i] = s.scope
	}
	return scopes
}

// Meaning says what the scope lets a token do; "" for one that does not exist.
func (s Scope) Meaning() string {
	for _, one := range scopeMeanings {
		if one.scope == s {
			return one.meaning
		}
	}
	return ""
}

// ParseScopes reads the names of scopes, each once and sorted. At least one is needed, and an unknown
// one is an error that lists all.
func ParseScopes(names []string) ([]string, error) {
	var scopes []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		if name == "*" {
			return nil, fmt.Errorf(`"*" is not a scope: name each of those that the token needs (%s)`, scopeList())
		}
		if !slices.Contains(Scopes(), Scope(name)) {
			return nil, fmt.Errorf("scope %q is unknown: there are %s", name, scopeList())
		}
		scopes = append(scopes, name)
	}
	if len(scopes) == 0 {
		return nil, fmt.Errorf("a token needs at least one scope (%s)", scopeList())
	}
	slices.Sort(scopes)
	return slices.Compact(scopes), nil
}

func scopeList() string {
	var names []string
	for _, s := range Scopes() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}
