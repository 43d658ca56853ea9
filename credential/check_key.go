package credential

import (
	"fmt"
	"strings"
)

// checkKeyPair judges KeyType, KeySize, HardwareBound and Attest, alone and together. Devices find
// wrong combinations only when they generate the key, after they accepted the document.
func (d *Document) checkKeyPair() {
	if n, ok := d.root.typed("HardwareBound", kindBool); ok {
		d.draft.HardwareBound = n.truth
	}
	typeNode, typeOK := d.root.typed("KeyType", kindString)
	if typeOK {
		typeOK = d.checkKeyType(typeNode)
	}
	if n, ok := d.root.typed("KeySize", kindNumber); ok {
		if size, ok := d.integer(n, "KeySize"); ok {
			d.draft.KeySize = size
			if typeOK {
				d.checkKeySize(n)
			}
		}
	}
	d.checkAttest()
}

// checkKeyType reports an unknown key type, and an RSA key in the Secure Enclave.
func (d *Document) checkKeyType(n *node) bool {
	switch KeyType(n.text) {
	case RSA:
		d.draft.KeyType = RSA
		if d.draft.HardwareBound {
			d.at(d.root.member("HardwareBound"), hardwareRSA, `set KeyType to "ECSECPrimeRandom" and KeySize to 384, or HardwareBound to false`,
				"HardwareBound is true with an RSA key: the Secure Enclave makes elliptic-curve keys only, so the device cannot generate the key")
		}
		return true
	case EC:
		d.draft.KeyType = EC
		return true
	}
	fix := `write "ECSECPrimeRandom" or "RSA"`
	switch folded := strings.ToUpper(strings.TrimSpace(n.text)); {
	case folded == "RSA":
		fix = `write "RSA"`
	case strings.HasPrefix(folded, "EC") || strings.HasPrefix(folded, "P-") || strings.Contains(folded, "KSECATTRKEYTYPE"):
		fix = `write "ECSECPrimeRandom"; the curve follows from KeySize`
	}
	d.at(n, keyTypeUnknown, fix, "KeyType %s is neither RSA nor ECSECPrimeRandom: a device refuses it", quote(n.text))
	return false
}

// checkKeySize judges the size for the type and for the Secure Enclave.
func (d *Document) checkKeySize(n *node) {
	size := d.draft.KeySize
	if d.draft.KeyType == RSA {
		if size < 1024 || size > 4096 || size%8 != 0 {
			d.at(n, keySizeRSA, "write 2048, 3072 or 4096",
				"KeySize %d is no size of an RSA key: it is 1024 to 4096 and a multiple of 8, or the device cannot generate the key", size)
		} else if size < 2048 {
			d.at(n, keySizeWeak, "write 2048 or more", "an RSA key of %d bits is too weak: many servers refuse to certify it", size)
		}
		return
	}
	switch {
	case size == 256 || size == 384:
	case size == 521:
		if d.draft.HardwareBound {
			d.at(n, keySizeHardware, "write 384 or 256, or set HardwareBound to false",
				"KeySize 521 with HardwareBound: the Secure Enclave holds P-256 and P-384 keys only, so the device cannot generate the key")
		}
	default:
		fix := "write 384 (P-384) or 256 (P-256)"
		why := ""
		if size == 512 {
			why, fix = "; the largest curve is P-521", "write 521 (P-521, never hardware-bound), 384 or 256"
		} else if size == 192 {
			why = "; P-192 is in older texts about the profile payload only"
		}
		d.at(n, keySizeEC, fix, "KeySize %d names no curve: ECSECPrimeRandom has 256, 384 and 521%s, so the device cannot generate the key", size, why)
	}
}

// checkAttest judges Attest with HardwareBound.
func (d *Document) checkAttest() {
	bound, boundOK := d.root.typed("HardwareBound", kindBool)
	n, ok := d.root.typed("Attest", kindBool)
	if ok {
		d.draft.Attest = n.truth
	}
	if !boundOK || d.root.member("Attest") != nil && !ok {
		return
	}
	switch {
	case ok && n.truth && !bound.truth:
		d.at(n, attestSoftwareKey, "set HardwareBound to true, or Attest to false",
			"Attest is true and HardwareBound is false: a device attests only keys that its Secure Enclave made")
	case bound.truth && !d.draft.Attest:
		offset := d.root.offset
		state := "absent"
		if ok {
			offset, state = n.offset, "false"
		}
		d.report(attestOff, offset, "$.Attest",
			fmt.Sprintf("Attest is %s: the key is hardware-bound, yet the server gets no evidence of it and cannot tell this device from any program that knows the ClientIdentifier", state),
			"set Attest to true, where the devices can attest")
	}
}
