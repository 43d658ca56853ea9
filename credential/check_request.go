package credential

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// checkDirectoryURL judges the URL of the ACME directory.
func (d *Document) checkDirectoryURL() {
	n, ok := d.root.typed("DirectoryURL", kindString)
	if !ok {
		return
	}
	d.draft.DirectoryURL = n.text
	const form = "write an absolute URL such as https://id.example.com/acme/default/directory"
	if n.text == "" {
		d.at(n, directoryForm, form, "DirectoryURL is empty: a device cannot reach a server")
		return
	}
	u, err := url.Parse(n.text)
	if err != nil {
		d.at(n, directoryForm, form, "DirectoryURL %s cannot be read as a URL: a device cannot reach a server", quote(n.text))
		return
	}
	if u.Scheme == "http" {
		d.at(n, directoryScheme, "write https://", "DirectoryURL uses http: devices speak ACME over https only")
	} else if u.Scheme != "" && u.Scheme != "https" {
		d.at(n, directoryScheme, "write https://", "DirectoryURL uses the scheme %s: devices speak ACME over https only", quote(u.Scheme))
	}
	if u.Scheme == "" || u.Hostname() == "" || !validPort(u) {
		d.at(n, directoryForm, form, "DirectoryURL %s has no scheme, no host or no valid port: a device cannot reach a server", quote(n.text))
		return
	}
	d.checkDirectoryParts(n, u)
}

// validPort reports whether a URL's port is absent or 1 to 65535; "host:" has an empty port.
func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

// checkDirectoryParts warns about parts of a usable URL that surprise.
func (d *Document) checkDirectoryParts(n *node, u *url.URL) {
	if i := strings.IndexFunc(n.text, func(c rune) bool {
		return c <= ' ' || c >= 0x7F || strings.ContainsRune("\"<>\\^`{|}", c)
	}); i >= 0 {
		d.at(n, directoryCharacters, "percent-encode the character; write a host name in its xn-- form",
			"DirectoryURL has a character that a URL cannot have, from %s on: systems differ in what they make of it", quote(n.text[i:]))
	}
	if u.User != nil {
		d.at(n, directoryUserinfo, "remove what stands before the @",
			"DirectoryURL holds a user name or password: the ACME client authenticates with its account key only, and everybody who gets the document can read it")
	}
	if strings.Contains(n.text, "#") {
		d.at(n, directoryFragment, "remove the # and what follows",
			"DirectoryURL has a fragment, which is never sent to the server")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	addr, err := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && (addr.IsLoopback() || addr.IsUnspecified()) {
		d.at(n, directoryLoopback, "write a name that devices can resolve",
			"DirectoryURL names the host %s, which on a device is the device itself: only a simulator on the same machine can use it", host)
	}
}

// Shapes of what Apple devices are called by. Serial numbers avoid I and O.
var (
	serialShape = regexp.MustCompile(`^[A-HJ-NP-Z0-9]{10,12}$`)
	udidShape   = regexp.MustCompile(`^(?:[0-9A-Fa-f]{8}-[0-9A-Fa-f]{16}|[0-9a-f]{40})$`)
)

// looksLikeSerial reports whether a text may be an Apple serial number.
func looksLikeSerial(s string) bool {
	return serialShape.MatchString(s) && strings.ContainsAny(s, "0123456789") && strings.Trim(s, "0123456789") != ""
}

// checkClientIdentifier judges what becomes the value of the order's permanent-identifier.
func (d *Document) checkClientIdentifier() {
	n, ok := d.root.typed("ClientIdentifier", kindString)
	if !ok {
		return
	}
	d.draft.ClientIdentifier = n.text
	const mint = "use a fresh random code of base64url characters for each document"
	identifier, assigner, slash := strings.Cut(n.text, "/")
	switch {
	case n.text == "":
		d.at(n, identifierEmpty, mint, "ClientIdentifier is empty: no order can name the device")
		return
	case slash && (identifier == "" || checkOID(assigner) != nil):
		d.at(n, identifierGrammar, mint,
			"ClientIdentifier has a / that does not stand between an identifier and an OID: a server must refuse the device's order as malformed")
	case slash:
		d.at(n, identifierAssigner, mint,
			"ClientIdentifier has a /: a server takes %s for the OID of who assigned the identifier and looks up only %s", quote(assigner), quote(identifier))
	}
	switch {
	case looksLikeSerial(n.text):
		d.at(n, identifierDevice, mint,
			"ClientIdentifier looks like a serial number: it is printed on the device, never changes and can be used again, so it proves nothing and stops no second certificate")
	case udidShape.MatchString(n.text):
		d.at(n, identifierDevice, mint,
			"ClientIdentifier looks like a UDID: it never changes and can be used again, so it proves nothing and stops no second certificate")
	case len([]rune(n.text)) < 16:
		d.at(n, identifierShort, mint,
			"ClientIdentifier is short enough to be guessed: whoever guesses it enrols in the device's place")
	}
}
