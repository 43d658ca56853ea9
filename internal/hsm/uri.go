// Package hsm signs with private keys that stay inside a hardware security module, over PKCS#11.
//
// A pkcs11: URI (RFC 7512) says which key: Parse reads it, Open finds the key and proves by a signature that
// it can sign. What is ambiguous is refused, never guessed. Only a program that was built with the tag
// pkcs11, which needs cgo, can Open; any can Parse.
//
// It trusts the module, a shared library that is loaded into this very process: so its file must be one that
// nobody else may write. It does not trust that the module answers: every call ends within a bounded time.
package hsm

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxURI is the longest URI that is read, in bytes.
const maxURI = 2048

// URI names a private key in a PKCS#11 token. Module and PINSource are set, and something that tells the
// token and the key from others; what is empty is not compared.
type URI struct {
	Module    string // absolute path of the module, a shared library
	PINSource string // file:PATH, of the file that holds the user's PIN

	Token, Manufacturer, Model, Serial string // of the token
	Slot                               *uint  // that the token is in
	Object                             string // label of the private key
	ID                                 []byte // its CKA_ID
}

// unusable are the attributes of RFC 7512 that Parse refuses, and what to write instead.
var unusable = map[string]string{
	"pin-value":            "the URI is stored and shown, which a PIN must not be: write the PIN to a file of mode 0600 and name it with pin-source=file:PATH",
	"module-name":          "give the module's path instead, with module-path",
	"slot-description":     "name the token instead, with token or serial",
	"slot-manufacturer":    "name the token instead, with token or serial",
	"library-manufacturer": "module-path names the module",
	"library-description":  "module-path names the module",
	"library-version":      "module-path names the module",
}

// Parse reads a pkcs11: URI. Its error names every fault, and no PIN.
func Parse(text string) (*URI, error) {
	if len(text) > maxURI {
		return nil, fmt.Errorf("a pkcs11: URI is longer than %d bytes", maxURI)
	}
	scheme, rest, _ := strings.Cut(text, ":")
	if !strings.EqualFold(scheme, "pkcs11") {
		return nil, errors.New("not a pkcs11: URI")
	}
	p := parser{seen: map[string]bool{}}
	path, query, _ := strings.Cut(rest, "?")
	p.attributes(path, ";", p.uri.pathAttribute)
	p.attributes(query, "&", p.uri.queryAttribute)
	p.require("module-path", "name the module's file, such as ?module-path=/usr/lib/softhsm/libsofthsm2.so")
	p.require("pin-source", "name the file that holds the PIN, such as pin-source=file:hsm.pin")
	if !p.seen["token"] && !p.seen["serial"] && !p.seen["slot-id"] {
		p.fault(errors.New("no token: name it with token, serial or slot-id"))
	}
	if !p.seen["object"] && !p.seen["id"] {
		p.fault(errors.New("no key: name it with object, which is its label, or with id"))
	}
	if len(p.faults) > 0 {
		return nil, fmt.Errorf("pkcs11: URI: %w", errors.Join(p.faults...))
	}
	return &p.uri, nil
}

type parser struct {
	uri    URI
	seen   map[string]bool
	faults []error
}

func (p *parser) fault(err error) { p.faults = append(p.faults, err) }

func (p *parser) require(name, advice string) {
	if !p.seen[name] {
		p.fault(fmt.Errorf("no %s: %s", name, advice))
	}
}

// attributes reads the attributes of one part of the URI; set takes each value, and reports whether the part
// has such an attribute.
func (p *parser) attributes(part, separator string, set func(name, value string) (known bool, err error)) {
	if part == "" {
		return
	}
	for attribute := range strings.SplitSeq(part, separator) {
		name, escaped, found := strings.Cut(attribute, "=")
		advice, refused := unusable[name]
		switch {
		case refused:
			p.fault(fmt.Errorf("%s cannot be used: %s", name, advice))
			continue
		case !found: // what it is may be a secret that lost its name
			p.fault(fmt.Errorf("an attribute has no value: write name=value, with %q between two", separator))
			continue
		case p.seen[name]: // RFC 7512, section 2.3
			p.fault(fmt.Errorf("%s stands there twice", name))
			continue
		}
		value, err := unescape(escaped, separator)
		if err == nil && name != "id" && (!utf8.ValidString(value) || strings.ContainsRune(value, 0)) {
			err = errors.New("it is not text in UTF-8")
		}
		if err != nil {
			p.fault(fmt.Errorf("%s: %w", printable(name), err))
			continue
		}
		p.seen[name] = true
		if known, err := set(name, value); err != nil {
			p.fault(fmt.Errorf("%s: %w", name, err))
		} else if !known {
			p.fault(fmt.Errorf("attribute %s is not known there: before ? stand token, serial, manufacturer, model, slot-id, object, id and type, after it module-path and pin-source", printable(name)))
		}
	}
}

// printable is an attribute's name for a message, short whatever it is.
func printable(name string) string { return strconv.Quote(name[:min(len(name), 40)]) }

// What stands for itself beside letters and digits (RFC 7512, section 2.3: unreserved, and pk11-path-res-avail
// with "&", or pk11-query-res-avail).
var plain = map[string]string{
	";": "-._~:[]@!$'()*+,=&",
	"&": "-._~:[]@!$'()*+,=/?|",
}

// unescape decodes a value, which must not be empty.
func unescape(escaped, separator string) (string, error) {
	if escaped == "" {
		return "", errors.New("it is empty: leave it out, or give it a value")
	}
	for _, c := range []byte(escaped) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && c != '%' && strings.IndexByte(plain[separator], c) < 0 {
			return "", fmt.Errorf("the character %q must be written as %%%02X", c, c)
		}
	}
	value, err := url.PathUnescape(escaped)
	if err != nil {
		return "", errors.New("% must be followed by two hex digits")
	}
	return value, nil
}

func (u *URI) pathAttribute(name, value string) (known bool, err error) {
	switch name {
	case "token":
		u.Token = value
	case "serial":
		u.Serial = value
	case "manufacturer":
		u.Manufacturer = value
	case "model":
		u.Model = value
	case "object":
		u.Object = value
	case "id":
		u.ID = []byte(value)
	case "slot-id":
		slot, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return true, errors.New("it is a decimal number")
		}
		number := uint(slot)
		u.Slot = &number
	case "type":
		if value != "private" {
			return true, errors.New("only a private key can sign: type=private, or leave it out")
		}
	default:
		return false, nil
	}
	return true, nil
}

func (u *URI) queryAttribute(name, value string) (known bool, err error) {
	switch name {
	case "module-path":
		// A name without a folder would be looked for where the environment says.
		if !filepath.IsAbs(value) {
			return true, errors.New("it must be an absolute path")
		}
		u.Module = value
	case "pin-source":
		if !strings.HasPrefix(value, "file:") {
			return true, errors.New("it must be file:PATH, of a file of mode 0600 that holds the PIN")
		}
		u.PINSource = value
	default:
		return false, nil
	}
	return true, nil
}
