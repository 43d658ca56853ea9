package credential

import (
	"fmt"
	"regexp"
	"strings"
)

// aliases are names of the same thing in other payloads and tools, folded.
var aliases = map[string]string{
	"url":                       "DirectoryURL",
	"acmeurl":                   "DirectoryURL",
	"acmedirectoryurl":          "DirectoryURL",
	"clientid":                  "ClientIdentifier",
	"challenge":                 "ClientIdentifier",
	"permanentidentifier":       "ClientIdentifier",
	"keyusage":                  "UsageFlags",
	"eku":                       "ExtendedKeyUsage",
	"extkeyusage":               "ExtendedKeyUsage",
	"extendedkeyusages":         "ExtendedKeyUsage",
	"san":                       "SubjectAltName",
	"subjectalternativename":    "SubjectAltName",
	"attestation":               "Attest",
	"hardware":                  "HardwareBound",
	"email":                     "rfc822Name",
	"emailaddress":              "rfc822Name",
	"dns":                       "dNSName",
	"uri":                       "uniformResourceIdentifier",
	"uniformresourceidentifier": "uniformResourceIdentifier",
	"upn":                       "ntPrincipalName",
	"userprincipalname":         "ntPrincipalName",
}

// misplaced are keys of the declarations and profiles around the document, with what to do.
var misplaced = map[string]string{
	"KeyIsExtractable":   "set it in the com.apple.configuration.security.identity declaration",
	"AllowAllAppsAccess": "set it in the com.apple.configuration.security.identity declaration",
	"Accessible":         "set it in the Payload of the com.apple.asset.credential.acme declaration",
	"Authentication":     "set it in the Payload of the com.apple.asset.credential.acme declaration",
	"Reference":          "publish the document at the declaration's DataURL instead of putting the declaration here",
	"Payload":            "publish the document at the declaration's DataURL instead of putting the declaration here",
	"Type":               "publish the document at the declaration's DataURL instead of putting the declaration here",
	"Identifier":         "publish the document at the declaration's DataURL instead of putting the declaration here",
	"ServerToken":        "publish the document at the declaration's DataURL instead of putting the declaration here",
	"PayloadType":        "leave the profile's own keys out",
	"PayloadIdentifier":  "leave the profile's own keys out",
	"PayloadUUID":        "leave the profile's own keys out",
	"PayloadVersion":     "leave the profile's own keys out",
	"PayloadDisplayName": "leave the profile's own keys out",
	"PayloadContent":     "leave the profile's own keys out",
}

// unknownKey reports a member that the object does not have, with the name that was perhaps meant.
func (d *Document) unknownKey(m member, keys []key, inside string) {
	if fix, ok := misplaced[m.name]; ok && inside == "" {
		d.report(misplacedKey, m.offset, m.path,
			m.name+" is no key of the credential document: a device ignores it here", fix)
		return
	}
	where := "the credential document"
	if inside != "" {
		where = inside
	}
	message := fmt.Sprintf("%s is no key of %s: a device ignores it", quote(m.name), where)
	fix := "remove it"
	if meant := suggest(m.name, keys); meant != "" {
		fix = "write " + meant
		if strings.EqualFold(meant, m.name) {
			message += " (keys are case-sensitive)"
		}
	} else if inside == "" && suggest(m.name, altNameKeys) != "" {
		fix = "put it into SubjectAltName as " + suggest(m.name, altNameKeys)
	}
	d.report(unknownKey, m.offset, m.path, message, fix)
}

// near returns the unknown member that was perhaps meant to be the wanted key, or "". It looks at
// the first members only: comparing spellings is the slow part of reading a hostile document.
func near(object *node, want string, keys []key) string {
	for _, m := range object.members[:min(50, len(object.members))] {
		if !known(m.name, keys) && suggest(m.name, keys) == want {
			return m.name
		}
	}
	return ""
}

// suggest returns the key that a misspelt one was perhaps meant to be, or "".
func suggest(name string, keys []key) string {
	if len(name) > 40 {
		return ""
	}
	folded := fold(name)
	for _, k := range keys {
		if folded == fold(k.name) || aliases[folded] == k.name {
			return k.name
		}
	}
	best, bestDistance := "", 3 // three edits make another word
	for _, k := range keys {
		if len(k.name) > len(folded)+2 || len(folded) > len(k.name)+2 {
			continue
		}
		if distance := edits(folded, fold(k.name)); distance < bestDistance && distance*3 < len(k.name) {
			best, bestDistance = k.name, distance
		}
	}
	return best
}

// fold drops case and the separators that other formats put between words.
func fold(s string) string {
	return strings.ToLower(separators.Replace(s))
}

var separators = strings.NewReplacer(" ", "", "-", "", "_", "")

// edits is the number of bytes to insert, remove or replace to turn a into b (Levenshtein).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// variables are the forms of template variables that MDM servers replace.
var variables = regexp.MustCompile(`\{\{[^{}]*\}\}|\$\{[A-Za-z][A-Za-z0-9_.]*\}|\$[A-Z][A-Z0-9_]{2,}|%[A-Z][A-Z0-9_]{2,}%|%[A-Za-z]{4,}%|<[A-Z][A-Z_ -]{2,}>`)

// variable returns the first template variable in a text, or "".
func variable(s string) string { return variables.FindString(s) }
