package opinion

import (
	"time"

	"assay/attest"
	"assay/csr"
	"assay/deviceid"
	"assay/policy"
)

// Sample is an invented request of a device that does not exist, to try a service with.
func Sample(now time.Time) policy.Input {
	return policy.Input{
		Now: now, Directory: "default", Identifier: policy.ByCode, Evidence: attest.Attested,
		Facts: &attest.Facts{
			Format: attest.FormatApple, KeyType: "P-384", Protection: attest.SecureEnclave, Fresh: true,
			Identifiers: []deviceid.Identifier{{Kind: deviceid.Serial, Value: "FAKE00000001"}, {Kind: deviceid.UDID, Value: "00008150-0000000000000001"}},
			Posture:     attest.Posture{ProductType: "J514sAP", OSVersion: "26.1", SIPEnabled: new(true), SecureBoot: "Full Security", ThirdPartyKexts: new(false)},
			NotBefore:   now.Add(-24 * time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
			Root: attest.RootFact{Name: "CN=Example Attestation Root", SHA256: "00", StandIn: true},
		},
		Request: &csr.Request{
			Subject:     csr.Name{{{Type: "2.5.4.3", Value: "FAKE00000001"}}, {{Type: "2.5.4.10", Value: "Example Inc."}}},
			AltNames:    []csr.AltName{{Kind: csr.AltEmail, Value: "sam@example.com"}},
			ExtKeyUsage: []string{csr.ClientAuth}, KeyType: csr.EC, KeySize: 384,
		},
		Device: &policy.Device{
			ID: "dev_example", Proven: true, Known: true, State: policy.Active, Labels: map[string]string{"owner": "sam@example.com"},
			Attested: true, CreatedAt: now.Add(-400 * 24 * time.Hour), LastSeen: now.Add(-30 * 24 * time.Hour),
		},
		Code: &policy.Code{
			ID: "code_example", Live: true, Serial: "FAKE00000001", Labels: map[string]string{"site": "berlin"},
			Credential: "cred_example", Template: "wifi", CreatedAt: now.Add(-10 * time.Minute),
		},
		History: &policy.History{DeviceCertificates: 1, DeviceValid: 1, DeviceLastIssued: now.Add(-30 * 24 * time.Hour)},
	}
}
