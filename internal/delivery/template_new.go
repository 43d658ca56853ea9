package delivery

import (
	"encoding/json"
	"fmt"
	"strings"

	"assay/credential"
)

// NewTemplate is what is chosen for a first template. Texts are texts of a template: placeholders
// stand in them, and literal braces are doubled.
type NewTemplate struct {
	Directory string   // "": the file names none
	Targets   []string // as credential.ParseTarget reads them
	KeyType   credential.KeyType
	KeySize   int
	Software  bool                   // the key is not hardware-bound, and then not attested
	NoAttest  bool                   // a hardware-bound key is not attested
	Subject   []credential.Attribute // one RDN each; none: CN={device.serial}
	Email     string                 // rfc822Name; "" for none
	DNSName   string                 // "" for none
	UPN       string                 // ntPrincipalName; "" for none

	AllowUnattested  bool
	MDM              bool
	RevokeSuperseded bool
}

// Encode writes the template file, each choice explained, and checks it: its errors are those of
// ParseTemplate.
func (n NewTemplate) Encode(name string) ([]byte, error) {
	if n.KeyType == "" {
		n.KeyType = credential.EC
	}
	if n.KeySize == 0 {
		n.KeySize = 384
		if n.KeyType == credential.RSA {
			n.KeySize = 3072
		}
	}
	if len(n.Subject) == 0 {
		n.Subject = []credential.Attribute{{"CN", "{device.serial}"}}
	}
	w := &templateWriter{}
	w.head(n)
	w.document(n)
	w.delivery(n)
	data := []byte(w.String())
	if _, err := ParseTemplate(name, data); err != nil {
		return nil, err
	}
	return data, nil
}

// templateWriter writes lines with the comments above them.
type templateWriter struct{ strings.Builder }

func (w *templateWriter) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

func (w *templateWriter) head(n NewTemplate) {
	w.line("# A credential template: how a device's own document is made. Each device gets its values in the")
	w.line("# place of {device.serial}, {device.udid} and {device.labels.NAME}; a ? before the } leaves the")
	w.line("# field out where the value is empty. A change reaches a device at its next renewal.")
	w.line("version: %d", TemplateVersion)
	if n.Directory != "" {
		w.line("# The ACME directory that devices enrol at: it has the certificate profile and the issuing CA.")
		w.line("directory: %s", n.Directory)
	}
	if len(n.Targets) > 0 {
		w.line("# The devices it is for: PLATFORM[:VERSION][,chip=NAME]. It is checked for each of them.")
		w.line("targets: [%s]", joinQuoted(n.Targets))
	}
}

func (w *templateWriter) document(n NewTemplate) {
	w.line("document: # Apple's own keys, without DirectoryURL and ClientIdentifier")
	w.line("  # The kind of key pair that the device makes: ECSECPrimeRandom or RSA.")
	w.line("  KeyType: %s", yamlString(string(n.KeyType)))
	w.line("  # Bits: 256, 384 or 521 (never hardware-bound); RSA 2048 to 4096.")
	w.line("  KeySize: %d", n.KeySize)
	w.line("  # true: the Secure Enclave makes the key, which never leaves the device (not on Macs without one).")
	w.line("  HardwareBound: %t", !n.Software)
	w.line("  # true: the device proves to the server what it is and where the key is.")
	w.line("  Attest: %t", !n.Software && !n.NoAttest)
	w.line("  # The name that the device asks for: a list of parts, each a list of [type, value].")
	var subject []string
	for _, part := range n.Subject {
		subject = append(subject, fmt.Sprintf("[[%s]]", joinQuoted(part[:])))
	}
	w.line("  Subject: [%s]", strings.Join(subject, ", "))
	var names []string
	for _, one := range []struct{ key, value string }{{"rfc822Name", n.Email}, {"dNSName", n.DNSName}, {"ntPrincipalName", n.UPN}} {
		if one.value != "" {
			names = append(names, one.key+": "+yamlString(one.value))
		}
	}
	if len(names) > 0 {
		w.line("  # The other names that it asks for.")
		w.line("  SubjectAltName: {%s}", strings.Join(names, ", "))
	}
	w.line("  # What the key may do: 1 digital signature, 4 key encipherment (RSA only), 5 both.")
	w.line("  UsageFlags: 1")
	w.line("  # What the certificate is for: client authentication (Wi-Fi, VPN, mutual TLS).")
	w.line("  ExtendedKeyUsage: [%s]", yamlString(credential.ClientAuth))
}

func (w *templateWriter) delivery(n NewTemplate) {
	w.line("# What a code is bound to, of what is known of the device: no other device can use it.")
	w.line("bind: [serial, udid]")
	w.line("# true: a device that proves nothing gets a certificate too.")
	w.line("allowUnattested: %t", n.AllowUnattested)
	w.line("# Who may fetch the document: None (whoever has its secret URL) or MDM (the device, by the")
	w.line("# identity that it shows to its MDM).")
	w.line("authentication: %s", map[bool]string{false: "None", true: "MDM"}[n.MDM])
	w.line("# How long a code lives that nobody fetches, and how long from the first fetch.")
	w.line("expires: 30d")
	w.line("expiresAfterFetch: 1h")
	w.line("# How long before its end a certificate is renewed; 0: never by itself.")
	w.line("renewBefore: 30d")
	w.line("# true: the old certificate is revoked once the new one is collected.")
	w.line("revokeSuperseded: %t", n.RevokeSuperseded)
}

// yamlString writes a text as a JSON string, which YAML reads as the same text.
func yamlString(s string) string {
	data, err := json.Marshal(s)
	if err != nil { // strings always encode
		panic(err)
	}
	return string(data)
}

func joinQuoted(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = yamlString(s)
	}
	return strings.Join(out, ", ")
}
