package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"assay/csr"
)

// keyUsageBits has the usages that can be granted. Those of CAs are missing on purpose.
var keyUsageBits = map[string]x509.KeyUsage{
	"digitalSignature": x509.KeyUsageDigitalSignature,
	"nonRepudiation":   x509.KeyUsageContentCommitment,
	"keyEncipherment":  x509.KeyUsageKeyEncipherment,
	"dataEncipherment": x509.KeyUsageDataEncipherment,
	"keyAgreement":     x509.KeyUsageKeyAgreement,
}

// keyUsageNames are RFC 5280's names by bit.
var keyUsageNames = []string{
	"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement",
	"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly",
}

// keyUsage grants the key usage.
func (g *granting) keyUsage() error {
	requested := x509.KeyUsage(g.Request.KeyUsage)
	var allowed x509.KeyUsage
	why := ruleDrops
	switch g.KeyUsage.Rule {
	case AsMinted:
		if g.Minted == nil {
			why = noCredential
			break
		}
		if g.Request.KeyUsage != g.Minted.KeyUsage {
			return badCSR(CheckMintedKeyUsage, "the key usage is not what the credential says")
		}
		allowed = requested
	case AsRequested:
		allowed = requested & keyUsageOf(g.KeyUsage.Allow)
	case Fixed:
		allowed = keyUsageOf(g.KeyUsage.Value)
		why = "the certificate profile fixes the key usage"
	}
	granted := allowed & usagesOfKey(g.Request.KeyType)
	if granted == 0 {
		// Without it the key could not even prove its possession in TLS.
		granted = x509.KeyUsageDigitalSignature
	}
	g.grant.KeyUsage = granted
	for bit, name := range keyUsageNames {
		flag := x509.KeyUsage(1) << bit
		switch {
		case granted&flag != 0:
		case allowed&flag != 0:
			g.drop("keyUsage."+name, "an "+g.Request.KeyType+" key of a device may not have it")
		case requested&flag != 0:
			g.drop("keyUsage."+name, why)
		}
	}
	return nil
}

func keyUsageOf(names []string) (usage x509.KeyUsage) {
	for _, name := range names {
		usage |= keyUsageBits[name]
	}
	return usage
}

// usagesOfKey is what a device's key of a type may do: an EC key enciphers nothing (RFC 8813, section
// 3), an RSA key agrees on nothing (RFC 3279, section 2.3.1), and none signs certificates.
func usagesOfKey(keyType string) x509.KeyUsage {
	usages := x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	if keyType == csr.RSA {
		return usages | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment
	}
	return usages | x509.KeyUsageKeyAgreement
}

// extKeyUsageNames are the extended key usages that a profile can name in words.
var extKeyUsageNames = map[string]string{
	"anyExtendedKeyUsage": "2.5.29.37.0",
	"serverAuth":          "1.3.6.1.5.5.7.3.1",
	"clientAuth":          csr.ClientAuth,
	"codeSigning":         "1.3.6.1.5.5.7.3.3",
	"emailProtection":     "1.3.6.1.5.5.7.3.4",
	"timeStamping":        "1.3.6.1.5.5.7.3.8",
	"OCSPSigning":         "1.3.6.1.5.5.7.3.9",
	"smartcardLogon":      "1.3.6.1.4.1.311.20.2.2",
}

