package enroll

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"assay/credential"
)

// OIDs of the request, dotted.
const (
	oidExtensionRequest = "1.2.840.113549.1.9.14"
	oidSubjectAltName   = "2.5.29.17"
	oidExtKeyUsage      = "2.5.29.37"
	oidKeyUsage         = "2.5.29.15"
	oidUPN              = "1.3.6.1.4.1.311.20.2.3"
	oidECDSAWithSHA256  = "1.2.840.10045.4.3.2"
	oidSHA256WithRSA    = "1.2.840.113549.1.1.11"
)

// buildCSR makes the PKCS#10 request (RFC 2986) that a device makes: signed with SHA-256 whatever
// the key; of each RDN only the first attribute; never the ClientIdentifier nor a permanent
// identifier.
func buildCSR(c *credential.Credential, key crypto.Signer) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("build certificate request: %w", err)
	}
	var info cryptobyte.Builder
	info.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0) // version 1
		addSubject(b, c.Subject)
		b.AddBytes(spki)
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				addOID(b, oidExtensionRequest)
				b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addExtensions(b, c) })
				})
			})
		})
	})
	tbs, err := info.Bytes()
	if err != nil {
		return nil, fmt.Errorf("build certificate request: %w", err)
	}
	der, err := signCSR(tbs, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate request: %w", err)
	}
	return der, nil
}

func signCSR(tbs []byte, key crypto.Signer) ([]byte, error) {
	digest := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			switch key.Public().(type) {
			case *ecdsa.PublicKey:
				addOID(b, oidECDSAWithSHA256)
			case *rsa.PublicKey:
				addOID(b, oidSHA256WithRSA)
				b.AddASN1NULL()
			default:
				b.SetError(fmt.Errorf("no signature algorithm for a %T", key.Public()))
			}
		})
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// addOID adds an OID of any size; asn1.ObjectIdentifier would limit the arcs.
func addOID(b *cryptobyte.Builder, dotted string) {
	oid, err := x509.ParseOID(dotted)
	if err != nil {
		b.SetError(fmt.Errorf("OID %.60q: %w", dotted, err))
		return
	}
	content, err := oid.MarshalBinary()
	if err != nil {
		b.SetError(fmt.Errorf("OID %.60q: %w", dotted, err))
		return
	}
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}

func addSubject(b *cryptobyte.Builder, subject credential.Subject) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, rdn := range subject {
			if len(rdn) == 0 {
				b.SetError(errors.New("subject has an RDN without attribute"))
				return
			}
			b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					addOID(b, rdn[0].OID())
					tag := asn1.UTF8String
					if isPrintable(rdn[0].Value()) {
						tag = asn1.PrintableString
					}
					addText(b, tag, rdn[0].Value())
				})
			})
		}
	})
}

func addText(b *cryptobyte.Builder, tag asn1.Tag, text string) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
}

// isPrintable reports whether a text fits a PrintableString (X.680, section 41.4).
func isPrintable(text string) bool {
	for i := range len(text) {
		c := text[i]
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(" '()+,-./:=?", c) >= 0) {
			return false
		}
	}
	return true
}

// addExtensions adds what the document asks for: names if it has the SAN object, even an empty one;
// extended key usage always; key usage only with flags.
func addExtensions(b *cryptobyte.Builder, c *credential.Credential) {
	if c.SubjectAltName != nil {
		addExtension(b, oidSubjectAltName, false, func(b *cryptobyte.Builder) { addAltNames(b, c.SubjectAltName) })
	}
	usages := c.ExtendedKeyUsage
	if len(usages) == 0 {
		usages = []string{credential.ClientAuth}
	}
	addExtension(b, oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, usage := range usages {
				addOID(b, usage)
			}
		})
	})
	if flags := uint16(c.UsageFlags) & keyUsageBits; flags != 0 {
		addExtension(b, oidKeyUsage, true, func(b *cryptobyte.Builder) { addKeyUsage(b, flags) })
	}
}

func addExtension(b *cryptobyte.Builder, oid string, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addOID(b, oid)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}

// addAltNames adds the four kinds of name; with none of them this is the empty sequence 30 00.
func addAltNames(b *cryptobyte.Builder, names *credential.SubjectAltName) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range []struct {
			tag   uint8 // of the GeneralName (RFC 5280, section 4.2.1.6)
			kind  string
			value string
		}{
			{1, "rfc822Name", names.RFC822Name},
			{2, "dNSName", names.DNSName},
			{6, "uniformResourceIdentifier", names.UniformResourceIdentifier},
		} {
			if name.value == "" {
				continue
			}
			if strings.IndexFunc(name.value, func(r rune) bool { return r > 0x7F }) >= 0 {
				b.SetError(fmt.Errorf("%s is not ASCII", name.kind))
				return
			}
			addText(b, asn1.Tag(name.tag).ContextSpecific(), name.value)
		}
		if names.NTPrincipalName != "" {
			b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				addOID(b, oidUPN)
				b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					addText(b, asn1.UTF8String, names.NTPrincipalName)
				})
			})
		}
	})
}

// keyUsageBits are the nine bits of RFC 5280's KeyUsage.
const keyUsageBits = 0x1FF

// addKeyUsage adds the BIT STRING: bit 0, the document's 0x01, comes first in the first byte, and
// trailing zero bits are left out, as DER wants for named bits (X.690, section 11.2.2).
func addKeyUsage(b *cryptobyte.Builder, flags uint16) {
	reversed := bits.Reverse16(flags)
	content := []byte{0, byte(reversed >> 8)}
	if low := byte(reversed); low != 0 {
		content = append(content, low)
	}
	content[0] = byte(bits.TrailingZeros8(content[len(content)-1]))
	b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes(content) })
}
