package main

import (
	"context"
	"fmt"

	"assay/credential"
	"assay/internal/admin"
)

type credentialPublish struct {
	connection
	File string `arg:"" help:"The credential document; its ClientIdentifier and DirectoryURL are replaced. '-' is standard input."`
	binding
}

func (credentialPublish) Help() string {
	return `Mints a code, puts it into the document and publishes that at an unguessable URL. The running server
serves it until the code is consumed, revoked or expired. What is printed is what the asset
declaration's Reference needs: DataURL, ContentType, Size and Hash-SHA-256.

The certificate profile compares the device's CSR with this document.

Example:
  assay credential publish --dir ./a --serial C02XEXAMPLE1 credential.json

Exit codes: 0 published; 1 the document breaks a rule; 2 unreadable input; 3 failed.`
}

func (c *credentialPublish) Run(ctx context.Context, term *terminal, g *globals) error {
	data, err := readInput(term, c.File, credential.MaxSize)
	if err != nil {
		return usage(err)
	}
	_, findings := credential.Parse(data)
	if err := findings.Err(); err != nil {
		return noBecause(withHint(fmt.Errorf("%s: %w", c.File, err), "`assay credential check %s` lists every problem", c.File))
	}
	api, closeAPI, err := c.open(ctx, term)
	if err != nil {
		return err
	}
	defer closeAPI()
	published, err := api.Publish(ctx, admin.PublishDocument{Document: data, MintCode: c.mint()}, "")
	if err != nil {
		return refusedInput(err)
	}
	if g.JSON {
		return writeJSON(term.Out, published)
	}
	list := newFields(term.Out)
	list.add("DataURL", published.URL)
	list.add("ContentType", published.ContentType)
	list.add("Size", fmt.Sprint(published.Size))
	list.add("Hash-SHA-256", published.SHA256)
	list.add("code", published.Code.ID, "expires "+rfc3339(published.Code.ExpiresAt))
	list.flush()
	return nil
}
