package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"path/filepath"
	"time"

	"assay/attest/standin"
	"assay/enroll"
	"assay/internal/installation"
)

// rig is what the demo and the bench let simulated devices enrol on: a stand-in authority, and an
// installation on loopback that accepts it.
type rig struct {
	serverDir string // the installation's
	inst      *installation.Installation
	database  *process // of its database; nil where that is in the server's own
	devices
}

// devices are what all simulated devices on a server have in common.
type devices struct {
	roots    *x509.CertPool // that they trust for the server's TLS chain
	attester standInAttester
}

// newRig makes both, in the folders authority and server of dir. Close inst.
func newRig(ctx context.Context, dir, name string, now func() time.Time, change ...func(*installation.InitOptions)) (*rig, error) {
	authority, err := standin.New(rand.Reader, now())
	if err != nil {
		return nil, err
	}
	authorityDir := filepath.Join(dir, "authority")
	if err := authority.Save(authorityDir); err != nil {
		return nil, err
	}
	r := &rig{serverDir: filepath.Join(dir, "server"), devices: devices{x509.NewCertPool(), standInAttester{authority, now}}}
	o := installation.InitOptions{
		Name: name, Listen: "127.0.0.1:0", AllowStandIn: true, Now: now, From: operator(),
		AttestationRoots: map[string][]string{"apple": {filepath.Join(authorityDir, standin.RootFile)}},
	}
	for _, f := range change {
		f(&o)
	}
	if _, err = installation.Init(ctx, r.serverDir, o); err != nil {
		return nil, err
	}
	if r.inst, err = installation.Open(ctx, r.serverDir, now); err != nil {
		return nil, err
	}
	servingRoot, err := r.inst.ServingRoot()
	if err != nil {
		return nil, errors.Join(err, r.inst.Close())
	}
	r.roots.AppendCertsFromPEM(servingRoot)
	return r, nil
}

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
