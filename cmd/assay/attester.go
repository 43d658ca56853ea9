package main

import (
	"context"
	"time"

	"assay/attest/standin"
	"assay/enroll"
)

// standInAttester lets a stand-in authority attest simulated devices.
type standInAttester struct {
	authority *standin.Authority
	now       func() time.Time
}

func (a standInAttester) Attest(_ context.Context, r enroll.AttestRequest) ([]byte, error) {
	d := standin.Device{
		Serial: r.Device.Serial, UDID: r.Device.UDID, ProductType: r.Device.ProductType,
		OSVersion: r.Device.OSVersion, SepOSVersion: r.Device.OSVersion, LLBVersion: r.Device.OSVersion,
	}
	if r.Device.Class == enroll.Mac { // only Macs attest these
		d.SecureBoot, d.SIP, d.Kexts = "Full Security", new(true), new(false)
	}
	return a.authority.Attest(standin.Subject{
		PublicKey: r.Key.Public(), Token: r.Token, KeyAuthorization: r.KeyAuthorization, Device: d, Now: a.now(),
	})
}
