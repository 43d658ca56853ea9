package issuance

import "assay/attest"

// hints is the advice for the server's own checks that a fleet meets in daily work; those of evidence
// bring theirs.
var hints = map[string]string{
	"code-usable":           "`assay code show` tells what became of the code: renew the credential, or mint a new code if it was minted by hand",
	"code-live":             "another device or order used the code first: mint one code a device",
	"evidence":              "see that the device reaches Apple's attestation service: the error that it sent instead of an attestation says so if it did not. If this device cannot attest at all, mint its code with --allow-unattested, or say allowUnattested in its template",
	"bound-serial":          "the code was given to another device than the one it was minted for",
	"bound-serial-attested": "under User Enrollment devices attest no serial: mint an unbound code",
	"bound-udid":            "on a Mac compare with the provisioning UDID, not the hardware UUID",
	"bound-udid-attested":   "under User Enrollment devices attest no UDID: mint an unbound code",
	"held":                  "`assay decision held` lists what waits; `assay decision approve` lets the device's next try pass",
	"approval-live":         "approve it again: an approval is good for one certificate, until it expires",
	"device-state":          "the inventory says that the device is lost or retired: `assay device expect` takes it back",
	"nonce":                 "the client held a nonce for over an hour, or spoke to another installation",
}

// AdviceOn is what an operator can do about a failed check of the ACME server; "" if nothing is known
// to help.
func AdviceOn(check string) string {
	if c, ok := attest.LookupCheck(check); ok {
		return c.Advice
	}
	return hints[check]
}