// sensitiveUsages make a key more than a client of its device: they let it serve, sign code, time or
// revocation, or ask certificates for others. A credential that names one is granted it only if the
// profile allows it by name, so that one careless document does not reach that far.
var sensitiveUsages = []string{
	"2.5.29.37.0",             // anyExtendedKeyUsage
	"1.3.6.1.5.5.7.3.1",       // serverAuth
	"1.3.6.1.5.5.7.3.3",       // codeSigning
	"1.3.6.1.5.5.7.3.8",       // timeStamping
	"1.3.6.1.5.5.7.3.9",       // OCSPSigning
	"1.3.6.1.5.5.7.3.27",      // CMC certification authority (RFC 6402)
	"1.3.6.1.5.5.7.3.28",      // CMC registration authority (RFC 6402)
	"1.3.6.1.5.2.3.5",         // Kerberos KDC (RFC 4556)
	"1.3.6.1.4.1.311.10.12.1", // Microsoft any application policy
	"1.3.6.1.4.1.311.20.2.1",  // Microsoft certificate request agent
	"1.3.6.1.4.1.311.21.5",    // Microsoft private key archival
	"1.3.6.1.4.1.311.21.6",    // Microsoft key recovery agent
	"2.16.840.1.113730.4.1",   // Netscape server gated cryptography
	"2.23.133.8.3",            // TCG attestation key
	"2.23.133.8.1",            // TCG endorsement key
	"1.3.6.1.4.1.311.10.3",    // Microsoft's signing usages, as a branch: trust lists, drivers, lifetime
	"1.3.6.1.4.1.311.2.1",     // Microsoft's Authenticode usages, as a branch
	"1.2.840.113635.100.4",    // Apple's usages, as a branch: code signing and attestation among them
	"1.3.6.1.4.1.311.61.1",    // Microsoft's kernel mode code signing, as a branch
	"1.3.6.1.4.1.311.76.8.1",  // Microsoft publisher
}

// isSensitive reports whether a usage is, or lies below, a sensitive one.
func isSensitive(usage string) bool {
	return slices.ContainsFunc(sensitiveUsages, func(id string) bool {
		return usage == id || strings.HasPrefix(usage, id+".")
	})
}

// extKeyUsage grants the extended key usage.
func (g *granting) extKeyUsage() error {
	allow, err := extKeyUsageOIDs(g.ExtKeyUsage.Allow)
	if err != nil {
		return err
	}
	rule := g.ExtKeyUsage.Rule
	if rule == AsMinted && g.Minted != nil && !g.Request.SameExtKeyUsage(g.Minted) {
		return badCSR(CheckMintedExtKeyUsage, "the extended key usage is not what the credential says")
	}
	var granted []string
	if rule == Fixed {
		if granted, err = extKeyUsageOIDs(g.ExtKeyUsage.Value); err != nil {
			return err
		}
	}
	why := map[string]string{}
	for _, usage := range g.Request.ExtKeyUsage {
		switch {
		case !isReadableOID(usage):
			why[usage] = unreadableOID
		case rule == AsMinted && g.Minted == nil:
			why[usage] = noCredential
		case rule == AsMinted && isSensitive(usage) && !slices.Contains(allow, usage):
			why[usage] = "it makes more than a client, and the certificate profile does not allow it by name"
		case rule == AsRequested && !slices.Contains(allow, usage):
			why[usage] = "the certificate profile does not allow it"
		case rule == AsMinted || rule == AsRequested:
			granted = append(granted, usage)
		case rule == Fixed:
			why[usage] = "the certificate profile fixes the extended key usage"
		default:
			why[usage] = ruleDrops
		}
	}
	if len(granted) == 0 {
		granted = []string{csr.ClientAuth}
	}
	g.grant.ExtKeyUsage = granted
	for _, usage := range g.Request.ExtKeyUsage {
		if !slices.Contains(granted, usage) {
			g.drop("extKeyUsage."+usage, why[usage])
		}
	}
	return nil
}

// extKeyUsageOID is the OID of a usage named in words or as dotted OID.
func extKeyUsageOID(name string) (string, error) {
	if id, known := extKeyUsageNames[name]; known {
		return id, nil
	}
	if _, err := x509.ParseOID(name); err != nil || !isReadableOID(name) {
		return "", fmt.Errorf("extended key usage %q is neither a known name nor a dotted OID of components below 31 bits", name)
	}
	return name, nil
}

func extKeyUsageOIDs(names []string) ([]string, error) {
	var ids []string
	for _, name := range names {
		id, err := extKeyUsageOID(name)
		if err != nil {
			return nil, fmt.Errorf("grant certificate: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
