package credential

import "slices"

// checkUsage judges UsageFlags and ExtendedKeyUsage.
func (d *Document) checkUsage() {
	if n, ok := d.root.typed("UsageFlags", kindNumber); ok {
		if flags, ok := d.integer(n, "UsageFlags"); ok {
			d.draft.UsageFlags = UsageFlags(flags)
			d.checkUsageFlags(n)
		}
	}
	n, ok := d.root.typed("ExtendedKeyUsage", kindArray)
	if !ok {
		return
	}
	if len(n.items) == 0 {
		d.at(n, extUsageEmpty, `write ["`+ClientAuth+`"] or leave the key out`,
			"ExtendedKeyUsage is empty: an extension without usages does not exist, and a device without the key asks for client authentication")
		return
	}
	var oids []string
	for _, item := range n.items {
		if d.checkExtUsage(item, oids) {
			oids = append(oids, item.text)
		}
	}
	d.draft.ExtendedKeyUsage = oids
	if len(oids) == len(n.items) && !slices.Contains(oids, ClientAuth) && !slices.Contains(oids, "2.5.29.37.0") {
		d.at(n, extUsageNoClient, "add "+ClientAuth,
			"ExtendedKeyUsage leaves out client authentication, which a device asks for when the key is absent: the identity will not do for TLS (Wi-Fi, VPN, mutual TLS)")
	}
}

// checkUsageFlags judges the key usage bits with the key type.
func (d *Document) checkUsageFlags(n *node) {
	flags := d.draft.UsageFlags
	if flags == 0 {
		d.at(n, usageZero, "write 1, or leave the key out", "UsageFlags is 0: the device asks for no key usage at all")
		return
	}
	if other := flags &^ (DigitalSignature | KeyEncipherment); other != 0 {
		d.at(n, usageBits, "write 1, 4 or 5", "UsageFlags %d has the bits 0x%X, which Apple does not document: what a device asks for is open", flags, int(other))
	}
	if flags&KeyEncipherment != 0 && d.draft.KeyType == EC {
		d.at(n, usageEncipherment, "write 1", "UsageFlags asks for key encipherment, which an elliptic-curve key cannot do: servers drop the usage or refuse the request")
	}
	if flags&DigitalSignature == 0 {
		d.at(n, usageSignature, "add 1", "UsageFlags leaves out digital signature: the identity will not do for TLS client authentication")
	}
}

// usageNames are extended key usages that people write by name.
var usageNames = map[string]string{
	"clientauth":           ClientAuth,
	"clientauthentication": ClientAuth,
	"serverauth":           "1.3.6.1.5.5.7.3.1",
	"emailprotection":      "1.3.6.1.5.5.7.3.4",
	"codesigning":          "1.3.6.1.5.5.7.3.3",
	"anyextendedkeyusage":  "2.5.29.37.0",
	"smartcardlogon":       "1.3.6.1.4.1.311.20.2.2",
}

// checkExtUsage judges one extended key usage; it reports whether the value is an OID.
func (d *Document) checkExtUsage(n *node, before []string) bool {
	switch {
	case n.kind == kindNull:
		d.at(n, nullValue, "remove it", "an item of ExtendedKeyUsage is null, not a string")
		return false
	case n.kind != kindString:
		d.at(n, wrongType, `write a string such as "`+ClientAuth+`"`, "an item of ExtendedKeyUsage is %s, not a string", n.kind)
		return false
	}
	if oid, ok := usageNames[fold(n.text)]; ok {
		d.at(n, oidSyntax, "write "+quote(oid), "the extended key usage %s is a name, not a dotted OID: the device cannot build its request", quote(n.text))
		return false
	}
	if !d.checkOIDNode(n, "the extended key usage") {
		return false
	}
	if slices.Contains(before, n.text) {
		d.at(n, extUsageRepeated, "remove it", "the extended key usage %s appears twice", quote(n.text))
	}
	return true
}
