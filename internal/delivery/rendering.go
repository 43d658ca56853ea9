package delivery

import (
	"errors"
	"fmt"
	"time"

	"assay/internal/issuance"
)

// render completes a rendering whose Reason, Device and Template are set, and ID and Revision where
// the credential exists: a fresh code, its document and its declarations. It fails with a
// *RefusedError where the device cannot have it.
func (d *Declarer) render(r *issuance.Rendering, now time.Time) error {
	if err := mayHaveCode(r.Device); err != nil {
		return err
	}
	t, err := d.Templates.Get(r.Template)
	if err != nil {
		return &RefusedError{Check: CheckTemplateKnown, Text: err.Error(), Err: err}
	}
	base, err := d.baseURL(t)
	if err != nil {
		return err
	}
	directoryURL, err := d.DirectoryURL(t.Directory)
	if err != nil {
		return &RefusedError{Check: CheckDirectoryKnown, Text: fmt.Sprintf("template %s: %v", t.Name, err), Err: err}
	}
	serial, udid, err := t.Binding(r.Device)
	if err != nil {
		return unrendered(err)
	}
	random := source(d.Random)
	code, err := issuance.NewCodeValue(random)
	if err != nil {
		return err
	}
	rendered, err := t.Render(r.Device, directoryURL, code)
	if err != nil {
		return unrendered(err)
	}
	body, err := rendered.Encode()
	if err != nil {
		return fmt.Errorf("render template %s: %w", t.Name, err)
	}
	document, url, err := newDocument(random, base, body)
	if err != nil {
		return err
	}
	if r.ID == "" {
		if r.ID, err = issuance.NewID[issuance.CredentialID](now, random); err != nil {
			return err
		}
	}
	pair, err := t.Declarations(r.ID, Reference{DataURL: url, Size: len(body), SHA256: document.SHA256})
	if err != nil {
		return err
	}
	document.Credential, document.MDM, document.FetchLifetime = r.ID, t.MDM, t.ExpiresAfterFetch
	r.Directory = t.Directory
	r.Document = document
	r.Code = issuance.Mint{
		Directory: t.Directory, Value: code, Serial: serial, UDID: udid, Labels: r.Device.Labels,
		AllowUnattested: t.AllowUnattested, Lifetime: t.Expires, Minted: requested(rendered), Document: &r.Document,
	}
	r.Asset, r.AssetToken = pair.Asset, pair.AssetToken
	r.Configuration, r.ConfigurationToken = pair.Configuration, pair.ConfigurationToken
	r.RenewBefore, r.RevokeSuperseded = t.RenewBefore, t.RevokeSuperseded
	return nil
}

// baseURL is the URL of the listener that serves a template's documents.
func (d *Declarer) baseURL(t *Template) (string, error) {
	if !t.MDM {
		return d.BaseURL, nil
	}
	// Served anywhere else, whoever has the URL would have the document.
	if d.MDMURL == "" {
		return "", refuse(CheckMDMListener, "template %s has Authentication MDM, but no listener serves such documents: configure mdm, or set authentication: None", t.Name)
	}
	return d.MDMURL, nil
}

// unrendered makes a refusal of what the device lacks, and leaves other errors as they are.
func unrendered(err error) error {
	if lacking, ok := errors.AsType[*RenderError](err); ok {
		return &RefusedError{Check: CheckRendering, Text: lacking.Error(), Err: lacking}
	}
	return err
}

// mayHaveCode refuses a device that no code could help.
func mayHaveCode(d issuance.Device) error {
	if d.Serial == "" && d.UDID == "" {
		return refuse(CheckDeviceNamed, "no device is named: give its serial number or UDID")
	}
	// It would be refused by the same name at finalize.
	if d.Barred() {
		return refuse(CheckDeviceState, "device %s is %s, and gets nothing: `assay device expect` takes it back", deviceName(d), d.State)
	}
	return nil
}
