package main

import (
	"context"
	"fmt"

	"assay/credential"
	"assay/internal/delivery"
	"assay/internal/installation"
	"assay/internal/issuance"
	"assay/internal/server"
)

type credentialPublish struct {
	Dir  string `required:"" placeholder:"DIR" help:"The installation's folder."`
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
	template, findings := credential.Parse(data)
	if err := findings.Err(); err != nil {
		return noBecause(withHint(fmt.Errorf("%s: %w", c.File, err), "`assay credential check %s` lists every problem", c.File))
	}
	i, err := installation.Open(ctx, c.Dir, term.Now)
	if err != nil {
		return err
	}
	defer i.Close()
	directory, _, err := i.Directory(c.Directory)
	if err != nil {
		return usage(err)
	}
	base, err := i.BaseURL()
	if err != nil {
		return usage(err)
	}
	publisher := &delivery.Publisher{Store: i.Store, BaseURL: base, DirectoryURL: server.DirectoryURL(base, directory)}
	published, err := publisher.Publish(ctx, issuance.Call{Now: term.Now(), From: operator()}, template, c.mint(directory))
	if err != nil {
		return err
	}
	if g.JSON {
		return writeJSON(term.Out, published)
	}
	list := newFields(term.Out)
	list.add("DataURL", published.URL)
	list.add("ContentType", published.ContentType)
	list.add("Size", fmt.Sprint(published.Size))
	list.add("Hash-SHA-256", published.SHA256)
	list.add("code", string(published.Code.ID), "expires "+rfc3339(published.Code.ExpiresAt))
	list.flush()
	return nil
}
